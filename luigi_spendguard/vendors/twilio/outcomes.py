"""Twilio: what became of a call, what it has cost in the end, and which of a list a lost reply was about."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any

from luigi_spendguard.money import MICROS_PER_USD, with_fees
from luigi_spendguard.vendors.bodies import digest, reply_object, unbelieved, unsuccessful
from luigi_spendguard.vendors.model import FollowedUp, Outcome, Quote, Reply

#: What is found in a list may have been made so much before it was asked for: both clocks, whole seconds.
SKEW_MS = 5_000
#: The HTTP status with which Twilio answers what has made something.
MADE = 201
#: The most of a list that may be an earlier send.
_MOST = 100
#: A price above it, in any currency, is not believed.
_DEAREST = 1_000_000
#: A trial account's messages begin so.
_TRIAL = "Sent from your Twilio trial account - "
#: States in which nothing was sent and nothing is billed, or the call never began.
_UNBILLED = {"canceled", "busy", "no-answer"}


def read_outcome(quote: Quote, reply: Reply, fx: Mapping[str, Decimal]) -> Outcome:
    """Read what became of a call."""
    if ended := unsuccessful(quote, reply):
        return ended
    body = reply_object(reply)
    if quote.free:
        return Outcome("settle", total_micros=None)
    if not body:
        return unbelieved("the reply is no JSON object")
    if quote.object_id is not None:
        if body.get("sid") != quote.object_id:
            return unbelieved("the reply is about another object than asked")
        total = 0 if body.get("status") == "canceled" else None
        return Outcome("settle", total_micros=total, only_less=True, object_id=quote.object_id)
    if quote.operation not in ("messages.create", "calls.create"):
        return Outcome("settle", total_micros=quote.total_micros)
    sid, to = body.get("sid"), body.get("to")
    if not isinstance(sid, str) or not sid:
        return unbelieved("the reply names no sid")
    if isinstance(to, str) and to.lower() != quote.target:
        return unbelieved("the reply is about another recipient than asked")
    price, quoted = None if _by_channel(body) else price_in(body, fx), quote.total_micros or 0
    total = quoted if price is None else with_fees(price, quote.fees_micros, quoted)
    return Outcome("settle", total_micros=total, worth_micros=quoted, object_id=sid, price_due=price is None)


def read_follow_up(reply: Reply, failed_micros: int, fx: Mapping[str, Decimal]) -> FollowedUp:
    """Read what a message or a call has cost; `failed_micros` for a message that failed."""
    if reply.status == 404:
        return FollowedUp(None, final=True, note="Twilio does not know it any more")
    return read_price(reply_object(reply) if reply.status == 200 else {}, failed_micros, fx)


def read_price(body: Mapping[str, Any], failed_micros: int, fx: Mapping[str, Decimal]) -> FollowedUp:
    """Read what a message or a call has cost from what Twilio shows of it."""
    status = body.get("status")
    if status in _UNBILLED:
        return FollowedUp(0, final=True, note=f"it was {status}")
    if status == "failed":
        is_call = str(body.get("sid", "")).startswith("CA")
        return FollowedUp(0 if is_call else failed_micros, final=True, note="it failed", whole=True)
    price = price_in(body, fx)
    if price is None and _amount(body) is not None:
        unit = str(body.get("price_unit") or "a currency that it does not name")[:40]
        why = f"Twilio's prices are in {unit}, which has no rate in [spendguard_fx]: quotes stand in for them"
        return FollowedUp(None, note=why, problem=why)
    if price is None:
        return FollowedUp(None, note="Twilio names no price yet")
    if _by_channel(body):
        return FollowedUp(None, final=True, note="Twilio's price does not contain what the channel charges")
    return FollowedUp(
        price, final=True, note=f"Twilio's price is {body['price'].lstrip('-')} {body['price_unit']}"
    )


def _by_channel(body: Mapping[str, Any]) -> bool:
    """Return whether a message went by WhatsApp or another channel, whose owner charges on top."""
    return ":" in str(body.get("to")) and not str(body.get("sid")).startswith("CA")


def price_in(body: Mapping[str, Any], fx: Mapping[str, Decimal]) -> int | None:
    """Return the price that a reply names, in micro-dollars rounded up; None for none that can be booked.

    It is a negative text such as "-0.00750" (Twilio's API, Message resource).
    """
    amount, unit = _amount(body), str(body.get("price_unit") or "").lower()
    rate = Decimal(1) if unit == "usd" else fx.get(unit)
    if amount is None or rate is None:
        return None
    return int((amount * rate * MICROS_PER_USD).to_integral_value("ROUND_CEILING"))


def _amount(body: Mapping[str, Any]) -> Decimal | None:
    """Return the price that a reply names, in its own currency; None for none that is to be believed."""
    price = body.get("price")
    try:
        amount = abs(Decimal(price)) if isinstance(price, str) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() and amount <= _DEAREST else None


def find_matches(form: Mapping[str, list[str]], listed: Reply, since_ms: int) -> Mapping[str, Reply]:
    """Return the messages of a list that a request may have made since then, oldest first."""
    page = reply_object(listed)
    objects = page.get("messages")
    matches: dict[str, Reply] = {}
    for one in reversed(objects if isinstance(objects, list) else []):
        if isinstance(one, dict) and _is_match(one, form, since_ms):
            body = json.dumps(one).encode()
            matches[one["sid"]] = Reply(MADE, {"content-type": "application/json"}, body)
    return dict(list(matches.items())[:_MOST])


def _is_match(one: Mapping[str, Any], form: Mapping[str, list[str]], since_ms: int) -> bool:
    try:
        made = moment_of(one)
    except (ValueError, TypeError, OverflowError):
        return False
    sid = one.get("sid")
    if not isinstance(sid, str) or not re.fullmatch(r"\w+", sid):
        return False
    return made >= since_ms - SKEW_MS and mark_of(form) in marks_of(one)


def moment_of(one: Mapping[str, Any], name: str = "date_created") -> int:
    """Return when a message or call was made, in milliseconds since the epoch, or what else `name` says.

    Raises ValueError, TypeError, OverflowError for what is no time.
    """
    return round(parsedate_to_datetime(str(one.get(name))).timestamp() * 1000)


def mark_of(form: Mapping[str, list[str]]) -> str:
    """Return what a message of this request is known by: see `marks_of`."""
    sender, service = (form.get(name, [""])[0] for name in ("From", "MessagingServiceSid"))
    return _mark(form.get("To", [""])[0], sender, service, form.get("Body", [""])[0])


def marks_of(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a listed message is known by, whichever of its sender and service its request has named.

    Nothing for one that nobody has sent, or whose request a list does not show.
    """
    if str(one.get("direction", "")).startswith("inbound") or one.get("num_media") not in (None, "0"):
        return ()
    to, sender, service = (str(one.get(name) or "") for name in ("to", "from", "messaging_service_sid"))
    text = str(one.get("body") or "").removeprefix(_TRIAL)
    named = {(sender, ""), ("", service), (sender, service)} - {("", "")}
    return tuple(sorted({_mark(to, *each, text) for each in named}))


def _mark(to: str, sender: str, service: str, text: str) -> str:
    return digest(to.lower(), sender.lower(), service.lower(), text.strip())[:32]


def relink(reply: Reply, base: str) -> Reply:
    """Return a list's reply whose links to its pages lead to `base`."""
    body = reply_object(reply)
    meta = body.get("meta")
    if not isinstance(meta, dict):
        return reply
    for name, link in meta.items():
        if name.endswith("url") and isinstance(link, str) and link.startswith("https://"):
            meta[name] = f"{base}/{link.removeprefix('https://')}"
    return replace(reply, body=json.dumps(body).encode())
