"""Messages and calls of the Twilio look-alike: they move on with time, and their price comes late."""

from __future__ import annotations

import re
import time
import uuid
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

from tests.support.fake_server import HIDDEN, OBJECTS, OPTIONS, SENT
from tests.support.fake_twilio_paging import (
    E164,
    Form,
    matches,
    missing,
    moment,
    number,
    old_page,
    one,
    problem,
    rfc2822,
)

#: GSM 03.38: the default alphabet without the escape, and what stands behind an escape.
_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_ESCAPED = frozenset("\f^{}\\[~]|€")
#: The sender that a Messaging Service picks.
_POOL = "+15005550006"
_CHANNEL = re.compile(r"(whatsapp:|messenger:|rcs:)?")


def segments(body: str) -> int:
    """Return in how many parts a text travels; no character is cut in two."""
    if all(char in _BASIC or char in _ESCAPED for char in body):
        sizes, single, several = [1 + (char in _ESCAPED) for char in body], 160, 153
    else:
        sizes, single, several = [1 + (ord(char) > 0xFFFF) for char in body], 70, 67
    if sum(sizes) <= single:
        return 1
    parts, room = 1, several
    for size in sizes:
        if size > room:
            parts, room = parts + 1, several
        room -= size
    return parts


def rate(table: dict[str, str], to: str) -> Decimal:
    """Return the price of the longest prefix that fits; "" is the price of the rest."""
    digits = re.sub(r"\D", "", to)
    prefixes = [prefix for prefix in table if digits.startswith(prefix)]
    return Decimal(table[max(prefixes, key=len)] if prefixes else "0.1")


def micros(price: Decimal) -> int:
    return int(abs(price) * 1_000_000)


def note(kind: str, sid: str, amount: Decimal, **more: Any) -> dict[str, Any]:
    """Enter into the books what is billed."""
    entry = {
        "sid": sid,
        "kind": kind,
        "to": None,
        "from": None,
        "body": None,
        "segments": None,
        "micros": micros(amount),
        "time": time.monotonic(),
        **more,
    }
    SENT.append(entry)
    return entry


def _price(thing: dict[str, Any], plan: dict[str, Any]) -> Decimal | None:
    """Return what it costs; OPTIONS["price"] forces that by sid or number."""
    forced = OPTIONS["price"].get(thing["sid"], OPTIONS["price"].get(thing["to"]))
    if forced is not None:
        return abs(Decimal(forced))
    return None if plan["failing"] else plan["price"]


def _settle(thing: dict[str, Any], plan: dict[str, Any], done: float) -> None:
    """Bill it now, and show the price once it is old enough."""
    price = _price(thing, plan)
    plan["entry"]["micros"] = micros(price or Decimal(0))
    if time.time() >= done + OPTIONS["price_delay"]:
        shown = OPTIONS["failed_price"] if price is None else f"{-price:.5f}"
        thing |= {"price": shown, "price_unit": None if shown is None else OPTIONS["price_unit"]}


def advance(thing: dict[str, Any]) -> dict[str, Any]:
    """Let a message or call become what it is by now."""
    plan = HIDDEN.get(thing["sid"])
    if plan is None or thing["status"] == "canceled":
        return thing
    (_advance_call if thing["sid"].startswith("CA") else _advance_message)(thing, plan)
    plan["entry"]["status"] = thing["status"]
    return thing


def advance_all() -> None:
    for thing in OBJECTS.values():
        advance(thing)


def _advance_message(message: dict[str, Any], plan: dict[str, Any]) -> None:
    now, at = time.time(), plan["at"]
    if now < at:
        return
    if plan["failing"]:
        message |= {"status": "failed", "error_code": 30003, "error_message": "Unreachable destination"}
    else:
        status = "delivered" if now >= at + OPTIONS["send_delay"] else "sent"
        message |= {"status": status, "num_segments": str(plan["entry"]["segments"])}
    message |= {"date_sent": rfc2822(at), "date_updated": rfc2822(at), "from": message["from"] or _POOL}
    plan["entry"]["from"] = message["from"]
    _settle(message, plan, at)


def _advance_call(call: dict[str, Any], plan: dict[str, Any]) -> None:
    now, at, end = time.time(), plan["at"], plan["end"]
    if now < at:
        return
    if plan["failing"]:
        call |= {"status": "failed", "duration": "0", "end_time": rfc2822(at)}
        _settle(call, plan, at)
        return
    call |= {"status": "in-progress", "start_time": rfc2822(at)}
    if now < end:
        return
    call |= {"status": "completed", "duration": str(plan["seconds"]), "end_time": rfc2822(end)}
    _settle(call, plan, end)


