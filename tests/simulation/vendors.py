"""What vendors have executed, charges and texts: the books that all else is judged by."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
#: Seconds until the price of a text is named.
PRICED_S = 9


@dataclass
class Movement:
    """What a vendor has done in the name of a call: `whom` it has charged, for how much (micro-dollars)."""

    vendor: str
    whom: str
    micros: int
    object_id: str
    call_id: str
    at_s: float


def _reply(status: int, body: dict[str, Any], **headers: str) -> Reply:
    return Reply(status, {**JSON, **headers}, json.dumps(body).encode())


def _form(request: Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


def whom_of(request: Request) -> str:
    """Return whom a request pays or charges, "" for none."""
    form = _form(request) if request.method == "POST" else {}
    return form.get("customer", "") or form.get("To", "")


class Vendors:
    """Stripe's PaymentIntents, which are confirmed at once, and Twilio's messages."""

    def __init__(self) -> None:
        self.moved: list[Movement] = []
        #: By Stripe's key: the request's body, and its answer; None while it is executed.
        self._known: dict[str, tuple[bytes, Reply | None]] = {}
        self._intents: dict[str, dict[str, Any]] = {}
        self._messages: dict[str, dict[str, Any]] = {}

    def _left_open(self, whom: str) -> list[dict[str, Any]]:
        """Return what declined calls have left open of somebody, and can still be collected."""
        waiting = (one for one in self._intents.values() if one["status"] == "requires_payment_method")
        return [one for one in waiting if one["customer"] == whom]

    def open_micros(self, whom: str) -> int:
        return sum(one["amount"] * MICROS_PER_USD // 100 for one in self._left_open(whom))

    def cancel_open(self, whom: str) -> bool:
        """Cancel by hand what declined calls have left open of somebody; return whether there was any."""
        mine = self._left_open(whom)
        for one in mine:
            one["status"] = "canceled"
        return bool(mine)

    def begin(self, vendor: str, request: Request, now: float) -> Reply | None:
        """Take a request; return its answer where it need not be executed."""
        if vendor == "twilio":
            return None if request.method == "POST" else self._shown(request, now)
        path = urlsplit(request.url).path
        wrong = {"error": {"type": "invalid_request_error"}}
        if request.method == "GET":
            intent = self._intents.get(path.rpartition("/")[2])
            return _reply(200, intent) if intent else _reply(404, wrong)
        if path.endswith("/cancel"):
            intent = self._intents[path.split("/")[-2]]
            if intent["status"] == "succeeded":
                return _reply(400, wrong)
            intent.update(status="canceled", amount_capturable=0)
            return _reply(200, intent)
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

    def execute(
        self, vendor: str, request: Request, call_id: str, now: float, how: str, wall_ms: int
    ) -> tuple[Reply, Movement | None]:
        """Execute what `begin` has taken, as `how` says; return the answer, and what has moved."""
        before = len(self.moved)
        do = self._sent if vendor == "twilio" else self._charged
        reply = do(request, call_id, now, how, wall_ms)
        return reply, self.moved[-1] if len(self.moved) > before else None

    def _charged(self, request: Request, call_id: str, now: float, how: str, _: int) -> Reply:
        form, intent_id = _form(request), f"pi_{len(self._intents) + 1}"
        amount, whom = int(form["amount"]), form["customer"]
        intent = {"id": intent_id, "object": "payment_intent", "currency": "usd", "amount": amount}
        intent |= {"amount_capturable": 0, "customer": whom, "client_secret": "x"}
        self._intents[intent_id] = intent
        if how == "decline":
            intent |= {"status": "requires_payment_method", "amount_received": 0}
            answer = _reply(402, {"error": {"type": "card_error", "payment_intent": dict(intent)}})
        else:
            intent |= {"status": "succeeded", "amount_received": amount}
            micros = amount * MICROS_PER_USD // 100
            self.moved.append(Movement("stripe", whom, micros, intent_id, call_id, now))
            answer = _reply(200, intent)
        self._known[request.headers["idempotency-key"]] = request.body, answer
        return answer

    def _sent(self, request: Request, call_id: str, now: float, how: str, wall_ms: int) -> Reply:
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
        self.moved.append(Movement("twilio", form["To"], cost, sid, call_id, now))
        return _reply(201, message)

    def _shown(self, request: Request, now: float) -> Reply:
        parts = urlsplit(request.url)
        sid = parts.path.rpartition("/")[2].removesuffix(".json")
        if not sid.startswith("SM"):
            to = parse_qs(parts.query)["To"][0]
            found = [one for one in reversed(self._messages.values()) if one["to"] == to]
            return _reply(200, {"messages": found})
        message, made = dict(self._messages[sid]), next(one for one in self.moved if one.object_id == sid)
        if now >= made.at_s + PRICED_S:
            # The guard adds the fee to a price that is within its quote; what is dearer has it in it.
            price = made.micros - (TEXT_FEE if made.micros <= TEXT_PRICE + TEXT_FEE else 0)
            message |= {"status": "delivered", "price": f"-{price / 1e6:.6f}", "price_unit": "USD"}
        return _reply(200, message)
