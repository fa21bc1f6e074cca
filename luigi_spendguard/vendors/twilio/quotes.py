"""Twilio: the most that a message, a call, a verification or a lookup can cost.

What a request says that is in no list (parameters.txt) could cost more, and is unpriced.

Twilio: how many segments a text is billed as.

GSM-7: 160 septets, 153 each of several; else UCS-2: 70 UTF-16 units, 67 each of several. What takes two
(an extension character, a surrogate pair) never straddles two parts
(https://www.twilio.com/docs/glossary/what-sms-character-limit, 2025-12-09; the same counts come from
Twilio's own sms-segments-calculator 1.3.0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.settings.schema import VendorSettings
from luigi_spendguard.vendors import bodies
from luigi_spendguard.vendors.bodies import digest
from luigi_spendguard.vendors.model import Row
from luigi_spendguard.vendors.twilio.operations import LISTED, RULED
from luigi_spendguard.vendors.twilio.prices import (
    CALL_TIME_LIMIT_S,
    DETECTION_PRICE,
    RECORDING_PRICE,
    by_number,
    given,
)

#: The longest text that Twilio takes (error 21617), read here as UTF-16 units, and the segments that it may
#: come to: 800 surrogate pairs, 33 to a part.
MAX_UNITS, MAX_SEGMENTS = 1600, 25
#: What they may come to where each sign is replaced by three, or sent as RCS in three bytes of 160.
MAX_GROWN = 32

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")

#: What smart encoding writes with more characters than it replaces
#: (https://www.twilio.com/docs/messaging/services/smart-encoding-char-list).
_LONGER = {"\t": 7, "…": 3, "¼": 3, "½": 3, "¾": 3}
#: Any other character outside GSM-7 is replaced by at most two: two spaces, or one of the extension's.
_REPLACED = 2


def segments(text: str, *, smart: bool = False) -> int:
    """Return the segments of a text; with `smart` encoding, which Twilio may apply, the most it can come to.

    Smart encoding replaces what looks like GSM-7, and where one character stays the whole is UCS-2.
    """
    if smart:
        longest = max(_parts(text, _smart_septets, 160, 153), _parts(text, _smart_units, 70, 67))
        return max(segments(text), longest if not _is_gsm7(text) else 1)
    if _is_gsm7(text):
        return _parts(text, _septets, 160, 153)
    return _parts(text, _units, 70, 67)


def units(text: str) -> int:
    """Return the length of a text in UTF-16 units."""
    return sum(_units(char) for char in text)


def _is_gsm7(text: str) -> bool:
    return all(char in _BASIC or char in _EXTENSION for char in text)


def _septets(char: str) -> int:
    return 2 if char in _EXTENSION else 1


def _units(char: str) -> int:
    return 2 if ord(char) > 0xFFFF else 1


def _smart_septets(char: str) -> int:
    return _septets(char) if _is_gsm7(char) else _LONGER.get(char, _REPLACED)


def _smart_units(char: str) -> int:
    return 1 if _is_gsm7(char) else _LONGER.get(char, _REPLACED)


def _parts(text: Iterable[str], cost: Callable[[str], int], alone: int, each: int) -> int:
    costs = [cost(char) for char in text]
    if sum(costs) <= alone:
        return 1
    parts, used = 1, 0
    for one in costs:
        if used + one > each:
            parts, used = parts + 1, 0
        used += one
    return parts


Form = Mapping[str, list[str]]

_LATE = (
    "as quoted; corrected to Twilio's price, and the fees that it may lack, once it is there: 0 when canceled"
)
TABLE = (
    Row(
        "messages.create",
        "SMS: segments times (`sms_prices` + `sms_fees`) of the longest prefix, `*` for unknown ones; "
        "`scheduling_price` on top where it is scheduled or its links are shortened",
        f"{_LATE}, `failed_price` when failed",
        f"a number that is not E.164, more than {MAX_UNITS:,} characters, unknown parameters",
    ),
    Row(
        "messages.create",
        "MMS: `mms_prices` + `mms_fees`, or its text with a link as an SMS where that is dearer",
        "as an SMS",
        "as an SMS",
    ),
    Row(
        "messages.create",
        f"content template: {MAX_SEGMENTS} segments, {MAX_GROWN} where it may be encoded otherwise, or an "
        "MMS where that is dearer",
        "as an SMS",
        "as an SMS",
    ),
    Row(
        "messages.create",
        "other channels (`whatsapp:+1…`): `channel_prices`, RCS for every 160 bytes",
        "as quoted, 0 when canceled, `failed_price` when failed",
        "a channel without a price, a channel in `From` alone",
    ),
    Row("messages.update", "nothing", "cancelling gives back, redacting changes nothing", "anything else"),
    Row(
        "calls.create",
        "minutes up to `TimeLimit` (else `call_time_limit_s`, which is then sent) times `call_prices`, for "
        "`call_legs` parties; recording and machine detection on top",
        f"{_LATE}, busy, failed or not answered",
        "a destination without a price; TwiML that could dial where `call_legs` is not set, at a URL "
        "(`FallbackUrl`, too) always",
    ),
    Row("calls.update", "nothing", "cancelling gives back, completing changes nothing", "anything else"),
    Row(
        "verify.services.verifications.create",
        f"`verify_price`, two segments ({MAX_SEGMENTS} with a text or template of its own) and a Lookup, or "
        "a minute; on WhatsApp the dearer of `channel_prices` and a text",
        "as quoted",
        "channels other than `sms`, `call` and, priced, `whatsapp`",
    ),
    Row(
        "verify.services.verification_check.create",
        "nothing: its success was counted with the verification",
        "nothing",
    ),
    Row(
        "lookups.phone_numbers.fetch",
        "the sum of `lookup_prices` of its `Fields`; nothing without any",
        "as quoted",
        "fields without a price, unknown parameters",
    ),
)

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
#: What says of a message (Twilio's API, 2010-04-01) what is sent and to whom, and of a call whom it rings.
_SAID = (
    "To",
    "From",
    "MessagingServiceSid",
    "Body",
    "MediaUrl",
    "ContentSid",
    "ContentVariables",
    "SendAt",
    "PersistentAction",
)
_RUNG = ("To", "From", "Url", "Twiml", "ApplicationSid", "SendDigits")
#: How TwiML may begin: in another character set it would say something else.
_DECLARATION = re.compile(
    r"""\s*<\?xml version=["']1\.0["']( encoding=["']utf-8["'])?\s*\?>""", re.IGNORECASE
)
#: TwiML that rings nobody and starts nothing that is billed apart (https://www.twilio.com/docs/voice/twiml).
_QUIET = {
    "Response",
    "Say",
    "Play",
    "Pause",
    "Hangup",
    "Reject",
    "break",
    "emphasis",
    "p",
    "phoneme",
    "prosody",
    "s",
    "say-as",
    "sub",
    "w",
    "lang",
}
#: Of all voices of `<Say>`, those that cost nothing.
_VOICES = {"man", "woman", "alice"}
#: What makes a verification's text longer than a code and a short name.
_OWN_TEXT = ("CustomMessage", "TemplateSid", "TemplateCustomSubstitutions", "Payee")
#: A link that Twilio puts into a text, and the bytes of a segment of RCS.
_LINK, _RCS_BYTES = "x" * 100, 160


