"""Vendors with books of their own, without I/O: one with idempotency keys, and one without any.

They count what they have moved, whatever became of their answers. Stripe-like: a key remembers its request
and its answer, a second request under it meanwhile is refused (409). Twilio-like: what comes twice is sent
twice, a list shows it, and its price is named later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from luigi_spendguard.money import MICROS_PER_USD
from luigi_spendguard.vendors import Reply, Request

ACCOUNT = f"AC{'1' * 32}"
#: What a text is quoted at in `luigi.cfg`'s defaults, and what it costs: carriers' fees come on top.
TEXT_PRICE, TEXT_FEE = 8_300, 8_750
JSON = {"content-type": "application/json"}


@dataclass
class Movement:
    """What a vendor has done: `whom` it paid or charged, for how much (micro-dollars)."""

    vendor: str
    whom: str
    micros: int
    object_id: str
    key: str = ""
    at_s: float = 0.0
    #: Twilio's: from when on it names the price.
    priced_s: float = 0.0
    #: The call in whose name it was sent.
    call_id: str = ""


def _reply(status: int, body: Mapping[str, Any], **headers: str) -> Reply:
    return Reply(status, {**JSON, **headers}, json.dumps(body).encode())


def _form(request: Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


def whom_of(request: Request) -> str:
    """Return whom a request pays or charges, "" for none."""
    form = _form(request) if request.method == "POST" else {}
    return form.get("customer", "") or form.get("To", "")


class Stripe:
    """PaymentIntents that are confirmed at once."""

    def __init__(self) -> None:
        self.moved: list[Movement] = []
        #: By key: the request's body, and its answer; None while it is executed.
        self._known: dict[str, tuple[bytes, Reply | None]] = {}
        self._intents: dict[str, dict[str, Any]] = {}

    def open_micros(self, whom: str) -> int:
        """Return what can still be collected of somebody by what declined calls have left open."""
        waiting = (one for one in self._intents.values() if one["status"] == "requires_payment_method")
        return sum(one["amount"] * MICROS_PER_USD // 100 for one in waiting if one["customer"] == whom)

    def cancel_open(self, whom: str) -> bool:
        """Cancel by hand what declined calls have left open of somebody; return whether there was any."""
        waiting = [one for one in self._intents.values() if one["status"] == "requires_payment_method"]
        mine = [one for one in waiting if one["customer"] == whom]
        for one in mine:
            one["status"] = "canceled"
        return bool(mine)

    def begin(self, request: Request) -> Reply | None:
        """Take a request; return its answer where it need not be executed."""
        path = urlsplit(request.url).path
        if request.method == "GET":
            intent = self._intents.get(path.rpartition("/")[2])
            return (
                _reply(200, intent) if intent else _reply(404, {"error": {"type": "invalid_request_error"}})
            )
        if path.endswith("/cancel"):
            intent = self._intents[path.split("/")[-2]]
            if intent["status"] != "succeeded":
                intent.update(status="canceled", amount_capturable=0)
                return _reply(200, intent)
            return _reply(400, {"error": {"type": "invalid_request_error"}})
        key = request.headers["idempotency-key"]
        if key not in self._known:
            self._known[key] = request.body, None
            return None
        body, answer = self._known[key]
        if body != request.body:
            return _reply(400, {"error": {"type": "idempotency_error"}})
        if answer is None:
            return _reply(409, {"error": {"type": "idempotency_error", "code": "idempotency_key_in_use"}})
        return Reply(answer.status, {**answer.headers, "idempotent-replayed": "true"}, answer.body)

    def execute(self, request: Request, now: float, how: str) -> Reply:
        """Execute a request that `begin` has taken; `how`: "decline", or as it asks."""
        form, key = _form(request), request.headers["idempotency-key"]
        amount, intent_id = int(form["amount"]), f"pi_{len(self._intents) + 1}"
        intent = {"id": intent_id, "object": "payment_intent", "currency": "usd", "amount": amount}
        intent |= {"amount_capturable": 0, "customer": form["customer"], "client_secret": "x"}
        self._intents[intent_id] = intent
        if how == "decline":
            intent |= {"status": "requires_payment_method", "amount_received": 0}
            answer = _reply(402, {"error": {"type": "card_error", "payment_intent": dict(intent)}})
        else:
            intent |= {"status": "succeeded", "amount_received": amount}
            micros = amount * MICROS_PER_USD // 100
            self.moved.append(Movement("stripe", form["customer"], micros, intent_id, key, now))
            answer = _reply(200, intent)
        self._known[key] = request.body, answer
        return answer


class Twilio:
    """Messages."""

    def __init__(self) -> None:
        self.moved: list[Movement] = []
        self._messages: dict[str, dict[str, Any]] = {}

    def begin(self, request: Request, wall_ms: int, now: float) -> Reply | None:
        if request.method == "POST":
            return None
        parts = urlsplit(request.url)
        sid = parts.path.rpartition("/")[2].removesuffix(".json")
        if sid.startswith("SM"):
            message = dict(self._messages[sid])
            movement = next(one for one in self.moved if one.object_id == sid)
            if now >= movement.priced_s:
                # The guard adds the fee to a price that is within its quote; what is dearer has it in it.
                price = movement.micros - (TEXT_FEE if movement.micros <= TEXT_PRICE + TEXT_FEE else 0)
                message |= {"status": "delivered", "price": f"-{price / 1e6:.6f}", "price_unit": "USD"}
            return _reply(200, message)
        to = parse_qs(parts.query)["To"][0]
        found = [one for one in reversed(self._messages.values()) if one["to"] == to]
        return _reply(200, {"messages": found})

    def execute(self, request: Request, now: float, how: str, wall_ms: int) -> Reply:
        """Send a text; `how`: "dear" costs more than was quoted, of a "named" one the price is known."""
        form, sid = _form(request), f"SM{len(self._messages) + 1:032x}"
        made = format_datetime(datetime.fromtimestamp(wall_ms / 1000, timezone.utc))
        message = {"sid": sid, "to": form["To"], "from": form["From"], "body": form["Body"]}
        message |= {"date_created": made, "status": "queued", "price": None, "price_unit": "USD"}
        if how == "named":
            message |= {"price": f"-{(TEXT_PRICE - 300) / 1e6:.6f}"}
        message |= {"direction": "outbound-api", "num_media": "0", "messaging_service_sid": None}
        self._messages[sid] = message
        cost = TEXT_PRICE * 3 if how == "dear" else TEXT_PRICE - 300 + TEXT_FEE
        self.moved.append(Movement("twilio", form["To"], cost, sid, "", now, now + 25))
        return _reply(201, message)


@dataclass
class Vendors:
    """Both, and what is on its way to them."""

    stripe: Stripe = field(default_factory=Stripe)
    twilio: Twilio = field(default_factory=Twilio)

    @property
    def moved(self) -> list[Movement]:
        return [*self.stripe.moved, *self.twilio.moved]

    def begin(self, vendor: str, request: Request, wall_ms: int, now: float) -> Reply | None:
        return self.stripe.begin(request) if vendor == "stripe" else self.twilio.begin(request, wall_ms, now)

    def execute(self, vendor: str, request: Request, now: float, how: str, wall_ms: int) -> Reply:
        if vendor == "stripe":
            return self.stripe.execute(request, now, how)
        return self.twilio.execute(request, now, how, wall_ms)
