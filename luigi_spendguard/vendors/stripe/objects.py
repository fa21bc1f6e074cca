"""Stripe: what an object counts for, by its own status and amounts, and which objects a request acts on.

One call at a time acts on an object, or is priced by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from luigi_spendguard.money import to_micros
from luigi_spendguard.vendors.model import Quote
from luigi_spendguard.vendors.stripe.request import PAYERS, Body, amount_in, id_of, owners

#: More objects than these are counted beside what takes them along: too much rather than too little.
MOST_COVERED = 50
OBJECT_ID = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)


@dataclass(frozen=True)
class ObjectValue:
    """The most that an object can still be made to move, and what it counts for now, in micro-dollars."""

    movable_micros: int
    counted_micros: int


def value_of(body: Body, fx: Mapping[str, Decimal]) -> ObjectValue:
    """Return an object's value. Raises KeyError, TypeError, ValueError (NoRate is one)."""
    if body.get("deleted") is True:
        return ObjectValue(0, 0)
    currency = body["currency"]
    movable, counted = _READERS[body["object"]](body)
    return ObjectValue(int(to_micros(movable, currency, fx)), int(to_micros(counted, currency, fx)))


def _intent(body: Body) -> tuple[int, int]:
    status, amount = body["status"], amount_in(body, "amount")
    if status not in ("succeeded", "canceled"):
        return amount, amount
    received = body.get("amount_received") or (None if status == "succeeded" else 0)
    # Older API versions and look-alikes do not say what has moved: then it is all of it.
    moved = amount if received is None else amount_in(body, "amount_received") if received else 0
    return moved, moved


def _charge(body: Body) -> tuple[int, int]:
    amount = amount_in(body, "amount")
    if body["status"] == "failed":
        return 0, 0
    # A bank's debit is called captured from the start, and moves days later.
    pending = body["status"] == "pending"
    if not pending and body.get("captured") is True and body.get("amount_captured") is not None:
        moved = amount_in(body, "amount_captured")
        return moved, moved
    return amount, amount


def _moved_unless(*statuses: str) -> Callable[[Body], tuple[int, int]]:
    def read(body: Body) -> tuple[int, int]:
        amount = 0 if body["status"] in statuses else amount_in(body, "amount")
        return amount, amount

    return read


def _amount(body: Body) -> tuple[int, int]:
    amount = amount_in(body, "amount")
    return amount, amount


def _either_way(body: Body) -> tuple[int, int]:
    value = body["amount"]
    amount = amount_in({"amount": -value if isinstance(value, int) and value < 0 else value}, "amount")
    return amount, amount


def _invoice(body: Body) -> tuple[int, int]:
    status = body["status"]
    paid, due = amount_in(body, "amount_paid"), amount_in(body, "amount_due")
    if status == "void":  # What was taken of the customer's balance is there again.
        return paid, paid
    credit = _credit_used(body, due)
    if status == "paid":
        return max(paid, due if body.get("amount_remaining") else 0) + credit, paid + credit
    movable = max(due, paid + amount_in(body, "amount_remaining")) + credit
    if status == "draft" and isinstance(body.get("total"), int):
        # What the customer owes from before comes on top when it is finalized.
        movable = max(movable, body["total"] + max(0, body.get("starting_balance") or 0))
    # A draft is not collected, unless Stripe advances it by itself.
    return movable, 0 if status == "draft" and body.get("auto_advance") is not True else movable


def _credit_used(body: Body, due: int) -> int:
    """Return what an invoice takes of the customer's credit: that is spent like money, whoever gave it.

    `amount_due` is what is left to pay, `total` what the invoice comes to, less credit grants
    (https://docs.stripe.com/api/invoices/object). What a credit note takes off before it is paid is owed no
    more.
    """
    granted = sum(
        amount_in(one, "amount")
        for one in body.get("total_pretax_credit_amounts") or []
        if one.get("type") == "credit_balance_transaction"
    )
    total = body.get("total")
    if not isinstance(total, int) or isinstance(total, bool):
        return granted
    return granted + max(0, total - (body.get("pre_payment_credit_notes_amount") or 0) - due)


def _session(body: Body) -> tuple[int, int]:
    if body["status"] == "expired" or body.get("mode") == "setup":
        return 0, 0
    amount = amount_in(body, "amount_total")
    return amount, amount


