"""Stripe: what became of a call, read from the reply's own status and amounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from luigi_spendguard.vendors.bodies import reply_object, unbelieved, unsuccessful
from luigi_spendguard.vendors.calls import Outcome, Quote, Reply
from luigi_spendguard.vendors.stripe_billed import billed, billed_at
from luigi_spendguard.vendors.stripe_declines import declined, left_open, refused_halfway
from luigi_spendguard.vendors.stripe_invoices import covered, is_first
from luigi_spendguard.vendors.stripe_routes import RULE_OF
from luigi_spendguard.vendors.stripe_rules import RULES
from luigi_spendguard.vendors.stripe_worth import worth_of


def outcome(quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
    """Read what became of a call; `resent` after an earlier send with an unknown outcome."""
    if not quote.read and (reply.status == 402 or (not resent and left_open(quote, reply))):
        return declined(quote, reply, fx)
    if ended := unsuccessful(quote, reply):
        return refused_halfway(quote, reply, _of_its_key(quote, reply, ended))
    try:
        return _done(quote, reply, resent, fx)
    except (ValueError, TypeError, KeyError, AttributeError):
        return unbelieved("the reply's amount cannot be read")


def _of_its_key(quote: Quote, reply: Reply, ended: Outcome) -> Outcome:
    """Read from an unsuccessful reply what Stripe knows of the call's idempotency key.

    What it has kept under the key is how the one execution has ended. Where it knows the key with another
    body, something was executed under it that nobody here remembers (a ledger that was restored): that may
    be this very call. (https://docs.stripe.com/api/idempotent_requests)
    """
    if quote.read or ended.kind != "void":
        return ended
    if reply.headers.get("idempotent-replayed") == "true":
        return replace(ended, definite=True)
    error = reply_object(reply).get("error")
    if isinstance(error, dict) and error.get("type") == "idempotency_error":
        why = "Stripe knows its idempotency key with another body, so it may have been made before"
        return Outcome("doubt", note=why, error=why)
    return ended


def _done(quote: Quote, reply: Reply, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
    body = reply_object(reply)
    if not body:
        return unbelieved("the reply is not JSON")
    found = body["id"] if isinstance(body.get("id"), str) else None
    opens = quote.operation.endswith(".create") and not quote.path.endswith("/refund")
    if quote.free:
        return Outcome("settle", total_micros=None, object_id=found)
    if quote.fixed:
        total = quote.total_micros or 0
        # What it acted on goes on counting for what it did: the price is this call's alone.
        return Outcome("settle", total_micros=total, worth_micros=total, object_id=found if opens else None)
    rule = RULES[RULE_OF[quote.operation]]
    if why := _about_another(quote, body, rule.kind):
        return unbelieved(why)
    own = quote.object_id is not None or quote.key_is_callers
    if not resent and own and reply.headers.get("idempotent-replayed") == "true":
        # Another caller's money: this key moved it before, outside this call. (What the vendor has kept under
        # a key that was derived from a call that opens something is that call's own.)
        return Outcome("settle", total_micros=None if quote.object_id else 0,
                       note="the vendor replayed an earlier answer: counted 0")  # fmt: skip
    object_id = quote.object_id or (found if opens else None)
    if quote.firm or _says_no_amount(body):
        total = quote.total_micros or 0
        if body.get("object") == "checkout.session" and not _says_no_amount(body):
            total = max(total, worth_of(body, fx).counts)  # The customer may choose less, and more is said.
        outcome = Outcome("settle", total_micros=total, worth_micros=total, object_id=object_id,
                          covers=quote.covers, covers_stay=quote.covers_stay)  # fmt: skip
        if RULE_OF[quote.operation] not in _INVOICED:
            return outcome
        return billed(quote, outcome, body, fx) or replace(outcome, billed_at=billed_at(body))
    if quote.operation == "payouts.reverse" and body.get("original_payout") == quote.object_id:
        return Outcome("settle", only_less=True, object_id=object_id)
    worth = worth_of(body, fx)
    if quote.minor is not None and quote.object_id is None:
        if body["currency"] != quote.currency:
            return unbelieved("the reply is in another currency than asked")
        if abs(body["amount"]) < quote.minor:
            return unbelieved("the reply names a smaller amount than asked")
    covers = covered(body) if body.get("object") == "invoice" and worth.counts else ()
    return Outcome("settle", total_micros=worth.counts, worth_micros=worth.worth, object_id=object_id,
                   only_less=quote.only_less, only_more=_still_pending(body), covers=covers,
                   covers_stay=is_first(body))  # fmt: skip


def _still_pending(body: Mapping[str, Any]) -> bool:
    """Return whether items that the invoice has taken along may be pending again, or become so.

    A draft lets go of them when it is deleted or they are unassigned: their money goes on counting.
    """
    return body.get("object") == "invoice" and (body.get("deleted") is True or body.get("status") == "draft")


def _about_another(quote: Quote, body: Mapping[str, Any], kind: str) -> str:
    """Return why a reply is not about what was asked, "" when it is."""
    said, found = body.get("object"), body.get("id")
    if not isinstance(found, str):
        return "the reply names no object"
    expected = kind or _KIND_OF.get(quote.operation.rpartition(".")[0], "")
    if expected and said != expected and not quote.path.endswith("/refund"):
        return f"the reply is no {expected}"
    for name in ("charge", "payment_intent"):
        one = body.get(name)
        asked = quote.target or ""
        if expected == "refund" and asked.startswith(_PREFIX[name]) and isinstance(one, str) and one != asked:
            return "the reply is about another object than asked"
    asked_for = quote.target if quote.path.endswith("/refund") else quote.object_id
    if quote.operation == "payouts.reverse" and body.get("original_payout") == quote.object_id:
        return ""
    if quote.operation.endswith(".create") and not quote.path.endswith("/refund"):
        return ""
    if asked_for is not None and found != asked_for:
        return "the reply is about another object than asked"
    return ""


#: The rules of what Stripe invoices at once, and answers with something else.
_INVOICED = {"subscriptions", "subscription_items", "schedules", "quotes"}

_PREFIX = {"charge": "ch_", "payment_intent": "pi_"}

#: What the operations of a family answer with.
_KIND_OF = {
    "payment_intents": "payment_intent", "charges": "charge", "refunds": "refund", "payouts": "payout",
    "topups": "topup", "invoices": "invoice", "invoiceitems": "invoiceitem",
    "checkout.sessions": "checkout.session",
}  # fmt: skip


def _says_no_amount(body: Mapping[str, Any]) -> bool:
    """Return whether a session names no total yet: what was quoted stands."""
    return body.get("object") == "checkout.session" and body.get("amount_total") is None and (
        body.get("status") != "expired" and body.get("mode") != "setup"
    )  # fmt: skip
