"""Stripe: what a declined call leaves open, and how that is taken back.

A declined PaymentIntent waits for another card: whoever has its `client_secret` and a publishable key can
confirm it until it is cancelled (https://docs.stripe.com/payments/paymentintents/lifecycle). An invoice that
could not be paid stays open, with a page of its own, and Stripe finalizes a draft before it tries to collect
it (https://docs.stripe.com/api/invoices/finalize), whatever it refuses then. A declined
charge or refund leaves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

from luigi_spendguard.vendors.bodies import refused, reply_object
from luigi_spendguard.vendors.calls import Outcome, Quote, Reply, Request
from luigi_spendguard.vendors.stripe_asked import Body
from luigi_spendguard.vendors.stripe_hosts import API_BASE
from luigi_spendguard.vendors.stripe_worth import worth_of

_INTENT = re.compile(r"pi_[A-Za-z0-9_]{1,250}", re.ASCII)


def declined(quote: Quote, reply: Reply, fx: Mapping[str, Decimal]) -> Outcome:
    """Return what became of a declined call: void where it leaves nothing open, else settled at its worth."""
    note = f"declined (HTTP {reply.status})"
    intent = _open_intent(reply)
    object_id = quote.object_id or (intent["id"] if intent else None)
    if object_id is None or quote.free or quote.only_less or (quote.fixed and not intent):
        return Outcome("void", definite=True, note=note)
    total = quote.total_micros
    if intent and intent["id"] == object_id:
        with suppress(ValueError, TypeError, KeyError):  # Else what was asked for is the most it can move.
            total = worth_of(intent, fx).worth
    # What others count for of it they go on counting for: nothing was collected.
    return Outcome("settle", total_micros=total, worth_micros=total or 0, object_id=object_id,
                   covers=quote.covers, covers_stay=True,
                   note=f"{note}: {object_id} is left open, and counts until it is cancelled")  # fmt: skip


#: What says that no step of a call was begun.
_NOT_BEGUN = (401, 403, 429)


def refused_halfway(quote: Quote, reply: Reply, ended: Outcome) -> Outcome:
    """Return what became of a refused call, settled until it is read what a first step of it has left."""
    if not quote.in_steps or ended.kind != "void" or reply.status in _NOT_BEGUN:
        return ended
    total = quote.total_micros
    return Outcome("settle", total_micros=total, worth_micros=total or 0, object_id=quote.object_id,
                   covers=quote.covers, covers_stay=True, definite=ended.definite,
                   billed_at=f"/v1/invoices/{quote.object_id}",
                   note=f"HTTP {reply.status}: {quote.object_id} may be open now, and counts")  # fmt: skip


def left(quote: Quote, outcome: Outcome, invoice: Body, fx: Mapping[str, Decimal]) -> Outcome | None:
    """Return the outcome of `refused_halfway` by what the invoice is now, None where that is not said.

    Raises KeyError, TypeError, ValueError.
    """
    if invoice.get("id") != quote.object_id:
        return None
    if invoice["status"] == "draft":
        return Outcome("void", definite=outcome.definite, note="refused, and it is a draft still")
    total = worth_of(invoice, fx).worth
    return replace(outcome, total_micros=total, worth_micros=total, billed_at="")


def left_open(quote: Quote, reply: Reply) -> bool:
    """Return whether an error other than a decline names an intent that this call has opened."""
    return quote.object_id is None and refused(reply.status) and bool(_open_intent(reply))


def undo(quote: Quote, reply: Reply, headers: Mapping[str, str]) -> Request | None:
    """Return the request that cancels the intent that a declined call has opened, None where it has none.

    What was there before the call is not the call's to cancel.
    """
    intent = _open_intent(reply)
    if reply.status < 400 or not intent or quote.object_id is not None:
        return None
    return Request("POST", f"{API_BASE}/v1/payment_intents/{intent['id']}/cancel", headers)


def undone(reply: Reply) -> bool:
    """Return whether the reply to an `undo` says that nothing can move any more."""
    body = reply_object(reply)
    return reply.status == 200 and body.get("object") == "payment_intent" and body.get("status") == "canceled"


def _open_intent(reply: Reply) -> dict[str, Any] | None:
    """Return the intent that an error names, None where it names none or nothing can move by it."""
    error = reply_object(reply).get("error")
    intent = error.get("payment_intent") if isinstance(error, dict) else None
    if not isinstance(intent, dict) or intent.get("status") in ("succeeded", "canceled"):
        return None
    ident = intent.get("id")
    return intent if isinstance(ident, str) and _INTENT.fullmatch(ident) else None
