"""Ends that travel with what is said next: what is taken along, what waits for it, and what is never lost."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from luigi_spendguard.http import gathering
from luigi_spendguard.http.gathering import Gathered, Gathering, KeptEnd, LastWords
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.rpcs import FinishRequest
from tests.support.alarms import interrupted
from tests.support.threads import begun

RETURNED = FinishRequest("claim", "returned")


def told(call_id: str, key: str = "key") -> KeptEnd:
    return KeptEnd(key, EndRequest("settle", call_id))


def ends(*call_ids: str) -> tuple[EndRequest, ...]:
    return tuple(told(call_id).end for call_id in call_ids)


class Sayer:
    """Hears what is said, and says so."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.said = threading.Event()

    def say(self, gathered: Gathered) -> None:
        self.heard += [one.end.call_id for one in gathered.ends]
        self.heard += [gathered.last.outcome] if gathered.last is not None else []
        self.said.set()


def named(gathered: Gathered) -> list[str]:
    """Say ends; return which they are."""
    return [one.end.call_id for one in gathered.ends]


@pytest.fixture
def sayer() -> Sayer:
    return Sayer()


@pytest.fixture
def gathered(sayer: Sayer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gathering]:
    """A block that gathers, in which nothing is said but for a reason."""
    monkeypatch.setattr(gathering, "SOON_S", 600)
    made = Gathering(sayer.say)
    with made.block():
        yield made


def test_nothing_is_gathered_outside_a_block(sayer: Sayer) -> None:
    made = Gathering(sayer.say)
    assert not made.put(told("one"))
    with made.block():
        assert made.put(told("two"))
    assert sayer.heard == ["two"]
    assert not made.put(told("three"))


def test_what_is_said_next_takes_it_along(gathered: Gathering, sayer: Sayer) -> None:
    for call_id in ("one", "two"):
        gathered.begin()
        assert gathered.put(told(call_id))
    assert gathered.say_with(named) == ["one", "two"]
    assert gathered.say_with(named) == []
    gathered.say_all()
    assert sayer.heard == []


def test_it_is_said_soon_where_nothing_else_is(sayer: Sayer) -> None:
    made = Gathering(sayer.say)
    with made.block():
        for call_id in ("one", "two"):
            assert made.put(told(call_id))
            assert sayer.said.wait(20)
            sayer.said.clear()
        assert sayer.heard == ["one", "two"]


