"""Stripe: which objects a request acts on, and which it is priced by: one at a time acts on one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from luigi_spendguard.vendors.calls import Quote
from luigi_spendguard.vendors.stripe_asked import PAYERS, Body, owners

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
