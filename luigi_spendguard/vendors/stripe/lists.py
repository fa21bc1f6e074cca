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
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from luigi_spendguard.vendors.bodies import reply_object
from luigi_spendguard.vendors.model import Reply
from luigi_spendguard.vendors.stripe.operations import find_operation
from luigi_spendguard.vendors.stripe.request import Body, id_of
from luigi_spendguard.vendors.stripe.tags import tag_in

#: Objects on a page (https://docs.stripe.com/api/pagination).
PAGE = 100
#: Seconds before the first send and behind the last one that are looked through, too.
MARGIN_S = 3600


@dataclass(frozen=True)
class _List:
    """The list that shows all that an operation makes.

    Attributes:
        path: its address; `{id}` is the one that the operation's own address names.
        narrows: what of a request narrows it down, where it says so.
        owner: what narrows it down to that id, where the address does not.
        by_time: whether it takes `created`; else it is short, and read whole.
        more: what else is asked for.
        answer: the part of what is listed that the operation answers with; "": all of it.

    """

    path: str
    narrows: tuple[str, ...] = ()
    owner: str = ""
    by_time: bool = True
    more: tuple[tuple[str, str], ...] = ()
    answer: str = ""


_EVERY_STATE = (("status", "all"),)

#: By the address of the operation. What is made below an object is in the list below that, or in the list of
#: all of its kind, by that.
_LISTS: Mapping[str, _List] = {
    "POST /v1/application_fees/{id}/refunds": _List("/v1/application_fees/{id}/refunds", by_time=False),
    "POST /v1/charges": _List("/v1/charges", ("customer",)),
    "POST /v1/charges/{id}/refund": _List(
        "/v1/refunds", owner="charge", more=(("expand[0]", "data.charge"),), answer="charge"
    ),
    "POST /v1/charges/{id}/refunds": _List("/v1/refunds", owner="charge"),
    "POST /v1/checkout/sessions": _List("/v1/checkout/sessions", ("customer",)),
    "POST /v1/credit_notes": _List("/v1/credit_notes", ("invoice",)),
    "POST /v1/customers": _List("/v1/customers"),
    "POST /v1/customers/{id}/balance_transactions": _List(
        "/v1/customers/{id}/balance_transactions", by_time=False
    ),
    "POST /v1/customers/{id}/subscriptions": _List("/v1/subscriptions", owner="customer", more=_EVERY_STATE),
    "POST /v1/invoiceitems": _List("/v1/invoiceitems", ("customer",)),
    "POST /v1/invoices": _List("/v1/invoices", ("customer",)),
    "POST /v1/payment_intents": _List("/v1/payment_intents", ("customer",)),
    "POST /v1/payouts": _List("/v1/payouts"),
    "POST /v1/refunds": _List("/v1/refunds", ("charge", "payment_intent")),
    "POST /v1/subscription_items": _List("/v1/subscription_items", ("subscription",), by_time=False),
    "POST /v1/subscription_schedules": _List("/v1/subscription_schedules", ("customer",)),
    "POST /v1/subscriptions": _List("/v1/subscriptions", ("customer",), more=_EVERY_STATE),
    "POST /v1/topups": _List("/v1/topups"),
    "POST /v1/transfers": _List("/v1/transfers", ("destination",)),
    "POST /v1/transfers/{id}/reversals": _List("/v1/transfers/{id}/reversals", by_time=False),
}


@dataclass(frozen=True)
class Search:
    """What one call has made, looked for in its list.

    Attributes:
        path: where the call was sent to.
        params: what it was sent with.
        span: when it was sent for the first time, and when the last time was over; milliseconds since the
            epoch.

    """

    path: str
    params: Mapping[str, str]
    span: tuple[int, int]

    @property
    def _bounds(self) -> tuple[int, int]:
        """From when until when that was made, in seconds since the epoch."""
        return self.span[0] // 1000 - MARGIN_S, self.span[1] // 1000 + MARGIN_S

    def _list(self) -> tuple[_List, tuple[str, ...]] | None:
        """Return the list with the ids of the call's address; None: no list shows what it makes."""
        known = find_operation("POST", self.path)
        listed = _LISTS.get(known[0].address) if known is not None else None
        return None if known is None or listed is None else (listed, known[1])

    def page(self, after: str) -> str | None:
        """Return path and query of the page behind the object `after`; None: there is no list."""
        known = self._list()
        if known is None:
            return None
        listed, ids = known
        narrows = [(name, self.params[name]) for name in listed.narrows if self.params.get(name)]
        if not listed.by_time and "{id}" not in listed.path and not narrows:
            return None  # It would be everybody's.
        since, until = self._bounds
        query = [
            *narrows,
            *([(listed.owner, ids[0])] if listed.owner else []),
            *listed.more,
            *([("created[gte]", str(since)), ("created[lte]", str(until))] if listed.by_time else []),
            ("limit", str(PAGE)),
            *([("starting_after", after)] if after else []),
        ]
        path = listed.path.replace("{id}", quote("".join(ids[:1]), safe=""))
        return f"{path}?{urlencode(query)}"

    def read(self, reply: Reply, tag: str) -> tuple[dict[str, Reply], str, int]:
        """Return what of a page has a tag, oldest first: by its id the reply that the call would have got;
        the object behind which the next page begins, "" at the end; and how many objects were looked at.

        Raises ValueError for what is no such page.
        """
        body = reply_object(reply)
        listed, more = body.get("data"), body.get("has_more")
        if reply.status != 200 or not isinstance(listed, list) or not isinstance(more, bool):
            raise ValueError("it is no list")
        own = [*self._own(listed, tag)]
        found = {one["id"]: self._answer(one, reply.headers) for one in reversed(own)}
        last = id_of(listed[-1]) if listed else ""
        if more and not (isinstance(last, str) and last):
            raise ValueError("the next page is not named")
        return found, last if more else "", len(listed)

    def _own(self, listed: list[Any], tag: str) -> Iterator[Body]:
        since, until = self._bounds
        for one in listed:
            if isinstance(one, dict) and isinstance(one.get("id"), str) and tag_in(one) == tag:
                created = one.get("created")
                if not isinstance(created, int) or since <= created <= until:
                    yield one

    def _answer(self, found: Body, headers: Mapping[str, str]) -> Reply:
        """Return the reply that makes an object that is found now: of one that was declined, its decline."""
        known = self._list()
        if known is not None and known[0].answer:
            found = found[known[0].answer]
            if not isinstance(found, dict):
                raise ValueError("what it belongs to is not shown")
        error: dict[str, Any] = {}
        if found.get("object") == "charge" and found.get("status") == "failed":
            error = {
                "code": found.get("failure_code") or "card_declined",
                "message": found.get("failure_message") or "The charge failed.",
                "charge": found["id"],
            }
        declined, waits = found.get("last_payment_error"), found.get("status") == "requires_payment_method"
        if isinstance(declined, dict) and waits and self.params.get("confirm") == "true":
            error = {**declined, "payment_intent": found}
        if not error:
            return Reply(200, headers, json.dumps(found).encode())
        return Reply(402, headers, json.dumps({"error": {"type": "card_error", **error}}).encode())
