"""Stripe: its own addresses, and which of them a request goes to; it is chosen by the path alone."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from luigi_spendguard.errors import denial
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.addresses import plain

API_BASE = "https://api.stripe.com"
FILES_BASE = "https://files.stripe.com"

#: What is served elsewhere (stripe-python 16.1, `base_address`): method and path.
_ELSEWHERE = (
    (re.compile(r"POST /v1/files|GET /v1/files/[^/]+/contents|GET /v1/quotes/[^/]+/pdf"), FILES_BASE),
    (re.compile(r"\w+ /oauth/.*"), "https://connect.stripe.com"),
    (re.compile(r"\w+ /v2/billing/meter_event_stream"), "https://meter-events.stripe.com"),
)

#: api, files, connect and meter-events (stripe-python 16.1, `_base_address.py`).
_HOSTS = re.compile(r"https://[a-z][a-z-]*\.stripe\.com(?P<rest>/.*)", re.DOTALL)


def rest(url: str) -> str | None:
    """Return path and query of a call to one of Stripe's own hosts, None for another host."""
    match = _HOSTS.fullmatch(url)
    return match.group("rest") if match else None


def host_of(method: str, path: str) -> str:
    """Return the base address that serves a path."""
    line = f"{method} {path}"
    return next((base for pattern, base in _ELSEWHERE if pattern.fullmatch(line)), API_BASE)


def own_path(method: str, url: str, settings: VendorSettings) -> str:
    """Return the path of a request to one of Stripe's own addresses. Raises SpendDenied (`endpoint`)."""
    for base in {API_BASE, settings.base_url, *(base for _, base in _ELSEWHERE)}:
        if base and url.startswith(base + "/"):
            path, _ = plain(url[len(base) :])
            if "%" in path:
                raise denial("endpoint", "the path has characters that no Stripe path has")
            if base in (API_BASE, settings.base_url) or base == host_of(method, path):
                return path
            break
    host = urlsplit(url).hostname or "?"
    raise denial(
        "endpoint",
        f"{host} is not where [spendguard_stripe] base_url sends this call: nothing was sent",
    )
