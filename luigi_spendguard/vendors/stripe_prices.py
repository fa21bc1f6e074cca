"""Stripe: the most that an operation may cost, and what an object counts for.

Amounts are integers of the currency's minor unit (https://docs.stripe.com/currencies).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.money import NoRate, to_micros
from luigi_spendguard.vendors import Quote, Request
from luigi_spendguard.vendors.stripe_forms import body_digest, is_sensitive, parameters, whole

#: Statuses in which a PaymentIntent moves no more than it has.
_FINAL = {"succeeded", "canceled"}

#: Credit for the next invoice, and what began a subscription in older API versions.
_CUSTOMER_MONEY = {"account_balance", "balance", "coupon", "plan", "quantity", "trial_end"}


def priced(quote: Quote, request: Request, fx: Mapping[str, Decimal]) -> Quote:
    """Fill in amount, target and fingerprint of a recognised operation."""
    params = parameters(request)
    kind, _, verb = quote.operation.partition(".")
    sensitive = is_sensitive(params)
    digest = body_digest(request, sensitive)
    if kind in ("customers", "payment_methods"):
        quote = _free(quote, params, digest)
    elif verb == "create":
        quote = _opening(quote, params, fx)
    else:
        quote = _acting(quote, params, fx)
    said = f"{quote.operation}|{quote.target}|{quote.minor}|{quote.currency}"
    if quote.target is None:
        said += f"|{digest}"
    return replace(quote, fingerprint=said[:1000], keep_body=not sensitive)


def _free(quote: Quote, params: Mapping[str, str], digest: str) -> Quote:
    if quote.operation.startswith("customers.") and (found := _CUSTOMER_MONEY & set(params)):
        raise denial("unpriced", f"a customer's `{min(found)}` moves money later and has no price")
    if quote.operation == "customers.create":
        target = params.get("email") or params.get("name") or params.get("phone") or None
        return replace(quote, target=target)
    if quote.object_id is None:
        return quote
    # Sent again as soon as anything in it is new: it costs nothing and changes one object.
    return replace(quote, target=f"{quote.object_id}#{digest[:12]}", object_id=None)


def _opening(quote: Quote, params: Mapping[str, str], fx: Mapping[str, Decimal]) -> Quote:
    minor, currency = whole(params, "amount"), params.get("currency", "").lower()
    if minor is None or not currency:
        raise denial("unpriced", f"{quote.operation} without amount and currency cannot be priced")
    target = params.get("customer") or params.get("payment_method") or params.get("source") or None
    return replace(quote, minor=minor, currency=currency, target=target,
                   total_micros=_micros(minor, currency, fx))  # fmt: skip


def _acting(quote: Quote, params: Mapping[str, str], fx: Mapping[str, Decimal]) -> Quote:
    """Price an operation on an object that exists."""
    verb = quote.operation.partition(".")[2]
    name = {"update": "amount", "capture": "amount_to_capture"}.get(verb)
    if quote.operation == "charges.capture":
        name = "amount"
    quote = replace(quote, target=quote.object_id)
    if verb == "cancel":
        return quote
    if verb == "update" and "currency" in params and "amount" not in params:
        raise denial("unpriced", "an update of `currency` needs `amount` to be priced")
    for odd in ("amount", "amount_to_capture", "amount_to_confirm", "final_capture"):
        if odd in params and odd != name and not (verb == "capture" and odd == "final_capture"):
            raise denial("unpriced", f"{quote.operation} with {odd} has no price")
    minor = whole(params, name) if name else None
    currency = params.get("currency", "").lower()
    if minor is not None and currency:
        return replace(quote, minor=minor, currency=currency,
                       total_micros=_micros(minor, currency, fx))  # fmt: skip
    # An amount without a currency is in the object's own, which has to be looked up.
    return replace(quote, minor=minor, total_micros=None, look_up=minor is not None)


def _micros(minor: int, currency: str, fx: Mapping[str, Decimal]) -> int:
    try:
        return int(to_micros(minor, currency, fx))
    except NoRate as error:
        raise denial("currency", str(error)) from None
    except ValueError as error:
        raise denial("unpriced", str(error)) from None


def counts_for(kind: str, body: Mapping[str, Any], fx: Mapping[str, Decimal]) -> tuple[int, int]:
    """Return (what the object is worth, what it counts for now) in micro-dollars."""
    status, currency = body["status"], body["currency"]
    amount = _minor(body["amount"])
    if kind == "charges":
        final = status == "failed" or body.get("captured") is True
        moved = body.get("amount_captured") if status != "failed" else 0
    else:
        final = status in _FINAL
        moved = body.get("amount_received") or (None if status == "succeeded" else 0)
    # Older API versions and look-alikes do not say what has moved: then it is all of it.
    counts = _minor(moved) if final and moved is not None else amount
    return int(to_micros(counts if final else amount, currency, fx)), int(to_micros(counts, currency, fx))


def _minor(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("an amount must be a whole number")
    return value
