"""Stripe: whom a call concerns: the customer, and the connected accounts that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, urlsplit

from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.stripe_asked import Body

_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]{1,250}")
_IN_TEXT = re.compile(rb"(?<![A-Za-z0-9_])acct_[A-Za-z0-9]{1,250}")


def customer_of(path: str, query: str, params: Mapping[str, str], found: Mapping[str, Body | None]) -> str:
    """Return the customer's id: named by the path, the request, or what was looked up; "" for none."""
    parts = path.split("/")
    if len(parts) > 3 and parts[2] == "customers" and parts[3] != "search":
        return parts[3]
    named = params.get("customer") or dict(parse_qsl(query)).get("customer")
    if named:
        return named
    for body in found.values():
        one = (body or {}).get("customer")
        one = one.get("id") if isinstance(one, dict) else one
        if isinstance(one, str) and one:
            return one
    return ""


def accounts_of(request: Request, path: str, params: Mapping[str, str]) -> tuple[str, ...]:
    """Return the connected accounts that headers, path, query and parameters name, sorted."""

    def named() -> Iterator[str]:
        yield request.headers.get("stripe-account", "")
        yield from re.split(r"[/,]", request.headers.get("stripe-context", ""))
        yield from path.split("/")
        yield from (value for _, value in parse_qsl(urlsplit(request.url).query))
        yield from (value for name, value in params.items() if not name.startswith(("metadata", "descr")))
        if not params:
            yield from (one.decode("ascii") for one in _IN_TEXT.findall(request.body))

    return tuple(sorted({one for one in named() if _ACCOUNT.fullmatch(one)}))
