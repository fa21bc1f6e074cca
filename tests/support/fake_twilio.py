"""A stateful Twilio look-alike with books of its own; runs as a separate process on loopback.

    python -m tests.support.fake_twilio --port-file FILE [--latency 0.05] [--price-delay 1.0]

All of Twilio's hosts are reached as http://127.0.0.1:PORT/<host>/<path>. Nothing is idempotent here, as
at the real one: every POST sends again. Faults and options are scripted over `POST /_control`
(fake_server.py says which faults; DEFAULTS below are the options). It shares no code with luigi_spendguard.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
import uuid
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.support import fake_server
from tests.support.fake_server import OBJECTS, OPTIONS, Problem
from tests.support.fake_twilio_paging import (
    E164,
    Form,
    iso,
    missing,
    new_page,
    old_page,
    one,
    problem,
    rfc2822,
)
from tests.support.fake_twilio_traffic import advance_all, calls, messages, micros, note, rate

DEFAULTS: dict[str, Any] = {
    "latency": 0.0,
    "secrets": ["twilio_canary_"],  # how an accepted password begins
    "auth_token": "twilio_canary_0f1e2d3c4b5a69788796a5b4c3d2e1f0",  # what GET Accounts/{Sid}.json gives away
    "account": "AC" + "0" * 32,  # whose API keys there are
    "send_delay": 0.05,  # seconds from queued to sent, and from sent to delivered
    "price_delay": 1.0,  # seconds from sent (completed) to a price
    "schedule_minimum": 900,  # seconds that SendAt must be ahead
    # Dollars by prefix of the number; "" is for the rest.
    "sms_price": {"1": "0.0083", "44": "0.0524", "": "0.1"},  # a segment
    "mms_price": {"1": "0.022", "": "0.2"},
    "call_price": {"1": "0.014", "": "0.15"},  # a minute that has begun
    "verify_channel_price": {"1": "0.0083", "": "0.1"},
    "verify_price": "0.05",  # a code that was approved
    "lookup_price": {"line_type_intelligence": "0.008", "": "0.01"},  # a field
    "number_price": "1.15",
    "price_unit": "USD",  # the account's currency
    "price": {},  # by sid or number: what is billed instead, even for one that fails
    "failing": [],  # numbers that cannot be reached
    "failed_price": None,  # what the price of a failed message reads as
    "call_seconds": 61,  # what a call is said to have lasted
    "call_delay": 0.2,  # what it really lasts
    "verify_code": "123456",
    "content": {},  # ContentSid: text
    "services": 3,  # Messaging Services there are
    "list": [],  # what is wrong with lists: "other" order, the last one "again" on the next page
    "arriving": 0,  # messages that come in with each page of messages that is read
}
_FIELDS = (
    "caller_name",
    "sim_swap",
    "call_forwarding",
    "line_status",
    "line_type_intelligence",
    "identity_match",
    "reassigned_number",
    "sms_pumping_risk",
    "phone_number_quality_score",
    "pre_fill",
)
Answer = tuple[int, Any]


class Twilio(fake_server.Vendor):
    """/<host>/<path>."""

    def address(self) -> dict[str, str]:
        return {"host": self.host, "path": self.path}

    def prepare(self) -> None:
        _, self.host, *rest = self.request.path.split("/", 2)
        self.path = "/" + "".join(rest)
        self.set_header("Twilio-Request-Id", f"RQ{uuid.uuid4().hex}")
        user, _, self.password = self._basic().partition(":")
        inside = re.match(r"/2010-04-01/Accounts/([^/.]+)", self.path)
        self.user = user
        self.account = inside[1] if inside else user if user.startswith("AC") else OPTIONS["account"]

    def _basic(self) -> str:
        scheme, _, said = (self.request.headers.get("Authorization") or "").partition(" ")
        try:
            return base64.b64decode(said, validate=True).decode() if scheme == "Basic" else ""
        except (binascii.Error, UnicodeDecodeError):
            return ""

    def refused(self) -> Problem | None:
        known = self.user.startswith("SK") or (self.user.startswith("AC") and self.user == self.account)
        if known and self.password.startswith(tuple(OPTIONS["secrets"])):
            return None
        return problem(401, 20003, "Authenticate")

    def scripted(self, status: int) -> dict[str, Any]:
        return problem(status, 20429 if status == 429 else 20500, "scripted").body

    def secrets(self) -> dict[str, str]:
        return {"leak": self.password, "leak_header": self.request.headers["Authorization"]}

    def execute(self) -> Answer:
        method, path = self.request.method or "", self.path
        text = self.request.body.decode("utf-8", "replace") if method == "POST" else self.request.query
        form = parse_qs(text, keep_blank_values=True)
        parts = [unquote(part) for part in re.sub(r"\.json$", "", path).split("/")[2:]]
        version, product = path.split("/")[1], self.host.split(".")[0]
        if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+){0,2}\.twilio\.com", self.host):
            raise missing(path)
        if (product, version) == ("api", "2010-04-01") and parts[:1] == ["Accounts"]:
            return self._account(method, parts[1:], form)
        if (product, version) == ("verify", "v2") and parts[:1] == ["Services"]:
            return self._verify(method, parts[1:], form)
        if (product, version) == ("lookups", "v2") and parts[:1] == ["PhoneNumbers"] and len(parts) == 2:
            return self._lookup(method, parts[1], form)
        if (product, version) == ("messaging", "v1") and parts[:1] == ["Services"]:
            return self._messaging(method, parts[1:], form)
        if (product, version) == ("pricing", "v1") and method == "GET":
            return self._pricing(parts)
        raise missing(path)

    # api.twilio.com

    def _account(self, method: str, parts: list[str], form: Form) -> Answer:
        account = {
            "sid": self.account,
            "owner_account_sid": self.account,
            "auth_token": OPTIONS["auth_token"],
            "friendly_name": "look-alike",
            "status": "active",
            "type": "Full",
            "date_created": rfc2822(0),
            "date_updated": rfc2822(0),
            "subresource_uris": {},
            "uri": f"/2010-04-01/Accounts/{self.account}.json",
        }
        if method == "GET" and not parts:
            return 200, old_page(self.path, "accounts", [account], form)
        if method == "GET" and len(parts) == 1:
            return 200, account
        kind = parts[1] if len(parts) > 1 else ""
        if kind == "Messages":
            return messages(method, self.account, parts[2:], form, self.path)
        if kind == "Calls":
            return calls(method, self.account, parts[2:], form, self.path)
        if kind == "IncomingPhoneNumbers":
            return self._numbers(method, parts[2:], form)
        if kind == "Balance" and method == "GET":
            return 200, {"account_sid": self.account, "balance": "100.00", "currency": "USD"}
        raise missing(self.path)

    def _numbers(self, method: str, parts: list[str], form: Form) -> Answer:
        own = [o for o in OBJECTS.values() if o["sid"][:2] == "PN" and o["account_sid"] == self.account]
        if method == "POST" and (not parts or parts[0] in ("Local", "Mobile", "TollFree")):
            number = one(form, "PhoneNumber") or f"+1{one(form, 'AreaCode') or ''}5550100"
            if not E164.fullmatch(number) or not ("PhoneNumber" in form or "AreaCode" in form):
                raise problem(400, 21421, "PhoneNumber is invalid")
            sid, now = "PN" + uuid.uuid4().hex, rfc2822(time.time())
            bought = {
                "sid": sid,
                "account_sid": self.account,
                "phone_number": number,
                "friendly_name": one(form, "FriendlyName") or number,
                "api_version": "2010-04-01",
                "beta": False,
                "capabilities": {"voice": True, "sms": True, "mms": True, "fax": False},
                "date_created": now,
                "date_updated": now,
                "status": "in-use",
                "uri": f"/2010-04-01/Accounts/{self.account}/IncomingPhoneNumbers/{sid}.json",
            }
            OBJECTS[sid] = bought
            note("number", sid, Decimal(OPTIONS["number_price"]), to=number)
            return 201, bought
        if method == "GET" and not parts:
            return 200, old_page(self.path, "incoming_phone_numbers", own, form)
        found = next((number for number in own if number["sid"] == parts[0]), None) if parts else None
        if found is None or parts[1:]:
            raise missing(self.path)
        if method == "DELETE":
            del OBJECTS[found["sid"]]
            return 204, None
        return 200, found

    # verify.twilio.com

    def _verify(self, method: str, parts: list[str], form: Form) -> Answer:
        url = f"https://{self.host}{self.path}"
        if len(parts) < 2:
            return self._services(method, "VA", parts, form)
        service, kind, *rest = parts
        open_ones = [o for o in OBJECTS.values() if o["sid"][:2] == "VE" and o["service_sid"] == service]
        if kind == "VerificationCheck" and method == "POST" and not rest:
            asked = one(form, "VerificationSid"), one(form, "To")
            waiting = [
                v for v in open_ones if v["status"] == "pending" and (v["sid"] in asked or v["to"] in asked)
            ]
            if not waiting:
                raise missing(self.path)
            found = waiting[-1]
            if one(form, "Code") == OPTIONS["verify_code"]:
                found |= {"status": "approved", "valid": True}
                entry = next(e for e in fake_server.SENT if e["sid"] == found["sid"])
                entry["micros"] += micros(Decimal(OPTIONS["verify_price"]))
            return 201, found
        if kind != "Verifications" or rest[1:]:
            raise missing(self.path)
        if method == "POST" and not rest:
            to, channel = one(form, "To"), one(form, "Channel")
            if to is None or channel is None or (channel != "email" and not E164.fullmatch(to)):
                raise problem(400, 60200, "Invalid parameter `To` or `Channel`")
            sid = "VE" + uuid.uuid4().hex
            attempt = {"time": iso(), "channel": channel.upper(), "attempt_sid": "VL" + uuid.uuid4().hex}
            made = {
                "sid": sid,
                "service_sid": service,
                "account_sid": self.account,
                "url": f"{url}/{sid}",
                "to": to,
                "channel": channel,
                "status": "pending",
                "valid": False,
                "date_created": iso(),
                "date_updated": iso(),
                "lookup": {},
                "amount": None,
                "payee": None,
                "sna": None,
                "send_code_attempts": [attempt],
            }
            OBJECTS[sid] = made
            note("verify", sid, rate(OPTIONS["verify_channel_price"], to), to=to, channel=channel)
            return 201, made
        found = next((v for v in open_ones if rest and v["status"] == "pending" and v["sid"] in rest), None)
        if found is None:
            raise missing(self.path)
        if method == "POST":
            found["status"] = "canceled" if one(form, "Status") == "canceled" else "approved"
        return 200, found

    # lookups.twilio.com

    def _lookup(self, method: str, number: str, form: Form) -> Answer:
        if method != "GET":
            raise missing(self.path)
        valid = E164.fullmatch(number) is not None
        fields = [field for field in (one(form, "Fields") or "").split(",") if field]
        if not set(fields) <= {*_FIELDS, "validation"}:
            raise problem(400, 60600, "Invalid value for parameter 'Fields'")
        found: dict[str, Any] = dict.fromkeys(_FIELDS)
        found |= {field: {"error_code": None} for field in fields if field != "validation"}
        prices = OPTIONS["lookup_price"]
        paid = [field for field in fields if field != "validation"] if valid else []
        if paid:
            amount = sum((Decimal(prices.get(field, prices.get("", "0.01"))) for field in paid), Decimal(0))
            note("lookup", number, amount, to=number, fields=paid)
        return 200, found | {
            "calling_country_code": number[1:2] if valid else None,
            "country_code": "US" if number.startswith("+1") else None,
            "phone_number": number,
            "national_format": number[2:] if valid else None,
            "valid": valid,
            "validation_errors": None if valid else ["NOT_A_NUMBER"],
            "url": f"https://{self.host}{self.path}",
        }

    # messaging.twilio.com and pricing.twilio.com

    def _messaging(self, method: str, parts: list[str], form: Form) -> Answer:
        return self._services(method, "MG", parts, form)

    def _services(self, method: str, prefix: str, parts: list[str], form: Form) -> Answer:
        """Verify's and Messaging's services, of which there are some from the beginning."""
        given = [
            self._service(f"{prefix}{i:032x}", f"service {i}") for i in range(1, OPTIONS["services"] + 1)
        ]
        known = given + [o for o in OBJECTS.values() if o["sid"][:2] == prefix]
        if method == "POST" and not parts:
            made = self._service(prefix + uuid.uuid4().hex, one(form, "FriendlyName") or "")
            OBJECTS[made["sid"]] = made
            return 201, made
        if method == "GET" and not parts:
            return 200, new_page(f"https://{self.host}{self.path}", "services", known, form)
        found = next((service for service in known if service["sid"] in parts), None)
        if found is None or method != "GET" or parts[1:]:
            raise missing(self.path)
        return 200, found

    def _service(self, sid: str, name: str) -> dict[str, Any]:
        version = self.path.split("/")[1]
        return {
            "sid": sid,
            "account_sid": self.account,
            "friendly_name": name,
            "date_created": iso(),
            "date_updated": iso(),
            "url": f"https://{self.host}/{version}/Services/{sid}",
        }

    def _pricing(self, parts: list[str]) -> Answer:
        if len(parts) != 3 or parts[1] != "Countries":
            raise missing(self.path)
        price = {"base_price": OPTIONS["sms_price"].get("1", "0.1"), "number_type": "local"}
        price["current_price"] = price["base_price"]
        sms = {"carrier": "all", "mcc": "310", "mnc": "0", "prices": [price]}
        return 200, {
            "country": parts[2],
            "iso_country": parts[2],
            "price_unit": "USD",
            "outbound_sms_prices": [sms],
            "inbound_sms_prices": [price],
            "outbound_prefix_prices": [],
            "inbound_call_prices": [],
            "phone_number_prices": [],
            "url": f"https://{self.host}{self.path}",
        }


if __name__ == "__main__":
    parser = fake_server.arguments()
    parser.add_argument("--price-delay", type=float, default=DEFAULTS["price_delay"])
    args = parser.parse_args()
    options = DEFAULTS | {"latency": args.latency, "price_delay": args.price_delay}
    asyncio.run(fake_server.serve(Twilio, options, args.port_file, advance_all))
