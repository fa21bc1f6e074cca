"""What must not be lost is said now, or later in its order; the caller never hears of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import random
import sqlite3
import threading
from functools import partial
from pathlib import Path

import pytest

from luigi_spendguard import backoff
from luigi_spendguard.config import Settings
from luigi_spendguard.errors import Conflict, LedgerUnavailable, denial
from luigi_spendguard.http.outbox import Outbox, Undelivered
from luigi_spendguard.ledger import queries
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.rpcs import FinishRequest
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.local import LocalLedgerClient
from scheduler_patch.scheduler import BudgetScheduler
from tests.support.alarms import interrupted
from tests.support.books import Books
from tests.support.threads import begun


class Ledger:
    """A ledger that is locked until `free` is set."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.heard: list[int] = []

    def hear(self, number: int) -> None:
        if not self.free.is_set():
            raise LedgerUnavailable("it is locked")
        self.heard.append(number)


def test_what_cannot_be_said_now_is_said_later_in_its_order() -> None:
    ledger, outbox = Ledger(), Outbox()
    for number in range(3):
        outbox.tell(f"message {number}", lambda number=number: ledger.hear(number))
    assert ledger.heard == []
    assert not outbox.flush(0.0)
    ledger.free.set()
    outbox.tell("message 3", lambda: ledger.hear(3))
    assert outbox.flush(10.0)
    assert ledger.heard == [0, 1, 2, 3]


def test_what_is_asked_for_waits_for_what_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again at once, however long that would be left."""
    monkeypatch.setattr(backoff, "LATER", (600.0, 600.0))
    ledger, outbox = Ledger(), Outbox()
    outbox.deliver(0.0)
    outbox.tell("the end", lambda: ledger.hear(0))
    with pytest.raises(LedgerUnavailable, match="not delivered yet: it is locked"):
        outbox.deliver(0.1)
    ledger.free.set()
    outbox.deliver(10.0)
    assert ledger.heard == [0]


def test_who_waits_for_all_has_it_tried_again_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "LATER", (600.0, 600.0))
    ledger, outbox, tries = Ledger(), Outbox(), queue.SimpleQueue[None]()

    def hear() -> None:
        tries.put(None)
        ledger.hear(0)

    outbox.tell("the end", hear)
    for _ in range(2):  # Here, and in the thread.
        tries.get(timeout=60)
    ledger.free.set()
    assert outbox.flush(20.0)
    assert ledger.heard == [0]


def test_its_thread_ends_when_all_is_delivered_and_another_one_comes_when_it_is_needed() -> None:
    ledger, outbox = Ledger(), Outbox()
    before = set(threading.enumerate())
    for number in range(2):
        ledger.free.clear()
        outbox.tell(f"message {number}", lambda number=number: ledger.hear(number))
        sender = begun(before)
        ledger.free.set()
        sender.join(20)
        assert not sender.is_alive()
        assert outbox.flush(0.0)
    assert ledger.heard == [0, 1]


@pytest.mark.parametrize("of_attempt", [True, False])
def test_what_a_task_has_forked_asks_behind_what_the_task_has_told(
    monkeypatch: pytest.MonkeyPatch, of_attempt: bool
) -> None:
    """A worker's children do not wait for what their worker has to say."""
    monkeypatch.setattr(backoff, "LATER", (0.01, 0.01))
    ledger, outbox = Ledger(), Outbox()
    here, there = multiprocessing.Pipe()
    with outbox.attempt() if of_attempt else contextlib.nullcontext():
        pid = os.fork()
    if not pid:
        here.close()  # Else it would outlive a test that fails.
        with contextlib.suppress(BaseException):
            for wait_s in (0.05, 10.0):
                there.recv()
                try:
                    outbox.deliver(wait_s)
                    there.send("asked")
                except LedgerUnavailable as error:
                    there.send(str(error))
            os._exit(0)
        os._exit(1)
    outbox.tell("the end", lambda: ledger.hear(0))
    here.send(None)
    of_other = (
        "what was said to it before is not delivered yet: another process of the task has still to deliver it"
    )
    assert here.recv() == (of_other if of_attempt else "asked")
    ledger.free.set()
    here.send(None)
    assert here.recv() == "asked"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_is_refused_is_not_repeated_and_holds_nothing_up() -> None:
    ledger, outbox = Ledger(), Outbox()
    tried = []

    def refused(error: Exception) -> None:
        tried.append(error)
        raise error

    for error in (denial("scope", "no"), Conflict("it is over")):
        outbox.tell("a first one", lambda: ledger.hear(0))
        outbox.tell("a refused one", lambda error=error: refused(error))
    ledger.free.set()
    assert outbox.flush(10.0)
    assert (len(tried), ledger.heard) == (2, [0, 0])
    outbox.tell("a refused one", lambda: refused(Conflict("it is over")))
    assert outbox.flush(10.0)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, TimeoutError])
