"""Generated billing at the look-alike, one at a time and at once: its books never show more than ours."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import stripe
import urllib3

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied
from tests.support.books import Books
from tests.support.desk import Outside
from tests.support.site import FakeStripe

CAP = 1_000_000_000  # $1,000
_http = urllib3.PoolManager()


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[FakeStripe]:
    made = FakeStripe(tmp_path / "vendor")
    yield made
    made.process.end()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db", cap=CAP)
    yield made
    made.ledger.close()


class Customers:
    """What tasks, and people past the guard, do to two customers' bills; `pick` decides what."""

    def __init__(self, vendor: FakeStripe, seed: int, *, others: bool = True) -> None:
        self.vendor, self.pick, self.others = vendor, random.Random(seed), others
        dear = {"currency_options[sek][unit_amount]": "9000"}
        self.prices = [
            self.by_hand("/v1/prices", currency="usd", unit_amount="100", **dear)["id"],
            self.by_hand("/v1/prices", currency="usd", unit_amount="250")["id"],
        ]
        self.drafts: list[str] = []
        self.items: list[str] = []

    def by_hand(self, path: str, key: str = "sk_test_by_hand", **said: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        return _http.request(
            "POST", self.vendor.url + path, fields=said, headers=headers, encode_multipart=False
        ).json()

    def one(self, desk: Outside) -> None:
        """Do one thing, or find it denied."""
        v1: Any = desk.client.v1
        pick, customer = self.pick, self.pick.choice(["cus_1", "cus_2"])
        amount, draft = pick.randrange(1, 900), pick.choice(self.drafts or ["in_none"])
        item = pick.choice(self.items or ["ii_none"])
        plain = {"customer": customer, "amount": amount, "currency": "usd"}
        price = {"price": pick.choice(self.prices), "quantity": pick.randrange(1, 4)}
        phase = {"items": [price], **pick.choice([{}, {"currency": "sek"}])}
        lines = {"lines": [{"amount": amount}]}
        bill = {"customer": customer, "pending_invoice_items_behavior": pick.choice(["include", "exclude"])}
        now = {"customer": customer, "start_date": "now", "phases": [phase]}
        sub = {"customer": customer, **phase}
        things: list[Callable[[], Any]] = [
            lambda: self.items.append(v1.invoice_items.create(plain).id),
            lambda: self.items.append(v1.invoice_items.create({**plain, "invoice": draft}).id),
            lambda: v1.invoice_items.update(item, {"amount": amount}),
            lambda: v1.invoice_items.delete(item),
            lambda: self.drafts.append(v1.invoices.create(bill).id),
            lambda: v1.invoices.add_lines(draft, lines),
            lambda: v1.invoices.delete(draft),
            lambda: v1.invoices.finalize_invoice(draft),
            lambda: v1.invoices.pay(draft),
            lambda: v1.invoices.void_invoice(draft),
            lambda: v1.subscriptions.create(sub),
            lambda: v1.subscription_schedules.create(now),
            lambda: self.declined(v1, plain),
        ]
        if self.others:
            things.append(lambda: self.by_hand("/v1/invoiceitems", **{**plain, "amount": str(amount)}))
        with suppress(SpendDenied, OutcomeUnknown, stripe.StripeError):
            pick.choice(things)()

    def declined(self, v1: Any, plain: dict[str, Any]) -> None:
        """Have an intent declined, and confirm it on a page later."""
        asked = {**plain, "confirm": True, "payment_method": "pm_card_chargeDeclined"}
        try:
            v1.payment_intents.create(asked)
        except stripe.CardError as error:
            intent: Any = error.json_body
            intent = intent["error"]["payment_intent"]
            said = {"client_secret": intent["client_secret"], "payment_method": "pm_card_visa"}
            self.by_hand(f"/v1/payment_intents/{intent['id']}/confirm", "pk_test_page", **said)


@pytest.mark.parametrize("seed", range(4))
def test_one_at_a_time(vendor: FakeStripe, books: Books, seed: int) -> None:
    customers = Customers(vendor, seed)
    kept = {"declined_intents": "keep" if seed % 2 else "cancel"}
    desk = Outside(books, vendor.url, own=kept)
    for step in range(60):
        desk.key = books.claim(f"Task_{step}")
        customers.one(desk)
        spent, reserved, overrun = desk.figures()
        assert (reserved, overrun) == (0, 0)
        assert vendor.moved() <= spent // 10_000, step
    assert vendor.moved() > 1000


@pytest.mark.parametrize("seed", range(2))
def test_many_at_once(vendor: FakeStripe, books: Books, seed: int) -> None:
    # What others make pending between a look-up and its call is overrun.
    customers = Customers(vendor, seed + 100, others=False)

    def tasks(number: int) -> None:
        desk = Outside(books, vendor.url)
        for step in range(12):
            desk.key = books.claim(f"Task_{number}_{step}")
            customers.one(desk)

    threads = [threading.Thread(target=tasks, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert books.audit() == []
    spent, reserved, overrun = books.figures()
    assert (reserved, overrun) == (0, 0)
    assert vendor.moved() <= spent // 10_000 <= CAP // 10_000
