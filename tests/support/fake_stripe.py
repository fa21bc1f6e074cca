"""A stateful Stripe look-alike with books of its own; runs as a separate process on loopback.

    python -m tests.support.fake_stripe --port-file FILE [--idempotency ignore] [--latency 0.05]

It keeps what a careful vendor keeps: every request as it arrived, every movement of money, and the
stored answers of idempotency keys (https://docs.stripe.com/api/idempotent_requests). Faults are scripted
over `POST /_control`. It shares no code with luigi_spendguard.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import os
import time
import uuid
from typing import Any
from urllib.parse import parse_qsl

import tornado.web

from tests.support import fake_stripe_lists as lists
from tests.support.fake_stripe_trials import Trials

REQUESTS: list[dict[str, Any]] = []
MOVED: list[dict[str, Any]] = []
OBJECTS: dict[str, dict[str, Any]] = {}
KEYS: dict[str, dict[str, Any]] = {}
FAULTS: list[dict[str, Any]] = []
#: No valid UTF-8, and more than one piece of a streamed answer.
PDF = b"%PDF-1.7\n\xff\xfe" + bytes(range(256)) * 1000
OPTIONS: dict[str, Any] = {"latency": 0.0, "idempotency": "honour", "held": False, "later_s": 0}
#: A key may be forgotten when it is so old (https://docs.stripe.com/api/idempotent_requests): here it is.
KEY_S = 24 * 3600


class Problem(Exception):
    """Answer with an error in Stripe's shape."""

    def __init__(self, status: int, kind: str, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": kind, "code": code, "message": message, **more}}


def _missing(what: str) -> Problem:
    return Problem(404, "invalid_request_error", "resource_missing", f"No such {what}")


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:20]}"


def move(obj: dict[str, Any], amount: int) -> None:
    MOVED.append(
        {
            "object": obj["id"],
            "amount": amount,
            "customer": obj["customer"],
            "currency": obj.get("currency"),
            "time": time.monotonic(),
        }
    )


def confirm_intent(intent: dict[str, Any]) -> None:
    method = intent["payment_method"]
    if method is None:
        raise Problem(400, "invalid_request_error", "parameter_missing", "no payment_method")
    if method == "pm_card_chargeDeclined":
        intent["status"], intent["payment_method"] = "requires_payment_method", None
        intent["last_payment_error"] = {"type": "card_error", "code": "card_declined", "message": "Declined."}
        error = {"payment_intent": dict(intent)}
        raise Problem(402, "card_error", "card_declined", "Your card was declined.", **error)
    if intent["capture_method"] == "manual":
        intent["status"], intent["amount_capturable"] = "requires_capture", intent["amount"]
        return
    intent["status"], intent["amount_received"] = "succeeded", intent["amount"]
    move(intent, intent["amount"])


