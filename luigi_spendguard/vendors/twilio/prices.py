"""Twilio: the operator's prices, what stands in for them, and in how many segments a text is billed.

List prices change and accounts have their own: `GET https://pricing.twilio.com/v1/Messaging/Countries/US`
and `/v2/Voice/Countries/US` answer with the account's. Defaults were collected on 2026-11-25; a price that
no source was found for is not made up: what needs it is unpriced.

A segment has 160 septets of GSM-7, 153 each of several; else 70 UTF-16 units of UCS-2, 67 each of several.
What takes two (an extension character, a surrogate pair) never straddles two parts
(https://www.twilio.com/docs/glossary/what-sms-character-limit, 2025-12-09; the same counts come from
Twilio's own sms-segments-calculator 1.3.0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.settings import Setting, VendorSettings, values


@dataclass(frozen=True)
class Default:
    """A default: its value (micro-dollars, or a table of them), what it is for, and where it comes from."""

    value: Any
    per: str
    source: str


_LIST = "Twilio's US page as read on 2026-11-09"
_NOTES = "Twilio's pages as noted on 2026-10-03"
DEFAULTS: Mapping[str, Default] = {
    "sms_prices": Default(
        {"1": 8_300, "*": 500_000},
        "a segment",
        f"{_LIST}; elsewhere above the dearest found, Nigeria's 0.3868 (July 2026)",
    ),
    "sms_fees": Default({"1": 8_750}, "a segment", "the dearest carrier's fee found (August 2025)"),
    "mms_prices": Default({"1": 22_000, "*": 500_000}, "a message", f"{_LIST}; elsewhere as an SMS"),
    "mms_fees": Default({"1": 13_500}, "a message", "an estimate: no list of 2026 was found"),
    "channel_prices": Default({}, "a message", ""),
    "call_prices": Default({"1": 14_000, "1907": 90_000}, "a minute", f"{_NOTES}; Alaska by Twilio's API"),
    "lookup_prices": Default(
        {
            "line_type_intelligence": 8_000,
            "caller_name": 10_000,
            "line_status": 7_000,
            "identity_match": 100_000,
            "reassigned_number": 20_000,
            "sms_pumping_risk": 25_000,
        },
        "a number",
        _NOTES,
    ),
    "verify_price": Default(50_000, "a verification", _NOTES),
    "failed_price": Default(1_000, "a failed message", "Twilio's help centre, from 2024-09-30 on"),
    "scheduling_price": Default(
        15_000,
        "a scheduled message or one with shortened links",
        "Twilio's Engagement Suite, after 1,000 a month",
    ),
}

#: What else costs when a call asks for it (Twilio's pages as noted in 2026).
DETECTION_PRICE, RECORDING_PRICE = 7_500, 2_500
CALL_TIME_LIMIT_S = 600

_NUMBERS = r"[1-9][0-9]{0,14}|\*"
_SID = "[0-9a-fA-F]{32}"
SETTINGS: tuple[Setting, ...] = (
    Setting(
        "",
        "account_sid",
        values.matching(rf"AC{_SID}", "an account SID, AC and 32 digits"),
        "the worker's TWILIO_ACCOUNT_SID",
        "Twilio's account: calls of any other, a sub-account too, are refused.",
        variable="TWILIO_ACCOUNT_SID",
    ),
    Setting(
        "",
        "api_key_sid",
        values.matching(rf"SK{_SID}", "an API key's SID, SK and 32 digits"),
        "none: `secret` is the auth token",
        "With it `secret` is that API key's secret.",
    ),
    Setting(
        "",
        "sms_prices",
        values.price_table(_NUMBERS, "1: 0.0083, 44: 0.056, *: 0.50"),
        "1: 0.0083, *: 0.50",
        "USD a segment by the beginning of the number; `*` is for all others, and never too little.",
    ),
    Setting(
        "",
        "sms_fees",
        values.price_table(_NUMBERS, "1: 0.00875"),
        "1: 0.00875",
        "Carriers' fees in USD a segment: what the message's own price, which comes later, may lack.",
    ),
    Setting(
        "",
        "mms_prices",
        values.price_table(_NUMBERS, "1: 0.022, *: 0.50"),
        "1: 0.022, *: 0.50",
        "USD a message with media by the beginning of the number.",
    ),
    Setting(
        "",
        "mms_fees",
        values.price_table(_NUMBERS, "1: 0.0135"),
        "1: 0.0135",
        "Carriers' fees in USD a message with media.",
    ),
    Setting(
        "",
        "channel_prices",
        values.price_table("[a-z]{2,20}", "whatsapp: 0.205"),
        "none: denied",
        "USD a message on other channels, what Twilio and the channel take together; of `rcs` for every "
        "160 bytes.",
    ),
    Setting(
        "",
        "call_prices",
        values.price_table(f"{_NUMBERS}|sip|client", "1: 0.014, *: 0.90"),
        "1: 0.014, 1907: 0.09; others are denied",
        "USD a minute of a call by the beginning of the number, or for `sip` and `client`; what `1` says "
        "is not said of Canada's north, `1867`.",
    ),
    Setting(
        "",
        "call_time_limit_s",
        values.whole(60, 86_400),
        "600",
        "The `TimeLimit` in seconds of a call that names none.",
    ),
    Setting(
        "",
        "call_legs",
        values.whole(1, 10),
        "none: calls whose TwiML could dial are denied",
        "How many parties a call's TwiML rings at the most: those after the first at the dearest of "
        "`call_prices`.",
    ),
    Setting(
        "",
        "lookup_prices",
        values.price_table("[a-z_]{2,40}", "line_type_intelligence: 0.008"),
        "see vendors.md",
        "USD for each `Fields` of a Lookup; others are denied.",
    ),
    Setting(
        "",
        "verify_price",
        values.usd,
        "0.05",
        "USD for a verification that succeeds; the message or call comes on top.",
    ),
    Setting("", "failed_price", values.usd, "0.001", "USD for a message that fails."),
    Setting(
        "",
        "scheduling_price",
        values.usd,
        "0.015",
        "USD for a message that is scheduled, or whose links are shortened.",
    ),
)

#: Numbers that begin with 1 and are not in the United States or Canada: a price for `1` is not theirs
#: (NANP; https://www.nanpa.com, area codes of the Caribbean and the Pacific).
_OTHER_NANP = re.compile(
    r"1(242|246|264|268|284|340|345|441|473|649|658|664|670|671|684|721|758|767|784|787|809|829|849|868|869"
    r"|876|900|939)"
)

#: Canada's north, where calls are dearer than a price for `1` says and texts are not.
_NORTH = "1867"


def price_setting(settings: VendorSettings, key: str) -> Any:
    """Return a setting, or its default; of a table, each entry that luigi.cfg does not have."""
    own = settings.own.get(key)
    default = DEFAULTS[key].value
    if isinstance(default, dict):
        return {**default, **(own or {})}
    return default if own is None else own


def price_of_number(table: Mapping[str, Micros], number: str, *, rings: bool = False) -> int | None:
    """Return the price for an E.164 number: that of its longest beginning in a table, else of `*`.

    `rings`: it is called.
    """
    digits = number.lstrip("+")
    apart = _OTHER_NANP.match(digits) or (rings and digits.startswith(_NORTH))
    for length in range(min(len(digits), 15), 0, -1):
        if digits[:length] in table and not (length < 4 and apart):
            return table[digits[:length]]
    return table.get("*")


def price_list(settings: VendorSettings) -> Iterator[tuple[str, str]]:
    """Yield each price in force and where it comes from."""
    for key, default in DEFAULTS.items():
        own = settings.own.get(key)
        table = price_setting(settings, key)
        if not isinstance(table, dict):
            where = "luigi.cfg" if own is not None else f"default: {default.source}"
            yield key, f"{plain_usd(table)} USD {default.per} ({where})"
            continue
        for name, price in sorted(table.items()):
            where = "luigi.cfg" if own and name in own else f"default: {default.source}"
            yield f"{key} {name}", f"{plain_usd(price)} USD {default.per} ({where})"


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


def count_segments(text: str, *, smart: bool = False) -> int:
    """Return the segments of a text; with `smart` encoding, which Twilio may apply, the most it can come to.

    Smart encoding replaces what looks like GSM-7, and where one character stays the whole is UCS-2.
    """
    if smart:
        longest = max(_parts(text, _smart_septets, 160, 153), _parts(text, _smart_units, 70, 67))
        return max(count_segments(text), longest if not _is_gsm7(text) else 1)
    if _is_gsm7(text):
        return _parts(text, _septets, 160, 153)
    return _parts(text, _units, 70, 67)


def count_units(text: str) -> int:
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
