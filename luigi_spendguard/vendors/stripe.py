"""Stripe: which requests cost what, and what a reply says they did cost.

Amounts are integers of the currency's minor unit (https://docs.stripe.com/currencies). Priced here:
payment_intents (create, update, confirm, capture, cancel), charges (create, capture), customers and
payment methods (free), every GET (free). What could move money otherwise is denied as `unpriced`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import denial
from luigi_spendguard.money import NoRate, to_micros
from luigi_spendguard.policy import is_allowed
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request
from luigi_spendguard.vendors.stripe_forms import body_digest, is_sensitive, parameters, whole

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

#: Statuses in which a PaymentIntent moves no more than it has.
_FINAL = {"succeeded", "canceled"}

#: The SDK makes up keys of this shape (stripe-python 16.1, random hexadecimal digits).
_MADE_UP = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: Credit for the next invoice, and what began a subscription in older API versions.
_CUSTOMER_MONEY = {"account_balance", "balance", "coupon", "plan", "quantity", "trial_end"}

_KEPT = ("content-type", "stripe-version", "stripe-account", "stripe-context")
_DROPPED = {
    "authorization", "idempotency-key", "cookie", "host", "content-length", "connection",
    "transfer-encoding", "proxy-authorization", "expect", "te", "upgrade",
    "x-http-method", "x-http-method-override", "x-method-override",
}  # fmt: skip


class Stripe:
    """The Stripe adapter; see `luigi_spendguard.vendors.Vendor`."""

    name = "stripe"
    secret_variables: tuple[str, ...] = ("STRIPE_SECRET_KEY", "STRIPE_API_KEY")

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        """Recognise and price a request. Raises SpendDenied."""
        path = _own_path(request.url, settings)
        query = urlsplit(request.url).query
        connected = request.headers.get("stripe-account", "")
        context = request.headers.get("stripe-context", "")
        mode = "live" if "_live_" in secret else "test"
        account = ":".join(["stripe", mode, connected, context]).rstrip(":")
        key = request.headers.get("idempotency-key") or None
        if key is not None and (len(key) > 255 or not key.isprintable()):
            raise denial("unpriced", "an idempotency key has at most 255 printable characters")
        blank = Quote("", account, path, key=key,
                      key_is_callers=key is not None and not _MADE_UP.fullmatch(key))  # fmt: skip
        quote = self._recognise(request, path, query, blank, settings)
        _check_allowed(request.method, quote, settings)
        if quote.read or quote.operation.endswith("*"):
            return quote
        return _priced(quote, request, fx)

    def _recognise(
        self, request: Request, path: str, query: str, blank: Quote, settings: VendorSettings
    ) -> Quote:
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

    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        """Read what became of the call from the reply's own status and amounts."""
        status = reply.status
        if quote.read:
            return Outcome("settle")
        if 200 <= status < 300:
            return self._done(quote, reply, resent, fx)
        note = f"HTTP {status}"
        if status == 402:
            declined = _json(reply).get("error", {})
            intent = declined.get("payment_intent") if isinstance(declined, dict) else None
            object_id = intent.get("id") if isinstance(intent, dict) else None
            return Outcome("void", definite=True, note="declined (HTTP 402)", object_id=object_id,
                           worth_micros=quote.total_micros or 0)  # fmt: skip
        if 400 <= status < 500 and status != 409:
            return Outcome("void", note=note)
        return Outcome("doubt", note=note)

    def _done(self, quote: Quote, reply: Reply, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        body = _json(reply)
        if not body:
            return _unbelieved("the reply is not JSON")
        kind, _, verb = quote.operation.partition(".")
        object_id = body.get("id") if isinstance(body.get("id"), str) else None
        if kind not in ("payment_intents", "charges"):
            return Outcome("settle", object_id=object_id)
        if quote.object_id is not None and object_id != quote.object_id:
            return _unbelieved("the reply is about another object than asked")
        if object_id is None or body.get("object") != kind[:-1]:
            return _unbelieved(f"the reply is no {kind[:-1]}")
        if not resent and reply.headers.get("idempotent-replayed") == "true":
            # Another caller's money: this key moved it before, outside this call.
            return Outcome("settle", note="the vendor replayed an earlier answer: counted 0")
        try:
            amount, total = _counts_for(kind, body, fx)
        except (NoRate, ValueError, TypeError, KeyError):
            return _unbelieved("the reply's amount cannot be read")
        if verb == "create" and quote.minor is not None:
            if body["currency"] != quote.currency:
                return _unbelieved("the reply is in another currency than asked")
            if body["amount"] < quote.minor:
                return _unbelieved("the reply names a smaller amount than asked")
        return Outcome("settle", total_micros=total, worth_micros=amount, object_id=object_id)

    def look_up(self, quote: Quote, request: Request) -> Request:
        """Return the GET of the object that the call acts on."""
        kind = quote.operation.partition(".")[0]
        headers = {name: request.headers[name] for name in _KEPT[1:] if name in request.headers}
        return Request("GET", f"{API_BASE}/v1/{kind}/{quote.object_id}", headers)

    def complete(self, quote: Quote, reply: Reply, fx: Mapping[str, Decimal]) -> Quote:
        """Return `quote` with the total that the looked-up object says. Raises SpendDenied."""
        kind = quote.operation.partition(".")[0]
        body = _json(reply)
        try:
            if reply.status != 200 or body["id"] != quote.object_id:
                raise ValueError
            total = max(_counts_for(kind, body, fx))
            if quote.minor is not None:
                asked = int(to_micros(quote.minor, body["currency"], fx))
                # A capture never makes the object count for less before it is done.
                total = asked if quote.operation.endswith(".update") else max(total, asked)
        except NoRate as error:
            raise denial("currency", str(error)) from None
        except (ValueError, TypeError, KeyError):
            raise denial(
                "unpriced",
                f"{quote.operation} of {quote.object_id}: the object is not in the ledger and could "
                f"not be looked up at Stripe (HTTP {reply.status})",
            ) from None
        return replace(quote, total_micros=total, look_up=False)

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        """Return the request for the vendor's own host, with the secret and the wire key."""
        parts = urlsplit(request.url)
        path = _own_path(request.url, settings)
        url = (settings.base_url or API_BASE) + path + (f"?{parts.query}" if parts.query else "")
        headers = {name: v for name, v in request.headers.items() if name not in _DROPPED}
        headers["authorization"] = f"Bearer {secret}"
        if key:
            headers["idempotency-key"] = key
        return Request(request.method, url, headers, request.body)

    def kept_headers(self, request: Request) -> dict[str, str]:
        """Return the headers that belong to a stored body."""
        return {name: request.headers[name] for name in _KEPT if name in request.headers}


def _own_path(url: str, settings: VendorSettings) -> str:
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


def _check_allowed(method: str, quote: Quote, settings: VendorSettings) -> None:
    allowed = settings.allowed_endpoints
    line = f"{method} {quote.path}"
    if is_allowed(allowed, line, quote.operation):
        return
    raise denial("endpoint", f"{line} is not in [spendguard_stripe] allowed_endpoints ({', '.join(allowed)})")


def _priced(quote: Quote, request: Request, fx: Mapping[str, Decimal]) -> Quote:
    """Fill in amount, target and fingerprint of a recognised operation."""
    params = parameters(request)
    kind, _, verb = quote.operation.partition(".")
    sensitive = is_sensitive(params)
    digest = body_digest(request, sensitive)
    if kind in ("customers", "payment_methods"):
        quote = _free(quote, params, digest)
    elif verb == "create":
        quote = _opening(quote, params, fx)
    else:
        quote = _acting(quote, params, fx)
    said = f"{quote.operation}|{quote.target}|{quote.minor}|{quote.currency}"
    if quote.target is None:
        said += f"|{digest}"
    return replace(quote, fingerprint=said[:1000], keep_body=not sensitive)


def _free(quote: Quote, params: Mapping[str, str], digest: str) -> Quote:
    if quote.operation.startswith("customers.") and (found := _CUSTOMER_MONEY & set(params)):
        raise denial("unpriced", f"a customer's `{min(found)}` moves money later and has no price")
    if quote.operation == "customers.create":
        target = params.get("email") or params.get("name") or params.get("phone") or None
        return replace(quote, target=target)
    if quote.object_id is None:
        return quote
    # Sent again as soon as anything in it is new: it costs nothing and changes one object.
    return replace(quote, target=f"{quote.object_id}#{digest[:12]}", object_id=None)


def _opening(quote: Quote, params: Mapping[str, str], fx: Mapping[str, Decimal]) -> Quote:
    minor, currency = whole(params, "amount"), params.get("currency", "").lower()
    if minor is None or not currency:
        raise denial("unpriced", f"{quote.operation} without amount and currency cannot be priced")
    target = params.get("customer") or params.get("payment_method") or params.get("source") or None
    return replace(quote, minor=minor, currency=currency, target=target,
                   total_micros=_micros(minor, currency, fx))  # fmt: skip


def _acting(quote: Quote, params: Mapping[str, str], fx: Mapping[str, Decimal]) -> Quote:
    """Price an operation on an object that exists."""
    verb = quote.operation.partition(".")[2]
    name = {"update": "amount", "capture": "amount_to_capture"}.get(verb)
    if quote.operation == "charges.capture":
        name = "amount"
    quote = replace(quote, target=quote.object_id)
    if verb == "cancel":
        return quote
    if verb == "update" and "currency" in params and "amount" not in params:
        raise denial("unpriced", "an update of `currency` needs `amount` to be priced")
    for odd in ("amount", "amount_to_capture", "amount_to_confirm", "final_capture"):
        if odd in params and odd != name and not (verb == "capture" and odd == "final_capture"):
            raise denial("unpriced", f"{quote.operation} with {odd} has no price")
    minor = whole(params, name) if name else None
    currency = params.get("currency", "").lower()
    if minor is not None and currency:
        return replace(quote, minor=minor, currency=currency,
                       total_micros=_micros(minor, currency, fx))  # fmt: skip
    # An amount without a currency is in the object's own, which has to be looked up.
    return replace(quote, minor=minor, total_micros=None, look_up=minor is not None)


def _micros(minor: int, currency: str, fx: Mapping[str, Decimal]) -> int:
    try:
        return int(to_micros(minor, currency, fx))
    except NoRate as error:
        raise denial("currency", str(error)) from None
    except ValueError as error:
        raise denial("unpriced", str(error)) from None


def _counts_for(kind: str, body: Mapping[str, Any], fx: Mapping[str, Decimal]) -> tuple[int, int]:
    """Return (what the object is worth, what it counts for now) in micro-dollars."""
    status, currency = body["status"], body["currency"]
    amount = _minor(body["amount"])
    if kind == "charges":
        final = status == "failed" or body.get("captured") is True
        moved = body.get("amount_captured") if status != "failed" else 0
    else:
        final = status in _FINAL
        moved = body.get("amount_received") or (None if status == "succeeded" else 0)
    # Older API versions and look-alikes do not say what has moved: then it is all of it.
    counts = _minor(moved) if final and moved is not None else amount
    return int(to_micros(counts if final else amount, currency, fx)), int(to_micros(counts, currency, fx))


def _minor(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("an amount must be a whole number")
    return value


def _json(reply: Reply) -> dict[str, Any]:
    try:
        body = json.loads(reply.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _unbelieved(why: str) -> Outcome:
    return Outcome("doubt", note=why, error=why)
