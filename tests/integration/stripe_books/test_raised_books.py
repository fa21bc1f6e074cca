"""What is free raises nothing that is counted, or will be: judged by what the look-alike has billed."""

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


def draft_of(vendor: FakeStripe, customer: str, *, taxed: bool = True, advances: bool = True) -> str:
    """Make a draft of 1000 past the guard; return its id."""
    said = {"automatic_tax[enabled]": str(taxed).lower(), "auto_advance": str(advances).lower()}
    draft = str(by_hand(vendor, "/v1/invoices", customer=customer, **said)["id"])
    by_hand(vendor, "/v1/invoiceitems", customer=customer, currency="usd", amount="1000", invoice=draft)
    return draft


#: What makes somebody pay a tax, or more of it.
TAXED: list[tuple[str, Callable[[Any, str], Any]]] = [
    ("no exemption", lambda v1, one: v1.customers.update(one, {"tax_exempt": "none"})),
    ("another address", lambda v1, one: v1.customers.update(one, {"address": {"country": "DE"}})),
    ("no number", lambda v1, one: v1.customers.tax_ids.delete(one, "txi_1")),
]


class TestTaxes:
    """A draft that Stripe collects by itself is taxed by what is known of its customer then."""

    @pytest.mark.parametrize(("what", "call"), TAXED, ids=[what for what, _ in TAXED])
    def test_another_programs_draft(
        self, desk: Outside, vendor: FakeStripe, what: str, call: Callable[[Any, str], Any]
    ) -> None:
        customer = by_hand(vendor, "/v1/customers", email="a@b.example")["id"]
        by_hand(vendor, f"/v1/customers/{customer}", tax_exempt="exempt")
        draft = draft_of(vendor, customer)
        with suppress(SpendDenied):
            call(desk.client.v1, customer)
        by_hand(vendor, f"/v1/invoices/{draft}/pay")
        assert vendor.moved() - 1000 <= counted(desk)

    @pytest.mark.parametrize(("taxed", "advances"), [(False, True), (True, False)])
    def test_one_that_has_no_tax_or_waits_for_a_call_changes_nothing(
        self, desk: Outside, vendor: FakeStripe, taxed: bool, advances: bool
    ) -> None:
        customer = by_hand(vendor, "/v1/customers", email="a@b.example")["id"]
        draft_of(vendor, customer, taxed=taxed, advances=advances)
        v1: Any = desk.client.v1
        v1.customers.update(customer, {"address": {"country": "DE"}})
        v1.customers.tax_ids.create(customer, {"type": "eu_vat", "value": "DE1"})
        assert counted(desk) == 0
        assert (
            desk.denied(
                v1.tax_ids.create,
                {
                    "type": "eu_vat",
                    "value": "DE1",
                    "owner": {"type": "customer", "customer": "cus_1&limit=1"},
                },
            ).reason
            == "unpriced"
        )

    def test_an_item_of_a_taxed_draft(self, desk: Outside, vendor: FakeStripe) -> None:
        draft = draft_of(vendor, "cus_1")
        item = by_hand(
            vendor, "/v1/invoiceitems", customer="cus_1", currency="usd", amount="-900", invoice=draft
        )["id"]
        v1: Any = desk.client.v1
        with suppress(SpendDenied):
            v1.invoice_items.update(item, {"amount": 0})
        with suppress(SpendDenied):
            v1.invoice_items.delete(item)
        by_hand(vendor, f"/v1/invoices/{draft}/pay")
        assert vendor.moved() - 200 <= counted(desk)


def _shipped(**more: Any) -> Any:
    amount = {"type": "fixed_amount", "display_name": "s", "fixed_amount": {"amount": 700, "currency": "usd"}}
    return {"shipping_cost": {"shipping_rate_data": amount}, **more}