def _recipient(form: Form, what: str) -> str:
    to = one(form, "To")
    if to is None:
        raise problem(400, 21604 if what == "message" else 21201, "A 'To' phone number is required.")
    if not E164.fullmatch(_CHANNEL.sub("", to, count=1)):
        raise problem(400, 21211, f"Invalid 'To' Phone Number: {to}")
    return to


def _scheduled(form: Form) -> float | None:
    """Return when to send; without a Messaging Service the wish to schedule is ignored, as documented."""
    if one(form, "ScheduleType") is None or one(form, "MessagingServiceSid") is None:
        return None
    at = moment(one(form, "SendAt") or "")
    if at is None or not OPTIONS["schedule_minimum"] <= at - time.time() + 1 <= 35 * 86400 + 1:
        raise problem(400, 35114, "Scheduling does not support this timestamp")
    return at


def messages(method: str, account: str, parts: list[str], form: Form, path: str) -> tuple[int, Any]:
    """Serve /Messages.json and what is below it."""
    own = [m for m in OBJECTS.values() if m["sid"][:2] in ("SM", "MM") and m["account_sid"] == account]
    if not parts:
        if method == "POST":
            return 201, _create_message(account, form)
        found = [message for message in reversed(own) if _wanted(advance(message), form, "DateSent")]
        page = old_page(path, "messages", found, form)
        for _ in range(OPTIONS["arriving"]):
            _arrive(account)
        return 200, page
    message = next((m for m in own if m["sid"] == parts[0]), None)
    if message is None:
        raise missing(path)
    advance(message)
    if parts[1:] == ["Media"] and method == "GET":
        return 200, old_page(path, "media_list", [], form)
    if parts[1:]:
        raise missing(path)
    if method == "DELETE":
        if message["status"] in ("queued", "accepted", "scheduled"):
            raise problem(409, 20009, "Cannot delete this resource before it is complete")
        del OBJECTS[message["sid"]]
        return 204, None
    if method == "POST":
        if one(form, "Status") == "canceled":
            if message["status"] != "scheduled":
                raise problem(409, 30409, "This message cannot be canceled")
            message["status"] = "canceled"
            HIDDEN[message["sid"]]["entry"] |= {"micros": 0, "status": "canceled"}
        elif form.get("Body") == [""]:
            message["body"] = ""
        else:
            raise problem(400, 20001, "Only Body='' and Status=canceled are possible")
    return 200, message


def _wanted(thing: dict[str, Any], form: Form, date: str) -> bool:
    """Return whether a list has a thing; what has not been sent, or not begun, has no date."""
    to, sender, status = one(form, "To"), one(form, "From"), one(form, "Status")
    happened = thing["date_sent"] if "date_sent" in thing else thing["start_time"]
    return (
        (to is None or thing["to"] == to)
        and (sender is None or thing["from"] == sender)
        and (status is None or thing["status"] == status)
        and matches(parsedate_to_datetime(happened).timestamp() if happened else None, form, date)
    )


def _arrive(account: str) -> None:
    """Let somebody send the account a message."""
    made = _create_message(account, {"To": ["+14155550199"], "From": ["+14155550100"], "Body": ["Hello"]})
    SENT.pop()
    del HIDDEN[made["sid"]]
    made |= {"direction": "inbound", "status": "received", "date_sent": rfc2822(time.time())}


def _create_message(account: str, form: Form) -> dict[str, Any]:
    to = _recipient(form, "message")
    service, media, content = (
        one(form, "MessagingServiceSid"),
        form.get("MediaUrl", []),
        one(form, "ContentSid"),
    )
    if service is None and one(form, "From") is None:
        raise problem(400, 21603, "A 'From' phone number is required.")
    body = one(form, "Body") or (OPTIONS["content"].get(content, "Hello") if content else "")
    if not body and not media:
        raise problem(400, 21602, "Message body is required.")
    if len(body) > 1600:
        raise problem(400, 21617, "The concatenated message body exceeds the 1600 character limit")
    planned = _scheduled(form)
    kind = "mms" if media else "sms"
    sid = ("MM" if media else "SM") + uuid.uuid4().hex
    parts = 1 if media else segments(body)
    price = rate(OPTIONS[f"{kind}_price"], to) * parts
    now = time.time()
    uri = f"/2010-04-01/Accounts/{account}/Messages/{sid}"
    message = {
        "account_sid": account,
        "api_version": "2010-04-01",
        "body": body,
        "date_created": rfc2822(now),
        "date_sent": None,
        "date_updated": rfc2822(now),
        "direction": "outbound-api",
        "error_code": None,
        "error_message": None,
        "from": one(form, "From"),
        "messaging_service_sid": service,
        "num_media": str(len(media)),
        "num_segments": "0" if service and not media else str(parts),
        "price": None,
        "price_unit": None,
        "sid": sid,
        "status": "scheduled" if planned else "accepted" if service else "queued",
        "subresource_uris": {"media": f"{uri}/Media.json", "feedback": f"{uri}/Feedback.json"},
        "to": to,
        "uri": f"{uri}.json",
    }
    entry = note(kind, sid, price, to=to, body=body, segments=parts, status=message["status"])
    entry["from"] = message["from"]
    _plan(message, entry, planned or now + OPTIONS["send_delay"], price)
    return message


