"""The one writer of a process: what it commits together, and what it undoes alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard import ledger
from luigi_spendguard.errors import Conflict, LedgerUnavailable
from luigi_spendguard.ledger.budgets import last_entry
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books

#: Beside a run's own budget those of the day, of a family and of a vendor.
FOUR = Caps(day=Micros(100), task_families={"Charge": Micros(100)}, vendors={"stripe": Micros(100)})


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db")
    yield books
    books.ledger.close()


class Together:
    """Operations that are queued within the block are done in one transaction."""

    def __init__(self, books: Books) -> None:
        self.books, self._done = books, threading.Event()

    def __enter__(self) -> None:
        begun = threading.Event()

        def wait(tx: Tx) -> None:
            begun.set()
            assert self._done.wait(10)

        self._waiting = self.books.ledger.write(wait)
        assert begun.wait(10)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._waiting.result(10)


def complete(tx: Tx, task_id: str) -> str:
    tx.insert("task", task_id=task_id, completions=1)
    return task_id


def tasks(books: Books) -> list[str]:
    return books.read(
        lambda tx: [row["task_id"] for row in tx.all("SELECT task_id FROM task ORDER BY task_id")]
    )


def write_row(tx: Tx) -> None:
    tx.run("INSERT INTO task (task_id, completions) VALUES ('undone', 1)")


@pytest.mark.parametrize("write", [lambda tx: complete(tx, "undone"), write_row], ids=["insert", "run"])
def test_what_fails_when_it_has_written_is_undone_alone(books: Books, write: Callable[[Tx], object]) -> None:
    tries: list[str] = []

    def fail(tx: Tx) -> None:
        write(tx)
        tries.append("")
        raise Conflict("no")

    with Together(books):
        first = books.ledger.write(complete, "first")
        failing = books.ledger.write(fail)
        last = books.ledger.write(complete, "last")
    assert (first.result(10), last.result(10)) == ("first", "last")
    with pytest.raises(Conflict, match="no"):
        failing.result(10)
    assert tasks(books) == ["first", "last"]
    tries.clear()
    with pytest.raises(Conflict, match="no"):
        books.write(fail)  # In a transaction of its own.
    assert (tasks(books), len(tries)) == (["first", "last"], 1)


def test_what_breaks_a_constraint_fails_alone(books: Books) -> None:
    with Together(books):
        first, again, last = (books.ledger.write(complete, name) for name in ("one", "one", "two"))
    assert (first.result(10), last.result(10)) == ("one", "two")
    with pytest.raises(Exception, match=r"(?i)unique"):
        again.result(10)
    assert tasks(books) == ["one", "two"]


def test_what_fails_before_it_has_written_lets_nothing_be_done_again(books: Books) -> None:
    times: list[str] = []

    def fail(tx: Tx) -> None:
        raise Conflict("no")

    def count(tx: Tx) -> None:
        times.append(complete(tx, "once"))

    with Together(books):
        counted, failing = books.ledger.write(count), books.ledger.write(fail)
    counted.result(10)
    with pytest.raises(Conflict, match="no"):
        failing.result(10)
    assert times == tasks(books) == ["once"]


@pytest.mark.of_files
def test_those_that_came_at_once_are_waited_for(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "GATHER_S", 60.0)
    with Together(books):
        at_once: list[Future[Any]] = [books.ledger.write(complete, f"task-{n}") for n in range(ledger.MANY)]
    assert [one.result(10) for one in at_once] == [f"task-{n}" for n in range(ledger.MANY)]
    seen: list[str] = []
    books.ledger._db.handle().set_trace_callback(seen.append)
    again = [books.ledger.write(complete, f"task-{n}") for n in range(10, 10 + ledger.MANY)]
    assert [one.result(10) for one in again] == [f"task-{n}" for n in range(10, 10 + ledger.MANY)]
    assert seen.count("COMMIT") == 1


def test_nobody_is_waited_for_where_few_came_at_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "GATHER_S", 60.0)
    with Together(books):
        pair = [books.ledger.write(complete, name) for name in ("a", "b")]
    assert [one.result(10) for one in pair] == ["a", "b"]
    assert books.ledger.write(complete, "c").result(10) == "c"


def test_fewer_are_waited_for_once_fewer_have_come(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "GATHER_S", 0.01)
    with Together(books):
        at_once = [books.ledger.write(complete, f"task-{n}") for n in range(2 * ledger.MANY)]
    assert [one.result(10) for one in at_once] == [f"task-{n}" for n in range(2 * ledger.MANY)]
    for name in ("a", "b"):
        assert books.ledger.write(complete, name).result(10) == name
    assert books.ledger._writer._expected < ledger.MANY


@pytest.mark.of_files
def test_no_more_than_so_many_are_committed_together(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "BATCH", 2)
    seen: list[str] = []
    with Together(books):
        some = [books.ledger.write(complete, f"task-{n}") for n in range(5)]
        books.ledger._db.handle().set_trace_callback(seen.append)
    assert [one.result(10) for one in some] == [f"task-{n}" for n in range(5)]
    assert seen.count("COMMIT") >= 3


def test_what_comes_when_it_is_closed_is_told_so(books: Books) -> None:
    books.ledger.close()
    with pytest.raises(LedgerUnavailable, match="luigid is ending"):
        books.ledger.write(complete, "late").result(10)
    for late in (books.ledger.read, books.ledger.browse):
        with pytest.raises(LedgerUnavailable, match="luigid is ending"):
            late(last_entry).result(10)


def test_what_cannot_be_read_now_is_not_said_to_be_closed(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        with pytest.raises(LedgerUnavailable, match="the ledger cannot be read now: can't start new thread"):
            books.ledger.browse(last_entry).result(10)
    assert books.ledger.browse(last_entry).result(10) == books.read(last_entry)


@pytest.mark.of_files
def test_what_is_read_as_the_program_ends_is_told_so(tmp_path: Path) -> None:
    """Python has closed its pools when it waits for what is no daemon."""
    program = f"""
import threading
from pathlib import Path
from luigi_spendguard.ledger import Ledger
from luigi_spendguard.ledger.budgets import last_entry

ledger = Ledger(Path({str(tmp_path / "ended.db")!r}))

def late():
    threading.main_thread().join()
    print(ledger.read(last_entry).exception(10))

threading.Thread(target=late).start()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("the ledger is closed: luigid is ending\n", "")


@pytest.mark.of_files
@pytest.mark.parametrize(("caps", "object_id", "most"), [(Caps(), None, 18), (FOUR, "pi", 23)])
def test_a_call_takes_so_many_statements(books: Books, caps: Caps, object_id: str | None, most: int) -> None:
    """With those that begin and commit its two transactions."""
    books.caps = caps
    key, first, second = books.claim("task"), books.ask(1), books.ask(1)
    seen: list[str] = []
    for ask in (first, second):  # The first makes the budgets.
        books.ledger._db.handle().set_trace_callback(seen.append if ask is second else None)
        assert books.reserve(key, ask).verdict == "allowed"
        end = EndRequest(
            "settle",
            ask.call_id,
            total_micros=1,
            status=200,
            answer_body="{}",
            object_id=f"{object_id}_{ask.call_id}" if object_id else None,
        )
        books.end(key, end)
    assert books.figures() == (2, 0, 0)
    assert len(seen) == most, seen