#: What raises a draft that waits for somebody's call.
RAISED: list[tuple[str, dict[str, str], Callable[[FakeStripe], Any]]] = [
    ("shipping", {}, lambda vendor: _shipped()),
    (
        "a known shipping rate",
        {},
        lambda vendor: {
            "shipping_cost": {
                "shipping_rate": by_hand(
                    vendor,
                    "/v1/shipping_rates",
                    **{"fixed_amount[amount]": "700", "fixed_amount[currency]": "usd"},
                )["id"]
            }
        },
    ),
    ("shipping that is taxed", {"default_tax_rates[0]": "txr_1"}, lambda vendor: _shipped()),
    ("shipping of what Stripe taxes", {"automatic_tax[enabled]": "true"}, lambda vendor: _shipped()),
    ("its rates of tax", {}, lambda vendor: {"default_tax_rates": ["txr_1"]}),
    ("a tax of Stripe's", {}, lambda vendor: {"automatic_tax": {"enabled": True}}),
    ("its discounts", {"discounts[0][coupon]": "half"}, lambda vendor: {"discounts": ""}),
    (
        "its discounts, and a tax",
        {"discounts[0][coupon]": "half", "default_tax_rates[0]": "txr_1"},
        lambda vendor: {"discounts": ""},
    ),
]


class TestDrafts:
    @pytest.mark.parametrize(("what", "made", "said"), RAISED, ids=[what for what, _, _ in RAISED])
    def test_another_programs_draft_that_is_raised(
        self, desk: Outside, vendor: FakeStripe, what: str, made: dict[str, str], said: Any
    ) -> None:
        draft = by_hand(vendor, "/v1/invoices", customer="cus_1", **made)["id"]
        by_hand(vendor, "/v1/invoiceitems", customer="cus_1", currency="usd", amount="1000", invoice=draft)
        billed = by_hand(vendor, f"/v1/invoices/{draft}")["amount_due"]
        with suppress(SpendDenied):
            desk.client.v1.invoices.update(draft, said(vendor))
        by_hand(vendor, f"/v1/invoices/{draft}/pay")
        assert vendor.moved() - billed <= counted(desk)

    @pytest.mark.parametrize(
        "said",
        [
            {"description": "x"},
            {"default_tax_rates": ""},
            {"automatic_tax": {"enabled": False}},
            {"discounts": [{"coupon": "half"}]},
            {"shipping_details": {"name": "a", "address": {}}},
        ],
    )
    def test_what_raises_nothing_is_free(self, desk: Outside, vendor: FakeStripe, said: Any) -> None:
        draft = by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
        v1: Any = desk.client.v1
        v1.invoices.update(draft, said)
        assert counted(desk) == 0

    def test_ones_own_is_counted_once(self, desk: Outside, vendor: FakeStripe) -> None:
        v1: Any = desk.client.v1
        draft = v1.invoices.create(_shipped(customer="cus_1")).id
        assert counted(desk) == 700
        v1.invoice_items.create({"customer": "cus_1", "amount": 1000, "currency": "usd", "invoice": draft})
        assert counted(desk) == 1700
        v1.invoices.update(draft, _shipped(description="x"))
        v1.invoices.pay(draft)
        assert vendor.moved() == 1700 == counted(desk)

    def test_one_that_is_shipped_and_paid_by_hand(self, desk: Outside, vendor: FakeStripe) -> None:
        draft = desk.client.v1.invoices.create(_shipped(customer="cus_1")).id
        by_hand(vendor, f"/v1/invoices/{draft}/pay")
        assert vendor.moved() == 700 == counted(desk)


