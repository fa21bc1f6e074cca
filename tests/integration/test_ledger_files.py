"""The ledger as a file: private, durable, shared by processes, and never half written."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.errors import LedgerUnavailable, NotFound
from luigi_spendguard.ledger import Ledger, database, replays, runs
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from tests.support.books import Books
from tests.support.processes import REPOSITORY, environment, wait_until

#: Reserves and settles 1 micro-dollar again and again until it is refused; says what was acknowledged.
SPENDER = """
import sys
from pathlib import Path
from luigi_spendguard.protocol import EndRequest
from tests.support.books import Books
books = Books(Path(sys.argv[1]), cap=int(sys.argv[2]))
key = books.claim(sys.argv[3])
while True:
    ask = books.ask(1)
    if books.reserve(key, ask).verdict != "allowed":
        break
    print("reserved", ask.call_id, flush=True)
    books.end(key, EndRequest("settle", ask.call_id, 1, total_micros=1, status=200, answer_body="{}"))
    print("settled", ask.call_id, flush=True)
books.ledger.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "spendguard.db"


@pytest.fixture
def books(path: Path) -> Iterator[Books]:
    books = Books(path)
    yield books
    books.ledger.close()


def spender(path: Path, cap: int, task_id: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SPENDER, str(path), str(cap), task_id],
        cwd=REPOSITORY,
        text=True,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_file_and_folder_are_its_owners_alone(books: Books, path: Path) -> None:
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for name in ("", "-wal", "-shm"):
        assert path.with_name(path.name + name).stat().st_mode & 0o077 == 0


def test_a_commit_survives_power_loss(books: Books) -> None:
    def pragmas(tx: Tx) -> tuple[object, ...]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return tuple(tx.value(f"PRAGMA {name}") for name in names)

    assert books.write(pragmas) == (
        "wal",
        2,
        1,
    )  # 2 is FULL: https://sqlite.org/pragma.html#pragma_synchronous


def test_the_schema_refuses_to_spend_more_than_the_cap(books: Books) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        books.write(lambda tx: tx.run("UPDATE budget SET reserved_micros = cap_micros + 1"))
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        books.write(lambda tx: tx.run("UPDATE budget SET spent_micros = -1"))
    assert books.figures() == (0, 0, 0)


