"""Caps of luigi.cfg that are set when calls were made already: their budgets count those, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import corrections, runs, snapshot
from luigi_spendguard.ledger.following import follow
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books

CAPS = {
    "vendor": Caps(vendors={"stripe": Micros(60)}),
    "family": Caps(task_families={"Charge": Micros(60)}),
    "day": Caps(day=Micros(60)),
}
ALL = Caps(day=Micros(60), task_families={"Charge": Micros(60)}, vendors={"stripe": Micros(60)})


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "books.db", 100)
    yield made
    assert made.audit() == []
    made.ledger.close()


def budgets(books: Books, run_id: str = "run") -> dict[str, tuple[int, int, int, int]]:
    """Return (cap, spent, reserved, overrun) of the budgets of a run, and of days."""
    rows = books.read(lambda tx: tx.all("SELECT * FROM budget WHERE subject IN ('', ?)", run_id))
    columns = ("cap_micros", "spent_micros", "reserved_micros", "overrun_micros")
    return {row["scope"]: tuple(row[column] for column in columns) for row in rows}


def reserved(books: Books, key: str, amount: int, **more: Any) -> str:
    answer = books.reserve(key, books.ask(amount, **more))
    assert answer.verdict == "allowed", answer
    return answer.call_id


def end(books: Books, key: str, call_id: str, kind: str = "settle", actual: int | None = None) -> None:
    status = 200 if kind == "settle" else 0
    books.end(key, EndRequest(kind, call_id, 1, total_micros=actual, status=status))


def spent(books: Books, key: str, amount: int, actual: int | None = None, **more: Any) -> str:
    call_id = reserved(books, key, amount, **more)
    end(books, key, call_id, actual=amount if actual is None else actual)
    return call_id


def reread(books: Books, caps: Caps) -> None:
    """Do what luigid does when it has read luigi.cfg."""
    books.caps = caps
    books.write(follow, caps)


@pytest.mark.parametrize("scope", CAPS)
@pytest.mark.parametrize("lazily", [False, True], ids=["when the file is read", "by the next call"])
def test_a_cap_that_is_set_later_counts_as_if_it_had_been_there(
    books: Books, scope: str, lazily: bool
) -> None:
    key = books.claim("A")
    spent(books, key, 20)
    spent(books, key, 9, actual=6)
    pending, sent_again, gone, doubtful = (reserved(books, key, amount) for amount in (8, 5, 3, 4))
    end(books, key, gone, "void")
    end(books, key, doubtful, "doubt")
    end(books, key, sent_again, "doubt")
    books.caps = CAPS[scope]
    if lazily:
        spent(books, key, 1)
    else:
        books.write(follow, books.caps)
    so_far = 26 + lazily
    assert budgets(books)[scope] == (60, so_far, 17, 0)
    end(books, key, pending, actual=7)
    books.write(corrections.resolve, doubtful, corrections.Resolution(None), "one")
    end(books, key, sent_again, actual=5)
    assert budgets(books)[scope] == (60, so_far + 12, 0, 0)
    books.write(corrections.resolve, doubtful, corrections.Resolution(Micros(2), correct=True), "two")
    assert budgets(books)[scope] == (60, so_far + 14, 0, 0)
    left = 60 - so_far - 14
    assert books.reserve(key, books.ask(left + 1)).facts["budget"] == scope
    spent(books, key, left)
    assert budgets(books)["run"] == (100, 60, 0, 0)


def test_what_was_overrun_before_counts_too(books: Books) -> None:
    spent(books, books.claim("A"), 20, actual=25)
    reread(books, ALL)
    counted = (60, 20, 0, 5)
    assert budgets(books) == {"run": (100, 20, 0, 5), "vendor": counted, "family": counted, "day": counted}


def test_a_cap_below_what_was_spent_lets_nothing_more_pass_and_a_freed_reservation_lowers_it(
    books: Books,
) -> None:
    key = books.claim("A")
    spent(books, key, 50)
    open_call = reserved(books, key, 20)
    reread(books, ALL)
    assert budgets(books)["vendor"] == (70, 50, 20, 0)
    assert books.reserve(key, books.ask(1)).reason == "cap"
    end(books, key, open_call, "void")
    spent(books, key, 10)
    assert budgets(books)["vendor"] == (60, 60, 0, 0)
    assert books.reserve(key, books.ask(1)).reason == "cap"


@pytest.mark.parametrize("scope", CAPS)
def test_what_was_spent_while_a_cap_was_away_counts_when_it_is_back(books: Books, scope: str) -> None:
    key = books.claim("A")
    reread(books, CAPS[scope])
    spent(books, key, 10)
    reread(books, Caps())
    spent(books, key, 20)
    open_call = reserved(books, key, 7)
    assert budgets(books)[scope] == (60, 10, 0, 0)
    reread(books, CAPS[scope])
    assert budgets(books)[scope] == (60, 30, 7, 0)
    reread(books, CAPS[scope])
    end(books, key, open_call, actual=5)
    assert budgets(books)[scope] == (60, 35, 0, 0)


def test_a_budget_counts_its_own_calls_alone(books: Books) -> None:
    """Other runs', families', vendors' and days' are not among them, nor runs that are over."""
    spent(books, books.claim("A"), 10)
    spent(books, books.claim("A"), 5, vendor="twilio")
    spent(books, books.claim("B", family="Refund"), 7)
    for run_id in ("other", "over"):
        books.write(runs.open_run, runs.RunRequest(run_id, False, "Root", run_id, Micros(100)))
    spent(books, books.claim("A", "other"), 3, target="cus_other")
    spent(books, books.claim("Z", "over"), 2, target="cus_over")
    books.write(runs.revoke, "over")
    books.write(lambda tx: tx.run("UPDATE claim SET ended_at = 1, state = 'ended' WHERE run_id = 'over'"))
    before = books.read(lambda tx: tx.value("SELECT id FROM call WHERE vendor = 'twilio'"))
    books.write(lambda tx: tx.run("UPDATE call SET granted_at = granted_at - 86400000 WHERE id = ?", before))
    reread(books, ALL)
    assert budgets(books) == {
        "run": (100, 22, 0, 0),
        "vendor": (60, 17, 0, 0),
        "family": (60, 15, 0, 0),
        "day": (60, 22, 0, 0),
    }
    assert budgets(books, "other") == {
        "run": (100, 3, 0, 0),
        "vendor": (60, 3, 0, 0),
        "family": (60, 3, 0, 0),
        "day": (60, 22, 0, 0),
    }
    assert budgets(books, "over") == {"run": (100, 2, 0, 0), "day": (60, 22, 0, 0)}


def test_what_went_beyond_the_day_is_not_the_days(books: Books) -> None:
    key = books.claim("A")
    reread(books, Caps(day=Micros(10)))
    beyond = runs.Inside("day", "", Micros(10))
    books.write(runs.top_up_inside, "run", beyond, Micros(50), "once")
    spent(books, key, 20)
    reread(books, Caps())
    spent(books, key, 3)
    reread(books, Caps(day=Micros(10)))
    assert budgets(books)["beyond_day"] == (50, 20, 0, 0)
    assert budgets(books)["day"] == (10, 3, 0, 0)


def test_a_tasks_budget_counts_its_attempts_without_one(books: Books) -> None:
    first = books.claim("A")
    spent(books, first, 20)
    second = books.claim("A", max_cost=Micros(30))
    assert budgets(books)["task"] == (30, 20, 0, 0)
    spent(books, second, 5)
    spent(books, books.claim("A"), 3)
    last = books.claim("A", max_cost=Micros(30))
    assert budgets(books)["task"] == (30, 28, 0, 0)
    assert books.reserve(last, books.ask(3)).facts["budget"] == "task"


def test_what_shadow_mode_has_lent_grows_by_what_it_did_not_count(books: Books) -> None:
    key = books.claim("A")
    reread(books, replace(CAPS["vendor"], shadow=True))
    spent(books, key, 70)
    reread(books, Caps(shadow=True))
    spent(books, key, 20)
    reread(books, replace(CAPS["vendor"], shadow=True))
    row = books.read(lambda tx: tx.one("SELECT * FROM budget WHERE scope = 'vendor'"))
    assert (row["cap_micros"], row["shadow_micros"], row["spent_micros"]) == (90, 30, 90)


def test_a_gate_hears_of_it(books: Books) -> None:
    spent(books, books.claim("A"), 20)
    seen = books.read(snapshot.changes, 0).seen
    reread(books, ALL)
    changes = books.read(snapshot.changes, seen)
    told = {budget["scope"]: budget["remaining_micros"] for budget in changes.runs[0].budgets}
    assert told == {"vendor": 40, "family": 40}
    assert changes.day["remaining_micros"] == 40
