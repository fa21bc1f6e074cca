"""What localstripe, a program of other people's, lists of what it has made is read as it is meant."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.reconcile.reading import BooksReader
from luigi_spendguard.reconcile.work_file import Work, WorkFile
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.own_books import PageRequest, Period, Reading
from luigi_spendguard.vendors.registry import VENDORS
from luigi_spendguard.vendors.stripe.own_books import StripeOwnBooks
from tests.support import npm


class Known(StripeOwnBooks):
    """The lists that localstripe has; it filters none by when a line was made."""

    lists = ("payment_intents", "charges", "refunds")

    def first(self, listed: str, reading: Reading) -> PageRequest:
        asked = super().first(listed, reading)
        return replace(asked, query=tuple(one for one in asked.query if not one[0].startswith("created")))


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    server = npm.localstripe(tmp_path)
    yield server.url
    server.process.end()


def test_localstripes_lists_say_what_it_has_moved(url: str, tmp_path: Path) -> None:
    v1: Any = stripe.StripeClient("sk_test_12345", base_addresses={"api": url}).v1
    customer = v1.customers.create({"email": "a@example.com"}).id
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2035, "cvc": "123"}
    method = v1.payment_methods.create({"type": "card", "card": card}).id
    v1.payment_methods.attach(method, {"customer": customer})
    pays = {"customer": customer, "payment_method": method, "currency": "usd", "confirm": True}
    paid = v1.payment_intents.create({"amount": 500, **pays})
    held = v1.payment_intents.create({"amount": 700, "capture_method": "manual", **pays})
    unpaid = v1.payment_intents.create({"amount": 300, "customer": customer, "currency": "usd"})
    refund = v1.refunds.create({"payment_intent": paid.id, "amount": 50})
    now = int(time.time() * 1000)
    settings = VendorSettings("stripe", "sk_test_12345", base_url=url)
    period = Period(now - 3_600_000, now + 60_000)
    reading = Reading("stripe:test", period, settings)
    work = WorkFile(tmp_path / "work.db", Work("stripe", "stripe:test", period))
    books = Known()
    reader = BooksReader(
        VENDORS["stripe"], books, reading, "sk_test_12345", BlockingTransport(), lambda seconds: None
    )
    reader.read_all(work)
    work.clear_compared()
    work.make_lines()
    found = {
        subject: (kind, micros, opened)
        for subject, kind, micros, opened in work.db.execute(
            "SELECT subject, kind, micros, open_micros FROM line ORDER BY subject, rank DESC"
        )
    }
    work.close()
    assert found == {
        paid.id: ("charge", 5_000_000, 0),
        unpaid.id: ("charge", 0, 3_000_000),
        held.id: ("charge", 0, 7_000_000),
        refund.id: ("refund", 500_000, 0),
    }
