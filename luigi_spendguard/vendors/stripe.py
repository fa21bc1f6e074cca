"""Stripe: what a request may cost, what a reply says it did cost, and how it goes out.

What could move money and has no price is denied as `unpriced`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote as quote_path
from urllib.parse import urlsplit

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import denial
from luigi_spendguard.money import NoRate, to_micros
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request
from luigi_spendguard.vendors.stripe_prices import counts_for, priced
from luigi_spendguard.vendors.stripe_routes import API_BASE, check_allowed, own_path, recognise

__all__ = ["API_BASE", "Stripe"]

#: The SDK makes up keys of this shape (stripe-python 16.1, random hexadecimal digits).
_MADE_UP = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

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
        path = own_path(request.url, settings)
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
        quote = recognise(request, path, query, blank, settings)
        check_allowed(request.method, quote, settings)
        if quote.read or quote.operation.endswith("*"):
            return quote
        return priced(quote, request, fx)

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
            amount, total = counts_for(kind, body, fx)
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

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        """Return the GET of the object that an operator has named as a call's: its answer has that shape."""
        kind = quote.path.split("/")[2]
        headers = {name: request.headers[name] for name in _KEPT[1:] if name in request.headers}
        return Request("GET", f"{API_BASE}/v1/{kind}/{quote_path(object_id, safe='')}", headers)

    def complete(self, quote: Quote, reply: Reply, fx: Mapping[str, Decimal]) -> Quote:
        """Return `quote` with the total that the looked-up object says. Raises SpendDenied."""
        kind = quote.operation.partition(".")[0]
        body = _json(reply)
        try:
            if reply.status != 200 or body["id"] != quote.object_id:
                raise ValueError
            total = max(counts_for(kind, body, fx))
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
        path = own_path(request.url, settings)
        url = (settings.base_url or API_BASE) + path + (f"?{parts.query}" if parts.query else "")
        headers = {name: v for name, v in request.headers.items() if name not in _DROPPED}
        headers["authorization"] = f"Bearer {secret}"
        if key:
            headers["idempotency-key"] = key
        return Request(request.method, url, headers, request.body)

    def kept_headers(self, request: Request) -> dict[str, str]:
        """Return the headers that belong to a stored body."""
        return {name: request.headers[name] for name in _KEPT if name in request.headers}


def _json(reply: Reply) -> dict[str, Any]:
    try:
        body = json.loads(reply.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _unbelieved(why: str) -> Outcome:
    return Outcome("doubt", note=why, error=why)
