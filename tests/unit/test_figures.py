"""What the dispatch gate is fed with: a run beside the last one of its family, and what has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.ledger import figures, runs
from luigi_spendguard.messages import End
from luigi_spendguard.money import Micros
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
    books.end(key, End(how, ask.call_id, 1, total_micros=total if how == "settle" else 0, status=200))


class TestThePrecedent:
    def last(self, books: Books, run_id: str) -> int | None:
        last: int | None = books.read(figures.of_run, run_id).run["last_micros"]
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