def test_what_was_interrupted_is_said_by_another_thread(interrupt: type[BaseException]) -> None:
    """By Ctrl-C, or by the alarm of a task's own."""
    outbox, heard = Outbox(), list[str]()

    def hear() -> None:
        if threading.current_thread() is threading.main_thread():
            raise interrupt
        heard.append("the end")

    raises = interrupt is KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt) if raises else contextlib.nullcontext():
        outbox.tell("the end", hear)
    assert outbox.flush(10.0)
    assert heard == ["the end"]


def test_an_alarm_at_any_moment_leaves_nobody_waiting_for_a_thread_that_never_ran() -> None:
    outbox, heard, chance, told = Outbox(), list[int](), random.Random(3), list[int]()

    def tell(number: int) -> None:
        outbox.tell_later("an end", lambda: heard.append(number))
        told.append(number)

    for number in range(500):
        interrupted(partial(tell, number), chance, 2e-4)
        assert outbox.flush(10.0)
    assert sorted(heard) == sorted(set(heard))
    assert set(told) <= set(heard)


def test_where_no_thread_can_begin_it_waits_for_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the interpreter ends, or the system has no more threads."""
    outbox, heard = Outbox(), list[str]()

    def fail(act: object, name: str) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("luigi_spendguard.http.outbox.begin_thread", fail)
        outbox.tell_later("the end", lambda: heard.append("the end"))
        assert not outbox.flush(0.05)
    assert outbox.flush(20.0)
    assert heard == ["the end"]


def test_who_waits_hears_nothing_of_a_thread_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was looked at twice, and was gone the second time."""

    class Ending(Outbox):
        @property
        def _sender(self) -> threading.Thread | None:
            return looks.pop() if looks else self.__dict__.get("sender")

        @_sender.setter
        def _sender(self, thread: threading.Thread | None) -> None:
            self.__dict__["sender"] = thread

    looks = list[threading.Thread | None]()
    outbox = Ending()
    outbox._waiting.append(Undelivered("the end", lambda: None, None))
    looks = [None, threading.current_thread()]
    outbox._begin()
    looks.clear()
    assert outbox.flush(20.0)


def test_what_fails_for_ever_holds_nothing_up() -> None:
    outbox, heard = Outbox(), list[str]()
    outbox.tell("a broken one", lambda: heard[0])
    outbox.tell("the next one", lambda: heard.append("the end"))
    assert outbox.flush(10.0)
    assert heard == ["the end"]


def test_a_local_schedulers_locked_ledger_takes_the_end_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vendor has answered: its reply must reach the task whatever becomes of the ledger."""
    monkeypatch.setattr("luigi_spendguard.ledger.database.LOCK_SECONDS", 0.1)
    books = Books(tmp_path / "books.db")
    port = LocalLedgerClient(BudgetScheduler(), Settings(books.path, Caps(default=Micros(100))))
    key = books.claim("Charge_1")
    ask = books.ask(50)
    assert books.reserve(key, ask).verdict == "allowed"
    other = sqlite3.connect(books.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    port.end(key, EndRequest("settle", ask.call_id, total_micros=50))
    port.finish(FinishRequest(books.last_claim, "completed"))
    assert not port.flush(0.0)
    other.execute("ROLLBACK")
    other.close()
    assert port.flush(20.0)
    (call,) = books.read(queries.calls, queries.CallFilter("run"))
    assert (call["state"], call["spent_usd"]) == ("settled", "0.00005")
    port.close()
    books.ledger.close()
