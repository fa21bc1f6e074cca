"""What the look-alike's own books say was billed is never more than ours, with the real SDK.

Every rate is 1: a minor unit of any currency with two decimals counts as a cent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import BudgetExceeded
from tests.support.books import Books
from tests.support.desk import Outside, by_hand
from tests.support.site import FakeStripe

CAP = 10_000_000  # $10
DEAR = 100_000_000  # What the other currency costs, in its minor unit.


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


def at_most(desk: Outside, vendor: FakeStripe, call: Any, *args: Any) -> None:
    """Make a call, denied or not: the vendor's books never show more than ours, nor more than the cap."""
    with suppress(BudgetExceeded):
        call(*args)
    counted = sum(desk.figures()) // 10_000
    assert vendor.moved() <= counted
    assert counted <= CAP // 10_000


class TestCurrencies:
    @pytest.fixture
    def price(self, vendor: FakeStripe) -> str:
        dear = {"currency_options[sek][unit_amount]": str(DEAR)}
        return str(by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100", **dear)["id"])

    def test_a_phase_in_another_currency(self, desk: Outside, vendor: FakeStripe, price: str) -> None:
        phase = {"currency": "sek", "items": [{"price": price}]}
        asked = {"customer": "cus_1", "start_date": "now", "phases": [phase]}
        at_most(desk, vendor, desk.client.v1.subscription_schedules.create, asked)

    @pytest.mark.parametrize("spelt", ["sek", "SEK"])
    def test_a_subscription(self, desk: Outside, vendor: FakeStripe, price: str, spelt: str) -> None:
        asked = {"customer": "cus_1", "currency": spelt, "items": [{"price": price}]}
        at_most(desk, vendor, desk.client.v1.subscriptions.create, asked)

    def test_a_customers_own_currency(self, desk: Outside, vendor: FakeStripe, price: str) -> None:
        customer = by_hand(vendor, "/v1/customers", currency="sek")["id"]
        asked = {"customer": customer, "items": [{"price": price}]}
        at_most(desk, vendor, desk.client.v1.subscriptions.create, asked)

    def test_the_currency_that_is_said_is_the_one_that_counts(
        self, desk: Outside, vendor: FakeStripe, price: str
    ) -> None:
        asked: Any = {"customer": "cus_1", "currency": "usd", "items": [{"price": price}]}
        desk.client.v1.subscriptions.create(asked)
        assert (vendor.moved(), desk.spent()) == (100, 100)


class TestPendingItems:
    @pytest.fixture
    def price(self, vendor: FakeStripe) -> str:
        return str(by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"])

    @pytest.mark.parametrize("payer", ["customer", "customer_account"])
    def test_other_peoples_ride_along(
        self, desk: Outside, vendor: FakeStripe, price: str, payer: str
    ) -> None:
        by_hand(vendor, "/v1/invoiceitems", amount="100000", currency="usd", **{payer: "acct_1"})
        asked = {payer: "acct_1", "items": [{"price": price}]}
        at_most(desk, vendor, desk.client.v1.subscriptions.create, asked)
        phase = {"items": [{"price": price}]}
        asked = {payer: "acct_1", "start_date": "now", "phases": [phase]}
        at_most(desk, vendor, desk.client.v1.subscription_schedules.create, asked)

    def test_more_than_a_page_of_them(self, desk: Outside, vendor: FakeStripe, price: str) -> None:
        for _ in range(150):
            by_hand(vendor, "/v1/invoiceitems", amount="1", currency="usd", customer="cus_1")
        asked: Any = {"customer": "cus_1", "items": [{"price": price}]}
        desk.client.v1.subscriptions.create(asked)
        assert (vendor.moved(), desk.spent()) == (250, 250)

    def test_ones_own_are_counted_once(self, desk: Outside, vendor: FakeStripe, price: str) -> None:
        item: Any = {"customer": "cus_1", "amount": 850, "currency": "usd"}
        desk.client.v1.invoice_items.create(item)
        asked: Any = {"customer": "cus_1", "items": [{"price": price}]}
        desk.client.v1.subscriptions.create(asked)
        assert (vendor.moved(), desk.spent()) == (950, 950)

    def test_those_of_a_deleted_draft(self, desk: Outside, vendor: FakeStripe, price: str) -> None:
        draft = desk.client.v1.invoices.create({"customer": "cus_1"})
        item: Any = {"customer": "cus_1", "amount": 100_000, "currency": "usd", "invoice": draft.id}
        at_most(desk, vendor, desk.client.v1.invoice_items.create, item)
        at_most(desk, vendor, desk.client.v1.invoices.delete, draft.id)
        asked: Any = {"customer": "cus_1", "items": [{"price": price}]}
        at_most(desk, vendor, desk.client.v1.subscriptions.create, asked)

    def test_somebody_elses_draft_counts_when_it_is_deleted(self, desk: Outside, vendor: FakeStripe) -> None:
        draft = by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
        by_hand(vendor, "/v1/invoiceitems", amount="700", currency="usd", customer="cus_1", invoice=draft)
        desk.client.v1.invoices.delete(draft)
        assert desk.spent() == 700  # The next invoice of a subscription takes it along.

    def test_an_invoice_takes_them_and_counts_them_once(self, desk: Outside, vendor: FakeStripe) -> None:
        item: Any = {"customer": "cus_1", "amount": 900, "currency": "usd"}
        desk.client.v1.invoice_items.create(item)
        asked: Any = {"customer": "cus_1", "pending_invoice_items_behavior": "include"}
        draft = desk.client.v1.invoices.create(asked)
        desk.client.v1.invoices.pay(draft.id)
        assert (vendor.moved(), desk.spent()) == (900, 900)


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