@pytest.mark.parametrize("change", ["UPDATE journal SET cap_micros = 0", "DELETE FROM journal"])
def test_the_journal_is_append_only(books: Books, change: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        books.write(lambda tx: tx.run(change))
    assert books.audit() == []


def test_four_processes_make_one_file_and_spend_exactly_the_cap(path: Path) -> None:
    spenders = [spender(path, 60, f"task-{number}") for number in range(4)]
    said = [spender.communicate(timeout=60)[0] for spender in spenders]
    assert [spender.returncode for spender in spenders] == [0] * 4, said
    assert sum(out.count("settled") for out in said) == 60
    books = Books(path, cap=60)
    assert books.figures() == (60, 0, 0)
    assert books.audit() == []
    books.ledger.close()


def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    victim = spender(path, 10_000_000, "task")
    assert victim.stdout is not None
    lines = [victim.stdout.readline() for _ in range(60)]
    victim.send_signal(signal.SIGKILL)
    lines += victim.communicate(timeout=20)[0].splitlines(keepends=True)
    whole = [line.split() for line in lines if line.endswith("\n") and len(line.split()) == 2]
    books = Books(path)
    states = {row["id"]: row["state"] for row in books.read(lambda tx: tx.all("SELECT id, state FROM call"))}
    for word, call_id in whole:
        assert (
            states[call_id] == "settled" if word == "settled" else states[call_id] in ("pending", "settled")
        )
    assert len(whole) >= 59
    assert books.audit() == []
    books.ledger.close()


def test_what_waits_together_is_committed_together_and_fails_alone(books: Books) -> None:
    commits: list[str] = []
    entered, go = threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        entered.set()
        go.wait(10)

    def count(tx: Tx) -> None:
        connection = books.ledger._db.connection()
        connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

    books.write(count)
    first = books.ledger.write(hold)
    assert entered.wait(10)
    names = [f"run-{number}" for number in range(20)]
    later = [
        books.ledger.write(runs.open_run, runs.RunRequest(name, False, "R", "r", Micros(1))) for name in names
    ]
    wrong = books.ledger.write(runs.run_row, "no such run")
    after = books.ledger.write(runs.run_row, "run-19")
    commits.clear()
    go.set()
    first.result(10)
    assert [future.result(10)["run_id"] for future in later] == names
    with pytest.raises(NotFound):
        wrong.result(10)
    assert after.result(10)["cap_micros"] == 1
    assert len(commits) == 2  # The held one, and one for all that waited.


def test_a_transaction_that_cannot_be_committed_fails_all_of_it_and_keeps_nothing(books: Books) -> None:
    def full(tx: Tx) -> None:
        tx.run("UPDATE run SET note = 'half done'")
        raise LedgerUnavailable("its disk is full")

    entered, go = threading.Event(), threading.Event()
    held = books.ledger.write(lambda tx: (entered.set(), go.wait(10)))
    assert entered.wait(10)
    other = books.ledger.write(lambda tx: tx.run("UPDATE run SET note = 'other'"))
    failing = books.ledger.write(full)
    go.set()
    held.result(10)
    for future in (other, failing):
        with pytest.raises(LedgerUnavailable, match="disk is full"):
            future.result(10)
    assert books.run()["note"] == ""


def test_a_locked_file_is_said_without_dangerous_advice(books: Books) -> None:
    other = sqlite3.connect(books.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(LedgerUnavailable) as locked:
            books.write(runs.top_up, "run", Micros(1), "r")
    finally:
        other.close()
    assert "let that program finish" in str(locked.value)
    assert "copy" not in str(locked.value)
    books.write(runs.top_up, "run", Micros(1), "r")


def test_after_closing_it_says_so(books: Books) -> None:
    books.ledger.close()
    books.ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        books.write(runs.run_row, "run")


def test_the_writers_thread_ends_with_the_ledger(path: Path) -> None:
    others = {*threading.enumerate()}  # Some of which are ending.

    def threads() -> list[str]:
        return [t.name for t in {*threading.enumerate()} - others if t.name.startswith("spendguard-")]

    ledger = Ledger(path)
    assert threads()
    ledger.close()
    wait_until(lambda: not threads(), what="the end of the ledger's threads")


def test_answers_are_forgotten_after_replay_days_but_the_charge_is_not(books: Books) -> None:
    key = books.claim("task")
    ask = books.ask(7, target="cus_1")
    books.reserve(key, ask)
    books.end(
        key,
        EndRequest(
            "settle",
            ask.call_id,
            1,
            total_micros=7,
            object_id="pi_1",
            status=200,
            answer_body='{"id": "pi_1"}',
        ),
    )
    again = books.ask(7, target="cus_1")
    assert books.reserve(books.claim("task"), again).answer_body == '{"id": "pi_1"}'
    books.write(lambda tx: tx.run("UPDATE exchange SET stored_at = stored_at - 31 * 86400000"))
    books.write(replays.forget, 30)
    denied = books.reserve(books.claim("task"), books.ask(7, target="cus_1"))
    assert (denied.verdict, denied.reason) == ("denied", "idempotency_mismatch")
    assert "pi_1" in denied.message
    assert books.figures() == (7, 0, 0)
    assert os.stat(books.path).st_size
    assert books.read(lambda tx: tx.value("SELECT count(*) FROM exchange")) == 0


def test_what_a_gone_file_would_keep_is_not_granted(books: Books, path: Path) -> None:
    """Deleted, replaced by a copy, moved, or its folder: SQLite would go on with files without a name."""
    key = books.claim("task")
    assert books.reserve(key, books.ask(1)).verdict == "allowed"
    copy, aside = path.with_name("copy"), path.with_name("aside")
    copy.write_bytes(path.read_bytes())
    for put_away in (lambda: path.rename(aside), lambda: (path.rename(aside), copy.rename(path))):
        put_away()
        with pytest.raises(LedgerUnavailable, match="deleted, replaced or cut off"):
            books.reserve(key, books.ask(1))
        with pytest.raises(LedgerUnavailable, match="deleted, replaced or cut off"):
            books.read(lambda tx: tx.value("SELECT count(*) FROM call"))
        aside.replace(path)
        assert books.reserve(key, books.ask(1)).verdict == "allowed"
    moved = path.parent.rename(path.parent.with_name("moved"))
    with pytest.raises(LedgerUnavailable, match="deleted, replaced or cut off"):
        books.reserve(key, books.ask(1))
    assert not path.exists()
    moved.rename(path.parent)
    assert books.figures() == (0, 3, 0)
    assert books.audit() == []


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
@pytest.mark.parametrize("harm", ["delete", "replace", "cut off"])
def test_so_it_is_with_the_files_beside_it(path: Path, ending: str, harm: str) -> None:
    beside = path.with_name(path.name + ending)
    program = f"""
import os, sys
from pathlib import Path
from luigi_spendguard.errors import LedgerUnavailable
from tests.support.books import Books
books, beside = Books(Path({str(path)!r})), {str(beside)!r}
key = books.claim("task")
assert books.reserve(key, books.ask(1)).verdict == "allowed"
if {harm!r} == "cut off":
    os.truncate(beside, 0)
else:
    os.unlink(beside)
if {harm!r} == "replace":
    open(beside, "wb").close()
for attempt in range(2):
    try:
        books.reserve(key, books.ask(1))
    except LedgerUnavailable as error:
        print(error, flush=True)
os._exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=environment(),
        timeout=60,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 7, done.stderr  # Not a SIGBUS.
    assert done.stdout.count("deleted, replaced or cut off") == 2, done.stdout + done.stderr


def test_a_fork_goes_on_with_the_same_file_alone(books: Books, path: Path) -> None:
    books.write(lambda tx: tx.run("UPDATE run SET note = 'before'"))
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    pid = os.fork()
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert books.run()["note"] == "before"  # The fork has closed the file; it is opened again.
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    path.unlink()
    copy.rename(path)
    with pytest.raises(LedgerUnavailable, match="deleted, replaced or cut off"):
        books.run()


@pytest.mark.parametrize("busy_s", [0.0, 30.0])
def test_who_waits_for_others_that_end_is_not_told_that_the_file_is_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch, busy_s: float
) -> None:
    """Many local workers: no transaction is long, but it takes a while until it is this one's turn."""
    monkeypatch.setattr(database, "LOCK_SECONDS", 1.5)
    ledger = Ledger(path, busy_s)
    begun, tired = threading.Event(), threading.Event()

    def others() -> None:
        other = sqlite3.connect(path, isolation_level=None)
        for number in range(20):
            other.execute("BEGIN IMMEDIATE")
            begun.set()
            other.execute("INSERT INTO task (task_id, completions) VALUES (?, 0)", (f"other-{number}",))
            tired.wait(0.2)
            other.execute("COMMIT")
        other.close()

    thread = threading.Thread(target=others)
    thread.start()
    assert begun.wait(10)

    def write() -> None:
        ledger.write(lambda tx: tx.run("UPDATE run SET note = 'mine'")).result(30)

    def write_until_refused() -> None:
        while thread.is_alive():  # By luck it has its turn between two of the others'.
            write()

    if busy_s:
        write()
    else:
        with pytest.raises(LedgerUnavailable, match="did not get its turn within 0 s"):
            write_until_refused()
    tired.set()
    thread.join()
    ledger.close()
