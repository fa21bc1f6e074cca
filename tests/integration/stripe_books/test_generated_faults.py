"""Generated calls whose answers are lost, some made again: no more is moved than counted."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import stripe

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied
from tests.support.books import Books
from tests.support.desk import Losing
from tests.support.vendors import FakeStripe

CAP = 1_000_000_000  # $1,000
FAILED = (SpendDenied, OutcomeUnknown, stripe.StripeError)


class Calls:
    """What tasks may call; `one` picks a call on objects that there are, or are to be made."""

    def __init__(self, desk: Losing, seed: int) -> None:
        self.pick = random.Random(seed)
        self.made: dict[str, list[str]] = {}
        asked: Any = {
            "currency": "usd",
            "unit_amount": 100,
            "recurring": {"interval": "month"},
            "product": "prod_1",
        }
        self.price = desk.client.v1.prices.create(asked).id

    def _new(self, kind: str, call: Callable[[Any], Any]) -> Callable[[Any], None]:
        def made(v1: Any) -> None:
            self.made.setdefault(kind, []).append(call(v1).id)

        return made

    def intents(self) -> list[Callable[[Any], Any]]:
        amount, pi, ch, re, po = self.pick.randrange(50, 900), *map(self._any, ("pi", "ch", "re", "po"))
        plain = {"amount": amount, "currency": "usd", "customer": self.pick.choice(["cus_1", "cus_2"])}
        card = self.pick.choice(["pm_card_visa", "pm_card_visa", "pm_card_chargeDeclined"])
        paid = {**plain, "confirm": True, "payment_method": card}
        return [
            self._new("pi", lambda v1: v1.payment_intents.create(plain)),
            self._new("pi", lambda v1: v1.payment_intents.create(paid)),
            self._new("pi", lambda v1: v1.payment_intents.create({**paid, "capture_method": "manual"})),
            lambda v1: v1.payment_intents.update(pi, {"amount": amount}),
            lambda v1: v1.payment_intents.confirm(pi, {"payment_method": card}),
            lambda v1: v1.payment_intents.capture(pi, {"amount_to_capture": amount}),
            lambda v1: v1.payment_intents.cancel(pi),
            self._new("ch", lambda v1: v1.charges.create({**plain, "capture": False, "source": "tok_visa"})),
            lambda v1: v1.charges.capture(ch, {"amount": amount}),
            self._new("re", lambda v1: v1.refunds.create({"charge": ch, "amount": amount})),
            lambda v1: v1.refunds.cancel(re),
            self._new("po", lambda v1: v1.payouts.create({"amount": amount, "currency": "usd"})),
            lambda v1: v1.payouts.cancel(po),
        ]

    def billing(self) -> list[Callable[[Any], Any]]:
        amount, item, draft = self.pick.randrange(1, 900), self._any("ii"), self._any("in")
        plain = {"amount": amount, "currency": "usd", "customer": "cus_1"}
        sub = {"customer": "cus_1", "items": [{"price": self.price, "quantity": self.pick.randrange(1, 4)}]}
        declined = {"payment_method": "pm_card_chargeDeclined"}
        drafted = {"customer": "cus_1", "pending_invoice_items_behavior": "include"}
        return [
            self._new("ii", lambda v1: v1.invoice_items.create(plain)),
            self._new("ii", lambda v1: v1.invoice_items.create({**plain, "invoice": draft})),
            lambda v1: v1.invoice_items.update(item, {"amount": amount}),
            lambda v1: v1.invoice_items.delete(item),
            self._new("in", lambda v1: v1.invoices.create(drafted)),
            lambda v1: v1.invoices.add_lines(draft, {"lines": [{"amount": amount}]}),
            lambda v1: v1.invoices.delete(draft),
            lambda v1: v1.invoices.finalize_invoice(draft),
            lambda v1: v1.invoices.pay(draft),
            lambda v1: v1.invoices.pay(draft, declined),
            lambda v1: v1.invoices.void_invoice(draft),
            lambda v1: v1.subscriptions.create(sub),
            lambda v1: v1.subscriptions.create({**sub, "trial_period_days": 3}),
        ]

    def _any(self, kind: str) -> str:
        return self.pick.choice(self.made.get(kind) or [f"{kind}_none"])


@pytest.mark.parametrize("what", ["intents", "billing"])
@pytest.mark.parametrize("seed", range(3))
def test_lost_answers(vendor: FakeStripe, books: Books, what: str, seed: int) -> None:
    calls = Calls(Losing(books, vendor.url), seed)
    lost: list[tuple[int, Losing, Callable[[Any], Any]]] = []

    def again(step: int, desk: Losing, call: Callable[[Any], Any]) -> None:
        desk.key = books.claim(f"Task_{step}")
        with suppress(*FAILED):
            call(desk.client.v1)

    for step in range(40):
        desk = Losing(books, vendor.url)
        desk.key = books.claim(f"Task_{step}")
        desk.lose = lose = calls.pick.choice(["", "", "before", "after"])
        call = calls.pick.choice(getattr(calls, what)())
        with suppress(*FAILED):
            call(desk.client.v1)
        if lose and not desk.lose:
            lost.append((step, desk, call))
        desk.lose = ""
        if lost and calls.pick.random() < 0.3:
            again(*lost.pop(0))
        spent, reserved, overrun = desk.figures()
        assert overrun == 0
        assert vendor.moved() <= (spent + reserved) // 10_000, step
    for one in lost:
        again(*one)
    spent, reserved, overrun = books.figures()
    assert overrun == 0
    assert 0 < vendor.moved() <= (spent + reserved) // 10_000
