"""A call of which the ledger has heard the end alone: on record, with its vendor where that was said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.ledger import overview, queries, totals
from luigi_spendguard.ledger.overview import Page
from luigi_spendguard.protocol import EndRequest
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "spendguard.db")
    yield books
    books.ledger.close()


@pytest.mark.parametrize(("said", "shown"), [("twilio", ["stripe", "twilio"]), ("", ["stripe"])])
def test_it_names_its_vendor_or_none(books: Books, said: str, shown: list[str]) -> None:
    key = books.claim("Charge_1")
    unheard, heard = books.ask(1), books.ask(1)
    books.end(key, EndRequest("void", unheard.call_id, note="its grant did not arrive", vendor=said))
    books.reserve(key, heard)
    [run], _ = books.read(overview.runs, Page())
    assert run["vendors"] == books.read(queries.run, "run")["vendors"] == shown
    assert run["denied_calls"] == 1
    spending = books.read(overview.spending, "run", "vendor")
    assert sorted(one["name"] for one in spending["totals"]) == shown
    came_to = books.read(totals.totals, None, None)
    assert sorted(one["name"] for one in came_to["by_vendor"]) == shown
    assert (came_to["calls"], came_to["denied_calls"]) == (2, 1)
    assert [call["vendor"] for call in books.read(queries.calls)] == ["stripe", said]
    assert books.reserve(key, unheard).verdict == "denied", "it comes too late"
