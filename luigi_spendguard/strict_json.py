"""JSON, read strictly by one reader: what two parsers could read differently is refused.

Vendors' requests (`vendors.bodies`) and our own routes (`scheduler_patch.api.handler`) are read here alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

#: The largest whole number that every JSON parser reads alike (RFC 8259, 6).
_LARGEST = 2**53 - 1


class NotStrict(ValueError):
    """The text is JSON of a kind that parsers read differently; the message says which."""


def read(data: bytes, *, any_case: bool = False) -> Any:
    """Return what JSON in UTF-8 says.

    `any_case`: names that differ in upper and lower case alone are one name, as some parsers have it.

    Raises NotStrict for a doubled name, a number that is none or is too large, a NUL in a name, and half a
    surrogate pair; ValueError or RecursionError for what is no JSON in UTF-8.
    """
    decoded = (_IN_ANY_CASE if any_case else _AS_WRITTEN).decode(data.decode("utf-8"))
    if b"\\u" in data:  # UTF-8 itself has no surrogates.
        try:
            json.dumps(decoded, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise NotStrict("half a surrogate pair is no text") from None
    return decoded


def _once(any_case: bool) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for name, _ in pairs:
            known = name.casefold() if any_case else name
            if known in seen:
                raise NotStrict(f"the field {name[:60]!r} is given twice: which one counts is open")
            if "\0" in name:
                raise NotStrict(f"the field {name[:60]!r} has a NUL in its name")
            seen.add(known)
        return dict(pairs)

    return once


def _no_constant(text: str) -> Any:
    raise NotStrict(f"{text} is no JSON")


def _whole(text: str) -> int:
    number = int(text) if len(text) < 20 else _LARGEST + 1
    if abs(number) > _LARGEST:
        raise NotStrict(f"{text[:20]} is a number that not every reader reads alike")
    return number


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise NotStrict(f"{text[:20]} is a number that not every reader reads alike")
    return number


def _decoder(*, any_case: bool) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_once(any_case),
        parse_constant=_no_constant,
        parse_int=_whole,
        parse_float=_finite,
    )


_AS_WRITTEN, _IN_ANY_CASE = _decoder(any_case=False), _decoder(any_case=True)