class TestCredit:
    """What an invoice takes of a customer's credit is spent, whoever has given that."""

    @pytest.fixture
    def customer(self, vendor: FakeStripe) -> str:
        made = str(by_hand(vendor, "/v1/customers", email="a@b.example")["id"])
        by_hand(vendor, f"/v1/customers/{made}/balance_transactions", amount="-600", currency="usd")
        return made

    @pytest.mark.parametrize(("amount", "steps"), [(1000, 1), (500, 1), (1000, 2)])
    def test_it_is_used_up(
        self, desk: Outside, vendor: FakeStripe, customer: str, amount: int, steps: int
    ) -> None:
        v1: Any = desk.client.v1
        bill = {"customer": customer, "pending_invoice_items_behavior": "include"}
        v1.invoice_items.create({"customer": customer, "amount": amount, "currency": "usd"})
        invoice = v1.invoices.create(bill).id
        if steps == 2:
            v1.invoices.finalize_invoice(invoice)
        v1.invoices.pay(invoice)
        assert vendor.moved() == amount == counted(desk)

    def test_another_programs_invoice(self, desk: Outside, vendor: FakeStripe, customer: str) -> None:
        draft = draft_of(vendor, customer, taxed=False, advances=False)
        desk.client.v1.invoices.pay(draft)
        assert vendor.moved() == 1000 == counted(desk)

    def test_it_is_there_again_when_the_invoice_is_void(
        self, desk: Outside, vendor: FakeStripe, customer: str
    ) -> None:
        draft = draft_of(vendor, customer, taxed=False, advances=False)
        desk.client.v1.invoices.finalize_invoice(draft)
        assert (vendor.moved(), counted(desk)) == (600, 1000)
        desk.client.v1.invoices.void_invoice(draft)
        assert (vendor.moved(), counted(desk)) == (0, 0)

    def test_ones_own_counts_when_it_is_given_and_when_it_is_used(
        self, desk: Outside, vendor: FakeStripe
    ) -> None:
        customer = by_hand(vendor, "/v1/customers", email="a@b.example")["id"]
        v1: Any = desk.client.v1
        v1.customers.balance_transactions.create(customer, {"amount": -300, "currency": "usd"})
        v1.invoices.pay(draft_of(vendor, customer, taxed=False, advances=False))
        assert (vendor.moved(), counted(desk)) == (1000, 300 + 1000)

    @pytest.mark.parametrize("dear", [False, True])
    def test_a_debt_is_collected_with_what_is_invoiced_at_once(
        self, desk: Outside, vendor: FakeStripe, dear: bool
    ) -> None:
        customer = by_hand(vendor, "/v1/customers", email="a@b.example", currency="usd")["id"]
        debt = "20000" if dear else "700"
        by_hand(vendor, f"/v1/customers/{customer}/balance_transactions", amount=debt, currency="usd")
        price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"]
        asked: Any = {"customer": customer, "items": [{"price": price}]}
        if dear:
            assert desk.denied(desk.client.v1.subscriptions.create, asked).reason == "cap"
        else:
            desk.client.v1.subscriptions.create(asked)
        assert vendor.moved() == counted(desk) == (0 if dear else 800)

    def test_a_debt_is_collected_with_a_draft(self, desk: Outside, vendor: FakeStripe) -> None:
        customer = by_hand(vendor, "/v1/customers", email="a@b.example", currency="usd")["id"]
        by_hand(vendor, f"/v1/customers/{customer}/balance_transactions", amount="700", currency="usd")
        desk.client.v1.invoices.pay(draft_of(vendor, customer, taxed=False, advances=False))
        assert vendor.moved() == 1700 == counted(desk)

    def test_a_debt_is_collected_with_an_invoice_that_takes_nothing_else(
        self, desk: Outside, vendor: FakeStripe
    ) -> None:
        customer = by_hand(vendor, "/v1/customers", email="a@b.example", currency="usd")["id"]
        by_hand(vendor, f"/v1/customers/{customer}/balance_transactions", amount="700", currency="usd")
        v1: Any = desk.client.v1
        made = {"customer": customer, "auto_advance": True, "pending_invoice_items_behavior": "exclude"}
        by_hand(vendor, f"/v1/invoices/{v1.invoices.create(made).id}/pay")
        assert vendor.moved() == 700 == counted(desk)


def test_a_bank_debit_is_on_its_way(desk: Outside, vendor: FakeStripe) -> None:
    debit: Any = {"amount": 1000, "currency": "usd", "source": "ba_1", "customer": "cus_1"}
    charge = desk.client.v1.charges.create(debit)
    assert (charge.status, charge.captured, charge.amount_captured) == ("pending", True, 0)
    by_hand(vendor, f"/v1/charges/{charge.id}/clear")
    assert vendor.moved() == 1000 == counted(desk)


class TestReversals:
    """What a reversal takes out of a connected account is that account's money."""

    @pytest.mark.parametrize(("said", "moves"), [({}, 900), ({"amount": 300}, 300)])
    def test_they_count(self, desk: Outside, vendor: FakeStripe, said: Any, moves: int) -> None:
        transfer = by_hand(vendor, "/v1/transfers", amount="1000", currency="usd", destination="acct_1")["id"]
        by_hand(vendor, f"/v1/transfers/{transfer}/reversals", amount="100")
        before = vendor.moved()
        desk.client.v1.transfers.reversals.create(transfer, said)
        assert vendor.moved() - before == moves == counted(desk)