def payment_intents(method: str, parts: list[str], data: dict[str, str]) -> dict[str, Any]:
    if not parts:
        intent = {
            "id": new_id("pi"),
            "object": "payment_intent",
            "amount": int(data["amount"]),
            "amount_received": 0,
            "amount_capturable": 0,
            "currency": data["currency"],
            "customer": data.get("customer"),
            "customer_account": data.get("customer_account"),
            "payment_method": data.get("payment_method"),
            "capture_method": data.get("capture_method", "automatic"),
            "status": "requires_confirmation" if "payment_method" in data else "requires_payment_method",
            "created": now(),
        }
        intent["client_secret"] = f"{intent['id']}_secret_{uuid.uuid4().hex[:12]}"
        OBJECTS[intent["id"]] = intent
        if data.get("confirm") == "true":
            confirm_intent(intent)
        return intent
    intent = OBJECTS.get(parts[0]) or {}
    if not intent:
        raise _missing("payment_intent")
    verb = parts[1] if len(parts) > 1 else "update"
    if method == "GET":
        return intent
    if verb == "update":
        if "amount" in data and intent["status"] in ("requires_capture", "succeeded", "canceled"):
            raise Problem(400, "invalid_request_error", "unexpected_state", f"{intent['status']} already")
        for name in ("amount", "currency", "payment_method", "customer"):
            if name in data:
                intent[name] = int(data[name]) if name == "amount" else data[name]
    elif verb == "confirm":
        intent["payment_method"] = data.get("payment_method") or intent["payment_method"]
        if intent["status"] in ("requires_capture", "succeeded", "canceled"):
            raise Problem(400, "invalid_request_error", "unexpected_state", f"{intent['status']} already")
        confirm_intent(intent)
    elif verb == "capture":
        amount = int(data.get("amount_to_capture", intent["amount_capturable"]))
        if intent["status"] != "requires_capture":
            raise Problem(400, "invalid_request_error", "unexpected_state", f"{intent['status']} already")
        if amount > intent["amount_capturable"]:
            raise Problem(400, "invalid_request_error", "amount_too_large", "more than capturable")
        intent |= {"status": "succeeded", "amount_received": amount, "amount_capturable": 0}
        move(intent, amount)
    elif verb == "cancel":
        if intent["status"] in ("succeeded", "canceled"):
            raise Problem(400, "invalid_request_error", "unexpected_state", f"{intent['status']} already")
        intent |= {"status": "canceled", "amount_capturable": 0}
    else:
        raise _missing("route")
    return intent


def charges(method: str, parts: list[str], data: dict[str, str]) -> dict[str, Any]:
    if not parts:
        captured = data.get("capture", "true") == "true"
        charge = {
            "id": new_id("ch"),
            "object": "charge",
            "amount": int(data["amount"]),
            "amount_captured": int(data["amount"]) if captured else 0,
            "currency": data["currency"],
            "customer": data.get("customer"),
            "captured": captured,
            "status": "succeeded",
        }
        if data.get("source") == "tok_chargeDeclined":
            raise Problem(402, "card_error", "card_declined", "Your card was declined.")
        OBJECTS[charge["id"]] = charge
        if data.get("source", "").startswith("ba_"):  # The bank pays days later, see `clear`.
            return charge | {"status": "pending", "amount_captured": 0}
        if captured:
            move(charge, charge["amount"])
        return charge
    charge = OBJECTS.get(parts[0]) or {}
    if not charge:
        raise _missing("charge")
    if method == "POST" and parts[1:] in (["refund"], ["refunds"]):
        refund = outgoing("refunds", method, [], {**data, "charge": charge["id"]})
        charge["amount_refunded"] = charge.get("amount_refunded", 0) + refund["amount"]
        _describe(refund, data)
        return refund if parts[1:] == ["refunds"] else charge
    if method == "POST" and parts[1:] == ["clear"]:  # Only the look-alike has it.
        move(charge, charge["amount"])
    if method == "POST" and parts[1:] == ["capture"]:
        amount = int(data.get("amount", charge["amount"]))
        if charge["captured"] or amount > charge["amount"]:
            raise Problem(400, "invalid_request_error", "charge_already_captured", "or more than it is")
        charge |= {"captured": True, "amount_captured": amount}
        move(charge, amount)
    return charge


def outgoing(kind: str, method: str, parts: list[str], data: dict[str, str]) -> dict[str, Any]:
    """Refunds, transfers and payouts: money that leaves."""
    if parts:
        made = OBJECTS.get(parts[0]) or {}
        if not made:
            raise _missing(kind)
        if parts[1:] == ["reversals"]:  # Out of the connected account's balance.
            left = made["amount"] - made.get("amount_reversed", 0)
            amount = int(data.get("amount", left))
            made["amount_reversed"] = made.get("amount_reversed", 0) + amount
            move(made, amount)
            return _below(
                "trr",
                "transfer_reversal",
                made,
                transfer=made["id"],
                amount=amount,
                currency=made["currency"],
            )
        if parts[1:] == ["cancel"]:
            if made["status"] != "pending":
                raise Problem(400, "invalid_request_error", "unexpected_state", f"{made['status']} already")
            made["status"] = "canceled"
            move(made, -made["amount"])
        return made
    of = OBJECTS.get(data.get("charge") or data.get("payment_intent") or "", {})
    if kind == "refunds" and not of:
        raise _missing("charge")
    amount = int(data.get("amount", of.get("amount", 0)))
    made = {
        "id": new_id(kind[:2]),
        "object": kind[:-1],
        "amount": amount,
        "status": "pending",
        "currency": data.get("currency") or of["currency"],
        "customer": of.get("customer"),
        "charge": data.get("charge"),
        "payment_intent": data.get("payment_intent"),
    }
    OBJECTS[made["id"]] = made
    move(made, amount)
    return made


