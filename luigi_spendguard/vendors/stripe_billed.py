"""Stripe: what a call has billed whose reply names no amount: the invoice that it has made at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from luigi_spendguard.money import to_micros
from luigi_spendguard.vendors.calls import Outcome, Quote
from luigi_spendguard.vendors.stripe_asked import Body
from luigi_spendguard.vendors.stripe_worth import worth_of

_ID = re.compile(r"[A-Za-z0-9_]{1,255}", re.ASCII)

#: Where the invoice stands in what a reply names, and how that is read with it.
_NAMED = (
    ("latest_invoice", "/v1/invoices/{}"),
    ("invoice", "/v1/invoices/{}"),
    ("subscription", "/v1/subscriptions/{}?expand%5B%5D=latest_invoice"),
    ("subscription_schedule", "/v1/subscription_schedules/{}?expand%5B%5D=subscription.latest_invoice"),
)


def billed_at(body: Body) -> str:
    """Return where it is read what a call has billed, by its reply; "" where that names nothing."""
    for name, path in _NAMED:
        named = body.get(name)
        named = named.get("id") if isinstance(named, dict) else named
        if isinstance(named, str) and _ID.fullmatch(named):
            return path.format(named)
    return ""


def billed(quote: Quote, outcome: Outcome, body: Body, fx: Mapping[str, Decimal]) -> Outcome | None:
    """Return the outcome by what was billed, None where `body` does not say it.

    What was quoted and stands on no invoice yet is billed soon (a trial may end the next second): it stays
    counted. Raises KeyError, TypeError, ValueError.
    """
    invoice = _invoice(body)
    if invoice is None:
        return None
    if invoice["id"] == quote.before:
        return replace(outcome, billed_at="")  # It was there already: this call is billed with the next one.
    worth, quoted = worth_of(invoice, fx).worth, quote.total_micros or 0
    subtotal = invoice.get("subtotal")
    whole = isinstance(subtotal, int) and to_micros(max(0, subtotal), invoice["currency"], fx) >= quoted
    total = worth if whole else max(quoted, worth)
    return replace(outcome, total_micros=total, worth_micros=total, billed_at="")


def _invoice(body: Body) -> Mapping[str, Any] | None:
    """Return the invoice that a body is or contains, None where there is none."""
    found: Any = body
    while isinstance(found, dict) and found.get("object") != "invoice":
        found = next((found[name] for name, _ in _NAMED if isinstance(found.get(name), dict)), None)
    return found if isinstance(found, dict) else None