def test_another_currency_of_what_is_being_sold(desk: Outside, vendor: FakeStripe) -> None:
    dear = {"currency_options[sek][unit_amount]": "100"}  # A rate of 1.
    price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100", **dear)["id"]
    v1: Any = desk.client.v1
    session = v1.checkout.sessions.create(
        {"mode": "payment", "customer": "cus_1", "line_items": [{"price": price, "quantity": 1}]}
    )
    with suppress(SpendDenied):
        v1.prices.update(price, {"currency_options": {"sek": {"unit_amount": 9000}}})
    by_hand(vendor, f"/v1/checkout/sessions/{session.id}/pay_on_its_page", currency="sek")
    assert 0 < vendor.moved() <= counted(desk)


def test_an_item_of_many_and_a_part_costs_all_of_them(desk: Outside, vendor: FakeStripe) -> None:
    item = by_hand(
        vendor,
        "/v1/invoiceitems",
        customer="cus_1",
        currency="usd",
        unit_amount_decimal="100",
        quantity_decimal="2.9",
    )["id"]
    v1: Any = desk.client.v1
    v1.invoice_items.update(item, {"unit_amount_decimal": "1000"})
    draft = by_hand(vendor, "/v1/invoices", customer="cus_1", pending_invoice_items_behavior="include")["id"]
    by_hand(vendor, f"/v1/invoices/{draft}/pay")
    assert vendor.moved() == 2900 <= counted(desk)


#: What raises later what somebody has bought, or will be billed for, by an amount that nothing here says.
LATER: list[tuple[str, Callable[[Any], Any]]] = [
    (
        "a subscription that does not end",
        lambda v1: v1.subscriptions.update("sub_1", {"cancel_at_period_end": False}),
    ),
    ("a schedule that does not end it", lambda v1: v1.subscription_schedules.release("sub_sched_1")),
    ("usage that is counted again", lambda v1: v1.billing.meters.reactivate("mtr_1")),
    (
        "a shipping rate",
        lambda v1: v1.shipping_rates.update(
            "shr_1", {"fixed_amount": {"currency_options": {"sek": {"amount": 900}}}}
        ),
    ),
    ("a shipping rate's tax", lambda v1: v1.shipping_rates.update("shr_1", {"tax_behavior": "exclusive"})),
    ("a price's tax", lambda v1: v1.prices.update("price_1", {"tax_behavior": "exclusive"})),
    ("a product's tax", lambda v1: v1.products.update("prod_1", {"tax_code": "txcd_1"})),
    (
        "what a coupon takes off",
        lambda v1: v1.coupons.update("half", {"currency_options": {"sek": {"amount_off": 1}}}),
    ),
    (
        "tips, where readers stand",
        lambda v1: v1.terminal.locations.update("tml_1", {"configuration_overrides": "tmc_1"}),
    ),
    ("tips, by default", lambda v1: v1.terminal.configurations.delete("tmc_1")),
    (
        "tips",
        lambda v1: v1.terminal.configurations.update("tmc_1", {"tipping": {"usd": {"percentages": [90]}}}),
    ),
    (
        "an address of a session",
        lambda v1: v1.checkout.sessions.update(
            "cs_1",
            {
                "collected_information": {
                    "shipping_details": {"name": "a", "address": {"country": "DE", "line1": "b"}}
                }
            },
        ),
    ),
    (
        "a tax on top of an intent",
        lambda v1: v1.payment_intents.update(
            "pi_1", {"payment_method_options": {"pix": {"amount_includes_iof": "never"}}}
        ),
    ),
]


@pytest.mark.parametrize(("what", "call"), LATER, ids=[what for what, _ in LATER])
def test_what_has_no_bound_is_denied(desk: Outside, vendor: FakeStripe, what: str, call: Any) -> None:
    try:
        call(desk.client.v1)
        reason = ""
    except SpendDenied as denied:
        reason = denied.reason
    assert (reason, vendor.posts()) == ("unpriced", [])


def test_what_says_the_cheaper_of_two_is_free(desk: Outside, vendor: FakeStripe) -> None:
    v1: Any = desk.client.v1
    subscription = by_hand(
        vendor,
        "/v1/subscriptions",
        customer="cus_1",
        **{"items[0][price]": by_hand(vendor, "/v1/prices", currency="usd", unit_amount="100")["id"]},
    )["id"]
    v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    intent = by_hand(vendor, "/v1/payment_intents", amount="100", currency="brl")["id"]
    pix = {"payment_method_options": {"pix": {"amount_includes_iof": "always"}}}
    v1.payment_intents.update(intent, pix)
    assert counted(desk) == 0