def _below(prefix: str, kind: str, of: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make an object that is listed below another one."""
    made = {"id": new_id(prefix), "object": kind, "of": of["id"], **more}
    OBJECTS[made["id"]] = made
    return made


#: What is listed below an object, or by one that has to be named: its type, and what names that in it.
LISTED_BELOW = {
    ("transfers", "reversals"): ("transfer_reversal", "transfer"),
    ("customers", "balance_transactions"): ("customer_balance_transaction", "customer"),
    ("subscription_items",): ("subscription_item", "subscription"),
}


def listing_below(kind: str, parts: list[str], data: dict[str, str], path: str) -> dict[str, Any]:
    """Return a page of such a list: it takes no `created`, as Stripe's do not."""
    if unknown := {*data} - {"limit", "starting_after", "subscription"}:
        raise Problem(400, "invalid_request_error", "parameter_unknown", f"{unknown}")
    of, name = LISTED_BELOW[(kind, *parts[1:])]
    owner = parts[0] if parts else data[name]
    found = [one for one in OBJECTS.values() if one["object"] == of and one[name] == owner]
    return lists.listing(found, of, data, path)


def others(kind: str, method: str, parts: list[str], data: dict[str, str]) -> dict[str, Any]:
    if kind == "balance":
        return {"object": "balance", "available": []}
    if method == "POST" and not parts:
        prefix = {"customers": "cus", "payment_methods": "pm"}[kind]
        made = {
            "id": new_id(prefix),
            "object": kind[:-1],
            "email": data.get("email"),
            "currency": data.get("currency"),
        }
        OBJECTS[made["id"]] = made
        return made
    found = OBJECTS.get(parts[0]) if parts else None
    if found is None:
        raise _missing(kind)
    if parts[1:2] == ["balance_transactions"]:
        found["balance"] = found.get("balance", 0) + int(data["amount"])
        amount, currency = int(data["amount"]), data["currency"]
        facts = {"customer": found["id"], "amount": amount, "currency": currency}
        return _below("cbtxn", "customer_balance_transaction", found, **facts)
    if parts[1:2] == ["tax_ids"]:  # Whose tax is reversed has none on the invoice.
        found["tax_exempt"] = "none" if method == "DELETE" else "reverse"
        return {"id": parts[2] if parts[2:] else new_id("txi"), "object": "tax_id", "customer": found["id"]}
    if method == "POST":
        found |= {name: data[name] for name in ("tax_exempt",) if name in data}
        found |= {"tax_exempt": "none"} if "address[country]" in data else {}
    return found | ({"customer": data["customer"]} if "customer" in data else {})


def books_of(kind: str, data: dict[str, str], path: str) -> dict[str, Any]:
    """Return a page of what was made in a period, as Stripe lists it; what moved money had a charge."""
    for made in OBJECTS.values():
        made.setdefault("created", int(time.time()))
    found = list(OBJECTS.values())
    for number, moved in enumerate(MOVED):
        of = OBJECTS[moved["object"]]
        types = {"payment_intent": "charge", "charge": "charge", "invoice": "charge"}
        charge = {"id": f"ch_of_{of['id']}", "object": "charge", "payment_intent": of["id"]}
        found.append(
            {
                "id": f"txn_{number:06d}",
                "object": "balance_transaction",
                "type": types.get(of["object"], of["object"]),
                "amount": moved["amount"],
                "currency": of["currency"],
                "fee": 30 if of["object"] == "payment_intent" else 0,
                "created": int(time.time() - time.monotonic() + moved["time"]),
                "source": charge if of["object"] == "payment_intent" else of,
            }
        )
    page = lists.listing(found, kind, data, path)
    if data.get("expand[0]") == "data.charge":
        page["data"] = [{**one, "charge": OBJECTS.get(one["charge"] or "")} for one in page["data"]]
    return page


def listing(kind: str, data: dict[str, str], path: str) -> dict[str, Any]:
    found = [one for one in reversed(OBJECTS.values()) if one["object"] == kind[:-1]]
    least, most = int(data.get("created[gte]", 0)), int(data.get("created[lte]", 1 << 40))
    found = [one for one in found if least <= one.get("created", least) <= most]
    for name in ("customer", "payment_intent", "charge"):
        if name in data:
            found = [one for one in found if one.get(name) == data[name]]
    start = data.get("starting_after")
    begin = next((i + 1 for i, o in enumerate(found) if o["id"] == start), 0)
    limit = int(data.get("limit", 10))
    page = found[begin : begin + limit]
    return {"object": "list", "url": path, "data": page, "has_more": begin + limit < len(found)}


def _billing_problem(status: int, code: str) -> Problem:
    return Problem(status, "card_error" if status == 402 else "invalid_request_error", code, code)


BILLING = Trials(OBJECTS, new_id, move, _billing_problem)


def execute(method: str, path: str, data: dict[str, str]) -> dict[str, Any]:
    before = len(OBJECTS)
    try:
        body = _executed(method, path, data)
    except Problem:
        if len(OBJECTS) > before:  # Declined, it is there.
            _describe(next(reversed(OBJECTS.values())), data)
        raise
    if method == "POST" and not path.endswith("/refund"):  # Which answers with the charge.
        _describe(body, data)
    return body


def _describe(body: dict[str, Any], data: dict[str, str]) -> None:
    """Keep metadata: what makes an object sets it, what changes it adds, or takes away what is empty.

    https://docs.stripe.com/metadata
    """
    made = OBJECTS.get(body.get("id", ""))
    if made is None:
        return
    made.setdefault("created", now())
    metadata = made.setdefault("metadata", {})
    if data.get("metadata") == "":
        metadata.clear()
    for name, value in data.items():
        if name.startswith("metadata["):
            metadata[name[9:-1]] = value
            if not value:
                del metadata[name[9:-1]]
    if len(metadata) > 50:
        raise Problem(400, "invalid_request_error", "metadata_too_large", "50 keys at the most")
    body |= {"metadata": metadata, "created": made["created"]}


def now() -> int:
    """Return its clock, in seconds since the epoch."""
    return int(time.time() + OPTIONS["later_s"])


def _executed(method: str, path: str, data: dict[str, str]) -> dict[str, Any]:
    _, _, kind, *parts = path.split("/")
    if method == "GET" and "created[gte]" in data:
        return books_of("/".join([kind, *parts]), data, path)
    if method == "GET" and (kind, *parts[1:]) in LISTED_BELOW and (parts[1:] or not parts):
        return listing_below(kind, parts, data, path)
    if kind in BILLING.kinds:
        return BILLING.kinds[kind](method, parts, data)
    if method == "GET" and not parts and kind != "balance":
        return listing(kind, data, path)
    if kind == "payment_intents":
        return payment_intents(method, parts, data)
    if kind == "charges":
        return charges(method, parts, data)
    if kind in ("refunds", "transfers", "payouts"):
        return outgoing(kind, method, parts, data)
    if kind == "files":
        return {"id": new_id("file"), "object": "file"}
    if kind in ("customers", "payment_methods", "balance"):
        return others(kind, method, parts, data)
    raise _missing("route")


class Vendor(tornado.web.RequestHandler):
    """/v1/…"""

    async def _serve(self) -> None:
        request = self.request
        text = request.body.decode("utf-8", "surrogateescape")
        data = dict(parse_qsl(text if request.method == "POST" else request.query, keep_blank_values=True))
        REQUESTS.append(
            {
                "method": request.method,
                "path": request.path,
                "authorization": request.headers.get("Authorization"),
                "key": request.headers.get("Idempotency-Key"),
                "account": request.headers.get("Stripe-Account"),
                "body": text,
                "time": time.monotonic(),
                "request_id": new_id("req"),
            }
        )
        self.request_id = REQUESTS[-1]["request_id"]
        shown = request.headers.get("Authorization") or ""
        if not shown.startswith("Bearer sk_") and not self._by_page(data):
            await self._reply(401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key"}})
            return
        fault = self._fault()
        if fault["fault"] == "drop_before":
            self.detach().close()
            return
        if OPTIONS["latency"]:
            await asyncio.sleep(OPTIONS["latency"])
        while OPTIONS["held"] is True or (OPTIONS["held"] and request.method != "GET"):  # Until they may go.
            await asyncio.sleep(0.01)
        if fault["fault"] == "status":
            await self._reply(fault["status"], {"error": {"type": "api_error", "message": "scripted"}})
            return
        if request.path.endswith("/pdf"):
            self.set_header("Content-Type", "application/pdf")
            await self.finish(PDF)
            return
        if request.path == "/v1/files":
            digest = hashlib.sha256(request.body).hexdigest()
            await self._reply(200, {"id": new_id("file"), "object": "file", "sha256": digest})
            return
        status, body, replayed = await self._once(data, fault)
        await self._broken(fault, status, body, replayed)

    get = post = delete = _serve

    def _by_page(self, data: dict[str, str]) -> bool:
        """Return whether somebody's page confirms an intent: a publishable key and its client_secret do."""
        shown, parts = self.request.headers.get("Authorization") or "", self.request.path.split("/")
        intent = OBJECTS.get(parts[3] if parts[4:] == ["confirm"] else "", {})
        said = data.pop("client_secret", "")
        return shown.startswith("Bearer pk_") and bool(said) and said == intent.get("client_secret")

    def _fault(self) -> dict[str, Any]:
        line = f"{self.request.method} {self.request.path}"
        for fault in FAULTS:
            if fault["times"] and line.startswith(fault["match"]):
                fault["times"] -= 1
                return fault
        return {"fault": "none"}

    async def _once(self, data: dict[str, str], fault: dict[str, Any]) -> tuple[int, dict[str, Any], bool]:
        """Execute, or answer what is stored under the key."""
        key = self.request.headers.get("Idempotency-Key")
        keyed = key and self.request.method == "POST" and OPTIONS["idempotency"] == "honour"
        said = [self.request.path, self.request.body.decode("utf-8", "surrogateescape")]
        if keyed and key in KEYS and KEYS[key]["at"] + KEY_S <= now():
            del KEYS[key]
        if keyed and key in KEYS:
            stored = KEYS[key]
            if stored["said"] != said:
                return 400, {"error": {"type": "idempotency_error", "message": "other parameters"}}, False
            if stored["status"] is None:
                error = {"code": "idempotency_key_in_use", "type": "invalid_request_error", "message": "wait"}
                return 409, {"error": error}, False
            return stored["status"], stored["body"], True
        if keyed:
            KEYS[key] = {"said": said, "status": None, "body": None, "at": now()}
        await asyncio.sleep(fault.get("seconds", 0) if fault["fault"] == "hang" else 0)
        BILLING.version = self.request.headers.get("Stripe-Version", "")
        try:
            if fault["fault"] == "decline":  # For now: with funds, or another key, it would be made.
                raise Problem(402, "card_error", "card_declined", "Insufficient funds.")
            status, body = 200, execute(self.request.method or "", self.request.path, data)
        except Problem as problem:
            status, body = problem.status, problem.body
        body = json.loads(json.dumps(body))
        if keyed and status not in (400, 401, 403, 404, 429):
            KEYS[key] |= {"status": status, "body": body}
        elif keyed:
            del KEYS[key]
        return status, body, False

    async def _broken(self, fault: dict[str, Any], status: int, body: dict[str, Any], replayed: bool) -> None:
        kind = fault["fault"]
        if kind == "drop_after":
            self.detach().close()
        elif kind == "status_after":
            await self._reply(fault["status"], {"error": {"type": "api_error", "message": "scripted"}})
        elif kind == "not_json":
            await self._reply(200, "<html>a proxy's page</html>")
        elif kind == "truncate":
            text = json.dumps(body)
            stream = self.detach()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
            await stream.write((head + text[: len(text) // 2]).encode())
            stream.close()
        elif kind == "change":
            await self._reply(status, body | fault["change"])
        elif kind == "redirect":
            self.set_header("Location", fault["to"])
            await self._reply(fault["status"], {"error": {"type": "api_error", "message": "moved"}})
        elif kind == "gzip":
            self.set_header("Content-Encoding", "gzip")
            self.set_header("Content-Type", "application/json")
            self.add_header("Set-Cookie", "session=of-the-vendor; Path=/")
            await self.finish(gzip.compress(json.dumps(body).encode()))
        elif kind == "echo_secret":
            await self._reply(status, body | {"leak": self.request.headers["Authorization"][7:]})
        else:
            if replayed:
                self.set_header("Idempotent-Replayed", "true")
            await self._reply(status, body)

    async def _reply(self, status: int, body: Any) -> None:
        self.set_status(status)
        self.set_header("Request-Id", OPTIONS.get("request_id") or self.request_id)
        self.set_header("Content-Type", "application/json" if isinstance(body, dict) else "text/html")
        await self.finish(json.dumps(body) if isinstance(body, dict) else body)


class Control(tornado.web.RequestHandler):
    """/_control: read the books, script faults, change options, forget everything."""

    def get(self) -> None:
        self.finish(json.dumps({"requests": REQUESTS, "moved": MOVED, "objects": OBJECTS}))

    def post(self) -> None:
        said = json.loads(self.request.body)
        FAULTS.extend({"times": 1, "match": "POST /v1", **fault} for fault in said.get("faults", []))
        OPTIONS.update(said.get("options", {}))
        for name, change in said.get("objects", {}).items():  # What has become of them meanwhile.
            OBJECTS[name] |= change
        if copies := said.get(
            "copies"
        ):  # Others, made at the same time; of the same tag where it is `tagged`.
            one = OBJECTS[copies["of"]]
            for _ in range(copies["times"]):
                made = {**one, "id": new_id(one["id"].partition("_")[0])}
                OBJECTS[made["id"]] = made if copies.get("tagged") else {**made, "metadata": {}}

    def delete(self) -> None:
        for kept in (REQUESTS, MOVED, FAULTS):
            kept.clear()
        for known in (OBJECTS, KEYS):
            known.clear()
        OPTIONS.update(latency=0.0, idempotency="honour", held=False, later_s=0)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--idempotency", choices=["honour", "ignore"], default="honour")
    parser.add_argument("--latency", type=float, default=0.0)
    args = parser.parse_args()
    OPTIONS.update(idempotency=args.idempotency, latency=args.latency)
    app = tornado.web.Application([(r"/_control", Control), (r"/v1/.*", Vendor)], log_function=lambda _: None)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1", backlog=512)
    tornado.httpserver.HTTPServer(app).add_sockets(sockets)
    with open(args.port_file + ".new", "w", encoding="ascii") as file:
        file.write(str(sockets[0].getsockname()[1]))
    os.rename(args.port_file + ".new", args.port_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import tornado.httpserver
    import tornado.netutil

    asyncio.run(main())
