"""What a call lets others bill later is counted or denied: judged by the look-alike's own books."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from luigi_spendguard.errors import SpendDenied
from tests.support.desk import Outside, by_hand
from tests.support.site import FakeStripe

CAP = 100_000_000  # $100


def counted(desk: Outside) -> int:
    """Return what the ledger has spent, in cents."""
    spent, reserved, overrun = desk.figures()
    assert (reserved, overrun) == (0, 0)
    return spent // 10_000


class TestPages:
    """On a session's page the customer decides."""

    def paid(self, desk: Outside, vendor: FakeStripe, price: str, asked: Any, **by_page: Any) -> None:
        asked = {
            "mode": "payment",
            "customer": "cus_1",
            "line_items": [{"price": price, "quantity": 1}],
            **asked,
        }
        session = desk.client.v1.checkout.sessions.create(asked)
        by_hand(vendor, f"/v1/checkout/sessions/{session.id}/pay_on_its_page", **by_page)
        assert 0 < vendor.moved() <= counted(desk)

    def test_a_code_may_be_taken_off(self, desk: Outside, vendor: FakeStripe) -> None:
        price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="5000")["id"]
        self.paid(desk, vendor, price, {"discounts": [{"promotion_code": "promo_1"}]}, without_code="1")

    def test_an_amount_may_be_chosen(self, desk: Outside, vendor: FakeStripe) -> None:
        chosen = {
            f"custom_unit_amount[{name}]": value
            for name, value in (("enabled", "true"), ("preset", "100"), ("maximum", "5000"))
        }
        price = by_hand(vendor, "/v1/prices", currency="usd", **chosen)["id"]
        self.paid(desk, vendor, price, {}, chosen="5000")

    def test_the_customers_address_decides_the_currency(self, desk: Outside, vendor: FakeStripe) -> None:
        dear = {"currency_options[sek][unit_amount]": "5000"}  # A rate of 1.
        price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100", **dear)["id"]
        self.paid(desk, vendor, price, {}, currency="sek")

    def test_a_currency_that_is_said_costs_what_it_comes_to(self, desk: Outside, vendor: FakeStripe) -> None:
        dear = {"currency_options[sek][unit_amount]": "5000"}
        price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100", **dear)["id"]
        self.paid(desk, vendor, price, {"currency": "usd"})
        assert counted(desk) == 100

    def test_prices_decide_what_it_is_where_nothing_is_said(self, desk: Outside, vendor: FakeStripe) -> None:
        bill(vendor, amount="5000")
        price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"]
        self.paid(desk, vendor, price, {"mode": None})


def bill(vendor: FakeStripe, **more: Any) -> Any:
    """Make a pending item past the guard."""
    return by_hand(vendor, "/v1/invoiceitems", customer="cus_1", currency="usd", **more)["id"]


def pay_all(vendor: FakeStripe) -> None:
    """Let what is pending be invoiced and paid."""
    draft = by_hand(vendor, "/v1/invoices", customer="cus_1", pending_invoice_items_behavior="include")["id"]
    by_hand(vendor, f"/v1/invoices/{draft}/pay")


#: What takes away from what lowers an invoice: an item of -900 by another program, or a discount of 900.
TAKEN: list[tuple[str, dict[str, str], Callable[[Any, str], Any]]] = [
    ("deleted", {"amount": "-900"}, lambda v1, item: v1.invoice_items.delete(item)),
    ("made nothing", {"amount": "-900"}, lambda v1, item: v1.invoice_items.update(item, {"amount": 0})),
    ("made little", {"amount": "-900"}, lambda v1, item: v1.invoice_items.update(item, {"amount": -1})),
    ("made a charge", {"amount": "-900"}, lambda v1, item: v1.invoice_items.update(item, {"amount": 100})),
    (
        "at its full price",
        {"amount": "900", "discounts[0][coupon]": "all"},
        lambda v1, item: v1.invoice_items.update(item, {"discounts": ""}),
    ),
]


LESS, FREE = {"amount": "-900"}, {"amount": "900", "discounts[0][coupon]": "all"}
#: The same with the lines of a draft that another program will finalize.
LINES: list[tuple[str, dict[str, str], Callable[[Any, str, str], Any]]] = [
    (
        "removed",
        LESS,
        lambda v1, draft, line: v1.remove_lines(draft, {"lines": [{"id": line, "behavior": "delete"}]}),
    ),
    (
        "made nothing",
        LESS,
        lambda v1, draft, line: v1.update_lines(draft, {"lines": [{"id": line, "amount": 0}]}),
    ),
    ("made a charge", LESS, lambda v1, draft, line: v1.line_items.update(draft, line, {"amount": 100})),
    (
        "at its full price",
        FREE,
        lambda v1, draft, line: v1.update_lines(draft, {"lines": [{"id": line, "discounts": ""}]}),
    ),
    (
        "at its full price, alone",
        FREE,
        lambda v1, draft, line: v1.line_items.update(draft, line, {"discounts": ""}),
    ),
]


