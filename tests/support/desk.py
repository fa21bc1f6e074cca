"""The real SDK on a real ledger file, guarded, with a vendor that is a table of answers; no sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import stripe
import urllib3

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.guard import Call, Guard
from luigi_spendguard.guard.effects import Finish, Pause, Reserve, Send
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.stripe import Stripe
from tests.support.books import Books
from tests.support.lives import lived
from tests.support.vendors import FakeStripe

SECRET = "sk_test_canary_secret"
_http = urllib3.PoolManager()
CAP = 100_000_000  # $100
FX = {"eur": Decimal("1.12"), "sek": Decimal(1)}


class Desk(stripe.HTTPClient):
    """One task's SDK: `answers` maps `METHOD path` to a body, (status, body) or an exception.

    `headers` are on every answer.
    """

    name = "desk"

    def __init__(self, books: Books, **settings: Any) -> None:
        super().__init__()
        self.books = books
        self.answers: dict[str, Any] = {"GET /v1/invoiceitems": {"data": [], "has_more": False}}
        self.guard = Guard(Stripe(), VendorSettings("stripe", **settings), SECRET, FX, time.monotonic)
        self.headers: dict[str, str] = {}
        self.sent: list[Request] = []
        self.asked: list[Any] = []
        self.again()

    def again(self) -> None:
        """Begin a new attempt of the task."""
        self.key = self.books.claim("Charge_1")
        self.client = stripe.StripeClient(SECRET, http_client=self)

    def request(self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None) -> Any:
        body = b"" if post_data is None else post_data if isinstance(post_data, bytes) else post_data.encode()
        lowered = {name.lower(): str(value) for name, value in (headers or {}).items()}
        reply = self.guarded(Request(method.upper(), url, lowered, body))
        return reply.body.decode(), reply.status, reply.headers

    def guarded(self, request: Request) -> Reply:
        """Live one call to its end."""
        return lived(self.guard.guarded(request, Call()), self._do)

    def _do(self, effect: Any) -> Any:
        if isinstance(effect, Reserve):
            self.asked.append(effect.ask)
            return self.books.reserve(self.key, effect.ask)
        if isinstance(effect, Finish):
            return self.books.end(self.key, effect.end)
        if isinstance(effect, Pause):
            return time.sleep(effect.seconds)
        assert isinstance(effect, Send), effect
        self.sent.append(effect.request)
        path = effect.request.url.split("stripe.com", 1)[1]
        line = f"{effect.request.method} {path}"
        answer = self.answers.get(line, self.answers.get(line.split("?")[0], (404, {"error": {}})))
        if isinstance(answer, Exception):
            raise answer
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        return Reply(status, {"content-type": "application/json", **self.headers}, json.dumps(body).encode())

    def lines(self) -> list[str]:
        """Return what was sent, as `METHOD path`, the query left away."""
        return [f"{r.method} {r.url.split('stripe.com', 1)[1].split('?')[0]}" for r in self.sent]

    def figures(self) -> tuple[int, int, int]:
        """Return (spent, reserved, overrun) in micro-dollars."""
        assert self.books.audit() == []
        return self.books.figures()

    def spent(self) -> int:
        """Return what is spent, in cents; nothing may be left reserved or overrun."""
        spent, reserved, overrun = self.figures()
        assert (reserved, overrun) == (0, 0)
        return spent // 10_000

    def denied(self, call: Any, *args: Any) -> SpendDenied:
        """Make a call that must be denied before anything but look-ups is sent."""
        before = len(self.sent)
        try:
            call(*args)
        except SpendDenied as denied:
            assert all(request.method == "GET" for request in self.sent[before:])
            return denied
        raise AssertionError("it was let through")


class Outside(Desk):
    """The same with a real counterparty at `url`."""

    def __init__(self, books: Books, url: str, **settings: Any) -> None:
        super().__init__(books, base_url=url, **settings)
        self.http = urllib3.PoolManager(timeout=30, retries=False)

    def _do(self, effect: Any) -> Any:
        if not isinstance(effect, Send):
            return super()._do(effect)
        self.sent.append(effect.request)
        request = effect.request
        got = self.http.request(
            request.method, request.url, body=request.body or None, headers=dict(request.headers)
        )
        return Reply(got.status, {k.lower(): v for k, v in got.headers.items()}, got.data)


class Losing(Outside):
    """The same, at which the next change is answered by a 500: `before` it was executed, or `after`."""

    lose = ""

    def again(self) -> None:
        super().again()
        self.client = stripe.StripeClient("sk_test_x", http_client=self, max_network_retries=0)

    def _do(self, effect: Any) -> Any:
        if self.lose and isinstance(effect, Send) and effect.request.method != "GET":
            how, self.lose = self.lose, ""
            if how == "after":
                super()._do(effect)
            return Reply(500, {"content-type": "application/json"}, b'{"error": {"type": "api_error"}}')
        return super()._do(effect)


def by_hand(vendor: FakeStripe, path: str, **said: Any) -> Any:
    """Do something at the vendor past the guard, as a person at the dashboard would."""
    headers = {"Authorization": "Bearer sk_test_by_hand"}
    return _http.request(
        "POST", vendor.url + path, fields=said, headers=headers, encode_multipart=False
    ).json()


def post(path: str, body: bytes = b"", **headers: str) -> Request:
    form = {"content-type": "application/x-www-form-urlencoded"}
    return Request("POST", f"https://api.stripe.com{path}", form | headers, body)


def intent(status: str = "requires_confirmation", amount: int = 1000, **more: Any) -> dict[str, Any]:
    received = amount if status == "succeeded" else 0
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "amount": amount,
        "amount_received": received,
        "currency": "usd",
        "status": status,
        "customer": "cus_1",
        **more,
    }


def charge(amount: int = 1000, **more: Any) -> dict[str, Any]:
    return {
        "id": "ch_1",
        "object": "charge",
        "amount": amount,
        "amount_captured": amount,
        "captured": True,
        "amount_refunded": 0,
        "currency": "usd",
        "status": "succeeded",
        "customer": "cus_1",
        **more,
    }


def moved(kind: str, ident: str, amount: int = 1000, status: str = "pending", **more: Any) -> dict[str, Any]:
    return {"id": ident, "object": kind, "amount": amount, "currency": "usd", "status": status, **more}


def invoice(status: str = "draft", due: int = 1000, **more: Any) -> dict[str, Any]:
    paid = due if status == "paid" else 0
    return {
        "id": "in_1",
        "object": "invoice",
        "status": status,
        "amount_due": due,
        "amount_paid": paid,
        "amount_remaining": due - paid,
        "currency": "usd",
        "customer": "cus_1",
        "auto_advance": False,
        **more,
    }


def item(amount: int = 1000, **more: Any) -> dict[str, Any]:
    return {
        "id": "ii_1",
        "object": "invoiceitem",
        "amount": amount,
        "currency": "usd",
        "customer": "cus_1",
        "invoice": None,
        **more,
    }
