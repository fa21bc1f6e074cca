"""Stripe's lists as it pages them: newest first, at most 100 a page, behind `starting_after`, by `created`.

`StripeAccount` has an account's objects in memory, and what somebody does at the dashboard; it shares no code
with luigi_spendguard. https://docs.stripe.com/api/pagination
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

Body = dict[str, Any]

#: The type of the objects that a path lists.
TYPES = {
    "payment_intents": "payment_intent",
    "charges": "charge",
    "refunds": "refund",
    "disputes": "dispute",
    "payouts": "payout",
    "topups": "topup",
    "transfers": "transfer",
    "invoices": "invoice",
    "invoice_payments": "invoice_payment",
    "invoiceitems": "invoiceitem",
    "checkout/sessions": "checkout.session",
    "credit_notes": "credit_note",
    "balance_transactions": "balance_transaction",
}


class NoSuchObject(Exception):
    """`starting_after` names nothing."""


def listing(
    objects: Iterable[Body], kind: str, query: dict[str, str], path: str, *, oldest_first: bool = False
) -> Body:
    """Return a page of a list; `oldest_first`: in another order than Stripe's."""
    found = [one for one in objects if one["object"] == TYPES.get(kind, kind.rstrip("s"))]
    for name, passes in {
        "created[gte]": lambda at, limit: at >= limit,
        "created[gt]": lambda at, limit: at > limit,
        "created[lte]": lambda at, limit: at <= limit,
        "created[lt]": lambda at, limit: at < limit,
    }.items():
        if name in query:
            found = [one for one in found if passes(one.get("created", 0), int(query[name]))]
    found.reverse()
    found.sort(key=lambda one: -one.get("created", 0))
    found = found[::-1] if oldest_first else found
    begin = 0
    if after := query.get("starting_after"):
        ids = [one["id"] for one in found]
        if after not in ids:
            raise NoSuchObject(after)
        begin = ids.index(after) + 1
    limit = max(1, min(int(query.get("limit", "10")), 100))
    page = found[begin : begin + limit]
    return {"object": "list", "url": path, "data": page, "has_more": begin + limit < len(found)}


class StripeAccount:
    """One account's objects, in the order in which they were made."""

    def __init__(self, now: int) -> None:
        self.objects: dict[str, Body] = {}
        self.now = now
        self.oldest_first = False
        self._numbers = itertools.count(1)

    def add(self, prefix: str, kind: str, **more: Any) -> Body:
        """Make an object of a type."""
        made = {"id": f"{prefix}_{next(self._numbers):08d}", "object": kind, "created": self.now, **more}
        self.objects[made["id"]] = made
        return made

    def moved(self, source: Body, kind: str, amount: int, **more: Any) -> Body:
        """Enter in the balance that something has moved money; `amount` is negative where it leaves."""
        facts = {"currency": source.get("currency", "usd"), "fee": 0, "status": "available", **more}
        return self.add("txn", "balance_transaction", type=kind, amount=amount, source=source["id"], **facts)

    def intent(self, amount: int, *, paid: bool = True, currency: str = "usd", **more: Any) -> Body:
        """Make a PaymentIntent, with its charge where it is paid."""
        made = self.add(
            "pi",
            "payment_intent",
            amount=amount,
            amount_received=0,
            currency=currency,
            status="requires_payment_method",
            **{"metadata": {}, "latest_charge": None, **more},
        )
        if paid:
            self.pay(made)
        return made

    def pay(self, intent: Body, amount: int | None = None) -> Body:
        """Let somebody pay an intent."""
        amount = intent["amount"] if amount is None else amount
        charge = self.add(
            "ch",
            "charge",
            amount=amount,
            amount_captured=amount,
            captured=True,
            currency=intent["currency"],
            status="succeeded",
            payment_intent=intent["id"],
            metadata=intent["metadata"],
        )
        intent |= {"status": "succeeded", "amount_received": amount, "latest_charge": charge["id"]}
        self.moved(charge, "charge", amount, fee=30 + amount * 29 // 1000)
        return charge

    def refund(self, intent: Body, amount: int) -> Body:
        """Give money back."""
        made = self.add(
            "re",
            "refund",
            amount=amount,
            currency=intent["currency"],
            status="succeeded",
            charge=intent["latest_charge"],
            payment_intent=intent["id"],
            metadata={},
        )
        self.moved(made, "refund", -amount)
        return made

    def dispute(self, intent: Body, status: str = "needs_response") -> Body:
        """Let the payer's bank take the money back, or ask about it."""
        made = self.add(
            "dp",
            "dispute",
            amount=intent["amount"],
            currency=intent["currency"],
            status=status,
            charge=intent["latest_charge"],
            payment_intent=intent["id"],
        )
        if not status.startswith("warning"):
            self.moved(made, "adjustment", -intent["amount"], fee=1500)
        return made

    def payout(self, amount: int, *, automatic: bool = False, **more: Any) -> Body:
        """Send money to the bank."""
        made = self.add(
            "po",
            "payout",
            amount=amount,
            currency="usd",
            status="paid",
            automatic=automatic,
            **{"metadata": {}, **more},
        )
        self.moved(made, "payout", -amount)
        return made

    def answer(self, path: str, query: dict[str, str]) -> Body:
        """Answer a GET."""
        kind = path.removeprefix("/v1/")
        if kind.rpartition("/")[2] in self.objects:
            return self.objects[kind.rpartition("/")[2]]
        if kind not in TYPES:
            raise NoSuchObject(path)
        page = listing(self.objects.values(), kind, query, path, oldest_first=self.oldest_first)
        expand = [value for name, value in query.items() if re.fullmatch(r"expand\[\d*\]", name)]
        if "data.source" in expand:
            page["data"] = [
                {**one, "source": self.objects.get(one["source"], one["source"])} for one in page["data"]
            ]
        return page
