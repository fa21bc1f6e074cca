"""What raises an invoice beside its lines is denied or counted: judged by what the look-alike has billed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.guard.effects import Send
from luigi_spendguard.ledger import runs
from tests.support.desk import Outside
from tests.support.site import FakeStripe

CAP = 1_000_000  # $1


def price(desk: Outside, amount: int = 100) -> str:
    made: Any = {"currency": "usd", "unit_amount": amount, "recurring": {"interval": "month"}, "product": "p"}
    return str(desk.client.v1.prices.create(made).id)


def begun(desk: Outside, options: Any = None, **more: Any) -> Any:
    asked: Any = {"customer": "cus_1", "items": [{"price": price(desk)}], **more}
    return desk.client.v1.subscriptions.create(asked, options or {})


def made_elsewhere(vendor: FakeStripe) -> str:
    """Return a subscription that another program has made."""
    headers = {"authorization": "Bearer sk_other"}
    ids = []
    for path, form in (("prices", {"currency": "usd", "unit_amount": "100"}), ("subscriptions", {})):
        said = form or {"customer": "cus_1", "items[0][price]": ids[-1]}
        got = urllib3.request("POST", f"{vendor.url}/v1/{path}", body=urlencode(said), headers=headers)
        ids.append(got.json()["id"])
    return ids[-1]


def counted(desk: Outside) -> int:
    """Return what the ledger has spent and overrun, in cents."""
    spent, reserved, overrun = desk.figures()
    assert reserved == 0
    return (spent + overrun) // 10_000


AHEAD: Any = {
    "billing_schedules": [
        {"bill_until": {"type": "duration", "duration": {"interval": "month", "interval_count": 36}}}
    ]
}

OLD = {"stripe_version": "2018-02-28"}

#: What raised an invoice, was not read, and passed.
RAISED: list[tuple[str, Callable[[Outside, str], Any]]] = [
    ("periods ahead", lambda desk, sub: begun(desk, **AHEAD)),
    ("tax of an old version", lambda desk, sub: begun(desk, OLD, tax_percent=100)),
    ("an old version", lambda desk, sub: begun(desk, OLD)),
    ("a preview", lambda desk, sub: begun(desk, {"stripe_version": "2026-10-28.preview"})),
    ("tax", lambda desk, sub: begun(desk, tax_percent=100)),
    (
        "an offer",
        lambda desk, sub: begun(desk, items=[{"price": price(desk), "current_trial": {"trial_offer": "o"}}]),
    ),
    ("a pause", lambda desk, sub: desk.client.v1.subscriptions.pause(sub)),
    (
        "a pause that invoices",
        lambda desk, sub: desk.client.v1.subscriptions.pause(
            sub, {"invoicing_behavior": "invoice", "bill_for": {"outstanding_usage_through": {"type": "now"}}}
        ),
    ),
    (
        "a pause with credit",
        lambda desk, sub: desk.client.v1.subscriptions.pause(
            sub, {"bill_for": {"outstanding_usage_through": {"type": "none"}}}
        ),
    ),
    (
        "parts of an item",
        lambda desk, sub: desk.client.v1.invoice_items.create(
            {"customer": "cus_1", "pricing": {"price": price(desk)}, "quantity_decimal": "10000"}
        ),
    ),
    (
        "parts of an item, by amount",
        lambda desk, sub: desk.client.v1.invoice_items.create(
            {
                "customer": "cus_1",
                "unit_amount_decimal": "100",
                "currency": "usd",
                "quantity_decimal": "10000",
            }
        ),
    ),
    (
        "a draft that finalizes itself",
        lambda desk, sub: desk.client.v1.invoices.create(
            {"customer": "cus_1", "automatically_finalizes_at": 1_900_000_000}
        ),
    ),
    (
        "a session that comes back",
        lambda desk, sub: desk.client.v1.checkout.sessions.create(
            {"mode": "setup", "after_expiration": {"recovery": {"enabled": True}}}
        ),
    ),
    (
        "a source that pays what is past due",
        lambda desk, sub: desk.client.v1.customers.update("cus_1", {"source": "tok_1"}),
    ),
    (
        "a fee that is given back",
        lambda desk, sub: desk.client.v1.transfers.reversals.create("tr_1", {"refund_application_fee": True}),
    ),
    (
        "what nobody has heard of",
        lambda desk, sub: desk.client.v1.products.create({"name": "x", "charge_everybody": "now"}),
    ),
]


@pytest.mark.parametrize(("what", "call"), RAISED, ids=[what for what, _ in RAISED])
def test_what_raises_an_invoice_and_is_not_read_is_denied(
    desk: Outside, vendor: FakeStripe, what: str, call: Callable[[Outside, str], Any]
) -> None:
    subscription = made_elsewhere(vendor)
    before = vendor.moved()
    try:
        call(desk, subscription)
        reason = ""
    except SpendDenied as denied:
        reason = f"{denied.reason}: {denied.message}"
    assert vendor.moved() - before == counted(desk) == 0, f"moved {vendor.moved() - before}"
    assert re.search("^unpriced: .*(leave it out|pass |Stripe-Version)", reason), reason
    made = {request["path"] for request in vendor.posts() if "sk_test_canary" in request["authorization"]}
    assert made <= {"/v1/prices"}


def test_a_quiet_pause_is_free(desk: Outside, vendor: FakeStripe) -> None:
    sub = made_elsewhere(vendor)
    none: Any = {"type": "none"}
    asked: Any = {"bill_for": {"outstanding_usage_through": none, "unused_time_from": none}}
    assert desk.client.v1.subscriptions.pause(sub, asked).status == "paused"
    assert (vendor.moved(), counted(desk)) == (100, 0)


SURPRISE: Any = {"surprise": "900"}


class TestBilled:
    """What the vendor bills is booked, whatever was quoted; what is above that is overrun."""

    def test_a_subscription(self, desk: Outside, vendor: FakeStripe) -> None:
        begun(desk, metadata=SURPRISE)
        assert vendor.moved() == counted(desk) == 1000
        assert desk.figures() == (CAP, 0, 9_000_000)

    def test_a_subscription_whose_invoice_is_in_the_reply(self, desk: Outside, vendor: FakeStripe) -> None:
        begun(desk, metadata=SURPRISE, expand=["latest_invoice"])
        assert vendor.moved() == counted(desk) == 1000

    def test_a_schedule(self, desk: Outside, vendor: FakeStripe) -> None:
        desk.client.v1.subscription_schedules.create(
            {
                "customer": "cus_1",
                "start_date": "now",
                "metadata": SURPRISE,
                "phases": [{"items": [{"price": price(desk)}]}],
            }
        )
        assert vendor.moved() == counted(desk) == 1000

    def test_a_schedules_later_phases_count_where_the_caller_says_when(
        self, desk: Outside, vendor: FakeStripe
    ) -> None:
        def asked(first: dict[str, Any], then: int) -> Any:
            phases = [
                {"items": [{"price": price(desk, 40)}], **first},
                {"items": [{"price": price(desk, then)}]},
            ]
            return {"customer": "cus_1", "start_date": "now", "phases": phases}

        create = desk.client.v1.subscription_schedules.create
        assert desk.denied(create, asked({"end_date": 1_900_000_000}, 100_000)).reason == "cap"
        assert vendor.moved() == 0
        month = {"interval": "month", "interval_count": 1}
        create(asked({"duration": month}, 100_000))
        assert vendor.moved() == counted(desk) == 40
        desk.again()
        create({**asked({"end_date": 1_900_000_000}, 20), "customer": "cus_2"})
        assert vendor.moved() == counted(desk) == 40 + 60

    def test_a_change_of_an_item(self, desk: Outside, vendor: FakeStripe) -> None:
        sub = desk.client.v1.subscriptions.create(
            {"customer": "cus_1", "items": [{"price": price(desk, 10)}]}
        )
        item = sub["items"]["data"][0].id
        desk.client.v1.subscription_items.update(
            item, {"quantity": 2, "proration_behavior": "always_invoice", "metadata": SURPRISE}
        )
        assert vendor.moved() == counted(desk) == 10 + 20 + 900

    def test_an_invoice_of_an_earlier_change_is_not_booked_again(
        self, desk: Outside, vendor: FakeStripe
    ) -> None:
        change = desk.client.v1.subscription_items.update
        sub = desk.client.v1.subscriptions.create(
            {"customer": "cus_1", "items": [{"price": price(desk, 10)}]}
        )
        item = sub["items"]["data"][0].id
        change(item, {"quantity": 4, "proration_behavior": "always_invoice"})
        assert vendor.moved() == desk.spent() == 10 + 40
        change(item, {"quantity": 2, "proration_behavior": "create_prorations"})
        assert desk.spent() == 10 + 40 + 20  # Billed with the next invoice.

    def test_a_revoke_in_between_leaves_what_was_quoted(self, desk: Outside, vendor: FakeStripe) -> None:
        sent = desk._do

        def revoked(effect: Any) -> Any:
            reply = sent(effect)
            if isinstance(effect, Send) and effect.request.url.endswith("/v1/subscriptions"):
                desk.books.write(runs.revoke, desk.books.run_id)
            return reply

        desk._do = revoked
        assert begun(desk).object == "subscription"
        assert (vendor.moved(), desk.figures()) == (100, (1_000_000, 0, 0))

    def test_a_quote(self, desk: Outside, vendor: FakeStripe) -> None:
        line: Any = {"price_data": {"currency": "usd", "product": "p", "unit_amount": 50}}
        quote = desk.client.v1.quotes.create(
            {"customer": "cus_1", "line_items": [line], "metadata": SURPRISE}
        )
        desk.client.v1.quotes.accept(quote.id)
        assert vendor.moved() == counted(desk) == 950

    def test_less_is_given_back(self, desk: Outside, vendor: FakeStripe) -> None:
        begun(desk, discounts=[{"coupon": "half"}])
        assert vendor.moved() == counted(desk) == 50

    def test_what_a_trial_bills_later_stays_counted(self, desk: Outside, vendor: FakeStripe) -> None:
        """It ends whenever the caller likes, a second from now if need be."""
        begun(desk, trial_end=1_900_000_000)
        assert (vendor.moved(), counted(desk)) == (0, 100)

    def test_an_invoice_that_cannot_be_read_leaves_what_was_quoted(
        self, desk: Outside, vendor: FakeStripe
    ) -> None:
        vendor.fault("status", status=500, match="GET /v1/invoices")
        begun(desk)
        assert vendor.moved() == counted(desk) == 100
