"""Twilio: how many segments a text is billed as.

GSM-7: 160 septets, 153 each of several; else UCS-2: 70 UTF-16 units, 67 each of several. What takes two
(an extension character, a surrogate pair) never straddles two parts
(https://www.twilio.com/docs/glossary/what-sms-character-limit, 2025-12-09; the same counts come from
Twilio's own sms-segments-calculator 1.3.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