def test_what_is_not_delivered_with_it_waits_as_before(gathered: Gathering, sayer: Sayer) -> None:
    gathered.put(told("one"))

    def interrupted(taken: Gathered) -> None:
        gathered.put(told("two"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gathered.say_with(interrupted)
    gathered.say_all()
    assert sayer.heard == ["one", "two"]


def test_what_is_asked_for_waits_until_ends_before_it_are_said(gathered: Gathering) -> None:
    gathered.put(told("one"))
    order: list[str] = []
    asks = threading.Event()

    def ask() -> None:
        asks.set()
        order.append(f"another, with {gathered.say_with(named)}")

    other = threading.Thread(target=ask)

    def first(taken: Gathered) -> None:
        other.start()
        assert asks.wait(20)
        order.append(f"the first, with {named(taken)}")

    gathered.say_with(first)
    other.join(20)
    assert order == ["the first, with ['one']", "another, with []"]


def test_where_nothing_is_on_its_way_nobody_waits(gathered: Gathering) -> None:
    both = threading.Barrier(2, timeout=20)
    other = threading.Thread(target=gathered.say_with, args=(lambda taken: both.wait(),))
    other.start()
    gathered.say_with(lambda taken: both.wait())
    other.join(20)


def test_an_alarm_at_any_moment_loses_no_end_and_lets_nobody_wait_for_ever(sayer: Sayer) -> None:
    sayer.said.set = lambda: None  # An alarm in it would leave it locked.
    made, chance, taken_along = Gathering(sayer.say), random.Random(5), set[str]()

    def ask(turn: int) -> None:
        for number in range(10):
            if made.put(told(f"{turn}-{number}")):
                taken_along.add(f"{turn}-{number}")
            made.say_with(sayer.say)

    with made.block(LastWords()):
        for turn in range(2000):
            interrupted(partial(ask, turn), chance, 2e-4)
        other = threading.Thread(target=ask, args=(-1,), daemon=True)  # Nor does another thread.
        other.start()
        other.join(20)
        assert not other.is_alive()
    assert taken_along - set(sayer.heard) == set()


def test_a_handler_that_calls_a_vendor_itself_is_answered(gathered: Gathering) -> None:
    gathered.put(told("one"))
    asked: list[list[str]] = []

    def interrupted(taken: Gathered) -> None:
        asked.append(gathered.say_with(named))
        gathered.put(told("two"))
        asked.append(gathered.say_with(named))

    gathered.say_with(interrupted)
    assert asked == [["one"], ["two"]]


def test_who_forks_while_something_is_said_does_not_wait_for_itself(gathered: Gathering) -> None:
    gathered.put(told("one"))

    def fork(taken: Gathered) -> int:
        if not (pid := os.fork()):
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert gathered.say_with(fork) == 0


def test_its_thread_ends_with_the_last_block(sayer: Sayer) -> None:
    before = set(threading.enumerate())
    made = Gathering(sayer.say)
    with made.block():
        with made.block():
            made.put(told("one"))
        assert made.put(told("two"))
        sender = begun(before)
    sender.join(20)
    assert not sender.is_alive()
    with made.block():
        sayer.said.clear()
        made.put(told("three"))
        assert sayer.said.wait(20)
    assert sayer.heard == ["one", "two", "three"]


def test_calls_that_are_made_at_once_tell_their_ends_themselves(gathered: Gathering) -> None:
    for _ in range(2):
        gathered.begin()
    assert not gathered.put(told("one"))
    assert gathered.put(told("two"))
    assert gathered.put(told("one that was never granted"))


def test_it_is_said_before_a_child_is_forked_which_gathers_nothing(gathered: Gathering, sayer: Sayer) -> None:
    gathered.put(told("one"))
    pid = os.fork()
    if not pid:
        os._exit(0 if not gathered.say_with(named) and not gathered.put(told("two")) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sayer.heard == ["one"]


def test_a_task_that_has_another_process_says_each_end_at_once(sayer: Sayer) -> None:
    made = Gathering(sayer.say)
    with made.block():
        assert made.put(told("one"))
        made.share()
        assert sayer.heard == ["one"]
        with made.block():
            assert not made.put(told("two"))
    with made.block():
        assert made.put(told("three"))


def test_who_is_killed_leaves_what_it_has_not_said(sayer: Sayer) -> None:
    words, made = LastWords(), Gathering(sayer.say)
    assert words.read() == ((), "")
    pid = os.fork()
    if not pid:
        with made.block(words):
            made.put(told("one"))

            def killed(taken: Gathered) -> None:
                made.put(told("two", "another key"))
                os._exit(0)

            made.say_with(killed)
    os.waitpid(pid, 0)
    assert words.read() == (ends("one", "two"), "")


def test_what_was_said_is_not_left(gathered: Gathering, sayer: Sayer) -> None:
    words = LastWords()
    with gathered.block(words):
        gathered.put(told("one"))
        assert words.read() == (ends("one"), "")
        gathered.say_with(lambda taken: gathered.put(told("two")))
        assert words.read() == (ends("two"), "")
    assert words.read() == ((), "")


def test_what_is_too_long_to_be_left_is_said_at_once(gathered: Gathering) -> None:
    words = LastWords()
    with gathered.block(words):
        gathered.put(told("one"))
        assert not gathered.put(KeptEnd("key", EndRequest("settle", "two", answer_body="x" * (1 << 18))))
        assert words.read() == (ends("one"), "")


def test_how_an_attempt_has_ended_is_left_behind_its_ends(gathered: Gathering, sayer: Sayer) -> None:
    words = LastWords()
    with gathered.block(words):
        gathered.put(told("one"))
        assert gathered.leave(RETURNED)
    gathered.flush()
    assert sayer.heard == []
    assert words.read() == (ends("one"), "returned")


def test_without_such_memory_it_is_not_left(gathered: Gathering, sayer: Sayer) -> None:
    gathered.put(told("one"))
    assert not gathered.leave(RETURNED)
    gathered.flush()
    assert sayer.heard == ["one"]


def test_what_other_processes_have_a_part_in_is_not_left(gathered: Gathering, sayer: Sayer) -> None:
    with gathered.block(LastWords()):
        gathered.share()
        assert not gathered.leave(RETURNED)
    assert sayer.heard == []


def test_nothing_is_left_to_a_parent_that_is_gone(sayer: Sayer) -> None:
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        words, made = LastWords(), Gathering(sayer.say)
        parent = os.getpid()
        if not os.fork():
            while os.getppid() == parent:
                time.sleep(0.01)
            with made.block(words):
                made.put(told("one"))
                is_left = made.leave(RETURNED)
            os.write(there, f"{is_left} {sayer.heard}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(here, 100).decode() == "False ['one']"
    os.close(here)
    os.close(there)


def test_a_process_that_goes_on_says_itself_how_its_attempt_has_ended(
    sayer: Sayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "LEFT_S", 0.01)
    words, made = LastWords(), Gathering(sayer.say)
    with made.block(words):
        made.put(told("one"))
        made.leave(RETURNED)
    assert sayer.said.wait(20)
    made.say_with(named)  # It has been said.
    assert words.read() == ((), "")
    assert sayer.heard == ["one", "returned"]


def test_it_is_said_before_a_child_is_forked(gathered: Gathering, sayer: Sayer) -> None:
    with gathered.block(LastWords()):
        gathered.leave(RETURNED)
    pid = os.fork()
    if not pid:
        os._exit(0 if gathered.say_with(lambda taken: taken) == Gathered() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sayer.heard == ["returned"]
