"""Twilio: the most that a message, a call, a verification or a lookup can cost.

What a request says that is in no list (parameters.txt) could cost more, and is unpriced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.bodies import digest, read_fields
from luigi_spendguard.vendors.twilio.operations import LISTED, RULED
from luigi_spendguard.vendors.twilio.prices import (
    CALL_TIME_LIMIT_S,
    DETECTION_PRICE,
    MAX_GROWN,
    MAX_SEGMENTS,
    MAX_UNITS,
    RECORDING_PRICE,
    count_segments,
    count_units,
    price_of_number,
    price_setting,
)

Form = Mapping[str, list[str]]

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
#: What says of a message (Twilio's API, 2010-04-01) what is sent and to whom, and of a call whom it rings.
_SENT = (
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
    """What a quote is made of.

    Attributes:
        fees_micros: what of the total no price of Twilio's contains.
        units: what of the request the prices are taken times, whatever they are.

    """

    total_micros: int
    target: str
    content: str
    fees_micros: int = 0
    units: tuple[int, ...] = ()


def is_text(form: Form) -> bool:
    """Return whether a message says no more than Twilio's list of messages shows again."""
    sent = {name for name in _SENT if name in form}
    return "Body" in sent and sent <= {"To", "From", "MessagingServiceSid", "Body"}


def quote_message(form: Form, settings: VendorSettings) -> Priced:
    """Quote a message. Raises SpendDenied (`unpriced`)."""
    to, text = _value(form, "To"), _value(form, "Body")
    if count_units(text) > MAX_UNITS:
        raise _unpriced(f"a message has at most {MAX_UNITS} characters")
    later = bool(form.get("ScheduleType") or form.get("SendAt") or _is_true(form, "ShortenUrls"))
    fees = int(price_setting(settings, "scheduling_price")) if later else 0
    service = "MessagingServiceSid" in form or _value(form, "From").startswith("MG")
    if _is_true(form, "ShortenUrls"):  # The domain of the shortened ones is not known here.
        text += _LINK * text.lower().count("://")
    channel, colon, _ = to.partition(":")
    if colon:
        total = price_setting(settings, "channel_prices").get(channel.lower())
        if total is None:
            raise _unpriced(f"a message by {channel[:20]} has no price: set channel_prices")
        count = 1
        if channel.lower() == "rcs":
            count = MAX_GROWN if "ContentSid" in form else max(_rcs(text), 1)
        sent = digest(*(form.get(name) for name in _SENT))
        return Priced(count * total + fees, to.lower(), sent, fees, (count, later))
    if ":" in _value(form, "From"):
        raise _unpriced("a message from a channel to a number may go out by that channel: name it in To")
    number = _check_number(to, "a message")
    smart = _is_true(form, "SmartEncoded") or service
    count = count_segments(text, smart=smart)
    if "ContentSid" in form:  # Its text is at Twilio, but for what the request fills in.
        filled = count_segments(_value(form, "ContentVariables"), smart=smart)
        count = max(MAX_GROWN if smart else MAX_SEGMENTS, filled)
    elif service:  # It may send RCS first.
        count = max(count, _rcs(text))
    price, carriers = _price(settings, "sms_prices", number), _fee(settings, "sms_fees", number)
    total, fee, links = count * price, count * carriers, 0
    if form.get("MediaUrl") or _is_true(form, "SendAsMms") or "ContentSid" in form:
        # Where there is no MMS, Twilio may send the text with a link to the media.
        media = _price(settings, "mms_prices", number), _fee(settings, "mms_fees", number)
        links = count if "ContentSid" in form else max(count, count_segments(text + _LINK, smart=smart))
        total, fee = max((links * price, links * carriers), media, key=sum)
    sent = digest(*(form.get(name) for name in _SENT))
    return Priced(total + fee + fees, number, sent, fee + fees, (count, links, later))


