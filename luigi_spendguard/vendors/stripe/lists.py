"""Stripe: what a call in doubt has made is found by its tag, in the list of what was made when it was sent.

Stripe forgets a key after 24 hours (https://docs.stripe.com/api/idempotent_requests): sent again the call
would be executed again. A list shows what there is, as it is now; its search does not, for a minute or an
hour, nor at all in India (https://docs.stripe.com/search#data-freshness). What is found there is certain.
What is not found may be there all the same: its metadata may have been changed, the clocks may differ, the
secret may be another account's by now. So nothing is said to be not made because a list does not show it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from luigi_spendguard.vendors.bodies import reply_object
from luigi_spendguard.vendors.model import Quote, Reply
from luigi_spendguard.vendors.stripe.request import Body, id_of
from luigi_spendguard.vendors.stripe.tags import tag_in

#: Objects on a page (https://docs.stripe.com/api/pagination).
PAGE = 100
#: Seconds before the first send and behind the last one that are looked through, too.
MARGIN_S = 3600

#: Which list shows what an operation makes, and what of a request narrows it down.
_LISTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "charges.create": ("/v1/charges", ("customer",)),
    "checkout.sessions.create": ("/v1/checkout/sessions", ("customer",)),
    "credit_notes.create": ("/v1/credit_notes", ("invoice",)),
    "invoiceitems.create": ("/v1/invoiceitems", ("customer",)),
    "invoices.create": ("/v1/invoices", ("customer",)),
    "payment_intents.create": ("/v1/payment_intents", ("customer",)),
    "payouts.create": ("/v1/payouts", ()),
    "refunds.create": ("/v1/refunds", ("charge", "payment_intent")),
    "subscription_schedules.create": ("/v1/subscription_schedules", ("customer",)),
    "subscriptions.create": ("/v1/subscriptions", ("customer",)),
    "topups.create": ("/v1/topups", ()),
    "transfers.create": ("/v1/transfers", ("destination",)),
}


def list_path(
    quote: Quote, params: Mapping[str, str], since_ms: int, until_ms: int, after: str
) -> str | None:
    """Return path and query of a page of what was made in a time (milliseconds since the epoch), behind the
    object `after`; None: no list shows what the operation makes.
    """
    path, narrows = _LISTS.get(quote.operation, ("", ()))
    if quote.path not in (path, f"{path}/"):
        return None
    query = [(name, params[name]) for name in narrows if params.get(name)]
    query += [("status", "all")] if quote.operation == "subscriptions.create" else []
    query += [
        ("created[gte]", str(since_ms // 1000 - MARGIN_S)),
        ("created[lte]", str(until_ms // 1000 + MARGIN_S)),
        ("limit", str(PAGE)),
        *([("starting_after", after)] if after else []),
    ]
    return f"{path}?{urlencode(query)}"


def read_page(reply: Reply, tag: str, params: Mapping[str, str]) -> tuple[dict[str, Reply], str, int]:
    """Return what of a page has a tag, oldest first: by its id the reply that the call would have got; the
    object behind which the next page begins, "" at the end; and how many objects were looked at.

    Raises ValueError for what is no such page.
    """
    body = reply_object(reply)
    listed, more = body.get("data"), body.get("has_more")
    if reply.status != 200 or not isinstance(listed, list) or not isinstance(more, bool):
        raise ValueError("it is no list")
    found = {one["id"]: _answer(one, params, reply.headers) for one in reversed([*_objects(listed, tag)])}
    last = id_of(listed[-1]) if listed else ""
    if more and not (isinstance(last, str) and last):
        raise ValueError("the next page is not named")
    return found, last if more else "", len(listed)


def _objects(listed: list[Any], tag: str) -> Iterator[Body]:
    for one in listed:
        if isinstance(one, dict) and isinstance(one.get("id"), str) and tag_in(one) == tag:
            yield one


def _answer(found: Body, params: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
    """Return the reply that makes an object that is found now: of one that was declined, its decline."""
    error: dict[str, Any] = {}
    if found.get("object") == "charge" and found.get("status") == "failed":
        error = {
            "code": found.get("failure_code") or "card_declined",
            "message": found.get("failure_message") or "The charge failed.",
            "charge": found["id"],
        }
    declined, waits = found.get("last_payment_error"), found.get("status") == "requires_payment_method"
    if isinstance(declined, dict) and waits and params.get("confirm") == "true":
        error = {**declined, "payment_intent": found}
    if not error:
        return Reply(200, headers, json.dumps(found).encode())
    return Reply(402, headers, json.dumps({"error": {"type": "card_error", **error}}).encode())
