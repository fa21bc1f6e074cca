"""Resend: mails within a cap, by the number of their recipients.

Mails and batches are executed once under one idempotency key for 24 hours
(https://resend.com/docs/dashboard/emails/idempotency-keys): the guard adds one where the caller has none.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from email.utils import getaddresses
from typing import Any
from urllib.parse import quote as percent_encoded

from luigi_spendguard import config_values as values
from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable, denial
from luigi_spendguard.money import plain_usd
from luigi_spendguard.settings import Setting, VendorSettings
from luigi_spendguard.vendors import shapes
from luigi_spendguard.vendors.base import Vendor
from luigi_spendguard.vendors.bodies import (
    check_body,
    digest,
    json_body,
    reply_object,
    unbelieved,
    unsuccessful,
)
from luigi_spendguard.vendors.calls import Outcome, Quote, Reply, Request, Row
from luigi_spendguard.vendors.kinds import Kinds

#: What a mail more costs on Resend's plans: 0.90 for a bucket of 1,000 (changelog "Pay-as-you-go pricing", as
#: stored on 2026-11-25), that is 0.0009 each once the bucket is full.
EMAIL_PRICE = 900
#: The most mails in a batch (https://resend.com/docs/api-reference/emails/send-batch-emails).
MOST_MAILS = 100

#: What a mail may say (Resend's OpenAPI description). What is in no list could be sent to more people.
_MAIL = frozenset({
    "from", "to", "cc", "bcc", "subject", "reply_to", "html", "text", "headers", "attachments", "tags",
    "scheduled_at", "template", "topic_id",
})  # fmt: skip
#: Headers of a mail that name recipients.
_WHOM = r"(resent-|apparently-)?(to|cc|bcc)"
#: What becomes a line of a mail's head: a second line in it could name recipients.
_LINES = ("from", "to", "cc", "bcc", "subject", "reply_to")
#: What does not stand in an address, and in the ledger could not: blanks, controls, half a surrogate pair.
_UNWRITABLE = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]")
#: What a mail's recipients do not see: it may differ in a repeated call.
_UNSEEN = {"headers", "tags"}

TABLE = (
    Row("emails.send", "recipients (to, cc and bcc) times `email_price`", "as quoted; 0 once canceled",
        "fields that are not in Resend's description, headers that name recipients, line breaks in its head"),
    Row("batch.send", "the recipients of all its mails times `email_price`",
        "without the mails that a permissive batch names as errors",
        "more than 100 mails; `scheduled_at` and `attachments`, which Resend ignores in a batch"),
    Row("emails.update", "nothing", "nothing", "anything but another `scheduled_at`"),
    Row("emails.cancel", "nothing", "gives back the mail's amount"),
    Row("broadcasts.create", "nothing for a draft", "nothing", "with `send`: to how many is not known"),
)  # fmt: skip

_ID = r"[^/]+"
#: By "METHOD path". Checked against the 104 operations of Resend's description and the 147 of resend-python
#: 2.52.0.
_KINDS = Kinds([
    ("emails", r"POST /emails"),
    ("batch", r"POST /emails/batch"),
    ("cancel", rf"POST /emails/{_ID}/cancel"),
    ("move", rf"PATCH /emails/{_ID}"),
    ("credential", r"(?:POST|PATCH|DELETE|PUT) /api-keys(?:/.*)?"),
    ("credential", rf"POST /webhooks(?:/{_ID}/signing-secret/rotate)?|GET /webhooks/.+"),
    ("credential", rf"\w+ /oauth/grants(?:/{_ID})?"),
    ("credential", rf"GET /logs/{_ID}"),  # Bodies of earlier calls.
    ("credential", rf"POST /emails/{_ID}/share"),
    ("broadcast", r"POST /broadcasts"),
    ("unpriced", rf"PATCH /broadcasts/{_ID}|POST /broadcasts/{_ID}/(?:send|duplicate)"),
    ("unpriced", r"POST /events/send"),
    ("free", rf"POST /(?:broadcasts/{_ID}/cancel|automations/{_ID}/stop)"),
    ("free", r"POST /(?:templates|segments|topics|contact-properties|audiences|events|suppressions)"),
    ("free", rf"PATCH /(?:templates|segments|topics|contact-properties|events)/{_ID}"),
    ("free", rf"POST /templates/{_ID}/(?:publish|duplicate)|POST /suppressions/batch/(?:add|remove)"),
    ("free", rf"PATCH /webhooks/{_ID}"),
    ("free", rf"PATCH /contacts/{_ID}(?:/topics)?|POST /contacts/{_ID}/segments/{_ID}"),
    ("free", rf"PATCH /audiences/{_ID}/contacts/{_ID}"),
    ("free", r"DELETE /.*"),
    ("read", r"(?:GET|HEAD) /.*"),
])  # fmt: skip
#: Escaped are "@" and "+" alone: any other could hide the name of an operation.
_PATH = re.compile(r"(/([A-Za-z0-9_.~:@!$&'()*+,=-]|%40|%2[Bb])+)+")
#: The operations of which Resend reads an idempotency key.
_KEYED = ("emails.send", "batch.send")
_HAS_ID = re.compile(r".*[0-9@].*")
_VERBS = {"GET": ("list", "get"), "POST": ("create", "update"), "PATCH": ("update", "update"),
          "DELETE": ("remove", "remove")}  # fmt: skip


def kind_of(method: str, path: str) -> str:
    """Return of which kind an operation is: what its method and path say."""
    return _KINDS.of(f"{method} {path.rstrip('/')}")


def operation_of(method: str, path: str) -> str:
    """Return an operation's name: `emails.send`, `batch.send`, `broadcasts.send`, `contacts.create`."""
    named = {"POST /emails": "emails.send", "POST /emails/batch": "batch.send"}.get(f"{method} {path}")
    if named:
        return named
    parts = path.strip("/").split("/")
    words = [re.sub("[^a-z0-9]", "_", part.lower()) for part in parts if not _HAS_ID.fullmatch(part)]
    if method == "POST" and len(parts) > 1 and not _HAS_ID.fullmatch(parts[-1]):
        return ".".join(words)  # `broadcasts/{id}/send`, `events/send`.
    return ".".join([*words, _VERBS.get(method, (method.lower(),) * 2)[bool(_HAS_ID.fullmatch(parts[-1]))]])


