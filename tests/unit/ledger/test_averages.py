"""What a task of a family has cost: what was paid for it, once for each that completed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import claims, runs, snapshot
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from tests.support.books import Books

ROOT = "Root_1"
TASKS = ("A", "B", "C", "D", "E")


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "books.db", 1000)
    opened(made)
    yield made
    made.ledger.close()


def opened(books: Books) -> str:
    """Open the root's run, or its next one."""
    request = runs.RunRequest(ROOT, True, "Root", ROOT, Micros(1000))
    run_id: str = books.write(runs.open_run, request)["run_id"]
    return run_id


def call(books: Books, key: str, task_id: str, amount: int = 10, *, declined: bool = False) -> str:
    """Make a task's one call, and end it; return its verdict and reason."""
    ask = books.ask(amount, target=f"cus_{task_id}", fingerprint=task_id)
    answer = books.reserve(key, ask)
    if answer.verdict == "allowed":
        end: dict[str, Any] = {"total_micros": 0 if declined else amount, "status": 402 if declined else 200}
        how = EndRequest("void" if declined else "settle", ask.call_id, 1, answer_body="{}", **end)
        books.end(key, how)
    return f"{answer.verdict}:{answer.reason}"


def attempt(books: Books, task_id: str, outcome: str, run_id: str = ROOT, **more: Any) -> str:
    """Let one attempt of a task make its call and end so; return the call's verdict and reason."""
    said = call(books, books.claim(task_id, run_id, **more), task_id)
    books.write(claims.finish, books.last_claim, outcome)
    return said


def average(books: Books) -> int | None:
    found: dict[str, int] = books.read(snapshot.averages)
    return found.get("Charge")


def test_attempts_that_failed_and_were_made_good_count_nothing_once_the_run_has_ended(books: Books) -> None:
    """Before any call, at the vendor, or refused: all that they have in common is that nothing was paid."""
    for task_id in TASKS:
        key = books.claim(task_id, ROOT)
        if task_id == "B":
            assert call(books, key, task_id, declined=True) == "allowed:"
        elif task_id == "C":
            refused = books.ask(10, denied="unpriced", message="no price", total_micros=None)
            assert books.reserve(key, refused).reason == "unpriced"
        books.write(claims.finish, books.last_claim, "failed")
        failed = books.last_claim
        assert attempt(books, task_id, "completed") == "allowed:"
        assert average(books) == 10
        assert failed != books.last_claim
    assert books.write(claims.close_run, ROOT, ROOT, TASKS)["state"] == "ended"
    assert average(books) == 10
    outcomes = books.read(lambda tx: tx.all("SELECT outcome, count(*) AS n FROM claim GROUP BY outcome"))
    assert {row["outcome"]: row["n"] for row in outcomes} == {"failed": 5, "completed": 5}


@pytest.mark.of_files
def test_nor_in_a_file_that_says_they_have_completed(books: Books) -> None:
    """Earlier versions wrote that when the run ended."""
    for task_id in TASKS:
        books.claim(task_id, ROOT)
        books.write(claims.finish, books.last_claim, "failed")
        attempt(books, task_id, "completed")
    books.ledger.close()
    with sqlite3.connect(books.path) as file:
        file.execute("UPDATE claim SET outcome = 'completed'")
    file.close()
    books.restart()
    assert average(books) == 10


def test_an_attempt_that_has_paid_and_died_is_paid_for_once(books: Books) -> None:
    assert attempt(books, "A", "died") == "allowed:"
    assert attempt(books, "A", "completed") == "replayed:"
    books.write(claims.close_run, ROOT, ROOT, ["A"])
    assert average(books) == 10


def test_so_is_one_that_goes_on_in_another_run(books: Books) -> None:
    assert attempt(books, "A", "died") == "allowed:"
    assert attempt(books, "B", "completed") == "allowed:"
    assert attempt(books, "A", "completed", "run") == "replayed:"
    assert average(books) == 10


def test_a_task_that_completes_again_without_paying_counts_no_more(books: Books) -> None:
    """Its output was deleted: in the same run, and for the same payment in any other."""
    for run_id in (ROOT, ROOT, "run"):
        attempt(books, "A", "completed", run_id, payment_keys=("a",))
    assert attempt(books, "A", "completed", "run", payment_keys=("a",)) == "replayed:"
    assert average(books) == 10


