"""What the look-alike's own books say was billed is never more than ours, with the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.books import Books
from tests.support.desk import Outside
from tests.support.site import FakeStripe

CAP = 10_000_000  # $10


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[FakeStripe]:
    made = FakeStripe(tmp_path / "vendor")
    yield made
    made.process.end()


@pytest.fixture
def desk(tmp_path: Path, vendor: FakeStripe) -> Iterator[Outside]:
    books = Books(tmp_path / "ledger.db", cap=CAP)
    yield Outside(books, vendor.url)
    books.ledger.close()


class TestPayers:
    CHARGE: Any = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}

    def test_a_task_that_runs_again_is_answered(self, desk: Outside, vendor: FakeStripe) -> None:
        asked: Any = {**self.CHARGE, "customer_account": "acct_1"}
        first = desk.client.v1.payment_intents.create(asked)
        desk.again()
        again = desk.client.v1.payment_intents.create({**asked, "metadata": {"at": "another time"}})
        assert (again.id, vendor.moved()) == (first.id, 100)

    def test_two_accounts_with_one_card_are_two_calls(self, desk: Outside, vendor: FakeStripe) -> None:
        create = desk.client.v1.payment_intents.create
        one = create({**self.CHARGE, "customer_account": "acct_1"})
        desk.again()
        another = desk.client.v1.payment_intents.create({**self.CHARGE, "customer_account": "acct_2"})
        assert (one.id != another.id, vendor.moved(), desk.spent()) == (True, 200, 200)

    def test_who_names_two_payers_is_told(self, desk: Outside, vendor: FakeStripe) -> None:
        asked = {**self.CHARGE, "customer_account": "acct_1", "customer": "cus_1"}
        assert desk.denied(desk.client.v1.payment_intents.create, asked).reason == "unpriced"
        assert vendor.moved() == 0
