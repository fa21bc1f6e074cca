"""Resend's own books: its list of mails, newest first; it names no prices, and no dates can be asked for.

The mails of broadcasts and automations are no calls' own, and whether a list has them Resend does not say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from email.utils import getaddresses
from typing import Any

from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.bodies import digest, reply_object
from luigi_spendguard.vendors.model import Reply, is_id
from luigi_spendguard.vendors.own_books import Entry, EntryPage, OwnBooks, PageRequest, Reading
from luigi_spendguard.vendors.resend.operations import MOST_PEOPLE, email_price

#: The most lines of a page (https://resend.com/docs/api-reference/pagination).
_SIZE = 100
#: As `2023-04-03 22:13:42.674981+00` or `2023-04-03T22:13:42.674981+00:00` (Resend's description, changelog).
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d)(?::?(\d\d))?)", re.ASCII
)
_ID = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class ResendBooks(OwnBooks):
    """The books of the team whose key the secret is."""

    lists = ("emails",)
    paths = re.compile(r"/emails(?:/[A-Za-z0-9_-]+)?")
    operations = frozenset({"emails.send", "batch.send"})
    # Of 5 for the whole team (https://resend.com/docs/api-reference/rate-limit).
    per_second = 2.0

    def own_account(self, settings: VendorSettings, secret: str) -> str:
        return "resend"

    def first(self, listed: str, reading: Reading) -> PageRequest:
        return PageRequest(listed, "/emails", (("limit", str(_SIZE)),))

    def named(self, object_id: str, reading: Reading) -> PageRequest | None:
        return PageRequest("named", f"/emails/{object_id}") if _ID.fullmatch(object_id) else None

    def read(self, page: PageRequest, reply: Reply, reading: Reading) -> EntryPage:
        body = reply_object(reply)
        if page.listed == "named":
            return EntryPage((_entry(body, reading),))
        lines, more = body["data"], body["has_more"]
        if not isinstance(lines, list) or not isinstance(more, bool):
            raise TypeError("its mails are no list, or whether there are more is not said")
        entries = tuple(_entry(one, reading) for one in lines)
        if not more or _is_past(entries, reading.period.since_ms):
            return EntryPage(entries)
        after = entries[-1].id if entries else ""
        return EntryPage(
            entries, PageRequest(page.listed, page.path, (("limit", str(_SIZE)), ("after", after)))
        )

    def marks_of(self, operation: str, body: str) -> tuple[str, ...]:
        try:
            said = json.loads(body)
            return tuple(map(_mark_of_mail, said if operation == "batch.send" else [said]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return ()


def _is_past(entries: Sequence[Entry], since_ms: int) -> bool:
    """Return whether all that comes behind these is older: they come newest first, and end before the period.

    Of a page in another order nothing is taken: the list is then read to its end.
    """
    times = [entry.at_ms for entry in entries]
    return (
        len(times) > 1
        and times == sorted(times, reverse=True)
        and times[0] > times[-1]
        and times[-1] < since_ms
    )


def _entry(one: Mapping[str, Any], reading: Reading) -> Entry:
    """Return a line. Raises KeyError, TypeError, ValueError for what is none."""
    mail_id, event = one["id"], one.get("last_event")
    if not isinstance(mail_id, str) or not _ID.fullmatch(mail_id) or not is_id(mail_id):
        raise TypeError("a line has no id")
    state = event if isinstance(event, str) else ""
    people = [_people(one.get(name)) for name in ("to", "cc", "bcc")]
    count = sum(map(len, people))
    if not 1 <= count <= MOST_PEOPLE:
        raise ValueError("a mail has no recipients that can be counted")
    canceled = state == "canceled"
    return Entry(
        "emails",
        mail_id,
        "email",
        _read_time(one["created_at"]),
        state,
        objects=(mail_id,),
        micros=0 if canceled else count * email_price(reading.settings),
        target=" ".join(sorted({one for each in people for one in each})),
        final=state != "scheduled",
        estimated=not canceled,
        note="it was canceled" if canceled else f"{count} x email_price",
        marks=(_mark(one.get("from"), one.get("subject"), people),),
    )


def _mark_of_mail(mail: Any) -> str:
    """Return what a mail is known by. Raises KeyError, TypeError, ValueError where that is not said."""
    if "template" in mail or not isinstance(mail["subject"], str):
        raise ValueError("its subject is the template's")
    return _mark(mail["from"], mail["subject"], [_people(mail.get(name)) for name in ("to", "cc", "bcc")])


def _mark(sender: Any, subject: Any, people: Sequence[Sequence[str]]) -> str:
    return digest(_people(sender), str(subject or "").strip(), [sorted(each) for each in people])[:32]


def _people(value: Any) -> list[str]:
    """Return the addresses of a field, which is one, a list or nothing. Raises TypeError."""
    listed = [value] if isinstance(value, str) else value or []
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise TypeError("an address is no text")
    return [address.lower() or "?" for _, address in getaddresses(listed)]


def _read_time(text: Any) -> int:
    """Return a moment in milliseconds since the epoch. Raises TypeError, ValueError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("a mail's created_at is no time")
    day, clock, part, sign, hours, minutes = match.groups()
    at = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=timezone.utc)
    away = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    at -= -away if sign == "-" else away
    return int(at.timestamp()) * 1000 + int((part or "0").ljust(3, "0")[:3])
