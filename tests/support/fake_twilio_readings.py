"""A Twilio that takes each form for whatever is worst of what several servers read; its books are in cents.

    python -m tests.support.fake_twilio_readings --port-file FILE

Beside the servers of `readings` there is one that reads names whatever their letters and signs, and takes
the first or the last of them. Prices are those of `PRICES`; it shares no code with luigi_spendguard.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from tests.support.fake_readings import Vendor, bodies, main
from tests.support.fake_twilio_traffic import segments
from tests.support.readings import Nested, java, number_of, value_of

_NAMES = (
    "To",
    "From",
    "Body",
    "MediaUrl",
    "ContentSid",
    "MessagingServiceSid",
    "SendAsMms",
    "ShortenUrls",
    "SendAt",
    "ScheduleType",
    "TimeLimit",
    "Twiml",
    "Url",
    "FallbackUrl",
    "ApplicationSid",
    "Record",
    "MachineDetection",
    "Channel",
    "CustomMessage",
    "CustomFriendlyName",
    "TemplateSid",
    "Fields",
    "Status",
    "EmergencyEnabled",
    "FallbackFrom",
)
_KNOWN = {name.lower(): name for name in _NAMES}
#: In cents: a segment, a message with media, a minute, at home and elsewhere; the rest wherever it is.
SMS, MMS, MINUTE = (1, 50), (3, 50), (2, 90)
CHANNEL, SCHEDULED, VERIFIED, TEMPLATE = 7, 2, 5, 25
FIELDS = {"line_type_intelligence": 1, "caller_name": 2}
#: What an address for emergency calls costs, or a field that has no price.
DEAR = 100


def loosely(text: str) -> Iterator[Nested]:
    """Yield what is read where neither letters nor signs of a name count: its first, or its last."""
    for pairs in (text, "&".join(re.split("[&;]", text)[::-1])):
        found: Nested = {}
        for name, value in java(pairs.replace(";", "&")).items():
            plain = re.sub("[^a-z]", "", name.replace("\u0131", "i").partition("\0")[0].lower())
            found.setdefault(_KNOWN.get(plain, name), value)
        yield found


def _said(params: Nested, name: str) -> str:
    return value_of(params.get(name, ""))


def _true(params: Nested, name: str) -> bool:
    return _said(params, name).lower() not in ("", "false")


def _rate(prices: tuple[int, int], to: str) -> int:
    return prices[0] if to.lstrip("+ ").startswith("1") else prices[1]


def message(params: Nested) -> float:
    """Return what a message costs."""
    to, text = _said(params, "To"), _said(params, "Body")
    later = SCHEDULED * any(_true(params, name) for name in ("SendAt", "ScheduleType", "ShortenUrls"))
    if "FallbackFrom" in params or ":" in to:
        return CHANNEL + later
    count = segments(text)
    if "ContentSid" in params:
        count = max(count, TEMPLATE)
    cost = _rate(SMS, to) * count
    if _true(params, "MediaUrl") or _true(params, "SendAsMms"):
        cost = max(_rate(MMS, to), cost)
    return (cost + later) * bool(to)


def call(params: Nested) -> float:
    """Return what a call costs that lasts as long as it may."""
    to, text = _said(params, "To"), _said(params, "Twiml")
    minutes = -(-(number_of(params.get("TimeLimit")) or 14_400) // 60)
    each = _rate(MINUTE, to)
    if "Dial" in text or any(_true(params, name) for name in ("Url", "FallbackUrl", "ApplicationSid")):
        each += MINUTE[1]
    extras = minutes * 0.25 * _true(params, "Record")
    extras += 0.75 * (_said(params, "MachineDetection").lower() not in ("", "none"))
    return (minutes * each + extras) * bool(to)


def verification(params: Nested) -> float:
    """Return what a verification costs that succeeds."""
    to, channel = _said(params, "To"), _said(params, "Channel").lower()
    if channel == "call":
        return VERIFIED + _rate(MINUTE, to)
    if channel == "whatsapp":
        return VERIFIED + CHANNEL
    own = TEMPLATE if "TemplateSid" in params else 1
    text = _said(params, "CustomMessage") + _said(params, "CustomFriendlyName")
    return (VERIFIED + _rate(SMS, to) * max(own, segments(text))) * bool(to)


class Twilio(Vendor):
    """/<host>/<path>."""

    def prepare(self) -> None:
        """Read the path as leniently as there is."""
        path = re.sub(r"(\.(json|xml|csv|html))+$", "", unquote(self.request.path).lower().rstrip("/"))
        self.parts = [part for part in path.split("/") if part]

    def read(self, kind: str) -> Iterator[Nested]:
        yield from super().read(kind)
        for body, said in bodies(kind, self.request.body):
            for text in (
                "&".join(filter(None, both))
                for both in ((self.request.query, body), (body, self.request.query))
            ):
                for found in loosely(text):
                    yield found | (said or {})

    def moved(self, method: str, params: Nested) -> float:
        host, last = self.parts[0].partition(".")[0], self.parts[-1]
        if host == "lookups":
            wanted = {one.strip() for one in _said(params, "Fields").split(",")} - {"", "validation"}
            return float(sum(FIELDS.get(one, DEAR) for one in wanted))
        if method != "POST":
            return 0
        if last in ("messages", "calls"):
            return message(params) if last == "messages" else call(params)
        if host == "verify":
            return verification(params) if last == "verifications" else 0
        if self.parts[-2] == "calls" and any(_true(params, name) for name in ("Url", "Twiml")):
            return call(params | {"To": "+2"})
        if self.parts[-2] == "messages" and _true(params, "Body"):
            return DEAR
        return DEAR * _true(params, "EmergencyEnabled")

    def whom(self, params: Nested) -> str:
        return self.parts[-1] if self.parts[0].startswith("lookups") else _said(params, "To")

    def answer(self) -> dict[str, Any]:
        sid = self.parts[-1]
        if re.fullmatch("(sm|ca)1{32}", sid):
            return {"sid": sid[:2].upper() + sid[2:], "status": "completed"}
        begin = {"messages": "SM", "calls": "CA"}.get(sid, "XX")
        return {"sid": begin + uuid.uuid4().hex, "status": "queued", "price": None, "price_unit": "USD"}


if __name__ == "__main__":
    main(Twilio)
