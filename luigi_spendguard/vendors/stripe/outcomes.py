"""Stripe: what became of a call, read from the reply's own status and amounts.

A reply without an amount names the invoice that the call has made at once: that is read. A declined call
may leave something open. A PaymentIntent waits for another card: whoever has its `client_secret` and a
publishable key can confirm it until it is cancelled
(https://docs.stripe.com/payments/paymentintents/lifecycle). An invoice that could not be paid stays open,
with a page of its own, and Stripe finalizes a draft before it tries to collect it
(https://docs.stripe.com/api/invoices/finalize), whatever it refuses then. A charge or refund leaves
nothing.

Our denials look like Stripe's errors (https://docs.stripe.com/api/errors): `{"error": {"type", "code",
"message"}}`. The SDK sends a 409 or a 5xx again unless `Stripe-Should-Retry: false` forbids it
(stripe-python 15 and 16).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable
from luigi_spendguard.money import to_micros
from luigi_spendguard.vendors.base import error_reply
from luigi_spendguard.vendors.bodies import refused, reply_object, unbelieved, unsuccessful
from luigi_spendguard.vendors.model import Outcome, Quote, Reply, Request
from luigi_spendguard.vendors.stripe.objects import covered_by, is_first, value_of
from luigi_spendguard.vendors.stripe.operations import RULE_OF
from luigi_spendguard.vendors.stripe.request import API_BASE, Body, id_of
from luigi_spendguard.vendors.stripe.rules import RULES

_ID = re.compile(r"[A-Za-z0-9_]{1,255}", re.ASCII)

#: Where the invoice stands in what a reply names, and how that is read with it.
_NAMED = (
    ("latest_invoice", "/v1/invoices/{}"),
    ("invoice", "/v1/invoices/{}"),
    ("subscription", "/v1/subscriptions/{}?expand%5B%5D=latest_invoice"),
    ("subscription_schedule", "/v1/subscription_schedules/{}?expand%5B%5D=subscription.latest_invoice"),
)


def _billed_at(body: Body) -> str:
    """Return where it is read what a call has billed, by its reply; "" where that names nothing."""
    for name, path in _NAMED:
        named = id_of(body.get(name))
        if isinstance(named, str) and _ID.fullmatch(named):
            return path.format(named)
    return ""


def read_billed(quote: Quote, outcome: Outcome, body: Body, fx: Mapping[str, Decimal]) -> Outcome | None:
    """Return the outcome by what was billed, None where `body` does not say it.

    What was quoted and stands on no invoice yet is billed soon (a trial may end the next second): it stays
    counted. Raises KeyError, TypeError, ValueError.
    """
    invoice = _invoice(body)
    if invoice is None:
        return None
    if invoice["id"] == quote.before and not outcome.executed_before:
        return replace(outcome, billed_at="")  # It was there already: this call is billed with the next one.
    movable, quoted = value_of(invoice, fx).movable_micros, quote.total_micros or 0
    subtotal = invoice.get("subtotal")
    bills_all = isinstance(subtotal, int) and to_micros(max(0, subtotal), invoice["currency"], fx) >= quoted
    total = movable if bills_all else max(quoted, movable)
    return replace(outcome, total_micros=total, worth_micros=total, billed_at="")


def _invoice(body: Body) -> Mapping[str, Any] | None:
    """Return the invoice that a body is or contains, None where there is none."""
    one: Any = body
    while isinstance(one, dict) and one.get("object") != "invoice":
        one = next((one[name] for name, _ in _NAMED if isinstance(one.get(name), dict)), None)
    return one if isinstance(one, dict) else None


_INTENT = re.compile(r"pi_[A-Za-z0-9_]{1,250}", re.ASCII)


def _declined(quote: Quote, reply: Reply, fx: Mapping[str, Decimal]) -> Outcome:
    """Return what became of a declined call: void where it leaves nothing open, else settled at its worth."""
    note = f"declined (HTTP {reply.status})"
    intent = _open_intent(reply)
    object_id = quote.object_id or (intent["id"] if intent else None)
    if object_id is None or quote.free or quote.only_less or (quote.fixed and not intent):
        return Outcome("void", definite=True, note=note)
    total = quote.total_micros
    if intent and intent["id"] == object_id:
        with suppress(ValueError, TypeError, KeyError):  # Else the quote is the most it can move.
            total = value_of(intent, fx).movable_micros
    # What others count for of it they go on counting for: nothing was collected.
    return Outcome(
        "settle",
        total_micros=total,
        worth_micros=total or 0,
        object_id=object_id,
        covers=quote.covers,
        covers_stay=True,
        note=f"{note}: {object_id} is left open, and counts until it is cancelled",
    )


#: What says that no step of a call was begun.
_NOT_BEGUN = (401, 403, 429)


def _refused_halfway(quote: Quote, reply: Reply, ended: Outcome) -> Outcome:
    """Return what became of a refused call, settled until it is read what a first step of it has left."""
    if not quote.in_steps or ended.kind != "void" or reply.status in _NOT_BEGUN:
        return ended
    total = quote.total_micros
    return Outcome(
        "settle",
        total_micros=total,
        worth_micros=total or 0,
        object_id=quote.object_id,
        covers=quote.covers,
        covers_stay=True,
        definite=ended.definite,
        billed_at=f"/v1/invoices/{quote.object_id}",
        note=f"HTTP {reply.status}: {quote.object_id} may be open now, and counts",
    )


def read_left(quote: Quote, outcome: Outcome, invoice: Body, fx: Mapping[str, Decimal]) -> Outcome | None:
    """Return the outcome of `_refused_halfway` by what the invoice is now, None where that is not known.

    Raises KeyError, TypeError, ValueError.
    """
    if invoice.get("id") != quote.object_id:
        return None
    if invoice["status"] == "draft":
        return Outcome("void", definite=outcome.definite, note="refused, and it is a draft still")
    total = value_of(invoice, fx).movable_micros
    return replace(outcome, total_micros=total, worth_micros=total, billed_at="")


def _leaves_open(quote: Quote, reply: Reply) -> bool:
    """Return whether an error other than a decline names an intent that this call has opened."""
    return quote.object_id is None and refused(reply.status) and bool(_open_intent(reply))


def undo_request(quote: Quote, reply: Reply, headers: Mapping[str, str]) -> Request | None:
    """Return the request that cancels the intent that a declined call has opened, None where it has none.

    What was there before the call is not the call's to cancel.
    """
    intent = _open_intent(reply)
    if reply.status < 400 or not intent or quote.object_id is not None:
        return None
    return Request("POST", f"{API_BASE}/v1/payment_intents/{intent['id']}/cancel", headers)


def is_undone(reply: Reply) -> bool:
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


def shape(error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> Reply:
    """Return a denial as Stripe would answer it; the SDK sends it again only where that may help."""
    refusal = error_reply(error)
    headers = {**refusal.headers, "stripe-should-retry": "true" if refusal.again else "false"}
    kind = "invalid_request_error" if isinstance(error, SpendDenied) else "api_error"
    if refusal.code == "idempotency_mismatch":
        kind = "idempotency_error"
    body = {"error": {"type": kind, "code": refusal.code, "message": refusal.message}}
    return Reply(refusal.status, headers, json.dumps(body).encode())


def read_outcome(quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
    """Read what became of a call; `resent` after an earlier send with an unknown outcome."""
    if not quote.read and (reply.status == 402 or (not resent and _leaves_open(quote, reply))):
        declined = _declined(quote, reply, fx)
        return _as_kept(declined, resent=resent) if _was_kept(reply) else declined
    if ended := unsuccessful(quote, reply):
        return _refused_halfway(quote, reply, _of_its_key(quote, reply, ended))
    kept = _was_kept(reply)
    try:
        outcome = _read_success(quote, reply, kept and not resent, fx)
    except (ValueError, TypeError, KeyError, AttributeError):
        return unbelieved("the reply's amount cannot be read")
    return _as_kept(outcome, resent=resent) if kept else outcome


def _as_kept(outcome: Outcome, *, resent: bool) -> Outcome:
    """Return what became of a call by an answer that Stripe had kept: the object may be another one since."""
    if outcome.kind != "settle":
        return outcome
    said = "Stripe had kept its answer" if resent else "Stripe had executed it before"
    note = f"{outcome.note}; {said}" if outcome.note else said
    return replace(outcome, kept=True, executed_before=not resent, note=note)


def _was_kept(reply: Reply) -> bool:
    """Return whether Stripe has answered with what it had kept under the key."""
    return reply.headers.get("idempotent-replayed") == "true"


def _of_its_key(quote: Quote, reply: Reply, ended: Outcome) -> Outcome:
    """Read from an unsuccessful reply what Stripe knows of the call's idempotency key.

    What it has kept under the key is how the one execution has ended. Where it knows the key with another
    body, something was executed under it that nobody here remembers (a ledger that was restored): that may
    be this very call. (https://docs.stripe.com/api/idempotent_requests)
    """
    if quote.read or ended.kind != "void":
        return ended
    if _was_kept(reply):
        return replace(ended, definite=True)
    error = reply_object(reply).get("error")
    if isinstance(error, dict) and error.get("type") == "idempotency_error":
        why = "Stripe knows its idempotency key with another body, so it may have been made before"
        return Outcome("doubt", note=why, error=why)
    return ended


def _read_success(quote: Quote, reply: Reply, kept: bool, fx: Mapping[str, Decimal]) -> Outcome:
    body = reply_object(reply)
    if not body:
        return unbelieved("the reply is not JSON")
    named = body["id"] if isinstance(body.get("id"), str) else None
    opens = quote.operation.endswith(".create") and not quote.path.endswith("/refund")
    if quote.free:
        return Outcome("settle", total_micros=None, object_id=named)
    if quote.fixed:
        total = quote.total_micros or 0
        # What it acted on goes on counting for what it did: the price is this call's alone.
        return Outcome("settle", total_micros=total, worth_micros=total, object_id=named if opens else None)
    rule = RULES[RULE_OF[quote.operation]]
    if why := _about_another(quote, body, rule.answer):
        return unbelieved(why)
    object_id = quote.object_id or (named if opens else None)
    if quote.firm or _says_no_amount(body):
        total = quote.total_micros or 0
        if body.get("object") == "checkout.session" and not _says_no_amount(body):
            # The customer may choose less, and the session may name more.
            total = max(total, value_of(body, fx).counted_micros)
        outcome = Outcome(
            "settle",
            total_micros=total,
            worth_micros=total,
            object_id=object_id,
            covers=quote.covers,
            covers_stay=quote.covers_stay,
            executed_before=kept,
        )
        if RULE_OF[quote.operation] not in _INVOICED:
            return outcome
        return read_billed(quote, outcome, body, fx) or replace(outcome, billed_at=_billed_at(body))
    if quote.operation == "payouts.reverse" and body.get("original_payout") == quote.object_id:
        return Outcome("settle", only_less=True, object_id=object_id)
    value = value_of(body, fx)
    if quote.minor is not None and quote.object_id is None:
        if body["currency"] != quote.currency:
            return unbelieved("the reply is in another currency than asked")
        if abs(body["amount"]) < quote.minor:
            return unbelieved("the reply names a smaller amount than asked")
    covers = covered_by(body) if body.get("object") == "invoice" and value.counted_micros else ()
    return Outcome(
        "settle",
        total_micros=value.counted_micros,
        worth_micros=value.movable_micros,
        object_id=object_id,
        only_less=quote.only_less,
        only_more=_still_pending(body),
        covers=covers,
        covers_stay=is_first(body),
    )


def _still_pending(body: Mapping[str, Any]) -> bool:
    """Return whether items that the invoice has taken along may be pending again, or become so.

    A draft lets go of them when it is deleted or they are unassigned: their money goes on counting.
    """
    return body.get("object") == "invoice" and (body.get("deleted") is True or body.get("status") == "draft")


def _about_another(quote: Quote, body: Mapping[str, Any], answer: str) -> str:
    """Return why a reply is not about what was asked, "" when it is."""
    object_id = body.get("id")
    if not isinstance(object_id, str):
        return "the reply names no object"
    expected = answer or _ANSWER_OF.get(quote.operation.rpartition(".")[0], "")
    if expected and body.get("object") != expected and not quote.path.endswith("/refund"):
        return f"the reply is no {expected}"
    target = quote.target or ""
    for name in ("charge", "payment_intent"):
        one = body.get(name)
        if (
            expected == "refund"
            and target.startswith(_PREFIX[name])
            and isinstance(one, str)
            and one != target
        ):
            return "the reply is about another object than asked"
    acted_on = quote.target if quote.path.endswith("/refund") else quote.object_id
    if quote.operation == "payouts.reverse" and body.get("original_payout") == quote.object_id:
        return ""
    if quote.operation.endswith(".create") and not quote.path.endswith("/refund"):
        return ""
    if acted_on is not None and object_id != acted_on:
        return "the reply is about another object than asked"
    return ""


#: The rules of what Stripe invoices at once, and answers with something else.
_INVOICED = {"subscriptions", "subscription_items", "schedules", "quotes"}

_PREFIX = {"charge": "ch_", "payment_intent": "pi_"}

#: What the operations of a family answer with.
_ANSWER_OF = {
    "payment_intents": "payment_intent",
    "charges": "charge",
    "refunds": "refund",
    "payouts": "payout",
    "topups": "topup",
    "invoices": "invoice",
    "invoiceitems": "invoiceitem",
    "checkout.sessions": "checkout.session",
}


def _says_no_amount(body: Mapping[str, Any]) -> bool:
    """Return whether a session names no total yet: what was quoted stands."""
    return (
        body.get("object") == "checkout.session"
        and body.get("amount_total") is None
        and (body.get("status") != "expired" and body.get("mode") != "setup")
    )
