"""What the dispatch gate is fed with: a run beside the last one of its family, and what has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import claims, runs, snapshot
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "books.db", 1000)
    yield made
    made.ledger.close()


def opened(books: Books, run_id: str, family: str = "Root") -> None:
    books.write(runs.open_run, runs.RunRequest(run_id, False, family, run_id, Micros(1000)))


def call(books: Books, run_id: str, amount: int, actual: int | None = None, how: str = "settle") -> None:
    """Make a call of a run and end it, at another amount perhaps."""
    key, ask = books.claim(f"task-{run_id}-{amount}", run_id), books.ask(amount)
    assert books.reserve(key, ask).verdict == "allowed"
    total = amount if actual is None else actual
    books.end(key, EndRequest(how, ask.call_id, 1, total_micros=total if how == "settle" else 0, status=200))


class TestThePrecedent:
    def last(self, books: Books, run_id: str) -> int | None:
        last: int | None = books.read(snapshot.of_run, run_id).run["last_micros"]
        return last

    def test_it_is_what_the_last_run_came_to_whatever_it_had_forecast(self, books: Books) -> None:
        books.write(runs.set_forecast, "run", Micros(2000), Micros(0), 0)
        call(books, "run", 300)
        opened(books, "next")
        assert self.last(books, "next") == 300

    def test_overrun_and_what_is_in_doubt_count(self, books: Books) -> None:
        call(books, "run", 300, 310)
        opened(books, "doubtful")
        call(books, "doubtful", 50, how="doubt")
        opened(books, "next")
        assert (self.last(books, "doubtful"), self.last(books, "next")) == (310, 50)

    def test_a_revoked_run_is_no_precedent_and_neither_is_one_that_spent_nothing(self, books: Books) -> None:
        call(books, "run", 300)
        for run_id in ("accident", "idle", "next"):
            opened(books, run_id)
        call(books, "accident", 900)
        books.write(runs.revoke, "accident")
        assert self.last(books, "next") == 300

    def test_it_is_of_the_same_family_and_earlier(self, books: Books) -> None:
        opened(books, "other", "Other")
        call(books, "other", 300)
        opened(books, "later")
        call(books, "later", 100)
        assert (self.last(books, "run"), self.last(books, "later")) == (None, None)

    def test_all_runs_at_once_have_the_same_ones(self, books: Books) -> None:
        for number, family in enumerate(("Root", "Other", "Root", "Root", "Other", "Root")):
            opened(books, f"r{number}", family)
            if number % 2 == 0:
                call(books, f"r{number}", 10 + number)
        books.write(runs.revoke, "r2")
        started = books.write(snapshot.start, Caps())
        assert len(started.runs) == 7
        for found in started.runs:
            assert found.run["last_micros"] == self.last(books, found.run["run_id"])


class TestChanges:
    def since(self, books: Books) -> int:
        seen: int = books.read(snapshot.last_entry)
        return seen

    def test_only_what_has_changed_is_read_again(self, books: Books) -> None:
        opened(books, "other")
        books.claim("A", max_cost=Micros(200))
        seen = self.since(books)
        assert books.read(snapshot.changes, seen) == snapshot.Changes(seen)
        call(books, "other", 70)
        found = books.read(snapshot.changes, seen)
        assert [each.run["run_id"] for each in found.runs] == ["other"]
        assert [budget["spent_micros"] for budget in found.runs[0].budgets] == [70]
        assert found.seen == self.since(books) > seen

    @pytest.mark.parametrize(
        ("operation", "arguments"),
        [
            (runs.revoke, ()),
            (runs.top_up, (Micros(5), "once")),
            (runs.approve, ("A", Micros(500), "once")),
        ],
    )
    def test_whatever_an_operator_does_is_a_change(
        self, books: Books, operation: Any, arguments: tuple[Any, ...]
    ) -> None:
        call(books, "run", 70)
        seen = self.since(books)
        books.write(operation, "run", *arguments)
        (found,) = books.read(snapshot.changes, seen).runs
        assert found == replace(
            books.read(snapshot.of_run, "run"), budgets=found.budgets
        )  # State and approvals are all there, and what it has spent: the run may be forgotten.
        assert [budget["spent_micros"] for budget in found.budgets if budget["scope"] == "run"] == [70]

    def test_a_new_run_and_one_that_has_ended_are_changes(self, books: Books) -> None:
        seen = self.since(books)
        books.write(runs.open_run, runs.RunRequest("Due", True, "Root", "Due", Micros(10)))
        assert [each.run["state"] for each in books.read(snapshot.changes, seen).runs] == ["active"]
        books.write(claims.close_run, "Due")
        assert [each.run["state"] for each in books.read(snapshot.changes, seen).runs] == ["ended"]

    def test_budgets_inside_the_run_and_of_its_tasks_are_among_them(self, books: Books) -> None:
        books.caps = Caps(day=Micros(900), task_families={"Charge": Micros(500)})
        key = books.claim("A", max_cost=Micros(200))
        books.reserve(key, books.ask(10))
        seen = self.since(books)
        books.reserve(key, books.ask(20))
        found = books.read(snapshot.changes, seen)
        changed = {(b["scope"], b["part"]): b["remaining_micros"] for b in found.runs[0].budgets}
        assert changed == {("run", ""): 970, ("family", "Charge"): 470, ("task", "A"): 170}
        assert found.day["remaining_micros"] == 870

    def test_tasks_that_may_have_paid_are_named_a_batch_by_its_members(self, books: Books) -> None:
        seen = self.since(books)
        books.reserve(books.claim("AB", members=("A", "B")), books.ask(20))
        books.reserve(books.claim("C"), books.ask(0))
        books.reserve(books.claim("D"), books.ask(5000))
        assert sorted(books.read(snapshot.changes, seen).paid) == ["A", "AB", "B"]

    @pytest.mark.of_files
    def test_a_familys_last_run_is_found_by_an_index(self, books: Books) -> None:
        plan = books.read(
            lambda tx: tx.all("EXPLAIN QUERY PLAN SELECT id FROM run WHERE root_family = 'Root' AND id < 9")
        )
        assert "run_family" in plan[0]["detail"]
