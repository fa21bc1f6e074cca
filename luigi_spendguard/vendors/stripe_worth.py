"""Stripe: what an object counts for, read from its own status and amounts.

`worth` is the most it can still be made to move, `counts` what it counts for now; micro-dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from luigi_spendguard.money import to_micros
from luigi_spendguard.vendors.stripe_asked import Body, amount_in


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
    granted = sum(amount_in(one, "amount") for one in body.get("total_pretax_credit_amounts") or []
                  if one.get("type") == "credit_balance_transaction")  # fmt: skip
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
