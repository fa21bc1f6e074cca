"""How servers read a form: Rack, qs, PHP, Java, and one that trims; each by what its documentation says.

A vendor may be any of them: what they read differently must not reach one. They share no code with
luigi_spendguard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_plus

Nested = dict[str, Any]


class Refused(Exception):
    """The server answers 400."""


def _pairs(text: str, separator: str = "& *", most: int | None = None) -> Iterator[tuple[str, str]]:
    for pair in re.split(separator, text)[:most]:
        name, _, value = pair.partition("=")
        if pair:
            yield unquote_plus(name, errors="replace"), unquote_plus(value, errors="replace")


def rack(text: str) -> Nested:
    """Rack::QueryParser: brackets before a name are skipped, those behind its first one too."""
    found: Nested = {}
    for name, value in _pairs(text):
        _rack_put(found, name, value)
    return found


def _rack_put(into: Nested, name: str, value: str) -> Nested:
    match = re.match(r"[\[\]]*([^\[\]]+)\]*", name)
    if match is None:
        return into
    key, after = match[1], name[match.end() :]
    if after in ("", "["):
        into[key if after == "" else name] = value
    elif after.startswith("[]"):
        listed = into.setdefault(key, [])
        if not isinstance(listed, list):
            raise Refused
        child = re.fullmatch(r"\[\]\[([^\[\]]+)\]", after)
        inner = child[1] if child else after[2:]
        if not inner:
            listed.append(value)
        elif listed and isinstance(listed[-1], dict) and inner not in listed[-1]:
            _rack_put(listed[-1], inner, value)
        else:
            listed.append(_rack_put({}, inner, value))
    else:
        group = into.setdefault(key, {})
        if not isinstance(group, dict):
            raise Refused
        _rack_put(group, after, value)
    return into


def qs(text: str) -> Nested:
    """Node's qs, as deep as it goes: an equals sign behind a bracket ends the name; repeats combine."""
    found: Nested = {}
    text = re.sub("%5b", "[", text, flags=re.IGNORECASE)
    text = re.sub("%5d", "]", text, flags=re.IGNORECASE)
    for pair in text.split("&")[:1000]:
        at = pair.find("]=") + 1 or pair.find("=")
        name, value = (pair, "") if at < 0 else (pair[:at], pair[at + 1 :])
        name = unquote_plus(name, errors="replace")
        first = re.search(r"\[[^\[\]]*\]", name)
        path = [name[: first.start()] if first else name]
        path += [part[1:-1] for part in re.findall(r"\[[^\[\]]*\]", name)]
        path = path if path[0] else path[1:]
        if path and path[0]:
            _qs_put(found, path, unquote_plus(value, errors="replace"))
    return _listed(found)


def _qs_put(into: Nested, path: list[str], value: str) -> None:
    key, *rest = path
    key = str(len(into)) if key == "" else key
    old = into.get(key)
    if rest:
        if not isinstance(old, dict):
            into[key] = {} if old is None else {"0": old}
        _qs_put(into[key], rest, value)
    elif isinstance(old, dict):
        old[str(len(old))] = value
    elif old is not None:
        into[key] = {"0": old, "1": value}
    else:
        into[key] = value


def _listed(group: Nested) -> Nested:
    """Put what is numbered in the order of its numbers."""
    numbers = sorted((key for key in group if key.isdecimal()), key=int)
    ordered = [*numbers, *(key for key in group if not key.isdecimal())]
    return {key: _listed(group[key]) if isinstance(group[key], dict) else group[key] for key in ordered}


def php(text: str) -> Nested:
    """PHP's parse_str: blanks before a name go, a dot or blank in it is a `_`, a NUL ends it."""
    found: Nested = {}
    for given, value in _pairs(text, "&"):
        name = given.partition("\0")[0].lstrip(" ")
        first, bracket, more = name.partition("[")
        keys = re.match(r"(?:\[[^\]]*\])*", bracket + more)
        path = [re.sub("[ .]", "_", first), *re.findall(r"\[([^\]]*)\]", keys[0] if keys else "")]
        if not keys or (bracket and not keys[0]):
            path = [re.sub(r"[ .\[]", "_", name)]
        if path[0]:
            _php_put(found, path, value)
    return found


def _php_put(into: Nested, path: list[str], value: str) -> None:
    key, *rest = path
    key = str(1 + max((int(one) for one in into if one.isdecimal()), default=-1)) if key == "" else key
    if not rest:
        into[key] = value
        return
    if not isinstance(into.get(key), dict):
        into[key] = {}
    _php_put(into[key], rest, value)


def trimming(text: str) -> Nested:
    """Read as Rack does, but take all that is no letter out of names, and a `;` for a `&`."""
    found: Nested = {}
    for name, value in _pairs(text, "[&;] *"):
        _rack_put(found, re.sub(r"[^A-Za-z0-9_\[\]]", "", name.partition("\0")[0]), value)
    return found


def java(text: str) -> Nested:
    """Read as `ServletRequest.getParameter` does: of a name given several times its first, no groups."""
    found: Nested = {}
    for name, value in _pairs(text, "&"):
        found.setdefault(name, value)
    return found


READINGS: dict[str, Callable[[str], Nested]] = {"rack": rack, "qs": qs, "php": php, "trimming": trimming}
#: Those that know no groups too.
EVERY = [*READINGS.values(), java]


def value_of(found: Any) -> str:
    """Return the one value that a server takes of what should be one: of a list its last."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        return value_of(found[-1]) if found else ""
    return str(found).strip()


def number_of(found: Any) -> int:
    """Return a number as a lenient server reads it, 0 for none."""
    match = re.match(r"[+-]?[0-9]{1,15}", value_of(found))
    return abs(int(match[0])) if match else 0


def items_of(found: Any) -> list[Nested]:
    """Return the groups of a list, in the server's order."""
    found = list(found.values()) if isinstance(found, dict) else found
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