@dataclass(frozen=True)
class Priced:
    """A quote's money: micro-dollars in all, what of it no price of Twilio's contains; target and content."""

    total: int
    target: str
    said: str
    fees: int = 0


def is_text(form: Form) -> bool:
    """Return whether a message says no more than Twilio's list of messages shows again."""
    said = {name for name in _SAID if name in form}
    return "Body" in said and said <= {"To", "From", "MessagingServiceSid", "Body"}


def message(form: Form, settings: VendorSettings) -> Priced:
    """Quote a message. Raises SpendDenied (`unpriced`)."""
    to, text = _one(form, "To"), _one(form, "Body")
    if units(text) > MAX_UNITS:
        raise _unpriced(f"a message has at most {MAX_UNITS} characters")
    later = bool(form.get("ScheduleType") or form.get("SendAt") or _is_true(form, "ShortenUrls"))
    fees = int(given(settings, "scheduling_price")) if later else 0
    service = "MessagingServiceSid" in form or _one(form, "From").startswith("MG")
    if _is_true(form, "ShortenUrls"):  # The domain of the shortened ones is not known here.
        text += _LINK * text.lower().count("://")
    channel, colon, _ = to.partition(":")
    if colon:
        total = given(settings, "channel_prices").get(channel.lower())
        if total is None:
            raise _unpriced(f"a message by {channel[:20]} has no price: set channel_prices")
        if channel.lower() == "rcs":
            total *= MAX_GROWN if "ContentSid" in form else max(_rcs(text), 1)
        return Priced(total + fees, to.lower(), digest(*(form.get(name) for name in _SAID)), fees)
    if ":" in _one(form, "From"):
        raise _unpriced("a message from a channel to a number may go out by that channel: name it in To")
    number = _number(to, "a message")
    smart = _is_true(form, "SmartEncoded") or service
    count = segments(text, smart=smart)
    if "ContentSid" in form:  # Its text is at Twilio, but for what the request fills in.
        filled = segments(_one(form, "ContentVariables"), smart=smart)
        count = max(MAX_GROWN if smart else MAX_SEGMENTS, filled)
    elif service:  # It may send RCS first.
        count = max(count, _rcs(text))
    price, carriers = _price(settings, "sms_prices", number), _fee(settings, "sms_fees", number)
    total, fee = count * price, count * carriers
    if form.get("MediaUrl") or _is_true(form, "SendAsMms") or "ContentSid" in form:
        # Where there is no MMS, Twilio may send the text with a link to the media.
        media = _price(settings, "mms_prices", number), _fee(settings, "mms_fees", number)
        links = count if "ContentSid" in form else max(count, segments(text + _LINK, smart=smart))
        total, fee = max((links * price, links * carriers), media, key=sum)
    return Priced(total + fee + fees, number, digest(*(form.get(name) for name in _SAID)), fee + fees)