def quote_call(form: Form, settings: VendorSettings) -> Priced:
    """Quote a call: whole minutes up to its time limit, for each leg. Raises SpendDenied (`unpriced`)."""
    to = _value(form, "To")
    minutes = -(-time_limit(form, settings) // 60)
    legs = _legs(form, settings)
    table = price_setting(settings, "call_prices")
    scheme = to.partition(":")[0].lower() if ":" in to else ""
    if scheme in ("sip", "client"):
        price = table.get(scheme)
    else:
        price = None if scheme else price_of_number(table, _check_number(to, "a call"), rings=True)
    if price is None:
        raise _unpriced(f"a call to {(scheme or to)[:40]} has no price: set call_prices")
    further = (legs - 1) * max(table.values())
    detected = form.get("MachineDetection", ["none"]) != ["none"]
    extras = DETECTION_PRICE if detected else 0
    extras += minutes * RECORDING_PRICE * legs if _is_true(form, "Record") else 0
    content = digest(*(form.get(name) for name in _RUNG))
    # A limit that is luigi.cfg's may change as its prices do.
    units = (minutes if _value(form, "TimeLimit") else 0, detected, _is_true(form, "Record"))
    total, fees = minutes * (price + further) + extras, minutes * further + extras
    return Priced(total, to.lower(), content, fees, units)


def time_limit(form: Form, settings: VendorSettings) -> int:
    """Return a call's longest duration in seconds. Raises SpendDenied (`unpriced`)."""
    text = _value(form, "TimeLimit")
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
    text = _value(form, "Twiml")
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


def quote_verification(form: Form, settings: VendorSettings) -> Priced:
    """Quote a verification: its success, its message or call, and a lookup. Raises SpendDenied."""
    to, channel = _value(form, "To"), _value(form, "Channel")
    total = int(price_setting(settings, "verify_price"))
    own = any(name in form for name in _OWN_TEXT) or len(_value(form, "CustomFriendlyName")) > 32
    if channel == "sms":
        total += _code(to, settings, own_text=own)
    elif channel == "call":
        total += _price(settings, "call_prices", _check_number(to, "a verification"))
    elif channel == "whatsapp" and channel in price_setting(settings, "channel_prices"):
        # A number without WhatsApp may get the text.
        total += max(price_setting(settings, "channel_prices")[channel], _code(to, settings, own_text=own))
    else:
        raise _unpriced(f"a verification by {channel[:20] or 'no channel'} has no price")
    return Priced(total, f"{channel}:{to.lower()}", digest(to, channel), units=(own,))


def _code(to: str, settings: VendorSettings, *, own_text: bool) -> int:
    """Return what a verification's text costs; those of some languages take two segments."""
    number = _check_number(to, "a verification")
    count = MAX_SEGMENTS if own_text else 2
    total = count * (_price(settings, "sms_prices", number) + _fee(settings, "sms_fees", number))
    return total + int(price_setting(settings, "lookup_prices").get("line_type_intelligence", 0))


def lookup_fields(query: str) -> list[str]:
    """Return the `Fields` of a Lookup that may cost. Raises SpendDenied (`unpriced`)."""
    params = read_fields(query)
    known = {name.lower() for name, _ in LISTED.trees(RULED["lookup"])}
    unknown = [name for name in params if name.lower() not in known]
    if unknown or len({name.lower() for name in params}) != len(params):
        raise _unpriced("a Lookup with parameters that are not in Twilio's description may cost more")
    listed = [value for name, values in params.items() if name.lower() == "fields" for value in values]
    wanted = {one.strip() for value in listed for one in value.split(",")}
    return sorted(wanted - {"", "validation"})


def quote_lookup(number: str, fields: list[str], settings: VendorSettings) -> Priced:
    """Quote a Lookup by its `Fields`. Raises SpendDenied (`unpriced`)."""
    table = price_setting(settings, "lookup_prices")
    wanted = sorted(set(fields) - {"", "validation"})
    for name in wanted:
        if name not in table:
            raise _unpriced(f"a Lookup of {name[:40]} has no price: set lookup_prices")
    return Priced(sum(table[name] for name in wanted), f"{number} {','.join(wanted)}", digest(number, wanted))


def _rcs(text: str) -> int:
    return -(-len(text.encode()) // _RCS_BYTES)


def _price(settings: VendorSettings, key: str, number: str) -> int:
    price = price_of_number(price_setting(settings, key), number, rings=key == "call_prices")
    if price is None:
        raise _unpriced(f"{number[:5]}… has no price: set {key}")
    return price


def _fee(settings: VendorSettings, key: str, number: str) -> int:
    return price_of_number(price_setting(settings, key), number) or 0


def _check_number(text: str, what: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise _unpriced(f"the number of {what} must be in E.164, as +14155550100")
    return text


def _value(form: Form, name: str) -> str:
    return form.get(name, [""])[0]


def _is_true(form: Form, name: str) -> bool:
    return _value(form, name).lower() not in ("", "false")


def _unpriced(why: str) -> SpendDenied:
    return denial("unpriced", why)