class Resend(Vendor):
    """The Resend adapter."""

    name = "resend"
    home = "https://api.resend.com"
    secret_variables = ("RESEND_API_KEY",)
    longest_key = 256
    kept = ("content-type", "x-batch-validation")
    settings = (
        Setting("", "email_price", values.usd, "0.0009", "USD for each recipient of a mail: to, cc and bcc."),
    )

    def price_list(self, settings: VendorSettings) -> Iterator[tuple[str, str]]:
        """Yield the price of a mail."""
        own = settings.own.get("email_price")
        where = "luigi.cfg" if own is not None else "default: Resend's changelog, 0.90 for 1,000"
        yield "email_price", f"{plain_usd(_price(settings))} USD a recipient ({where})"

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        """Recognise and price a request. Raises SpendDenied."""
        request = _bare(request)
        check_body(request)
        path, mark, query = self.own_rest(request.url, settings).partition("?")
        if not _PATH.fullmatch(path) or "/." in path:
            raise denial("endpoint", "the path has characters that no path of Resend's has")
        kind, operation = kind_of(request.method, path), operation_of(request.method, path)
        key, callers = self.key_of(request)
        quote = Quote(operation, "resend", path, key=key, key_is_callers=callers, repeatable=True)
        credential = kind == "credential"
        self.check_allowed(f"{request.method} {path}", operation, settings, hands_out_credentials=credential)
        if kind == "read" or (credential and request.method == "GET"):
            return replace(quote, read=True, key=None)
        if mark and request.method != "DELETE":
            raise denial("unpriced", f"{operation} with a query string cannot be priced")
        if kind in ("emails", "batch"):
            if operation not in _KEYED:
                raise denial("unpriced", f"{path} in other letters than Resend's cannot be priced")
            return _mails(quote, json_body(request), settings)
        if kind == "move":
            moved = json_body(request)
            if not isinstance(moved, dict) or not moved.keys() <= {"id", "scheduled_at"}:
                raise denial("unpriced", f"{operation} may only name another scheduled_at")
        if kind == "cancel":
            object_id = path.split("/")[2]
            return replace(quote, target=object_id, object_id=object_id, only_less=True,
                           fingerprint=f"{operation}|{object_id}")  # fmt: skip
        said = digest(request.method, path, query, request.body.decode("latin-1"))
        price = settings.prices.get(operation)
        if price is not None:
            return replace(quote, total_micros=int(price), target=f"{path}#{said[:12]}", fixed=True,
                           repeatable=False, fingerprint=f"{operation}|{price}|{said}")  # fmt: skip
        draft = kind == "broadcast" and _is_draft(json_body(request))
        if kind in ("free", "move") or credential or draft:
            return replace(quote, free=True, target=path, fingerprint=f"{operation}|{said}")
        raise denial(
            "unpriced",
            f"{operation} ({request.method} {path}) has no price and is not free: denied unless "
            f"[spendguard_resend] prices gives it a fixed price, such as `{operation}: 5`",
        )

    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        """Read what became of the call; of a batch, what was accepted is paid for."""
        if ended := unsuccessful(quote, reply):
            return ended
        if quote.free:
            return Outcome("settle", total_micros=None)
        body = reply_object(reply)
        if quote.object_id is not None:
            if body.get("id") != quote.object_id:
                return unbelieved("the reply is about another mail than asked")
            return Outcome("settle", only_less=True, object_id=quote.object_id)
        if quote.parts:
            return Outcome("settle", total_micros=_accepted(quote, body))
        if quote.operation == "emails.send":
            found = body.get("id")
            if not isinstance(found, str) or not found:
                return unbelieved("the reply names no id")
            total = quote.total_micros
            return Outcome("settle", total_micros=total, worth_micros=total or 0, object_id=found)
        return Outcome("settle", total_micros=quote.total_micros)

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        """Return the GET of the mail that an operator has named as a call's."""
        if quote.operation != "emails.send":
            return super().fetch(quote, object_id, request)
        return Request("GET", f"{self.home}/emails/{percent_encoded(object_id, safe='')}", {})

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        """Return the request as it leaves; its key where Resend reads one."""
        keyed = operation_of(request.method, self.own_rest(request.url, settings)) in _KEYED
        return super().wire(_bare(request), settings, secret, key if keyed else "")

    def shape(self, error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> Reply:
        """Return a denial in Resend's error format (https://resend.com/docs/api-reference/errors)."""
        said = shapes.said_of(error)
        body = {"statusCode": said.status, "name": said.code, "message": said.message}
        return Reply(said.status, said.headers, json.dumps(body).encode())


def _bare(request: Request) -> Request:
    """Return a request without the `{}` that the SDK sends with a GET or DELETE (resend-python 2.52)."""
    if request.method in ("GET", "DELETE") and request.body.strip() == b"{}":
        return replace(request, body=b"")
    return request


def _price(settings: VendorSettings) -> int:
    return int(settings.own.get("email_price", EMAIL_PRICE))


def _mails(quote: Quote, body: Any, settings: VendorSettings) -> Quote:
    """Quote a mail, or a batch of them. Raises SpendDenied (`unpriced`)."""
    batch = quote.operation == "batch.send"
    if isinstance(body, list) is not batch:
        kind = "list" if batch else "object"
        raise denial("unpriced", f"the body of {quote.operation} must be a JSON {kind}")
    mails: list[Any] = body if batch else [body]
    if not 1 <= len(mails) <= MOST_MAILS:
        raise denial("unpriced", f"a batch has 1 to {MOST_MAILS} mails, this one {len(mails)}")
    people = [_recipients(mail, batch) for mail in mails]
    parts = tuple(max(len(each), 1) * _price(settings) for each in people)
    everybody = " ".join(sorted({one for each in people for one in each}))
    long = len(everybody) > 200
    target = f"{everybody[:180]}… #{digest(everybody)[:12]}" if long else everybody
    seen = [{name: value for name, value in mail.items() if name not in _UNSEEN} for mail in mails]
    return replace(quote, total_micros=sum(parts), target=target, parts=parts if batch else (),
                   customers=() if long else tuple(everybody.split()),
                   fingerprint=f"{quote.operation}|{sum(parts)}|{digest(seen)}")  # fmt: skip


def _recipients(mail: Any, in_batch: bool) -> list[str]:
    """Return the addresses of a mail's to, cc and bcc."""
    if not isinstance(mail, dict):
        raise denial("unpriced", "a mail must be a JSON object")
    for name in mail:
        if name not in _MAIL:
            raise denial("unpriced", f"a mail with {name[:40]!r} may go to more people than it says")
    own = mail.get("headers") or {}
    if not isinstance(own, dict) or any(
        re.fullmatch(_WHOM, re.sub("[^a-z-]", "", str(name).lower())) for name in own
    ):
        raise denial(
            "unpriced", "headers that name recipients may send a mail to more people: use to, cc, bcc"
        )
    if _is_broken([*own, *own.values(), *(mail.get(name) for name in _LINES)]):
        raise denial("unpriced", "a line break in what is one line of a mail could name recipients")
    for name in ("scheduled_at", "attachments"):
        if in_batch and mail.get(name):
            raise denial("unpriced", f"Resend sends a batch at once and without its {name}: send one mail")
    found: list[str] = []
    for name in ("to", "cc", "bcc"):
        given = mail.get(name) or []
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise denial("unpriced", f"{name} must be an address or a list of them")
        for text in (unicodedata.normalize("NFKC", one) for one in given):  # Other signs for "@" and ",".
            addresses = [address.lower() for _, address in getaddresses([text]) if "@" in address]
            # What cannot be read is as many as it has signs, and one at the least.
            found += addresses + [text] * max(text.count("@") - len(addresses), not addresses)
    return [_UNWRITABLE.sub("", one)[:300] for one in found]


def _is_broken(value: Any) -> bool:
    """Return whether a text, or one in a list, has a line break."""
    if isinstance(value, list):
        return any(_is_broken(one) for one in value)
    return bool(re.search(r"[\r\n]", str(value)))


def _is_draft(broadcast: Any) -> bool:
    """Return whether a broadcast is only written down; one that is sent goes to nobody knows how many."""
    if not isinstance(broadcast, dict) or broadcast.get("scheduled_at"):
        return False
    return broadcast.get("send", False) is False


def _accepted(quote: Quote, body: Mapping[str, Any]) -> int:
    """Return what a batch has cost: without the mails that a permissive batch names as errors."""
    errors, data = body.get("errors") or [], body.get("data")
    errors = errors if isinstance(errors, list) else []
    refused = {one["index"] for one in errors if isinstance(one, dict) and isinstance(one.get("index"), int)}
    if not isinstance(data, list) or len(data) + len(refused) != len(quote.parts):
        return quote.total_micros or 0
    return sum(part for index, part in enumerate(quote.parts) if index not in refused)


VENDOR = Resend()