def call(form: Form, settings: VendorSettings) -> Priced:
    """Quote a call: whole minutes up to its time limit, for each leg. Raises SpendDenied (`unpriced`)."""
    to = _one(form, "To")
    minutes = -(-time_limit(form, settings) // 60)
    legs = _legs(form, settings)
    table = given(settings, "call_prices")
    scheme = to.partition(":")[0].lower() if ":" in to else ""
    if scheme in ("sip", "client"):
        price = table.get(scheme)
    else:
        price = None if scheme else by_number(table, _number(to, "a call"), rings=True)
    if price is None:
        raise _unpriced(f"a call to {(scheme or to)[:40]} has no price: set call_prices")
    further = (legs - 1) * max(table.values())
    extras = DETECTION_PRICE if form.get("MachineDetection", ["none"]) != ["none"] else 0
    extras += minutes * RECORDING_PRICE * legs if _is_true(form, "Record") else 0
    said = digest(*(form.get(name) for name in _RUNG))
    return Priced(minutes * (price + further) + extras, to.lower(), said, minutes * further + extras)


def time_limit(form: Form, settings: VendorSettings) -> int:
    """Return a call's longest duration in seconds. Raises SpendDenied (`unpriced`)."""
    text = _one(form, "TimeLimit")
    if not text:
        return int(settings.own.get("call_time_limit_s", CALL_TIME_LIMIT_S))
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 0 < int(text) <= 86_400:
        raise _unpriced("TimeLimit must be a number of seconds from 1 to 86400")
    return int(text)


def _legs(form: Form, settings: VendorSettings) -> int:
    """Return how many parties a call may ring."""
    allowed = settings.own.get("call_legs")
    if allowed is not None:
        return int(allowed)
    text = _one(form, "Twiml")
    if not text or {"Url", "FallbackUrl", "ApplicationSid"} & set(form):
        raise _unpriced("what the TwiML at a URL dials is not known: set call_legs, or pass Twiml")
    text = _DECLARATION.sub("", text, count=1)
    try:
        if "<!" in text or "<?" in text:
            raise ElementTree.ParseError  # No entities, no other character set.
        elements = list(ElementTree.fromstring(text).iter())  # noqa: S314  # no entities, see above
    except (ElementTree.ParseError, ValueError):
        raise _unpriced("Twiml is no XML that can be read") from None
    loud = {one.tag for one in elements} - _QUIET
    loud |= {"Say voice"} if any(one.get("voice", "alice") not in _VOICES for one in elements) else set()
    if loud:
        raise _unpriced(f"Twiml with <{min(loud)[:40]}> may cost more than the call: set call_legs")
    return 1


def verification(form: Form, settings: VendorSettings) -> Priced:
    """Quote a verification: its success, its message or call, and a lookup. Raises SpendDenied."""
    to, channel = _one(form, "To"), _one(form, "Channel")
    total = int(given(settings, "verify_price"))
    own = any(name in form for name in _OWN_TEXT) or len(_one(form, "CustomFriendlyName")) > 32
    if channel == "sms":
        total += _code(to, settings, own_text=own)
    elif channel == "call":
        total += _price(settings, "call_prices", _number(to, "a verification"))
    elif channel == "whatsapp" and channel in given(settings, "channel_prices"):
        # A number without WhatsApp may get the text.
        total += max(given(settings, "channel_prices")[channel], _code(to, settings, own_text=own))
    else:
        raise _unpriced(f"a verification by {channel[:20] or 'no channel'} has no price")
    return Priced(total, f"{channel}:{to.lower()}", digest(to, channel))


def _code(to: str, settings: VendorSettings, *, own_text: bool) -> int:
    """Return what a verification's text costs; those of some languages take two segments."""
    number = _number(to, "a verification")
    count = MAX_SEGMENTS if own_text else 2
    total = count * (_price(settings, "sms_prices", number) + _fee(settings, "sms_fees", number))
    return total + int(given(settings, "lookup_prices").get("line_type_intelligence", 0))


def fields(query: str) -> list[str]:
    """Return the `Fields` of a Lookup that may cost. Raises SpendDenied (`unpriced`)."""
    said = bodies.fields(query)
    known = {name.lower() for name, _ in LISTED.trees(RULED["lookup"])}
    unknown = [name for name in said if name.lower() not in known]
    if unknown or len({name.lower() for name in said}) != len(said):
        raise _unpriced("a Lookup with parameters that are not in Twilio's description may cost more")
    listed = [value for name, values in said.items() if name.lower() == "fields" for value in values]
    wanted = {one.strip() for value in listed for one in value.split(",")}
    return sorted(wanted - {"", "validation"})


def lookup(number: str, fields: list[str], settings: VendorSettings) -> Priced:
    """Quote a Lookup by its `Fields`. Raises SpendDenied (`unpriced`)."""
    table = given(settings, "lookup_prices")
    wanted = sorted(set(fields) - {"", "validation"})
    for name in wanted:
        if name not in table:
            raise _unpriced(f"a Lookup of {name[:40]} has no price: set lookup_prices")
    return Priced(sum(table[name] for name in wanted), f"{number} {','.join(wanted)}", digest(number, wanted))


def _rcs(text: str) -> int:
    return -(-len(text.encode()) // _RCS_BYTES)


def _price(settings: VendorSettings, key: str, number: str) -> int:
    price = by_number(given(settings, key), number, rings=key == "call_prices")
    if price is None:
        raise _unpriced(f"{number[:5]}… has no price: set {key}")
    return price


def _fee(settings: VendorSettings, key: str, number: str) -> int:
    return by_number(given(settings, key), number) or 0


def _number(text: str, what: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise _unpriced(f"the number of {what} must be in E.164, as +14155550100")
    return text


def _one(form: Form, name: str) -> str:
    return form.get(name, [""])[0]


def _is_true(form: Form, name: str) -> bool:
    return _one(form, name).lower() not in ("", "false")


def _unpriced(why: str) -> SpendDenied:
    return denial("unpriced", why)
