"""A look-alike of Stripe that counts, a ledger, and the real SDK at both, for tests that compare their books.

A module's `CAP` is what its runs may spend, in micro-dollars.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.books import Books
from tests.support.desk import Outside
from tests.support.vendors import FakeStripe


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeStripe]:
    made = FakeStripe(tmp_path_factory.mktemp("vendor"))
    yield made
    made.process.end()


@pytest.fixture
def vendor(counting: FakeStripe) -> FakeStripe:
    counting.forget()
    return counting


@pytest.fixture
def books(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db", cap=request.module.CAP)
    yield made
    made.ledger.close()


@pytest.fixture
def desk(books: Books, vendor: FakeStripe) -> Outside:
    return Outside(books, vendor.url)
