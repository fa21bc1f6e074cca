"""A vendor that takes each request for the worst of what Rack, qs, PHP, Java or a trimming server reads.

    python -m tests.support.fake_readings --port-file FILE

Its books say what has moved by the dearest reading. Its replies name what a simple reading says, so that no
reply tells the guard of its mistake. Header names are read as CGI passes them: `X_FOO` is `X-FOO`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import tornado.httpserver
import tornado.netutil
import tornado.web

from tests.support.readings import EVERY, Nested, Refused, items_of, number_of, value_of

REQUESTS: list[str] = []
MOVED: list[dict[str, Any]] = []
_PRICE = re.compile(r"price_([0-9]+)")
_CODES = re.compile(rb"(?:%[0-9A-Fa-f]{2})+")
#: What ends with a last invoice or a credit comes to, in cents.
ENDING = 5_000


def moved_by(method: str, path: str, said: Nested) -> int:
    """Return the cents that a request moves as one server reads it."""
    kind = path.removeprefix("/v1/")
    if method == "DELETE" and kind.startswith("subscriptions/"):
        return ENDING * ("true" in (value_of(said.get("invoice_now")), value_of(said.get("prorate"))))
    if method != "POST":
        return 0
    if kind in ("payment_intents", "charges", "invoiceitems"):
        return number_of(said.get("amount"))
    if kind == "customers":
        return number_of(said.get("balance"))
    if kind == "checkout/sessions" and value_of(said.get("mode")) != "setup":
        return sum(_line(line) for line in items_of(said.get("line_items")))
    if kind == "subscription_schedules":
        first = next(iter(items_of(said.get("phases"))), {})
        return sum(_line(line) for line in items_of(first.get("items")))
    return 0


def _line(line: Nested) -> int:
    quantity = number_of(line["quantity"]) if "quantity" in line else 1
    named, data = _PRICE.search(value_of(line.get("price", ""))), line.get("price_data")
    each = int(named[1]) if named else number_of(data.get("unit_amount")) if isinstance(data, dict) else 0
    return each * quantity


def bodies(kind: str, body: bytes) -> list[tuple[str, Nested | None]]:
    """Return a body as a form to be read, or as what it says in JSON or as parts."""
    text = _decoded(kind, body)
    found: list[tuple[str, Nested | None]] = [("", None)]
    if not kind or "urlencoded" in kind:
        found.append((text, None))
    if "json" in kind:
        try:
            said = json.loads(text)
            found.append(("", said if isinstance(said, dict) else None))
        except ValueError:
            pass
    if "multipart" in kind:
        parts = re.findall(r'name="?([^";\r\n]+)"?.*?\r\n\r\n(.*?)\r\n--', text, re.DOTALL)
        found.append(("&".join(f"{name}={value}" for name, value in parts), None))
    return found


def _decoded(kind: str, body: bytes) -> str:
    """Return a body's text in the character set that its type names, what is percent-encoded too."""
    named = re.search(r"charset=([\w-]+)", kind)
    charset = named[1] if named else "utf-8"
    if charset == "utf-8":
        return body.decode("utf-8", "replace")
    text = body.decode("ascii" if _CODES.search(body) else charset, "replace")

    def each(codes: re.Match[str]) -> str:
        return quote(unquote_to_bytes(codes[0]).decode(charset, "replace"))

    return re.sub(_CODES.pattern.decode(), each, text)


def _digits(text: str) -> int:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