def _credit_note(body: Body) -> tuple[int, int]:
    after = body.get("post_payment_amount")
    amount = amount_in(body, "amount" if after is None else "post_payment_amount")
    moved = max(0, amount - (body.get("out_of_band_amount") or 0))
    return moved, moved


#: By an object's type: how the most it can move and what it counts for are read, in minor units.
_READERS: Mapping[str, Callable[[Body], tuple[int, int]]] = {
    "payment_intent": _intent,
    "charge": _charge,
    "refund": _moved_unless("failed", "canceled"),
    "transfer": _amount,
    "transfer_reversal": _amount,
    "payout": _moved_unless("failed", "canceled"),
    "topup": _moved_unless("failed", "canceled"),
    "invoice": _invoice,
    "invoiceitem": _either_way,
    "checkout.session": _session,
    "credit_note": _credit_note,
    "customer_balance_transaction": _either_way,
    "fee_refund": _amount,
}


def covered_by(invoice: Body) -> tuple[str, ...]:
    """Return what was counted for an invoice before: its items, and the subscription it is the first of.

    The items as far as the first page of its lines names them.
    """
    named = []
    for line in (invoice.get("lines") or {}).get("data") or []:
        parent = (line.get("parent") or {}).get("invoice_item_details") or {}
        named.append(parent.get("invoice_item") or line.get("invoice_item"))
    if is_first(invoice):
        parent = (invoice.get("parent") or {}).get("subscription_details") or {}
        named.append(parent.get("subscription") or invoice.get("subscription"))
    return tuple(one for one in named if isinstance(one, str) and OBJECT_ID.fullmatch(one))[:MOST_COVERED]


def is_first(invoice: Body) -> bool:
    """Return whether a subscription begins with this invoice: it may bill more than that later.

    With a trial, or a period that is cut short, the invoice is a part of what the subscription counts for.
    """
    return invoice.get("billing_reason") == "subscription_create"


def payer_of(body: Body) -> tuple[str, str] | None:
    """Return whose an object is, as (the parameter's name, the id)."""
    for name in PAYERS[:2]:
        one = id_of(body.get(name))
        if isinstance(one, str) and OBJECT_ID.fullmatch(one):
            return name, one
    return None


_ID = re.compile(r"[A-Za-z0-9_.~:@-]{1,255}", re.ASCII)
#: The parameters that name an object which the call changes, or moves money of.
_NAMED = ("invoice", "payment_intent", "charge", "subscription", "from_subscription", "quote", "setup_intent")
#: The parts of an address that are no ids, where such stand.
_WORDS = {"sessions", "lines", "prices", "invoices"}


def objects_of(
    quote: Quote, ids: tuple[str, ...], params: Mapping[str, str], lookups: Mapping[str, Body | None]
) -> dict[str, Any]:
    """Return a quote's `acts_on` and `priced_by`; `lookups`: what was looked up, by path.

    What is pending is the payer's: who looks it up takes it along, and who makes an item adds to it. What a
    subscription's item costs is read of the subscription's own invoices.
    """
    acts_on = {*ids, *(params[name] for name in _NAMED if name in params)}
    waits = {payer for path in lookups if (payer := _listed_payer(path))}
    if quote.operation.startswith("subscription_items."):
        waits |= {one for path in lookups if path.startswith("/v1/subscriptions/") for one in _ids_of(path)}
    if quote.operation == "invoiceitems.create":
        waits |= {params[name] for name in PAYERS if name in params}
    if quote.operation == "invoices.delete":  # What it lets go of is pending, as a new item is.
        waits |= {one for body in lookups.values() for one in owners(body or {})}
    alone = {one for one in acts_on | waits if _ID.fullmatch(one)}
    seen = {one for path in lookups for one in _ids_of(path)} | {*quote.covers}
    # A payer's address or credit may decide what an invoice of theirs comes to.
    seen |= {one for body in lookups.values() for one in owners(body or {}) if _ID.fullmatch(one)}
    return {"acts_on": tuple(sorted(alone)), "priced_by": tuple(sorted(seen - alone))}


def _listed_payer(path: str) -> str:
    base, _, query = path.partition("?")
    if base not in ("/v1/invoiceitems", "/v1/invoices"):
        return ""
    params = dict(parse_qsl(query))
    return next((params[name] for name in PAYERS if name in params), "")


def _ids_of(path: str) -> Iterator[str]:
    for part in path.partition("?")[0].split("/")[3:]:
        if part not in _WORDS and _ID.fullmatch(part):
            yield part
