"""What operators did is read from the journal of any format; totals are those of the budgets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import NotFound
from luigi_spendguard.ledger import actions, claims, corrections, pruning, runs, totals
from luigi_spendguard.ledger.actions import ActionFilter
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import ACTIONS, EndRequest
from tests.support.books import Books

FORMATS = sorted((Path(__file__).parent / "formats").glob("format-*.db"))
#: Everything was over before then.
LATER = 4_000_000_000_000
USD = 1_000_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "spendguard.db", cap=100 * USD)
    yield books
    books.ledger.close()


def done(books: Books, **which: Any) -> list[dict[str, Any]]:
    return list(books.read(actions.actions, ActionFilter(**which)))


def paid(books: Books, task_id: str, micros: int, *, kind: str = "settle", run_id: str = "run") -> str:
    key = books.claim(task_id, run_id)
    ask = books.ask(micros)
    assert books.reserve(key, ask).verdict == "allowed"
    books.end(key, EndRequest(kind, ask.call_id, total_micros=micros, status=200 if kind == "settle" else 0))
    return ask.call_id


def test_each_action_says_its_amount_and_what_it_was_about(books: Books) -> None:
    books.write(runs.set_forecast, "run", Micros(20 * USD), Micros(0), 3)
    books.write(runs.approve, "run", "", Micros(20 * USD), "a", runs.Approved(3))
    books.claim("Pay 12 3")
    books.write(runs.approve, "run", "Pay 12 3", Micros(9 * USD), "b")
    books.write(runs.top_up, "run", Micros(1_500_000), "c")
    doubtful = paid(books, "Pay_1", 2000 * USD // 100, kind="doubt")
    books.write(corrections.resolve, doubtful, Resolution(Micros(19 * USD), "pi_1"), "d")
    gone = paid(books, "Pay_2", 5 * USD, kind="doubt")
    books.write(corrections.resolve, gone, Resolution(None), "e")
    books.write(runs.revoke, "run")
    found = [
        (one["kind"], one["usd"], one["task_id"], one["unknown_tasks"], one["note"]) for one in done(books)
    ]
    assert found == [
        ("revoke", None, None, 0, ""),
        ("resolve", "0.00", "Pay_2", 0, "not sent"),
        ("resolve", "19.00", "Pay_1", 0, "spent $19.00, object pi_1"),
        ("top_up", "1.50", None, 0, ""),
        ("approve", "9.00", "Pay 12 3", 0, ""),
        ("approve", "20.00", None, 3, ""),
    ]
    assert done(books, kind="correction") == []


def test_pages_leave_nothing_out_and_a_run_has_its_own(books: Books) -> None:
    books.write(runs.open_run, runs.RunRequest("other", False, "Root", "Root_2", Micros(USD)))
    for number in range(5):
        books.write(runs.top_up, ("run", "other")[number % 2], Micros(USD), str(number))
    first = done(books, limit=2)
    rest = done(books, before=first[-1]["seq"])
    assert [one["run_id"] for one in first + rest] == ["run", "other", "run", "other", "run"]
    assert {one["run_id"] for one in done(books, run_id="other")} == {"other"}
    assert done(books, until=0) == []
    assert len(done(books, since=0, kind="top_up")) == 5
    with pytest.raises(NotFound):
        done(books, run_id="nope")


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: str(path.stem))
@pytest.mark.of_files
def test_what_was_done_is_read_from_every_format(tmp_path: Path, path: Path) -> None:
    ledger = tmp_path / "spendguard.db"
    shutil.copy(path, ledger)
    books = Books(ledger)
    kinds = {one["kind"] for one in done(books)}
    assert {"top_up", "approve", "revoke", "resolve"} <= kinds <= set(ACTIONS)
    approved = {one["task_id"]: one["usd"] for one in done(books, kind="approve") if one["call_id"] is None}
    assert approved == {None: "20.00", "Charge_dear": "9.00"}
    assert [(one["usd"], one["note"]) for one in done(books, kind="resolve")] == [("4.00", "spent $4.00")]
    books.ledger.close()


def test_totals_are_those_of_the_budgets_and_name_what_was_pruned(books: Books) -> None:
    books.write(runs.open_run, runs.RunRequest("old", True, "Root", "old", Micros(50 * USD)))
    paid(books, "Pay_old", 7 * USD, run_id="old")
    books.write(claims.finish, books.last_claim, "completed")
    paid(books, "Pay_1", 3 * USD)
    paid(books, "Pay_2", 2 * USD, kind="doubt")
    found = books.read(totals.totals, None, None)
    assert (found["runs"], found["calls"], found["in_doubt_calls"]) == (2, 3, 1)
    assert (found["spent_usd"], found["reserved_usd"], found["in_doubt_usd"]) == ("10.00", "2.00", "2.00")
    assert [(one["name"], one["spent_usd"]) for one in found["by_vendor"]] == [("stripe", "10.00")]
    assert (found["corrections_usd"], found["pruned_usd"]) == ("0.00", "0.00")
    nothing = totals.nothing(0, 1)
    assert books.read(totals.totals, 0, 1) == nothing
    assert set(found) == set(nothing)
    books.write(runs.revoke, "run")
    books.write(claims.close_run, "old")
    pruned = books.write(pruning.prune, LATER)
    found = books.read(totals.totals, None, None)
    left = found["spent_usd"], found["pruned_usd"]
    assert (pruned.calls, left) == (1, ("3.00", "7.00"))
    assert [one["run_id"] for one in done(books, kind="prune")] == ["old"]
