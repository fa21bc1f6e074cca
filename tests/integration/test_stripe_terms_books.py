"""What raises an invoice beside its lines is denied or counted: judged by what the look-alike has billed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from luigi_spendguard.errors import SpendDenied
from tests.support.books import Books
from tests.support.desk import Outside
from tests.support.site import FakeStripe

CAP = 1_000_000  # $1


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
def desk(tmp_path: Path, vendor: FakeStripe) -> Iterator[Outside]:
    books = Books(tmp_path / "ledger.db", cap=CAP)
    yield Outside(books, vendor.url)
    books.ledger.close()


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


AHEAD: Any = {"billing_schedules": [{"bill_until": {"type": "duration", "duration": {
    "interval": "month", "interval_count": 36}}}]}  # fmt: skip

OLD = {"stripe_version": "2018-02-28"}

#: What raised an invoice, was not read, and passed.
RAISED: list[tuple[str, Callable[[Outside, str], Any]]] = [
    ("periods ahead", lambda desk, sub: begun(desk, **AHEAD)),
    ("tax of an old version", lambda desk, sub: begun(desk, OLD, tax_percent=100)),
    ("an old version", lambda desk, sub: begun(desk, OLD)),
    ("a preview", lambda desk, sub: begun(desk, {"stripe_version": "2026-10-28.preview"})),
    ("tax", lambda desk, sub: begun(desk, tax_percent=100)),
    ("an offer", lambda desk, sub: begun(desk, items=[
        {"price": price(desk), "current_trial": {"trial_offer": "o"}}])),
    ("a pause", lambda desk, sub: desk.client.v1.subscriptions.pause(sub)),
    ("a pause that invoices", lambda desk, sub: desk.client.v1.subscriptions.pause(sub, {
        "invoicing_behavior": "invoice", "bill_for": {"outstanding_usage_through": {"type": "now"}}})),
    ("a pause with credit", lambda desk, sub: desk.client.v1.subscriptions.pause(sub, {
        "bill_for": {"outstanding_usage_through": {"type": "none"}}})),
    ("parts of an item", lambda desk, sub: desk.client.v1.invoice_items.create({
        "customer": "cus_1", "pricing": {"price": price(desk)}, "quantity_decimal": "10000"})),  # type: ignore[typeddict-item]
    ("parts of an item, by amount", lambda desk, sub: desk.client.v1.invoice_items.create({
        "customer": "cus_1", "unit_amount_decimal": "100", "currency": "usd",  # type: ignore[typeddict-item]
        "quantity_decimal": "10000"})),
    ("a draft that finalizes itself", lambda desk, sub: desk.client.v1.invoices.create({
        "customer": "cus_1", "automatically_finalizes_at": 1_900_000_000})),
    ("a session that comes back", lambda desk, sub: desk.client.v1.checkout.sessions.create({
        "mode": "setup", "after_expiration": {"recovery": {"enabled": True}}})),
    ("a fee that is given back", lambda desk, sub: desk.client.v1.transfers.reversals.create(
        "tr_1", {"refund_application_fee": True})),
    ("what nobody has heard of", lambda desk, sub: desk.client.v1.products.create({
        "name": "x", "charge_everybody": "now"})),  # type: ignore[typeddict-unknown-key]
]  # fmt: skip


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
