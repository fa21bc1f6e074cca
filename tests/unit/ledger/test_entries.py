"""What is sealed of a call changes with an entry of the journal alone: what each test's books check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger.budgets import event, journal
from luigi_spendguard.ledger.foreseen import naming
from luigi_spendguard.ledger.names import of_run
from luigi_spendguard.protocol import EndRequest
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "spendguard.db")
    yield books
    books.ledger.close()


def settled(books: Books) -> str:
    key = books.claim("Charge_1")
    ask = books.ask(10)
    books.reserve(key, ask)
    books.end(key, EndRequest("settle", ask.call_id, 1, 10))
    return ask.call_id


def changed(books: Books, call_id: str, change: str, *, said: bool) -> None:
    @naming(lambda foreseen: frozenset({of_run(books.run_id)}))
    def booked(tx: Any) -> None:
        tx.run(f"UPDATE call SET {change} WHERE id = ?", call_id)
        if said:
            journal(tx, event("correct", tx.one("SELECT * FROM call WHERE id = ?", call_id)))

    books.write(booked)


@pytest.mark.parametrize("change", ["message = 'other'", "corrected_micros = 1", "status = 418"])
def test_a_change_that_no_entry_says_is_found(books: Books, change: str) -> None:
    with pytest.raises(AssertionError, match="has changed, and no entry says so"):
        changed(books, settled(books), change, said=False)


def test_one_that_an_entry_says_is_not(books: Books) -> None:
    changed(books, settled(books), "message = 'other'", said=True)


@pytest.mark.parametrize("change", ["target = 'cus_other'", "operation = 'refunds.create'", "created_at = 1"])
def test_what_is_fixed_changes_by_no_entry(books: Books, change: str) -> None:
    with pytest.raises(AssertionError):
        changed(books, settled(books), change, said=True)
