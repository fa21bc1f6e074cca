"""Twilio: messages, calls, verifications and lookups within a cap.

Twilio has no idempotency: what may have been executed is searched for and never sent again. A message's
price comes later; until then it counts for its quote. The account SID in a path is the operator's, whatever
the client was made with.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from urllib.parse import urlencode, urlsplit

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable, denial
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.base import Vendor, error_reply, is_disguised
from luigi_spendguard.vendors.bodies import check_body, digest, is_json, json_body, read_form
from luigi_spendguard.vendors.misspelt import Known
from luigi_spendguard.vendors.model import FollowedUp, Outcome, Quote, Reply, Request, basic, bearer
from luigi_spendguard.vendors.parameters import Name, values_in
from luigi_spendguard.vendors.twilio import outcomes, prices, quotes
from luigi_spendguard.vendors.twilio.operations import (
    API_HOST,
    HOST,
    LISTED,
    RULED,
    address_of,
    kind_of,
    lists_of,
    named_lines,
    operation_of,
)
from luigi_spendguard.vendors.twilio.own_books import TwilioBooks

#: What a client is made with where the account is known to the gateway alone.
STAND_IN = "AC" + "0" * 32
#: Our denials' error codes are the HTTP status and this; Twilio's have five or six digits.
DENIED_CODE = 9_000_000

_SID = r"AC[0-9a-fA-F]{32}"
_PATH = re.compile(r"(/[A-Za-z0-9_.~:@!$&'()*+,=-]+)+")
_ACCOUNT = re.compile(r"(/2010-04-01/Accounts/)([^/.]+)(.*)", re.IGNORECASE)
#: Whom an operation at a fixed price may reach.
_WHOM = ("To", "ToBinding", "Identity")
#: A header that makes Twilio call the webhooks of what is changed.
_HOOKS = "x-twilio-webhook-enabled"
_PRICED = {
    "message": quotes.quote_message,
    "call": quotes.quote_call,
    "verification": quotes.quote_verification,
}


class Twilio(Vendor):
    """The Twilio adapter; `rest` of its URLs begins with the host: `/api.twilio.com/2010-04-01/…`."""

    name = "twilio"
    secret_variables = ("TWILIO_AUTH_TOKEN",)
    stand_ins = {"TWILIO_ACCOUNT_SID": STAND_IN}
    settings = prices.SETTINGS
    asks = ("x-twilio-", "flex-metadata", "ui-version")
    kept_answer = ("content-type", "twilio-request-id")
    request_header = "twilio-request-id"
    prices_late = True
    books = TwilioBooks()
    made_status = outcomes.MADE
    service_category = "Integration"
    reading = ("list", "fetch")
    pages = {
        "SM": "https://www.twilio.com/console/sms/logs/",
        "MM": "https://www.twilio.com/console/sms/logs/",
        "CA": "https://www.twilio.com/console/voice/calls/logs/",
    }
    ruled = frozenset(
        {
            "messages.create",
            "calls.create",
            "verify.services.verifications.create",
            "lookups.phone_numbers.fetch",
        }
    )

    def known(self) -> Known:
        return Known(self.name, *named_lines())

    def check(self, settings: VendorSettings) -> str:
        if settings.secret and "account_sid" not in settings.own:
            return (
                "[spendguard_twilio] account_sid (TWILIO_ACCOUNT_SID on a worker) is not set: every call is "
                "denied until it is"
            )
        for entry in settings.allowed_endpoints:
            path = entry.partition(" ")[2].strip()
            if path and "*" not in path.split("/")[1] and not HOST.fullmatch(path.split("/")[1]):
                return (
                    f"[spendguard_twilio] allowed_endpoints: {entry} names no host, as /api.twilio.com{path}"
                )
        return super().check(settings)

    def only_reads(self, request: Request) -> bool:
        """Return whether a request costs nothing: a Lookup is a GET and may be paid."""
        parts = urlsplit(request.url)
        if not _is_plain(parts.path) or is_disguised(request):
            return False
        kind = kind_of(request.method, parts.hostname or "", parts.path)
        if kind == "lookup":
            with contextlib.suppress(SpendDenied):
                return not quotes.lookup_fields(parts.query)
        return kind == "read"

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        path, _, query = self._path(request, settings).partition("?")
        _, host, rest = path.split("/", 2)
        kind = kind_of(request.method, host, f"/{rest}")
        operation = operation_of(request.method, host, f"/{rest}")
        key, callers = self.key_of(request)
        account = f"twilio:{settings.own['account_sid']}"
        quote = Quote(operation, account, path, key=key, key_is_callers=callers)
        line, credential = f"{request.method} {path}", kind == "credential"
        self.check_allowed(line, operation, settings, hands_out_credentials=credential)
        if kind == "read" or (credential and request.method == "GET"):
            check_body(request)
            return replace(quote, read=True, key=None)
        if wrong := self.check(settings):
            raise denial("unpriced", wrong)
        price = settings.prices.get(operation)
        if price is None and kind == "unpriced":
            raise self.no_price(operation, line)
        if kind == "lookup":
            check_body(request)
            return self._quote_lookup(quote, rest, query, settings)
        content = digest(request.method, path, query, request.body.decode("latin-1"))
        fixed = price is not None and kind not in _PRICED
        form = _read_form(request, operation, address_of(kind, request.method, host, f"/{rest}"), fixed=fixed)
        if fixed:
            return replace(
                quote,
                total_micros=int(price or 0),
                target=f"{rest}#{content[:12]}",
                fixed=True,
                targets=tuple(one for name in _WHOM for one in form.get(name, ())),
                fingerprint=f"{operation}|{content}",
                fingerprint_before=f"{operation}|{price}|{content}",
            )
        if kind in ("free", "credential", "verification_check"):
            return replace(
                quote,
                free=True,
                target=rest,
                repeatable=kind != "verification_check",
                fingerprint=f"{operation}|{content}",
            )
        if kind in ("message_update", "call_update"):
            return self._quote_update(quote, rest, form)
        priced = _PRICED[kind](form, settings)
        return replace(
            quote,
            total_micros=priced.total_micros,
            target=priced.target,
            fees_micros=priced.fees_micros,
            customers=(priced.target,),
            fingerprint=f"{operation}|{priced.target}|{digest(*priced.units)}|{priced.content}",
            fingerprint_before=f"{operation}|{priced.target}|{priced.total_micros}|{priced.content}",
        )

    def _quote_lookup(self, quote: Quote, rest: str, query: str, settings: VendorSettings) -> Quote:
        fields = quotes.lookup_fields(query)
        if not fields:
            return replace(quote, read=True, key=None)
        priced = quotes.quote_lookup(rest.rpartition("/")[2], fields, settings)
        return replace(
            quote,
            total_micros=priced.total_micros,
            target=priced.target,
            fingerprint=f"{quote.operation}|{priced.target}",
            fingerprint_before=f"{quote.operation}|{priced.target}|{priced.total_micros}",
        )

    def _quote_update(self, quote: Quote, rest: str, form: Mapping[str, list[str]]) -> Quote:
        """Cancel what has not been sent, end a call, or take a message's text away: nothing else is free."""
        object_id = rest.rpartition("/")[2].removesuffix(".json")
        fingerprint = f"{quote.operation}|{object_id}|{digest(form)}"
        known = replace(quote, target=object_id, repeatable=True, fingerprint=fingerprint)
        only = [(name, values[0]) for name, values in form.items()]
        if only in ([("Status", "canceled")], [("Status", "completed")]):
            return replace(known, object_id=object_id, only_less=True)
        if only == [("Body", "")] and quote.operation == "messages.update":
            return replace(known, free=True)
        raise denial("unpriced", f"{quote.operation} may only cancel, complete or redact; else it may cost")

    def _path(self, request: Request, settings: VendorSettings) -> str:
        """Return host, path and query, with the operator's account SID. Raises SpendDenied."""
        own = settings.own.get("account_sid")
        if not own:
            raise denial(
                "scope",
                "Twilio's account is not known: set [spendguard_twilio] account_sid, or TWILIO_ACCOUNT_SID "
                "in the environment of a worker that has the secret",
            )
        rest, mark, query = self.own_rest(request.url, settings).partition("?")
        _, host, path = [*rest.replace("%2B", "+").split("/", 2), "", ""][:3]
        if not API_HOST.fullmatch(host):
            raise denial(
                "endpoint", f"{host[:60]!r} is no host of Twilio's API: the secret is not sent to it"
            )
        if not _is_plain(f"/{path}"):
            raise denial("endpoint", "the path has characters that no path of Twilio's has")
        match = _ACCOUNT.fullmatch(f"/{path}")
        named = (basic(request)[0], *re.split(r"[^0-9A-Za-z]", path))
        for sid in named:
            if re.fullmatch(_SID, sid) and sid not in (own, STAND_IN):
                raise denial(
                    "scope", f"account {sid} is not [spendguard_twilio] account_sid: nothing was sent"
                )
        if match:
            path = f"{match.group(1)}{own}{match.group(3)}"[1:]
        return f"/{host}/{path}{mark}{query}"

    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        return outcomes.read_outcome(quote, reply, fx)

    def look_up(self, quote: Quote, request: Request, path: str) -> Request:
        """Return a GET of `path` at the host that the call goes to."""
        return Request("GET", self.url(f"/{quote.path.split('/')[1]}{path}"), {})

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        if quote.operation not in ("messages.create", "calls.create"):
            return super().fetch(quote, object_id, request)
        if not re.fullmatch("[A-Z]{2}[0-9a-f]{32}", object_id):
            raise denial("idempotency_mismatch", f"{object_id[:60]!r} is no SID of Twilio's")
        return Request("GET", self.url(f"{quote.path.removesuffix('.json')}/{object_id}.json"), {})

    def search(self, quote: Quote, request: Request, since_ms: int) -> Request | None:
        """Return the GET of an account's messages to the same number; None where a list does not tell enough.

        By number alone: a queued message has no DateSent yet and would be missed by it.
        """
        if quote.operation != "messages.create":
            return None
        form = read_form(request, lists_of(RULED["message"]))
        if not quotes.is_text(form):
            return None
        wanted = [(name, form[name][0]) for name in ("To", "From") if name in form]
        query = urlencode([*wanted, ("PageSize", "1000")])
        return Request("GET", self.url(f"{quote.path}?{query}"), {})

    def matches(self, quote: Quote, request: Request, listed: Reply, since_ms: int) -> Mapping[str, Reply]:
        return outcomes.find_matches(read_form(request, lists_of(RULED["message"])), listed, since_ms)

    def follow_up(self, account: str, object_id: str, settings: VendorSettings) -> Request | None:
        """Return the GET of a message or call, whose price may be known by now."""
        own = settings.own.get("account_sid")
        if account != f"twilio:{own}":
            return None
        kind = "Calls" if object_id.startswith("CA") else "Messages"
        return Request("GET", f"https://api.twilio.com/2010-04-01/Accounts/{own}/{kind}/{object_id}.json", {})

    def followed(self, reply: Reply, settings: VendorSettings, fx: Mapping[str, Decimal]) -> FollowedUp:
        return outcomes.read_follow_up(reply, prices.price_setting(settings, "failed_price"), fx)

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        """Return the request as it leaves, a call with its time limit; Twilio knows no idempotency key."""
        path = self._path(request, settings)
        headers = self.asked(request)
        user = settings.own.get("api_key_sid") or settings.own["account_sid"]
        headers["authorization"] = "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()
        body = request.body
        host, rest = path[1:].split("/", 1)
        if kind_of(request.method, host, "/" + rest.partition("?")[0]) == "call":
            form = read_form(request, lists_of(RULED["call"]))
            if not form.get("TimeLimit", [""])[0]:
                limit = quotes.time_limit({}, settings)
                body = urlencode({**form, "TimeLimit": [str(limit)]}, doseq=True).encode()
        url = settings.base_url + path if settings.base_url else self.url(path)
        return Request(request.method, url, headers, body)

    def credential(self, request: Request) -> str:
        """Return the password of basic authentication, where Twilio's token goes; or a bearer token."""
        return basic(request)[1] or bearer(request)

    def shape(self, error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> Reply:
        """Return a denial in Twilio's error format: the SDK keeps `code` and `details`, and no header.

        Not as `application/problem+json`: the SDK would raise another class (twilio-python 9.13).
        """
        refusal = error_reply(error)
        facts = error.facts if isinstance(error, SpendDenied) else {}
        reason = error.reason if isinstance(error, SpendDenied) else refusal.code
        details = {**facts, "reason": reason, "cap_hit": reason == "cap"}
        body = {
            "code": DENIED_CODE + refusal.status,
            "message": refusal.message,
            "status": refusal.status,
            "more_info": "",
            "details": details,
        }
        return Reply(refusal.status, refusal.headers, json.dumps(body).encode())

    def rest(self, url: str) -> str | None:
        """Return `/<host>/<path>` of a URL of one of Twilio's hosts, else None."""
        match = re.fullmatch(rf"https://({HOST.pattern})(/.*)", url, re.DOTALL)
        return f"/{match.group(1)}{match.group(3)}" if match else None

    def url(self, rest: str) -> str:
        """Return Twilio's URL for `/<host>/<path>`. Raises SpendDenied (`endpoint`)."""
        host = rest.lstrip("/").partition("/")[0]
        if not HOST.fullmatch(host):
            raise denial(
                "endpoint",
                f"{host[:60]!r} is no host of Twilio's: a path here begins with one, "
                "as /api.twilio.com/2010-04-01/…",
            )
        return "https:/" + rest

    price_list = staticmethod(prices.price_list)
    relinked = staticmethod(outcomes.relink)


def _read_form(
    request: Request, operation: str, address: str | None, *, fixed: bool
) -> Mapping[str, list[str]]:
    """Return the form that an operation is called with; of one in JSON nothing, since none has a price.

    Raises SpendDenied (`unpriced`) for what could be read in two ways, is not known, or may cost.
    """
    lists = lists_of(address)
    if is_json(request):
        check_body(request)
        if urlsplit(request.url).query:
            raise denial("unpriced", f"{operation} with a query string cannot be priced: say it in the body")
        form: dict[str, list[str]] = {}
        values: Mapping[Name, set[str]] = values_in(json_body(request))
    else:
        form = read_form(request, lists)
        values = {(name, "") if name in lists else (name,): {*each} for name, each in form.items()}
    if address is None:
        raise denial("unpriced", f"{operation} is no operation that this version of luigi_spendguard knows")
    LISTED.check(address, operation, values, fixed=fixed)
    if request.headers.get(_HOOKS, "false").lower() != "false" and not fixed:
        raise denial("unpriced", f"{operation} with {_HOOKS} starts what a webhook is for: leave it out")
    return form


def _is_plain(path: str) -> bool:
    """Return whether a path can be read in one way only: no escapes, parameters, empty or dotted parts."""
    return bool(_PATH.fullmatch(path.replace("%2B", "+"))) and "/." not in path


VENDOR = Twilio()