class TestCredit:
    """What lowers an invoice and is taken back raises it again."""

    @pytest.mark.parametrize(("what", "item", "call"), TAKEN, ids=[what for what, _, _ in TAKEN])
    def test_an_item_of_another_program(
        self, desk: Outside, vendor: FakeStripe, what: str, item: dict[str, str], call: Any
    ) -> None:
        bill(vendor, amount="1000")
        ours = bill(vendor, **item)
        billed = 1000 - 900 if "-" in item["amount"] else 1000
        with suppress(SpendDenied):
            call(desk.client.v1, ours)
        pay_all(vendor)
        assert vendor.moved() - billed <= counted(desk)

    @pytest.mark.parametrize(("what", "item", "call"), LINES, ids=[what for what, _, _ in LINES])
    def test_a_line_of_another_programs_draft(
        self, desk: Outside, vendor: FakeStripe, what: str, item: dict[str, str], call: Any
    ) -> None:
        draft = by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
        bill(vendor, amount="1000", invoice=draft)
        line = bill(vendor, **item, invoice=draft).replace("ii", "il")
        billed = 1000 - 900 if "-" in item["amount"] else 1000
        call(desk.client.v1.invoices, draft, line)
        by_hand(vendor, f"/v1/invoices/{draft}/pay")
        assert 0 < vendor.moved() - billed <= counted(desk)

    def test_an_item_that_is_only_described_costs_nothing(self, desk: Outside, vendor: FakeStripe) -> None:
        desk.client.v1.invoice_items.update(bill(vendor, amount="-900"), {"description": "x"})
        assert counted(desk) == 0

    def test_a_credit_note_that_is_voided(self, desk: Outside, vendor: FakeStripe) -> None:
        v1: Any = desk.client.v1
        v1.invoice_items.create({"customer": "cus_1", "amount": 1000, "currency": "usd"})
        invoice = v1.invoices.create({"customer": "cus_1", "pending_invoice_items_behavior": "include"})
        v1.invoices.finalize_invoice(invoice.id)
        note = v1.credit_notes.create({"invoice": invoice.id, "amount": 900})
        v1.invoices.send_invoice(invoice.id)
        with suppress(SpendDenied):
            v1.credit_notes.void_credit_note(note.id)
        by_hand(vendor, f"/v1/invoices/{invoice.id}/pay")
        assert vendor.moved() <= counted(desk)

    def test_another_programs_credit_note(self, desk: Outside, vendor: FakeStripe) -> None:
        bill(vendor, amount="1000")
        draft = by_hand(vendor, "/v1/invoices", customer="cus_1", pending_invoice_items_behavior="include")
        by_hand(vendor, f"/v1/invoices/{draft['id']}/finalize")
        note = by_hand(vendor, "/v1/credit_notes", invoice=draft["id"], amount="900")["id"]
        with suppress(SpendDenied):
            desk.client.v1.credit_notes.void_credit_note(note)
        by_hand(vendor, f"/v1/invoices/{draft['id']}/pay")
        assert vendor.moved() - 100 <= counted(desk)