def test_nor_does_another_one_for_the_same_payment(books: Books) -> None:
    key = books.claim("A", ROOT, payment_keys=("a",))
    assert call(books, key, "A") == "allowed:"
    books.write(claims.finish, books.last_claim, "failed")
    key = books.claim("A2", ROOT, payment_keys=("a",))
    assert call(books, key, "A") == "replayed:"
    books.write(claims.finish, books.last_claim, "completed")
    assert average(books) == 10


def test_one_that_pays_again_in_another_run_counts_again(books: Books) -> None:
    attempt(books, "A", "completed")
    books.write(claims.close_run, ROOT, ROOT, ["A"])
    assert attempt(books, "A", "completed", opened(books)) == "allowed:"
    assert average(books) == 10


def test_what_rightly_costs_nothing_lowers_the_average(books: Books) -> None:
    attempt(books, "A", "completed")
    books.claim("free", ROOT)
    books.write(claims.finish, books.last_claim, "completed")
    key = books.claim("declined", ROOT)
    assert call(books, key, "declined", declined=True) == "allowed:"
    books.write(claims.finish, books.last_claim, "completed")
    assert average(books) == 4  # Of 10, in thirds.


def test_a_batch_is_its_members_also_when_it_completes_again(books: Books) -> None:
    members = ("B", "C", "D")
    for outcome in ("failed", "completed", "completed"):
        key = books.claim("BCD", ROOT, members=members)
        call(books, key, "BCD", 30)
        books.write(claims.finish, books.last_claim, outcome)
    books.write(claims.close_run, ROOT, ROOT, members)
    assert average(books) == 10


def test_a_replay_of_what_was_paid_in_a_run_that_counts_no_more_is_no_task(books: Books) -> None:
    attempt(books, "A", "completed", payment_keys=("a",))
    for number in range(snapshot.RECENT_RUNS - 1):
        books.write(runs.open_run, runs.RunRequest(f"r{number}", False, "Root", ROOT, Micros(1000)))
    books.write(runs.open_run, runs.RunRequest("last", False, "Root", ROOT, Micros(1000)))
    attempt(books, "B", "completed", "last", payment_keys=("b",))
    assert attempt(books, "A", "completed", "last", payment_keys=("a",)) == "replayed:"
    assert average(books) == 10


def test_what_is_paid_and_was_not_said_to_have_completed_is_no_cost(books: Books) -> None:
    """Its worker was killed: its child, that had paid, ended well or died, and nobody says so."""
    attempt(books, "A", "completed")
    attempt(books, "B", "returned")
    attempt(books, "C", "died")
    call(books, books.claim("D", ROOT), "D")  # Its claim is still open.
    key = books.claim("EF", ROOT, members=("E", "F"))
    call(books, key, "EF", 20)
    assert average(books) == 10


def test_once_they_have_completed_it_is(books: Books) -> None:
    """In the same run, or in another that finds it paid; a run that ends says it of all that are DONE."""
    attempt(books, "A", "completed")
    attempt(books, "B", "returned", run_id=ROOT)
    attempt(books, "C", "died")
    call(books, books.claim("D", ROOT), "D", 40)
    assert average(books) == 10
    assert attempt(books, "C", "completed") == "replayed:"
    assert attempt(books, "B", "completed", "run") == "replayed:"
    assert average(books) == 10
    books.write(claims.close_run, ROOT, ROOT, ["A", "B", "C", "D"])
    assert average(books) == 18  # Of 70, in quarters.


def test_what_an_attempt_repeats_of_another_run_beside_what_it_pays_is_its_cost(books: Books) -> None:
    assert attempt(books, "A", "died") == "allowed:"
    key = books.claim("A", "run")
    assert call(books, key, "A") == "replayed:"
    more = books.ask(5, target="cus_more")
    assert books.reserve(key, more).verdict == "allowed"
    books.end(key, EndRequest("settle", more.call_id, 1, answer_body="{}", total_micros=5, status=200))
    books.write(claims.finish, books.last_claim, "completed")
    assert average(books) == 15
