"""Twilio's shapes: errors, dates, and its two ways of paging."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

from tests.support.fake_server import OPTIONS, Problem

E164 = re.compile(r"\+[1-9]\d{6,14}")
Form = dict[str, list[str]]


def problem(status: int, code: int, message: str) -> Problem:
    """Return an error in Twilio's shape."""
    more = f"https://www.twilio.com/docs/errors/{code}"
    return Problem(status, {"code": code, "message": message, "more_info": more, "status": status})


def missing(path: str) -> Problem:
    return problem(404, 20404, f"The requested resource {path} was not found")


def one(form: Form, name: str) -> str | None:
    """Return a parameter's last value, or None where it is missing or empty."""
    return form.get(name, [""])[-1] or None


def number(form: Form, name: str, default: int) -> int:
    """Return a parameter that is a whole number."""
    text = one(form, name) or str(default)
    if not text.isdecimal():
        raise problem(400, 20001, f"{name} is no number")
    return int(text)


def rfc2822(at: float | None) -> str | None:
    """Return a moment as the 2010 API writes it."""
    return None if at is None else format_datetime(datetime.fromtimestamp(at, timezone.utc))


def iso(at: float | None = None) -> str:
    """Return a moment (now) as the younger APIs write it."""
    return datetime.fromtimestamp(at or time.time(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> float | None:
    """Read an ISO 8601 moment or day, or return None."""
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def matches(at: float | None, form: Form, name: str) -> bool:
    """Return whether a moment passes the filters NAME, NAME> and NAME<, which are inclusive."""
    asked = {sign: one(form, name + sign) for sign in ("", ">", "<")}
    if not any(asked.values()):
        return True
    if at is None:
        return False
    for sign, text in asked.items():
        limit = moment(text) if text else None
        if text and limit is None:
            raise problem(400, 20001, f"{name}{sign} is no date")
        if limit is None or text is None:
            continue
        # A day stands for all of it, as does a second, since nothing finer is shown. The SDK writes the
        # day that is asked for as its midnight.
        day = len(text) == 10 or (not sign and limit % 86400 == 0)
        last = limit + (86400 if day else 1)
        if (sign != "<" and at < limit) or (sign != ">" and at >= last):
            return False
    return True


def _page(items: list[dict[str, Any]], form: Form) -> tuple[list[dict[str, Any]], int, int, str | None]:
    """Return the page asked for, its number, its size, and the token of the next.

    OPTIONS["list"] says what is wrong with the list: it is in the `other` order, each page begins `again`
    with the last one of the page before.
    """
    size = max(1, min(number(form, "PageSize", 50), 1000))
    place = number(form, "Page", 0)
    token = one(form, "PageToken")
    if place and token is None:
        raise problem(400, 20001, "PageToken is required for paging.")
    if "other" in OPTIONS["list"]:
        items = items[::-1]
    start = next((i + 1 for i, item in enumerate(items) if token == "PA" + item["sid"]), place * size)
    more = start + size < len(items)
    found = items[start - bool(start and "again" in OPTIONS["list"]) : start + size]
    return found, place, size, "PA" + found[-1]["sid"] if more else None


def _link(path: str, form: Form, size: int, place: int, token: str | None = None) -> str:
    """Return a page's address, with the filters that were asked for."""
    kept = [(name, values[-1]) for name, values in form.items() if not name.startswith("Page")]
    said = [*kept, ("PageSize", str(size)), ("Page", str(place))]
    return f"{path}?{urlencode([*said, ('PageToken', token)] if token else said)}"


def old_page(path: str, key: str, items: list[dict[str, Any]], form: Form) -> dict[str, Any]:
    """Return a page as the 2010 API does: its links are relative."""
    found, place, size, token = _page(items, form)
    begin = place * size
    return {
        key: found,
        "page": place,
        "page_size": size,
        "start": begin,
        "end": begin + max(0, len(found) - 1),
        "uri": _link(path, form, size, place),
        "first_page_uri": _link(path, form, size, 0),
        "previous_page_uri": _link(path, form, size, place - 1) if place else None,
        "next_page_uri": _link(path, form, size, place + 1, token) if token else None,
    }


def new_page(url: str, key: str, items: list[dict[str, Any]], form: Form) -> dict[str, Any]:
    """Return a page as the younger APIs do: under `meta`, with absolute links."""
    found, place, size, token = _page(items, form)
    meta = {
        "key": key,
        "page": place,
        "page_size": size,
        "url": _link(url, form, size, place),
        "first_page_url": _link(url, form, size, 0),
        "previous_page_url": _link(url, form, size, place - 1) if place else None,
        "next_page_url": _link(url, form, size, place + 1, token) if token else None,
    }
    return {"meta": meta, key: found}
