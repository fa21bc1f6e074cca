"""A call in doubt that nobody makes again: what the vendor shows of it ends it, as its reply would have."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.guard.effects import Effect
from luigi_spendguard.guard.lookups import LookedUp, LookUps
from luigi_spendguard.guard.messages import end_request
from luigi_spendguard.protocol import EndRequest, ReserveReply
from luigi_spendguard.redaction import is_in
from luigi_spendguard.vendors import Request


class Unlike(Exception):
    """What is found cannot be believed, or is not what the call was; the message says why."""


def ends_of(
    look_ups: LookUps, secret: str, call: Mapping[str, Any], search: ReserveReply
) -> Generator[Effect, Any, Mapping[str, EndRequest]]:
    """Return how a call has ended by each object that has its tag, by that one's id.

    `call` is its row. Raises Unlike; SpendDenied where nothing has its tag, or not all can be seen; NotNow,
    NotSent where the vendor does not answer now.
    """
    vendor, own = look_ups.vendor, look_ups.settings
    headers = {**search.headers, **(vendor.books.headers(call["account"]) if vendor.books else {})}
    request = Request(call["method"], vendor.url(call["path"]), headers, search.body.encode("utf-8"))
    try:
        quote = vendor.quote(request, own, secret, look_ups.fx)
        if quote.look_up:
            quote = yield from look_ups.priced(quote, request, LookedUp())
    except SpendDenied as denied:
        if search.body:
            raise
        raise Unlike(f"what was sent is not kept ({denied.message})") from None
    if (quote.account, quote.operation) != (call["account"], call["operation"]):
        raise Unlike(f"it would be {quote.operation} in {quote.account} now")
    if quote.firm:  # Prices may have changed since: this is what was reserved for it.
        quote = replace(quote, total_micros=call["asked_micros"])
    found = yield from look_ups.executed(quote, search, request)
    ends = {}
    for object_id, reply in found.items():
        outcome = vendor.outcome(quote, reply, resent=True, fx=look_ups.fx)
        if is_in(reply.body, secret):
            raise Unlike(f"{object_id} shows the vendor's secret")
        if outcome.kind == "doubt" or outcome.object_id not in (None, object_id):
            raise Unlike(f"{object_id} is not what it has made: {outcome.note or outcome.object_id}")
        ends[object_id] = end_request(vendor, quote, search, reply, outcome, leaked=False)
    return ends