class Vendor(tornado.web.RequestHandler):
    """Takes each request for the worst that is read of it."""

    def read(self, kind: str) -> Iterator[Nested]:
        """Yield what servers read of a request whose type is `kind`."""
        for body, said in bodies(kind, self.request.body):
            for read in EVERY:
                with suppress(Refused):
                    yield read("&".join(filter(None, [self.request.query, body]))) | (said or {})

    def moved(self, method: str, params: Nested) -> float:
        """Return the cents that a request moves as one server reads it."""
        raise NotImplementedError  # Each vendor's own.

    def whom(self, params: Nested) -> str:
        """Return for whom a request is as one server reads it."""
        raise NotImplementedError  # As above.

    def answer(self) -> Any:
        """Return what a reply says: what a simple reading does."""
        raise NotImplementedError  # As above.

    def serve(self) -> None:
        request = self.request
        REQUESTS.append(f"{request.method} {request.uri} {request.body!r}")
        cgi: dict[str, list[str]] = {}
        for name, value in request.headers.get_all():
            cgi.setdefault(name.lower().replace("_", "-"), []).append(value)
        override = {value.strip().upper() for name, all_ in cgi.items() if "method" in name for value in all_}
        worst, customers = 0.0, set()
        for params in self.read(",".join(cgi.get("content-type", [])).lower()):
            methods = {request.method or "", value_of(params.get("_method", "")).upper(), *override}
            cents = max(self.moved(method, params) for method in methods)
            worst = max(worst, cents)
            if cents or self.every_reading:
                customers.add(self.whom(params))
        if worst:
            MOVED.append(
                {
                    "cents": worst,
                    "customers": sorted(customers - {""}),
                    "account": cgi.get("stripe-account", []),
                    "keys": cgi.get("idempotency-key", []),
                    "request": REQUESTS[-1],
                }
            )
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(self.answer()))

    get = post = delete = put = patch = serve

    #: Whether a customer counts who is in a reading that moves nothing.
    every_reading = False


class Stripe(Vendor):
    """/v1/…"""

    every_reading = True

    def moved(self, method: str, params: Nested) -> float:
        return moved_by(method, self.request.path, params)

    def whom(self, params: Nested) -> str:
        return value_of(params.get("customer", ""))

    def answer(self) -> dict[str, Any]:
        kind = self.request.path.removeprefix("/v1/").partition("/")
        if kind[0] == "prices" and (priced := _PRICE.fullmatch(kind[2])):
            return {
                "id": kind[2],
                "object": "price",
                "currency": "usd",
                "unit_amount": int(priced[1]),
                "billing_scheme": "per_unit",
                "type": "recurring",
                "active": True,
                "recurring": {"interval": "month", "usage_type": "licensed"},
            }
        if kind[0] == "customers" and kind[2]:
            return {"id": kind[2], "object": "customer", "currency": "usd", "email": None}
        if self.request.method == "GET" and not kind[2]:
            return {"object": "list", "data": [], "has_more": False, "url": self.request.path}
        plain: dict[str, str] = {}
        for name, value in parse_qsl(self.request.body.decode("utf-8", "replace"), keep_blank_values=True):
            plain.setdefault(name, value)
        amount = _digits(plain.get("amount", ""))
        total = _digits(plain.get("line_items[0][price_data][unit_amount]", ""))
        total *= _digits(plain.get("line_items[0][quantity]", "1"))
        word = {
            "payment_intents": "payment_intent",
            "charges": "charge",
            "customers": "customer",
            "invoiceitems": "invoiceitem",
            "subscription_schedules": "subscription_schedule",
            "checkout": "checkout.session",
            "subscriptions": "subscription",
            "prices": "price",
        }.get(kind[0], "object")
        return {
            "id": kind[2] if word == "subscription" else f"x_{uuid.uuid4().hex[:16]}",
            "object": word,
            "amount": amount,
            "amount_received": amount,
            "amount_captured": amount,
            "captured": True,
            "currency": "usd",
            "customer": "cus_1",
            "status": "succeeded",
            "amount_total": total,
            "payment_status": "paid",
        }


class Control(tornado.web.RequestHandler):
    """/_control: read the books, forget everything."""

    def get(self) -> None:
        self.finish(json.dumps({"requests": REQUESTS, "moved": MOVED}))

    def delete(self) -> None:
        REQUESTS.clear()
        MOVED.clear()


async def _serve(vendor: type[Vendor], port_file: str) -> None:
    app = tornado.web.Application([(r"/_control", Control), (r"/.*", vendor)], log_function=lambda _: None)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1", backlog=512)
    tornado.httpserver.HTTPServer(app).add_sockets(sockets)
    with open(port_file + ".new", "w", encoding="ascii") as file:
        file.write(str(sockets[0].getsockname()[1]))
    os.rename(port_file + ".new", port_file)
    await asyncio.Event().wait()


def main(vendor: type[Vendor]) -> None:
    """Serve a vendor on a free loopback port, which the port file names, until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    asyncio.run(_serve(vendor, parser.parse_args().port_file))


if __name__ == "__main__":
    main(Stripe)
