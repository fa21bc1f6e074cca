"""A call that an operator has resolved is answered by a GET of its object, whatever kind that is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.ledger import corrections
from luigi_spendguard.money import Micros
from luigi_spendguard.vendors import Quote, Request
from luigi_spendguard.vendors.stripe import API_BASE, Stripe
from tests.support.books import Books
from tests.support.desk import Desk, charge, invoice, moved


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    books = Books(tmp_path / "ledger.db", cap=100_000_000)
    yield Desk(books, allowed_endpoints=("POST /v1/*",))
    books.ledger.close()


@pytest.mark.parametrize(
    ("line", "object_id", "read"),
    [
        ("POST /v1/payment_intents", "pi_2", "/v1/payment_intents/pi_2"),
        ("POST /v1/payment_intents/pi_1/capture", "pi_1", "/v1/payment_intents/pi_1"),
        ("POST /v1/payment_intents/pi_1", "pi_1", "/v1/payment_intents/pi_1"),
        ("POST /v1/refunds", "re_1", "/v1/refunds/re_1"),
        ("POST /v1/charges/ch_1/refunds", "re_1", "/v1/refunds/re_1"),
        ("POST /v1/charges/ch_1/refund", "ch_1", "/v1/charges/ch_1"),
        ("POST /v1/charges/ch_1/dispute/close", "dp_1", "/v1/disputes/dp_1"),
        ("POST /v1/payouts/po_1/reverse", "po_2", "/v1/payouts/po_2"),
        ("POST /v1/application_fees/fee_1/refunds", "fr_1", "/v1/application_fees/fee_1/refunds/fr_1"),
        ("POST /v1/application_fees/fee_1/refund", "fee_1", "/v1/application_fees/fee_1"),
        (
            "POST /v1/customers/cus_1/balance_transactions",
            "cbtxn_1",
            "/v1/customers/cus_1/balance_transactions/cbtxn_1",
        ),
        ("POST /v1/customers/cus_1/sources/card_1", "card_1", "/v1/customers/cus_1/sources/card_1"),
        ("POST /v1/customers/cus_1/cash_balance", "cus_1", "/v1/customers/cus_1/cash_balance"),
        ("POST /v1/customers/cus_1/subscriptions", "sub_1", "/v1/subscriptions/sub_1"),
        ("DELETE /v1/subscriptions/sub_1", "sub_1", "/v1/subscriptions/sub_1"),
        ("POST /v1/invoices/in_1/pay", "in_1", "/v1/invoices/in_1"),
        ("POST /v1/checkout/sessions", "cs_1", "/v1/checkout/sessions/cs_1"),
        ("POST /v1/checkout/sessions/cs_1/expire", "cs_1", "/v1/checkout/sessions/cs_1"),
        ("POST /v1/tax/transactions/create_reversal", "tax_1", "/v1/tax/transactions/tax_1"),
        ("POST /v1/test_helpers/treasury/received_credits", "rc_1", "/v1/treasury/received_credits/rc_1"),
        ("POST /v1/test_helpers/test_clocks", "clock_1", "/v1/test_helpers/test_clocks/clock_1"),
        ("POST /v2/core/accounts", "acct_1", "/v2/core/accounts/acct_1"),
        ("POST /v1/refunds", "../x?y", "/v1/refunds/..%2Fx%3Fy"),
    ],
)
def test_where_what_a_call_has_answered_with_is_read(line: str, object_id: str, read: str) -> None:
    method, path = line.split(" ")
    asked = Request(
        method,
        API_BASE + path,
        {
            "stripe-account": "acct_1",
            "idempotency-key": "k",
            "content-type": "application/x-www-form-urlencoded",
        },
        b"a=b",
    )
    got = Stripe().fetch(Quote("", "", path), object_id, asked)
    assert (got.method, got.url, got.body) == ("GET", API_BASE + read, b"")
    assert got.headers == {"stripe-account": "acct_1"}


def _refund(desk: Desk) -> Any:
    return desk.client.v1.refunds.create({"charge": "ch_1", "amount": 300})


def _topup(desk: Desk) -> Any:
    return desk.client.v1.topups.create({"amount": 300, "currency": "usd", "description": "d"})


def _paid(desk: Desk) -> Any:
    return desk.client.v1.invoices.pay("in_1")


@pytest.mark.parametrize(
    ("act", "sent", "body"),
    [
        (_refund, "POST /v1/refunds", moved("refund", "re_1", 300, charge="ch_1")),
        (_topup, "POST /v1/topups", moved("topup", "tu_1", 300)),
        (_paid, "POST /v1/invoices/in_1/pay", invoice("open", 300)),
    ],
)
def test_the_next_attempt_gets_the_object_and_spends_nothing(
    desk: Desk, act: Any, sent: str, body: dict[str, Any]
) -> None:
    kind = {"refund": "refunds", "topup": "topups", "invoice": "invoices"}[body["object"]]
    desk.answers = {
        "GET /v1/charges/ch_1": charge(),
        sent: OSError("gone"),
        f"GET /v1/{kind}/{body['id']}": body,
    }
    with pytest.raises((stripe.StripeError, OSError)):
        act(desk)
    call_id = next(ask.call_id for ask in desk.asked if ask.method == "POST")
    said = corrections.Resolution(Micros(3_000_000), object_id=body["id"])
    desk.books.write(corrections.resolve, call_id, said, uuid.uuid4().hex)
    assert desk.figures() == (3_000_000, 0, 0)
    posts = desk.lines().count(sent)
    desk.again()
    assert act(desk).id == body["id"]
    assert (desk.lines().count(sent), desk.figures()) == (posts, (3_000_000, 0, 0))
    assert desk.sent[-1].method == "GET"
    assert desk.asked[-1].look_up  # A vault key's allowlist is not asked.


def test_an_object_that_the_vendor_does_not_show_is_a_denial(desk: Desk) -> None:
    desk.answers = {"POST /v1/topups": OSError("gone")}
    with pytest.raises((stripe.StripeError, OSError)):
        _topup(desk)
    said = corrections.Resolution(Micros(3_000_000), object_id="tu_9")
    desk.books.write(corrections.resolve, desk.asked[0].call_id, said, uuid.uuid4().hex)
    desk.again()
    with pytest.raises(SpendDenied, match="tu_9, which the vendor does not show"):
        _topup(desk)
