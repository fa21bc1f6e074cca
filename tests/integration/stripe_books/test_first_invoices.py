"""First invoices that are not all of a subscription, and what calls cover: by the look-alike's own books."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from luigi_spendguard.ledger import corrections, queries
from tests.support.books import Books
from tests.support.desk import Losing, Outside, by_hand
from tests.support.site import FakeStripe

CAP = 1_000_000_000  # $1,000


@pytest.fixture
def desk(books: Books, vendor: FakeStripe) -> Losing:
    return Losing(books, vendor.url)


def price(vendor: FakeStripe, cents: int) -> str:
    found: str = by_hand(vendor, "/v1/prices", currency="usd", unit_amount=str(cents))["id"]
    return found


def begun(desk: Outside, vendor: FakeStripe, **more: Any) -> Any:
    """Begin a subscription of $90 whose first invoice is still to be paid."""
    asked = {
        "customer": "cus_1",
        "items": [{"price": price(vendor, 9000)}],
        "payment_behavior": "default_incomplete",
        **more,
    }
    made: Any = desk.client.v1.subscriptions.create(asked)
    return made


def test_a_trial_with_a_fee_is_counted_whole_when_the_fee_is_paid(desk: Losing, vendor: FakeStripe) -> None:
    fee = [{"price": price(vendor, 100)}]
    sub = begun(desk, vendor, add_invoice_items=fee, trial_period_days=1)
    desk.client.v1.invoices.pay(sub.latest_invoice)
    by_hand(vendor, f"/v1/subscriptions/{sub.id}/end_trial")
    assert vendor.moved() == 9100 == desk.spent()


def test_a_first_invoice_is_counted_once(desk: Losing, vendor: FakeStripe) -> None:
    sub = begun(desk, vendor)
    desk.client.v1.invoices.pay(sub.latest_invoice)
    assert vendor.moved() == 9000 == desk.spent()


def test_a_declined_first_invoice_costs_nothing_more(desk: Losing, vendor: FakeStripe) -> None:
    sub = begun(desk, vendor)
    with pytest.raises(stripe.CardError):
        desk.client.v1.invoices.pay(sub.latest_invoice, {"payment_method": "pm_card_chargeDeclined"})
    assert (vendor.moved(), desk.spent()) == (0, 9000)
    desk.client.v1.invoices.pay(sub.latest_invoice)
    assert vendor.moved() == 9000 == desk.spent()


def test_a_declined_draft_costs_nothing_more(desk: Losing, vendor: FakeStripe) -> None:
    """Stripe finalizes a draft before it attempts a payment (https://docs.stripe.com/api/invoices/finalize)."""
    v1: Any = desk.client.v1
    v1.invoice_items.create({"customer": "cus_1", "amount": 1000, "currency": "usd"})
    draft = v1.invoices.create({"customer": "cus_1", "pending_invoice_items_behavior": "include"})
    with pytest.raises(stripe.CardError):
        v1.invoices.pay(draft.id, {"payment_method": "pm_card_chargeDeclined"})
    assert (vendor.moved(), desk.spent()) == (0, 1000)
    v1.invoices.pay(draft.id)
    assert vendor.moved() == 1000 == desk.spent()


def test_an_item_whose_change_is_in_doubt_goes_on_counting(desk: Losing, vendor: FakeStripe) -> None:
    v1: Any = desk.client.v1
    item = v1.invoice_items.create({"customer": "cus_1", "amount": 1000, "currency": "usd"}).id
    draft = v1.invoices.create({"customer": "cus_1", "pending_invoice_items_behavior": "include"}).id
    desk.lose = "before"
    with pytest.raises(stripe.APIError):
        v1.invoice_items.update(item, {"amount": 5000})
    v1.invoices.pay(draft)
    [doubt] = [call for call in desk.books.read(queries.calls) if call["state"] == "in_doubt"]
    desk.books.write(corrections.resolve, doubt["id"], corrections.Resolution(None), "by hand")
    spent, reserved, overrun = desk.figures()
    assert (vendor.moved(), reserved, overrun) == (1000, 0, 0)
    assert spent // 10_000 >= 1000


def test_a_quote_with_a_trial_is_counted_whole(desk: Losing, vendor: FakeStripe) -> None:
    """What is due at once is one thing of $100; the plan of $90 is billed when the trial is over."""
    v1: Any = desk.client.v1
    lines = [
        {"price_data": {"currency": "usd", "product": "prod_1", "unit_amount": 10000}},
        {
            "price_data": {
                "currency": "usd",
                "product": "prod_2",
                "unit_amount": 9000,
                "recurring": {"interval": "month"},
            }
        },
    ]
    asked = {"customer": "cus_1", "line_items": lines, "subscription_data": {"trial_period_days": 1}}
    quote = v1.quotes.create(asked)
    accepted = v1.quotes.accept(quote.id)
    by_hand(vendor, f"/v1/subscriptions/{accepted.subscription}/end_trial")
    assert vendor.moved() == 19000 == desk.spent()


@pytest.mark.parametrize("lose", ["after", "before"])
@pytest.mark.parametrize("trial", [{}, {"trial_period_days": 1}], ids=["now", "trial"])
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "theirs"])
def test_what_a_lost_subscription_has_taken_along_is_counted_once(
    desk: Losing, vendor: FakeStripe, lose: str, trial: dict[str, int], ours: bool
) -> None:
    item: Any = {"customer": "cus_1", "amount": 500, "currency": "usd"}
    if ours:
        desk.client.v1.invoice_items.create(item)
    else:
        by_hand(vendor, "/v1/invoiceitems", **{**item, "amount": "500"})
    plan = price(vendor, 9000)
    desk.lose = lose
    asked: Any = {"customer": "cus_1", "items": [{"price": plan}], **trial}
    with pytest.raises(stripe.APIError):
        desk.client.v1.subscriptions.create(asked)
    desk.client.v1.subscriptions.create(asked)
    assert vendor.moved() == (0 if trial else 9500)
    assert desk.spent() == 9500
