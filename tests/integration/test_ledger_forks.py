"""Processes are forked while their ledger is at work; each child uses the file as one of its own."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from luigi_spendguard.ledger import forking
from tests.support.alarms import interrupted
from tests.support.books import Books

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")

#: Forks FORKS children while two threads write and read without pause; prints what the children say.
PARENT = """
import os, sys, threading, time, warnings
from pathlib import Path
from luigi_spendguard.ledger import queries, runs
from luigi_spendguard.ledger import Ledger
from luigi_spendguard.money import Micros

warnings.simplefilter("ignore", DeprecationWarning)
path, forks = Path(sys.argv[1]), int(sys.argv[2])
ledger, over = Ledger(path), threading.Event()

def write():
    number = 0
    while not over.is_set():
        number += 1
        ledger.write(runs.top_up, "run", Micros(1), f"{os.getpid()}-{number}").result()

def read():
    while not over.is_set():
        ledger.read(queries.calls).result()

threads = [threading.Thread(target=act) for act in (write, read)]
[thread.start() for thread in threads]
failed = 0
for turn in range(forks):
    child = os.fork()
    if not child:
        # A lock that was inherited stays; the parent's own, which never pauses, may win for 3 s.
        for trial in range(4):
            try:
                own = Ledger(path)
                own.write(runs.top_up, "run", Micros(1000), f"child-{turn}").result()
                own.close()
                os._exit(0)
            except BaseException as error:
                print(f"child {turn}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    failed += os.waitpid(child, 0)[1] != 0
over.set()
[thread.join() for thread in threads]
ledger.close()
print(f"{failed} of {forks} failed")
"""

#: The writer's own thread forks in the middle of a transaction; the parent goes on, the child is told.
WITHIN = """
import os, sys, time, warnings
from pathlib import Path
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger import runs
from luigi_spendguard.ledger import Ledger
from luigi_spendguard.money import Micros

warnings.simplefilter("ignore", DeprecationWarning)
path = Path(sys.argv[1])
ledger = Ledger(path)

def fork(tx):
    runs.top_up(tx, "run", Micros(1), "within")
    child = os.fork()
    if not child:
        try:
            Ledger(path)
        except LedgerUnavailable as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)

began = time.monotonic()
ledger.write(fork).result(20)
ledger.write(runs.top_up, "run", Micros(1), "after").result(20)
ledger.close()
print("at once" if time.monotonic() - began < 5 else "after a wait")
"""

#: Another thread stays in a transaction: the fork gives up waiting for it, and the child is told.
BESIDE = """
import os, sys, threading, time, warnings
from pathlib import Path
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger import forking, runs
from luigi_spendguard.ledger import Ledger
from luigi_spendguard.money import Micros

warnings.simplefilter("ignore", DeprecationWarning)
forking.FORK_WAIT_S = 0.5
path, inside, over = Path(sys.argv[1]), threading.Event(), threading.Event()
ledger = Ledger(path)

def stay(tx):
    runs.top_up(tx, "run", Micros(1), "stays")
    inside.set()
    over.wait(20)

staying = ledger.write(stay)
inside.wait()
began = time.monotonic()
child = os.fork()
if not child:
    try:
        Ledger(path)
    except LedgerUnavailable as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("at once" if time.monotonic() - began < 10 else "after a wait")
over.set()
staying.result(20)
ledger.write(runs.top_up, "run", Micros(1), "after").result(20)
ledger.close()
"""


def said(script: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=250, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    books = Books(tmp_path / "spendguard.db", cap=1_000_000)
    books.ledger.close()
    return books.path


def caps(path: Path) -> int:
    books = Books(path)
    try:
        assert books.audit() == []
        return int(books.run()["cap_micros"])
    finally:
        books.ledger.close()


@pytest.mark.figures
def test_all_children_of_a_process_that_writes_without_pause_write(path: Path, repeats: int) -> None:
    children = 20 * repeats
    assert said(PARENT, str(path), str(children)) == f"0 of {children} failed\n"
    assert caps(path) >= 1_000_000 + children * 1000


@pytest.mark.parametrize("script", [WITHIN, BESIDE], ids=["within", "beside"])
def test_a_fork_never_waits_for_ever_and_a_child_of_a_transaction_is_told(path: Path, script: str) -> None:
    told, when = said(script, str(path)).splitlines()
    assert "forked in the middle of a transaction" in told
    assert when == "at once"
    assert caps(path) == 1_000_002


def test_an_alarm_in_the_midst_of_a_fork_leaves_the_ledger_open() -> None:
    """A fork of which the end was not heard is over when its thread forks again, or after a time."""
    chance, done, passed = random.Random(1), threading.Event(), threading.Event()

    def work() -> None:
        while not done.is_set():
            with forking.transaction():
                passed.set()

    def fork() -> None:  # Not a real one: an alarm would leave logging locked, too, by Python's own hook.
        forking._before()
        forking._after_in_parent()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    for _ in range(1000):
        interrupted(fork, chance, 4e-4)
    fork()
    passed.clear()
    assert passed.wait(20)
    done.set()
    worker.join(20)
