"""Stripe: what an object counts for, read from its own status and amounts.

`worth` is the most it can still be made to move, `counts` what it counts for now; micro-dollars.

Stripe: which objects a request acts on, and which it is priced by: one at a time acts on one.
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
from luigi_spendguard.vendors.stripe.request import PAYERS, Body, amount_in, owners


@dataclass(frozen=True)
class Worth:
    """What an object is worth and counts for, in micro-dollars."""

    worth: int
    counts: int


def worth_of(body: Body, fx: Mapping[str, Decimal]) -> Worth:
    """Return what an object counts for. Raises KeyError, TypeError, ValueError (NoRate is one)."""
    if body.get("deleted") is True:
        return Worth(0, 0)
    currency = body["currency"]
    worth, counts = KINDS[body["object"]](body)
    return Worth(int(to_micros(worth, currency, fx)), int(to_micros(counts, currency, fx)))


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
    whole = max(due, paid + amount_in(body, "amount_remaining")) + credit
    if status == "draft" and isinstance(body.get("total"), int):
        # What the customer owes from before comes on top when it is finalized.
        whole = max(whole, body["total"] + max(0, body.get("starting_balance") or 0))
    # A draft is not collected, unless Stripe advances it by itself.
    return whole, 0 if status == "draft" and body.get("auto_advance") is not True else whole


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
    amount = amount_in(body, "amount") if after is None else amount_in(body, "post_payment_amount")
    outside = body.get("out_of_band_amount") or 0
    return max(0, amount - outside), max(0, amount - outside)


KINDS: Mapping[str, Callable[[Body], tuple[int, int]]] = {
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


_ID = re.compile(r"[A-Za-z0-9_.~:@-]{1,255}", re.ASCII)
#: The parameters that name an object which the call changes, or moves money of.
_NAMED = ("invoice", "payment_intent", "charge", "subscription", "from_subscription", "quote", "setup_intent")
#: The parts of an address that are no ids, where such stand.
_WORDS = {"sessions", "lines", "prices", "invoices"}


def acting(
    quote: Quote, ids: tuple[str, ...], params: Mapping[str, str], found: Mapping[str, Body | None]
) -> dict[str, Any]:
    """Return a quote's `acts_on` and `priced_by`; `found`: what was looked up, by path.

    What is pending is the payer's: who looks it up takes it along, and who makes an item adds to it. What a
    subscription's item costs is read of the subscription's own invoices.
    """
    acts_on = {*ids, *(params[name] for name in _NAMED if name in params)}
    waits = {payer for path in found if (payer := _payer_of(path))}
    if quote.operation.startswith("subscription_items."):
        waits |= {one for path in found if path.startswith("/v1/subscriptions/") for one in _ids_of(path)}
    if quote.operation == "invoiceitems.create":
        waits |= {params[name] for name in PAYERS if name in params}
    if quote.operation == "invoices.delete":  # What it lets go of is pending, as a new item is.
        waits |= {one for body in found.values() for one in owners(body or {})}
    alone = {one for one in acts_on | waits if _ID.fullmatch(one)}
    seen = {one for path in found for one in _ids_of(path)} | {*quote.covers}
    # A payer's address or credit may decide what an invoice of theirs comes to.
    seen |= {one for body in found.values() for one in owners(body or {}) if _ID.fullmatch(one)}
    return {"acts_on": tuple(sorted(alone)), "priced_by": tuple(sorted(seen - alone))}


def _payer_of(path: str) -> str:
    base, _, query = path.partition("?")
    said = dict(parse_qsl(query))
    lists = ("/v1/invoiceitems", "/v1/invoices")
    return next((said[name] for name in PAYERS if name in said), "") if base in lists else ""


def _ids_of(path: str) -> Iterator[str]:
    for part in path.partition("?")[0].split("/")[3:]:
        if part not in _WORDS and _ID.fullmatch(part):
            yield part