def _plan(thing: dict[str, Any], entry: dict[str, Any], at: float, price: Decimal, **more: Any) -> None:
    failing = thing["to"] in OPTIONS["failing"]
    plan = {"entry": entry, "at": at, "price": price, "failing": failing, **more}
    OBJECTS[thing["sid"]], HIDDEN[thing["sid"]] = thing, plan
    entry["micros"] = micros(_price(thing, plan) or Decimal(0))


def calls(method: str, account: str, parts: list[str], form: Form, path: str) -> tuple[int, Any]:
    """Serve /Calls.json and /Calls/CA….json."""
    own = [c for c in OBJECTS.values() if c["sid"][:2] == "CA" and c["account_sid"] == account]
    if not parts:
        if method == "POST":
            return 201, _create_call(account, form)
        found = [call for call in reversed(own) if _wanted(advance(call), form, "StartTime")]
        return 200, old_page(path, "calls", found, form)
    call = next((c for c in own if c["sid"] == parts[0]), None)
    if call is None or parts[1:]:
        raise missing(path)
    advance(call)
    plan, wish = HIDDEN[call["sid"]], one(form, "Status")
    if method == "DELETE":
        if call["status"] in ("queued", "in-progress"):
            raise problem(409, 20009, "Cannot delete this resource before it is complete")
        del OBJECTS[call["sid"]]
        return 204, None
    if method == "POST" and call["status"] not in ("queued", "in-progress"):
        raise problem(400, 21220, "Call is not in-progress. Cannot redirect.")
    if method == "POST" and wish in ("canceled", "completed") and call["status"] == "queued":
        call["status"] = "canceled"
        plan["entry"] |= {"micros": 0, "status": "canceled"}
    elif method == "POST" and wish == "completed":
        plan["end"] = time.time()
        plan["seconds"] = max(1, int(plan["end"] - plan["at"]))
        plan["price"] = _call_price(call["to"], plan["seconds"])
        advance(call)
    return 200, call


def _call_price(to: str, seconds: int) -> Decimal:
    """Return the price of every minute that has begun."""
    return rate(OPTIONS["call_price"], to) * -(-seconds // 60)


def _create_call(account: str, form: Form) -> dict[str, Any]:
    to = _recipient(form, "call")
    if one(form, "From") is None:
        raise problem(400, 21213, "A 'From' phone number is required.")
    if not any(one(form, name) for name in ("Url", "Twiml", "ApplicationSid")):
        raise problem(400, 21205, "Url parameter is required.")
    limit = number(form, "TimeLimit", 4 * 3600)
    seconds = min(OPTIONS["call_seconds"], limit)
    now, sid = time.time(), "CA" + uuid.uuid4().hex
    uri = f"/2010-04-01/Accounts/{account}/Calls/{sid}"
    call: dict[str, Any] = dict.fromkeys(
        (
            "answered_by",
            "caller_name",
            "duration",
            "end_time",
            "forwarded_from",
            "group_sid",
            "parent_call_sid",
            "phone_number_sid",
            "price",
            "start_time",
            "trunk_sid",
        )
    )
    call |= {
        "account_sid": account,
        "api_version": "2010-04-01",
        "date_created": rfc2822(now),
        "date_updated": rfc2822(now),
        "direction": "outbound-api",
        "from": one(form, "From"),
        "from_formatted": one(form, "From"),
        "price_unit": "USD",
        "queue_time": "0",
        "sid": sid,
        "status": "queued",
        "subresource_uris": {"recordings": f"{uri}/Recordings.json"},
        "to": to,
        "to_formatted": to,
        "uri": f"{uri}.json",
    }
    price = _call_price(to, seconds)
    entry = note("call", sid, price, to=to, body=one(form, "Twiml") or one(form, "Url"), status="queued")
    entry["from"] = call["from"]
    at = now + OPTIONS["send_delay"]
    _plan(call, entry, at, price, end=at + OPTIONS["call_delay"], seconds=seconds)
    return call
