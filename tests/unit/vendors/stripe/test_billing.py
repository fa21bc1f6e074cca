"""What Stripe's invoices, subscriptions and sessions cost in the books, with the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.money import Micros
from tests.support.books import Books
from tests.support.desk import CAP, Desk, invoice, item


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    books = Books(tmp_path / "ledger.db", cap=CAP)
    yield Desk(books)
    books.ledger.close()


LINES = {"data": [{"parent": {"invoice_item_details": {"invoice_item": "ii_1"}}}]}


class TestInvoices:
    def billed(self, desk: Desk) -> None:
        desk.answers["POST /v1/invoiceitems"] = item()
        desk.client.v1.invoice_items.create({"customer": "cus_1", "amount": 1000, "currency": "usd"})
        assert desk.spent() == 1000

    def test_an_invoice_counts_its_items_instead_of_them(self, desk: Desk) -> None:
        self.billed(desk)
        desk.answers["POST /v1/invoices"] = invoice()
        desk.client.v1.invoices.create({"customer": "cus_1", "pending_invoice_items_behavior": "include"})
        assert desk.spent() == 1000
        desk.answers["GET /v1/invoices/in_1"] = invoice(lines=LINES)
        desk.answers["POST /v1/invoices/in_1/finalize"] = invoice("open", lines=LINES)
        desk.client.v1.invoices.finalize_invoice("in_1")
        assert desk.spent() == 1000
        desk.answers["GET /v1/invoices/in_1"] = invoice("open", lines=LINES)
        desk.answers["POST /v1/invoices/in_1/pay"] = invoice("paid", lines=LINES)
        desk.client.v1.invoices.pay("in_1")
        assert desk.spent() == 1000

    def test_it_needs_no_room_for_its_items_again(self, tmp_path: Path) -> None:
        tight = Desk(Books(tmp_path / "tight.db", cap=10_000_000))
        self.billed(tight)
        tight.answers["GET /v1/invoices/in_1"] = invoice(lines=LINES)
        tight.answers["POST /v1/invoices/in_1/pay"] = invoice("paid", lines=LINES)
        tight.client.v1.invoices.pay("in_1")
        assert tight.spent() == 1000
        tight.books.ledger.close()

    def test_a_void_invoice_gives_back_its_items_money_too(self, desk: Desk) -> None:
        self.billed(desk)
        desk.answers["GET /v1/invoices/in_1"] = invoice(due=1500, lines=LINES)
        desk.answers["POST /v1/invoices/in_1/finalize"] = invoice("open", 1500, lines=LINES)
        desk.client.v1.invoices.finalize_invoice("in_1")
        assert desk.spent() == 1500
        desk.answers["POST /v1/invoices/in_1/mark_uncollectible"] = invoice("uncollectible", 1500)
        desk.client.v1.invoices.mark_uncollectible("in_1")
        assert desk.spent() == 1500
        desk.answers["POST /v1/invoices/in_1/void"] = invoice("void", 1500)
        desk.client.v1.invoices.void_invoice("in_1")
        assert desk.spent() == 0

    def test_a_draft_that_stripe_advances_counts_when_it_is_made(self, desk: Desk) -> None:
        self.billed(desk)
        desk.answers["GET /v1/invoiceitems"] = {"data": [item()], "has_more": False}
        desk.answers["POST /v1/invoices"] = invoice(auto_advance=True, lines=LINES)
        desk.client.v1.invoices.create({"customer": "cus_1", "auto_advance": True})
        assert desk.spent() == 1000
        self.deleted(desk)
        assert desk.spent() == 1000  # The item is pending again: a subscription's next invoice bills it.

    def test_a_draft_that_advances_no_more_keeps_its_items_money(self, desk: Desk) -> None:
        self.test_an_update_that_lets_stripe_advance_it_counts_it(desk)
        self.deleted(desk)
        assert desk.spent() == 1000

    def deleted(self, desk: Desk) -> None:
        line = {"id": "il_1", "amount": 1000, "currency": "usd", **LINES["data"][0]}
        desk.answers["GET /v1/invoices/in_1/lines"] = {"data": [line], "has_more": False}
        desk.answers["GET /v1/invoices/in_1"] = invoice(lines=LINES)
        desk.answers["DELETE /v1/invoices/in_1"] = {"id": "in_1", "object": "invoice", "deleted": True}
        desk.client.v1.invoices.delete("in_1")

    def test_an_item_is_not_unassigned(self, desk: Desk) -> None:
        desk.answers["GET /v1/invoices/in_1"] = invoice(lines=LINES)
        asked: Any = {"lines": [{"id": "il_1", "behavior": "unassign"}]}
        assert desk.denied(desk.client.v1.invoices.remove_lines, "in_1", asked).reason == "unpriced"

    def test_items_of_several_pages_are_no_bound(self, desk: Desk) -> None:
        desk.answers["GET /v1/invoiceitems"] = {"data": [item()], "has_more": True}
        asked = {"customer": "cus_1", "auto_advance": True}
        assert desk.denied(desk.client.v1.invoices.create, asked).reason == "unpriced"

    def test_an_update_that_lets_stripe_advance_it_counts_it(self, desk: Desk) -> None:
        desk.answers["GET /v1/invoices/in_1"] = invoice()
        desk.answers["POST /v1/invoices/in_1"] = invoice(description="x")
        desk.client.v1.invoices.update("in_1", {"description": "x"})
        assert desk.spent() == 0
        desk.answers["POST /v1/invoices/in_1"] = invoice(auto_advance=True)
        desk.client.v1.invoices.update("in_1", {"auto_advance": True})
        assert desk.spent() == 1000
        desk.answers["GET /v1/invoices/in_1"] = invoice(auto_advance=True)
        desk.answers["POST /v1/invoices/in_1"] = invoice()
        desk.client.v1.invoices.update("in_1", {"auto_advance": False})
        assert desk.spent() == 1000

    def test_paid_elsewhere_moves_nothing(self, desk: Desk) -> None:
        desk.answers["POST /v1/invoices/in_1/pay"] = invoice("paid")
        desk.client.v1.invoices.pay("in_1", {"paid_out_of_band": True})
        assert desk.spent() == 0
        assert desk.lines() == ["POST /v1/invoices/in_1/pay"]

    def test_an_item_of_a_draft_is_counted_when_it_is_made(self, desk: Desk) -> None:
        desk.answers["GET /v1/invoices/in_1"] = invoice(due=0)
        desk.answers["POST /v1/invoiceitems"] = item(invoice="in_1")
        asked: Any = {"customer": "cus_1", "amount": 1000, "currency": "usd", "invoice": "in_1"}
        desk.client.v1.invoice_items.create(asked)
        assert desk.spent() == 1000
        desk.answers["GET /v1/invoices/in_1"] = invoice(due=1000, auto_advance=True)
        desk.answers["POST /v1/invoiceitems"] = item(id="ii_2", invoice="in_1")
        desk.client.v1.invoice_items.create({**asked, "description": "another"})
        assert desk.spent() == 2000
        desk.answers["GET /v1/invoices/in_1"] = invoice(auto_advance=True, automatic_tax={"enabled": True})
        assert desk.denied(desk.client.v1.invoice_items.create, asked).reason == "unpriced"

    def test_lines_that_are_added_to_a_draft_are_counted_then(self, desk: Desk) -> None:
        desk.answers["GET /v1/invoices/in_1"] = invoice(due=0)
        desk.answers["POST /v1/invoices/in_1/add_lines"] = invoice(due=700)
        desk.client.v1.invoices.add_lines("in_1", {"lines": [{"amount": 700, "description": "more"}]})
        assert desk.spent() == 700
        desk.answers["GET /v1/invoices/in_1"] = invoice(due=700)
        desk.answers["POST /v1/invoices/in_1/pay"] = invoice("paid", due=700)
        desk.client.v1.invoices.pay("in_1")
        assert desk.spent() == 700

    @pytest.mark.parametrize(
        ("line", "cents"),
        [
            ({"amount": -700}, 700),
            ({"id": "il_1", "quantity": 5}, 2500),
            ({"invoice_item": "ii_7"}, 300),
            ({"price_data": {"currency": "usd", "unit_amount": 50, "product": "p"}, "quantity": 3}, 150),
            ({"amount": 5, "tax_amounts": [{"amount": 9}]}, None),
            ({"id": "il_9", "quantity": 2}, None),
            ({"amount": 5, "price_data": {"currency": "usd", "unit_amount": 900, "product": "p"}}, None),
            ({"price_data": {"currency": "eur", "unit_amount": 50, "product": "p"}}, None),
        ],
    )
    def test_a_line_adds_what_it_comes_to(self, desk: Desk, line: Any, cents: int | None) -> None:
        line_1 = {"id": "il_1", "quantity": 2, "amount": 1000}
        desk.answers["GET /v1/invoices/in_1"] = invoice(due=0, lines={"data": [line_1]})
        desk.answers["GET /v1/invoiceitems/ii_7"] = item(300, id="ii_7")
        for verb in ("add_lines", "update_lines"):
            desk.answers[f"POST /v1/invoices/in_1/{verb}"] = invoice(due=5)
        invoices = desk.client.v1.invoices
        call: Any = invoices.update_lines if "id" in line else invoices.add_lines
        if cents is None:
            assert desk.denied(call, "in_1", {"lines": [line]}).reason == "unpriced"
        else:
            call("in_1", {"lines": [line]})
            assert desk.spent() == cents

    def test_a_line_that_is_only_described_costs_nothing(self, desk: Desk) -> None:
        desk.answers["GET /v1/invoices/in_1"] = invoice()
        desk.answers["POST /v1/invoices/in_1/lines/il_1"] = {"id": "il_1", "object": "line_item"}
        desk.client.v1.invoices.line_items.update("in_1", "il_1", {"description": "x"})
        assert desk.spent() == 0
        asked: Any = {"tax_amounts": [{"amount": 5}]}
        update = desk.client.v1.invoices.line_items.update
        assert desk.denied(update, "in_1", "il_1", asked).reason == "unpriced"

    def test_a_deleted_item_is_given_back_and_a_dearer_one_counts_what_it_adds(self, desk: Desk) -> None:
        self.billed(desk)
        desk.answers["GET /v1/invoiceitems/ii_1"] = item()
        desk.answers["POST /v1/invoiceitems/ii_1"] = item(1200)
        desk.client.v1.invoice_items.update("ii_1", {"amount": 1200})
        assert desk.spent() == 1200
        desk.answers["DELETE /v1/invoiceitems/ii_1"] = {
            "id": "ii_1",
            "object": "invoiceitem",
            "deleted": True,
        }
        desk.client.v1.invoice_items.delete("ii_1")
        assert desk.spent() == 0

    def test_lines_of_what_stripe_collects_are_no_bound(self, desk: Desk) -> None:
        desk.answers["GET /v1/invoices/in_1"] = invoice("draft", auto_advance=True)
        asked = {"lines": [{"amount": 5}]}
        assert desk.denied(desk.client.v1.invoices.add_lines, "in_1", asked).reason == "unpriced"


def price(ident: str = "price_1", amount: int | None = 1000, **more: Any) -> dict[str, Any]:
    return {
        "id": ident,
        "object": "price",
        "currency": "usd",
        "unit_amount": amount,
        "billing_scheme": "per_unit",
        "recurring": {"usage_type": "licensed"},
        **more,
    }


SUBSCRIPTION = {"id": "sub_1", "object": "subscription", "status": "active", "customer": "cus_1"}


class TestLines:
    def test_a_subscription_costs_its_first_invoice(self, desk: Desk) -> None:
        desk.answers |= {
            "GET /v1/prices/price_1": price(),
            "GET /v1/prices/price_2": price("price_2", 250),
            "POST /v1/subscriptions": SUBSCRIPTION,
        }
        desk.client.v1.subscriptions.create(
            {
                "customer": "cus_1",
                "items": [{"price": "price_1", "quantity": 3}, {"price": "price_2"}],
                "add_invoice_items": [{"price_data": {"currency": "usd", "product": "p", "unit_amount": 5}}],
            }
        )
        assert desk.spent() == 3255
        assert (desk.asked[-1].target, desk.asked[-1].customer) == ("cus_1", ("cus_1",))

    def test_what_is_owed_in_its_currency_comes_on_top(self, desk: Desk) -> None:
        desk.answers |= {
            "GET /v1/customers/cus_1": {
                "id": "cus_1",
                "object": "customer",
                "currency": "usd",
                "balance": 300,
                "invoice_credit_balance": {"usd": -300, "eur": -5000},
            },
            "GET /v1/prices/price_1": price(),
            "POST /v1/subscriptions": SUBSCRIPTION,
        }
        desk.client.v1.subscriptions.create({"customer": "cus_1", "items": [{"price": "price_1"}]})
        assert desk.spent() == 1300
        assert desk.asked[-1].customer == ("cus_1",)

    def test_a_part_of_a_minor_unit_is_a_whole_one(self, desk: Desk) -> None:
        part: Any = {"currency": "usd", "product": "p", "unit_amount_decimal": "100.1"}
        desk.answers["POST /v1/subscriptions"] = SUBSCRIPTION
        desk.client.v1.subscriptions.create({"customer": "cus_1", "items": [{"price_data": part}]})
        assert desk.spent() == 101

    def test_a_subscription_with_other_prices_is_not_the_same_call(self, desk: Desk) -> None:
        desk.answers |= {
            "GET /v1/prices/price_1": price(),
            "GET /v1/prices/price_2": price("price_2", 250),
            "POST /v1/subscriptions": SUBSCRIPTION,
        }
        desk.client.v1.subscriptions.create({"customer": "cus_1", "items": [{"price": "price_1"}]})
        desk.again()
        asked = {"customer": "cus_1", "items": [{"price": "price_2"}]}
        assert desk.denied(desk.client.v1.subscriptions.create, asked).reason == "idempotency_mismatch"
        desk.client.v1.subscriptions.create({"customer": "cus_1", "items": [{"price": "price_1"}]})
        assert desk.lines().count("POST /v1/subscriptions") == 1

    @pytest.mark.parametrize(
        "odd",
        [
            price(amount=None),
            price(billing_scheme="tiered"),
            price(recurring={"usage_type": "metered"}),
            price("price_9"),
            price(currency=None),
            price(amount="lots"),
        ],
    )
    def test_a_price_that_says_no_amount_is_no_bound(self, desk: Desk, odd: Any) -> None:
        desk.answers["GET /v1/prices/price_1"] = odd
        asked = {"customer": "cus_1", "items": [{"price": "price_1"}]}
        assert desk.denied(desk.client.v1.subscriptions.create, asked).reason == "unpriced"

    @pytest.mark.parametrize(
        "more",
        [
            {"automatic_tax": {"enabled": True}},
            {"default_tax_rates": ["txr_1"]},
            {"backdate_start_date": 1},
            {"items": [{"price": "price_1", "tax_rates": ["txr_1"]}]},
            {"items": []},
            {"items": [{"price": "price_1"}, {"price_data": {"currency": "eur", "unit_amount": 1}}]},
            {"currency": "eur"},
            {"billing_thresholds": {"amount_gte": 5}},
        ],
    )
    def test_what_comes_on_top_is_no_bound(self, desk: Desk, more: Any) -> None:
        desk.answers["GET /v1/prices/price_1"] = price()
        asked = {"customer": "cus_1", "items": [{"price": "price_1"}], **more}
        assert desk.denied(desk.client.v1.subscriptions.create, asked).reason == "unpriced"

    def test_the_first_invoice_of_a_subscription_is_counted_with_it(self, desk: Desk) -> None:
        desk.answers |= {"GET /v1/prices/price_1": price(), "POST /v1/subscriptions": SUBSCRIPTION}
        asked: Any = {"customer": "cus_1", "items": [{"price": "price_1"}]}
        desk.client.v1.subscriptions.create({**asked, "payment_behavior": "default_incomplete"})
        first = {
            "billing_reason": "subscription_create",
            "parent": {"subscription_details": {"subscription": "sub_1"}},
        }
        later = {**first, "billing_reason": "subscription_cycle", "id": "in_2"}
        desk.answers["GET /v1/invoices/in_2"] = invoice("open", **later)
        desk.answers["POST /v1/invoices/in_2/pay"] = invoice("paid", **later)
        desk.client.v1.invoices.pay("in_2")
        assert desk.spent() == 2000
        desk.answers["GET /v1/invoices/in_1"] = invoice("open", **first)
        desk.answers["POST /v1/invoices/in_1/pay"] = invoice("paid", **first)
        desk.client.v1.invoices.pay("in_1")
        assert desk.spent() == 2000

    def test_a_fixed_price_stands_in_for_what_has_no_bound(self, desk: Desk) -> None:
        prices = {"subscriptions.create": Micros(20_000_000), "payment_links.create": Micros(5_000_000)}
        fixed = Desk(desk.books, prices=prices)
        fixed.answers |= {
            "POST /v1/subscriptions": SUBSCRIPTION,
            "POST /v1/payment_links": {"id": "plink_1", "object": "payment_link"},
        }
        asked: Any = {"customer": "cus_1", "items": [{"price": "p", "tax_rates": ["txr_1"]}]}
        fixed.client.v1.subscriptions.create(asked)
        assert (fixed.spent(), fixed.lines()) == (2000, ["POST /v1/subscriptions"])
        fixed.client.v1.payment_links.create({"line_items": [{"price": "p", "quantity": 1}]})
        assert fixed.spent() == 2500
        assert desk.denied(desk.client.v1.payment_links.create, {"line_items": []}).reason == "unpriced"

    def test_each_call_at_a_fixed_price_costs_it(self, desk: Desk) -> None:
        fixed = Desk(desk.books, prices={"subscriptions.update": Micros(3_000_000)})
        fixed.answers["POST /v1/subscriptions/sub_1"] = SUBSCRIPTION
        for quantity in (2, 3):
            fixed.client.v1.subscriptions.update("sub_1", {"items": [{"id": "si_1", "quantity": quantity}]})
        assert fixed.spent() == 600

    def test_a_subscription_item_costs_its_whole_price_and_frees_nothing(self, desk: Desk) -> None:
        known = {
            "id": "si_1",
            "object": "subscription_item",
            "price": price(),
            "quantity": 2,
            "subscription": "sub_1",
        }
        desk.answers |= {
            "GET /v1/prices/price_1": price(),
            "GET /v1/subscription_items/si_1": known,
            "GET /v1/subscriptions/sub_1": {**SUBSCRIPTION, "currency": "usd"},
            "POST /v1/subscription_items": known,
            "POST /v1/subscription_items/si_1": known,
        }
        desk.client.v1.subscription_items.create({"subscription": "sub_1", "price": "price_1", "quantity": 2})
        assert desk.spent() == 2000
        desk.client.v1.subscription_items.update("si_1", {"quantity": 1})
        assert desk.spent() == 3000

    @pytest.mark.parametrize("expanded", [False, True])
    @pytest.mark.parametrize(("kept", "spent"), [(False, 2000), (True, 5000)])
    def test_an_invoice_from_before_is_the_calls_where_it_was_executed_before(
        self, desk: Desk, kept: bool, spent: int, expanded: bool
    ) -> None:
        """It has taken along what was pending then: no quote of now has that."""
        billed = invoice("paid", 5000, subtotal=5000)
        subscription = {**SUBSCRIPTION, "currency": "usd", "latest_invoice": billed}
        known = {"id": "si_1", "object": "subscription_item", "price": price()}
        desk.answers |= {
            "GET /v1/prices/price_1": price(),
            "GET /v1/subscriptions/sub_1": subscription,
            "POST /v1/subscription_items": {**known, "subscription": subscription if expanded else "sub_1"},
        }
        desk.headers = {"idempotent-replayed": "true"} if kept else {}
        asked: Any = {"subscription": "sub_1", "price": "price_1", "quantity": 2}
        desk.client.v1.subscription_items.create(asked)
        assert (desk.figures()[0] + desk.figures()[2]) // 10_000 == spent

    def test_a_subscription_ends_for_nothing_unless_it_bills(self, desk: Desk) -> None:
        desk.answers["DELETE /v1/subscriptions/sub_1"] = {**SUBSCRIPTION, "status": "canceled"}
        asked = {"invoice_now": True}
        assert desk.denied(desk.client.v1.subscriptions.cancel, "sub_1", asked).reason == "unpriced"
        desk.client.v1.subscriptions.cancel("sub_1")
        assert desk.spent() == 0

    def test_a_schedule_costs_its_first_phase(self, desk: Desk) -> None:
        desk.answers["GET /v1/prices/price_1"] = price()
        desk.answers["POST /v1/subscription_schedules"] = {
            "id": "sub_sched_1",
            "object": "subscription_schedule",
        }
        phases: Any = [{"items": [{"price": "price_1", "quantity": 2}]}, {"items": [{"price": "price_9"}]}]
        create = desk.client.v1.subscription_schedules.create
        assert (
            desk.denied(create, {"customer": "cus_1", "start_date": 9, "phases": phases}).reason == "unpriced"
        )
        create({"customer": "cus_1", "start_date": "now", "phases": phases})
        assert desk.spent() == 2000

    def test_an_accepted_quote_costs_what_it_comes_to(self, desk: Desk) -> None:
        known = {
            "id": "qt_1",
            "object": "quote",
            "currency": "usd",
            "amount_total": 500,
            "customer": "cus_1",
            "computed": {"recurring": {"amount_total": 700}, "upfront": None},
        }
        desk.answers |= {"GET /v1/quotes/qt_1": known, "POST /v1/quotes/qt_1/accept": known}
        desk.client.v1.quotes.accept("qt_1")
        assert desk.spent() == 700

    def session(self, total: int | None = 2000, status: str = "open") -> dict[str, Any]:
        return {
            "id": "cs_1",
            "object": "checkout.session",
            "amount_total": total,
            "currency": "usd",
            "status": status,
            "mode": "payment",
        }

    def test_a_session_costs_what_the_reply_says_and_is_given_back_when_it_expires(self, desk: Desk) -> None:
        desk.answers |= {
            "GET /v1/prices/price_1": price(recurring=None),
            "POST /v1/checkout/sessions": self.session(1800),
        }
        desk.client.v1.checkout.sessions.create(
            {"mode": "payment", "customer": "cus_1", "line_items": [{"price": "price_1", "quantity": 2}]}
        )
        assert desk.spent() == 1800
        desk.answers["POST /v1/checkout/sessions/cs_1/expire"] = self.session(1800, "expired")
        desk.client.v1.checkout.sessions.expire("cs_1")
        assert desk.spent() == 0

    def test_a_session_where_the_customer_may_choose_costs_the_most(self, desk: Desk) -> None:
        desk.answers["POST /v1/checkout/sessions"] = self.session(100)
        line: Any = {
            "price_data": {"currency": "usd", "product": "p", "unit_amount": 100},
            "quantity": 1,
            "adjustable_quantity": {"enabled": True, "maximum": 5},
        }
        rate: Any = {"shipping_rate_data": {"fixed_amount": {"amount": 40, "currency": "usd"}}}
        desk.client.v1.checkout.sessions.create(
            {"mode": "payment", "line_items": [line], "shipping_options": [rate]}
        )
        assert desk.spent() == 540

    def test_a_session_that_only_saves_a_card_is_free(self, desk: Desk) -> None:
        desk.answers["POST /v1/checkout/sessions"] = {**self.session(None), "mode": "setup"}
        desk.client.v1.checkout.sessions.create({"mode": "setup", "customer": "cus_1"})
        assert desk.spent() == 0