class TestFreePlans:
    """A subscription that turns from free to paid, or back, is invoiced at once, with what is pending."""

    @pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
    def test_another_quantity(self, desk: Outside, vendor: FakeStripe, before: int, after: int) -> None:
        price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"]
        sub = by_hand(vendor, "/v1/subscriptions", customer="cus_1", **{"items[0][price]": price})
        item = sub["items"]["data"][0]["id"]
        if not before:
            by_hand(vendor, f"/v1/subscription_items/{item}", quantity="0")
        bill(vendor, amount="5000")
        paid = vendor.moved()
        desk.client.v1.subscription_items.update(item, {"quantity": after})
        assert vendor.moved() - paid == 5000 + 100 * after <= counted(desk)

    def subscription(self, vendor: FakeStripe, *amounts: str) -> list[str]:
        """Make a subscription past the guard; return its items."""
        prices = [by_hand(vendor, "/v1/prices", currency="usd", unit_amount=one)["id"] for one in amounts]
        items = {f"items[{number}][price]": one for number, one in enumerate(prices)}
        sub = by_hand(vendor, "/v1/subscriptions", customer="cus_1", **items)
        return [one["id"] for one in sub["items"]["data"]]

    def test_the_last_item_that_is_paid_for_is_deleted(self, desk: Outside, vendor: FakeStripe) -> None:
        _, paid = self.subscription(vendor, "0", "100")
        bill(vendor, amount="5000")
        before = vendor.moved()
        delete = desk.client.v1.subscription_items.delete
        assert delete(paid, {"proration_behavior": "none"}).deleted
        assert vendor.moved() - before == 5000 <= counted(desk)
        desk.again()
        assert desk.client.v1.subscription_items.delete(paid, {"proration_behavior": "none"}).deleted
        assert counted(desk) == 5000

    @pytest.mark.parametrize("amounts", [("0", "100"), ("100", "100")])
    def test_a_subscription_stays_what_it_was(
        self, desk: Outside, vendor: FakeStripe, amounts: tuple[str, str]
    ) -> None:
        item = self.subscription(vendor, *amounts)[0]
        bill(vendor, amount="5000")
        before = vendor.moved()
        desk.client.v1.subscription_items.delete(item, {"proration_behavior": "none"})
        assert (vendor.moved() - before, counted(desk)) == (0, 0)

    @pytest.mark.parametrize("said", [{}, {"proration_behavior": "always_invoice"}])
    def test_a_deletion_that_bills_a_proration_is_denied(
        self, desk: Outside, vendor: FakeStripe, said: Any
    ) -> None:
        item = self.subscription(vendor, "100")[0]
        assert desk.denied(desk.client.v1.subscription_items.delete, item, said).reason == "unpriced"


#: What pays or bills later by an amount that nothing here says.
OPEN: list[tuple[str, Callable[[Any], Any]]] = [
    (
        "a customer's cash",
        lambda v1: v1.customers.cash_balance.update(
            "cus_1", {"settings": {"reconciliation_mode": "automatic"}}
        ),
    ),
    (
        "a customer's cash, with the customer",
        lambda v1: v1.customers.update(
            "cus_1", {"cash_balance": {"settings": {"reconciliation_mode": "automatic"}}}
        ),
    ),
    ("credit that is voided", lambda v1: v1.billing.credit_grants.void_grant("credgr_1")),
    ("credit that ends", lambda v1: v1.billing.credit_grants.expire("credgr_1")),
    ("credit that ends soon", lambda v1: v1.billing.credit_grants.update("credgr_1", {"expires_at": 1})),
    ("a discount of a plan", lambda v1: v1.subscription_items.update("si_1", {"discounts": ""})),
]


@pytest.mark.parametrize(("what", "call"), OPEN, ids=[what for what, _ in OPEN])
def test_what_has_no_bound_is_denied(desk: Outside, vendor: FakeStripe, what: str, call: Any) -> None:
    try:
        call(desk.client.v1)
        reason = ""
    except SpendDenied as denied:
        reason = denied.reason
    assert (reason, vendor.posts()) == ("unpriced", [])


def test_a_line_has_one_price(desk: Outside, vendor: FakeStripe) -> None:
    cheap, dear = (by_hand(vendor, "/v1/prices", currency="usd", unit_amount=one)["id"] for one in ("1", "9"))
    two: Any = {"customer": "cus_1", "items": [{"price": cheap, "plan": dear}]}
    assert desk.denied(desk.client.v1.subscriptions.create, two).reason == "unpriced"
    item: Any = {"customer": "cus_1", "price": cheap, "pricing": {"price": dear}}
    assert desk.denied(desk.client.v1.invoice_items.create, item).reason == "unpriced"


def test_a_deleted_item_that_lowered_an_invoice_is_answered_again(desk: Outside, vendor: FakeStripe) -> None:
    """It cannot be looked up any more."""
    item = bill(vendor, amount="-900")
    desk.client.v1.invoice_items.delete(item)
    desk.again()
    assert desk.client.v1.invoice_items.delete(item).deleted
    assert counted(desk) == 900


def test_a_deleted_draft_is_answered_again(desk: Outside, vendor: FakeStripe) -> None:
    draft = by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
    bill(vendor, amount="700", invoice=draft)
    desk.client.v1.invoices.delete(draft)
    desk.again()
    assert desk.client.v1.invoices.delete(draft).deleted
    assert counted(desk) == 700
