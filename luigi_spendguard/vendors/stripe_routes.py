"""Stripe: which operation a request is, by its address; what has no place here is denied.

Priced: payment_intents (create, update, confirm, capture, cancel), charges (create, capture), customers
and payment methods (free), every GET (free).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlsplit

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import denial
from luigi_spendguard.policy import is_allowed
from luigi_spendguard.vendors import Quote, Request
from luigi_spendguard.vendors.stripe_forms import body_digest

API_BASE = "https://api.stripe.com"

_ID = r"[A-Za-z0-9_]{1,255}"


@dataclass(frozen=True)
class _Route:
    method: str
    path: re.Pattern[str]
    operation: str


def _route(method: str, path: str, operation: str) -> _Route:
    return _Route(method, re.compile(path.replace("{id}", f"(?P<id>{_ID})")), operation)


_ROUTES = (
    _route("POST", "/v1/payment_intents", "payment_intents.create"),
    _route("POST", "/v1/payment_intents/{id}", "payment_intents.update"),
    _route("POST", "/v1/payment_intents/{id}/confirm", "payment_intents.confirm"),
    _route("POST", "/v1/payment_intents/{id}/capture", "payment_intents.capture"),
    _route("POST", "/v1/payment_intents/{id}/cancel", "payment_intents.cancel"),
    _route("POST", "/v1/charges", "charges.create"),
    _route("POST", "/v1/charges/{id}/capture", "charges.capture"),
    _route("POST", "/v1/customers", "customers.create"),
    _route("POST", "/v1/customers/{id}", "customers.update"),
    _route("DELETE", "/v1/customers/{id}", "customers.delete"),
    _route("POST", "/v1/payment_methods", "payment_methods.create"),
    _route("POST", "/v1/payment_methods/{id}", "payment_methods.update"),
    _route("POST", "/v1/payment_methods/{id}/attach", "payment_methods.attach"),
    _route("POST", "/v1/payment_methods/{id}/detach", "payment_methods.detach"),
)

#: Operations that return or mint credentials: (methods, path).
_CREDENTIALS = re.compile(
    r"(POST|DELETE) /v1/ephemeral_keys(/.*)?"
    r"|POST /v1/webhook_endpoints(/.*)?"
    r"|\w+ /v1/apps/secrets(/.*)?"
    r"|POST /v1/account_(links|sessions)|POST /v1/customer_sessions"
    r"|POST /v1/accounts/[^/]+/login_links"
    r"|POST /v1/terminal/connection_tokens"
    r"|POST /v2/core/event_destinations(/.*)?|POST /v2/core/account_(links|tokens)(/.*)?"
    r"|\w+ /oauth/.*"
)


def recognise(request: Request, path: str, query: str, blank: Quote, settings: VendorSettings) -> Quote:
    """Return `blank` with the operation that a request is. Raises SpendDenied."""
    line = f"{request.method} {path}"
    if _CREDENTIALS.fullmatch(line) or _asks_card_data(query):
        if line not in settings.allowed_endpoints:
            raise denial(
                "endpoint",
                f"{line} hands out credentials: it is denied unless [spendguard_stripe] "
                f"allowed_endpoints names exactly {line!r}",
            )
        read = request.method == "GET"
        return replace(blank, operation=f"{line} *", read=read, target=path,
                       fingerprint=body_digest(request, True))  # fmt: skip
    if request.method == "GET":
        return replace(blank, operation=f"GET {_family(path)}", read=True, key=None)
    for route in _ROUTES:
        match = route.path.fullmatch(path)
        if match and route.method == request.method:
            if query:
                raise denial("unpriced", f"{line} with a query string cannot be priced")
            found = match.groupdict().get("id")
            return replace(blank, operation=route.operation, object_id=found)
    raise denial("unpriced", f"{line} has no price in this version of luigi_spendguard and is not free")


def own_path(url: str, settings: VendorSettings) -> str:
    """Return the path of a request to Stripe's own address. Raises SpendDenied (`endpoint`)."""
    for base in (API_BASE, settings.base_url):
        if base and url.startswith(base + "/"):
            path = urlsplit(url[len(base) :]).path
            if not re.fullmatch(r"(/[A-Za-z0-9_.~:@!$&'()*+,;=-]+)+", path) or "/." in path:
                raise denial("endpoint", "the path has characters that no Stripe path has")
            return path
    host = urlsplit(url).hostname or "?"
    raise denial(
        "endpoint",
        f"{host} is not where [spendguard_stripe] base_url sends calls; uploads, Connect OAuth and "
        "other hosts are denied in this version",
    )


def _family(path: str) -> str:
    """Return a path with its ids replaced, as an operation's name."""
    return "/".join("{id}" if re.search(r"[0-9_].*[0-9]|_", part) and part not in _NAMES else part
                    for part in path.split("/"))  # fmt: skip


_NAMES = {
    "payment_intents", "payment_methods", "balance_transactions", "setup_intents", "credit_notes",
    "checkout_sessions", "payment_links", "tax_rates", "promotion_codes", "invoice_items",
    "subscription_items", "subscription_schedules", "line_items", "application_fees", "test_clocks",
}  # fmt: skip


def _asks_card_data(query: str) -> bool:
    """Return whether a GET expands what Issuing keeps apart (https://docs.stripe.com/issuing)."""
    return any(
        name.startswith("expand") and value.rpartition(".")[2] in ("number", "cvc")
        for name, value in parse_qsl(query, keep_blank_values=True)
    )


def check_allowed(method: str, quote: Quote, settings: VendorSettings) -> None:
    """Raise SpendDenied (`endpoint`) for what the operator's allowlist does not name."""
    allowed = settings.allowed_endpoints
    line = f"{method} {quote.path}"
    if is_allowed(allowed, line, quote.operation):
        return
    raise denial("endpoint", f"{line} is not in [spendguard_stripe] allowed_endpoints ({', '.join(allowed)})")
