"""Twilio's own books: its lists of messages and calls, by when they were sent or began, newest first.

What was not sent yet, or never, has no such date and is in neither list: what calls have opened is read one
by one where no list has it. Prices come later, and what they contain is `outcomes.read_price`'s to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from luigi_spendguard.errors import BooksUnread, SpendDenied
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.bodies import read_fields, reply_object
from luigi_spendguard.vendors.model import Reply, is_id
from luigi_spendguard.vendors.own_books import CAME_IN, Entry, EntryPage, OwnBooks, PageRequest, Reading
from luigi_spendguard.vendors.twilio import prices
from luigi_spendguard.vendors.twilio.operations import RULED, lists_of
from luigi_spendguard.vendors.twilio.outcomes import mark_of, marks_of, moment_of, price_in, read_price
from luigi_spendguard.vendors.twilio.quotes import is_text

_ACCOUNT = r"/api\.twilio\.com/2010-04-01/Accounts/AC[0-9a-fA-F]{32}"
#: By which date a list is asked for, and how many lines a page has: one of messages at their longest, in
#: signs that JSON escapes, is not too long to be read.
_LISTS = {"messages": ("Messages", "DateSent", 300), "calls": ("Calls", "StartTime", 1000)}
#: Twilio's price may come so many milliseconds after a message was delivered, or a call has ended:
#: https://support.twilio.com/hc/en-us/articles/46871410243099 (messages: up to 24 hours, in rare cases).
PRICE_MS = 24 * 3_600_000
#: A message may be scheduled for so long (https://www.twilio.com/docs/api/errors/35115).
_SCHEDULED_MS = 35 * 24 * 3_600_000
#: What of a link to the next page is taken: what is asked for stays as it was asked for.
_PAGING = ("Page", "PageToken")


class TwilioBooks(OwnBooks):
    """The books of the account that luigi.cfg names; sub-accounts have books of their own."""

    lists = tuple(_LISTS)
    paths = re.compile(rf"{_ACCOUNT}/(?:Messages|Calls)(?:/(?:SM|MM|CA)[0-9a-fA-F]{{32}})?\.json")
    operations = frozenset({"messages.create"})
    shown = ("SM", "MM", "CA")
    per_second = 8.0

    def own_account(self, settings: VendorSettings, secret: str) -> str:
        if not settings.own.get("account_sid"):
            raise BooksUnread(
                "whose books are to be read is not known: set [spendguard_twilio] account_sid, or "
                "TWILIO_ACCOUNT_SID in the environment"
            )
        return f"twilio:{settings.own['account_sid']}"

    def first(self, listed: str, reading: Reading) -> PageRequest:
        name, date, size = _LISTS[listed]
        # Of the last day all is asked for, whichever part of it counts.
        query = (
            (f"{date}>", f"{_moment(reading.period.since_ms):%Y-%m-%dT%H:%M:%SZ}"),
            (f"{date}<", f"{_moment(reading.period.until_ms) + timedelta(days=1):%Y-%m-%d}"),
            ("PageSize", str(size)),
        )
        return PageRequest(listed, f"{_root(reading)}/{name}.json", query)

    def named(self, object_id: str, reading: Reading) -> PageRequest | None:
        if not re.fullmatch("(SM|MM|CA)[0-9a-fA-F]{32}", object_id):
            return None
        kind = "Calls" if object_id.startswith("CA") else "Messages"
        return PageRequest("named", f"{_root(reading)}/{kind}/{object_id}.json")

    def read(self, page: PageRequest, reply: Reply, reading: Reading) -> EntryPage:
        body = reply_object(reply)
        if page.listed == "named":
            return EntryPage((_entry("calls" if "/Calls/" in page.path else "messages", body, reading),))
        lines, link = body[page.listed], body["next_page_uri"]
        if not isinstance(lines, list):
            raise TypeError(f"its {page.listed} are no list")
        entries = tuple(_entry(page.listed, one, reading) for one in lines)
        return EntryPage(entries, None if link is None else _next(page, link))

    def marks_of(self, operation: str, body: str) -> tuple[str, ...]:
        if operation != "messages.create":
            return ()
        try:
            form = read_fields(body, lists_of(RULED["message"]))
        except SpendDenied:
            return ()
        return (mark_of(form),) if is_text(form) else ()


def _root(reading: Reading) -> str:
    return f"/api.twilio.com/2010-04-01/Accounts/{reading.account.removeprefix('twilio:')}"


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, timezone.utc)


def _next(page: PageRequest, link: Any) -> PageRequest:
    """Return the request for the page that a link names. Raises ValueError for one that leads elsewhere."""
    if not isinstance(link, str):
        raise TypeError("its link to the next page is no text")
    parts = urlsplit(link)
    if parts.netloc or f"/api.twilio.com{parts.path}" != page.path:
        raise ValueError("its link to the next page leads to another list")
    said = dict(parse_qsl(parts.query))
    if not said.get("PageToken"):
        raise ValueError("its link to the next page names none")
    kept = tuple(one for one in page.query if one[0] not in _PAGING)
    return PageRequest(
        page.listed, page.path, kept + tuple((name, said[name]) for name in _PAGING if name in said)
    )


def _entry(listed: str, one: Mapping[str, Any], reading: Reading) -> Entry:
    """Return a line. Raises KeyError, TypeError, ValueError for what is none."""
    sid, status = one["sid"], one["status"]
    if not isinstance(sid, str) or not is_id(sid) or not isinstance(status, str):
        raise TypeError("a line has no sid or no status")
    if f"twilio:{one['account_sid']}" != reading.account:
        raise ValueError("a line is of another account")
    price = read_price(one, prices.price_setting(reading.settings, "failed_price"), reading.fx)
    # What its channel takes is in no price of Twilio's.
    estimated = price.final and price.total_micros is None
    ordered, date = moment_of(one), "date_sent" if listed == "messages" else "start_time"
    parent = one.get("parent_call_sid")
    parents = (parent,) if isinstance(parent, str) and is_id(parent) and parent else ()
    return Entry(
        listed,
        sid,
        _kind(listed, one),
        moment_of(one, date) if one.get(date) else ordered,
        status,
        objects=(*parents, sid),  # What a call dials is quoted, and billed, with it.
        currency=str(one.get("price_unit") or "").lower() if one.get("price") else "",
        micros=price_in(one, reading.fx) if estimated else price.total_micros,
        target=str(one.get("to") or "").lower(),
        final=price.final,
        whole=price.whole,
        estimated=estimated,
        note=price.note,
        price_by_ms=_price_by(one, ordered),
        marks=marks_of(one) if listed == "messages" else (),
        ordered_ms=ordered,
    )


def _price_by(one: Mapping[str, Any], ordered_ms: int) -> int:
    """Return until when Twilio may still name a price, in milliseconds since the epoch."""
    ended = next(
        (moment_of(one, name) for name in ("end_time", "date_sent", "start_time") if one.get(name)), None
    )
    if ended is None:
        ended = ordered_ms + (_SCHEDULED_MS if one["status"] == "scheduled" else 0)
    return ended + PRICE_MS


def _kind(listed: str, one: Mapping[str, Any]) -> str:
    """Return what a line is: an order of the API's, or what came in, or what came of another one."""
    direction = str(one.get("direction") or "")
    kind = "message" if listed == "messages" else "call"
    if direction.startswith("inbound"):
        return f"{kind}{CAME_IN}"
    if direction in ("outbound-reply", "outbound-call"):
        return f"{kind} by TwiML"
    return f"{kind} dialled by TwiML" if direction == "outbound-dial" else kind
