"""What is sealed is read some rows at a time, on each engine, and each field has a column."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger.audit import exporting
from luigi_spendguard.ledger.audit.exporting import COLUMNS, Wanted, flat, texts
from luigi_spendguard.protocol import EndRequest
from tests.support.sealed import SealedBooks

USD = 1_000_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[SealedBooks]:
    books = SealedBooks(tmp_path / "spendguard.db")
    for number in range(4):
        key, ask = books.claim(f"Charge_{number}"), books.ask(USD)
        books.reserve(key, ask)
        books.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200))
        books.seal()
    yield books
    books.ledger.close()


def found(books: SealedBooks, wanted: Wanted) -> list[tuple[int, str]]:
    return books.read(lambda tx: [row for some in texts(tx, wanted) for row in some])  # type: ignore[no-any-return]


def test_all_of_it_is_read_in_order_some_rows_at_a_time(
    books: SealedBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = books.read(lambda tx: tx.all("SELECT block, text FROM audit_row ORDER BY seq"))
    monkeypatch.setattr(exporting, "AT_ONCE", 3)
    assert found(books, Wanted()) == [(row["block"], row["text"]) for row in rows]


def test_some_of_it_is_asked_for(books: SealedBooks) -> None:
    at = [json.loads(text).get("at") or json.loads(text)["created_at"] for _, text in found(books, Wanted())]
    middle = sorted(at)[len(at) // 2]
    assert len(found(books, Wanted(since=middle))) == len([one for one in at if one >= middle])
    assert len(found(books, Wanted(until=middle))) == len([one for one in at if one < middle])
    assert found(books, Wanted(run_id="run")) == found(books, Wanted())
    assert found(books, Wanted(run_id="other")) == []


def test_each_field_has_a_column(books: SealedBooks) -> None:
    rows: list[Any] = [flat(block, text) for block, text in found(books, Wanted())]
    assert {name for row in rows for name in row} <= set(COLUMNS) - {"more"}
    assert len(COLUMNS) == len(set(COLUMNS))
