"""Resend: mails within a cap, by the number of their recipients.

Mails and batches are executed once under one idempotency key for 24 hours
(https://resend.com/docs/dashboard/emails/idempotency-keys): the guard adds one where the caller has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote as percent_encoded

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable, denial
from luigi_spendguard.money import plain_usd
from luigi_spendguard.settings import Setting, VendorSettings, values
from luigi_spendguard.vendors.base import Vendor, error_reply
from luigi_spendguard.vendors.bodies import (
    check_body,
    digest,
    json_body,
    reply_object,
    unbelieved,
    unsuccessful,
)
from luigi_spendguard.vendors.misspelt import Known
from luigi_spendguard.vendors.model import Outcome, Quote, Reply, Request
from luigi_spendguard.vendors.parameters import Name, values_in
from luigi_spendguard.vendors.resend.operations import (
    KEYED,
    LISTED,
    address_of,
    email_price,
    kind_of,
    named_lines,
    operation_of,
    quote_mails,
)
from luigi_spendguard.vendors.resend.own_books import ResendBooks

#: Escaped are "@" and "+" alone: any other could hide the name of an operation.
_PATH = re.compile(r"(/([A-Za-z0-9_.~:@!$&'()*+,=-]|%40|%2[Bb])+)+")


class Resend(Vendor):
    """The Resend adapter."""

    name = "resend"
    home = "https://api.resend.com"
    secret_variables = ("RESEND_API_KEY",)
    ruled = frozenset({"emails.send", "batch.send", "emails.cancel"})
    longest_key = 256
    books = ResendBooks()
    asks = ("x-batch-validation",)
    kept = ("content-type", "x-batch-validation")
    service_category = "Integration"
    reading = ("list", "get")
    pages = {"": "https://resend.com/emails/"}
    settings = (
        Setting("", "email_price", values.usd, "0.0009", "USD for each recipient of a mail: to, cc and bcc."),
    )

    def known(self) -> Known:
        return Known(self.name, named_lines())

    def price_list(self, settings: VendorSettings) -> Iterator[tuple[str, str]]:
        own = settings.own.get("email_price")
        where = "luigi.cfg" if own is not None else "default: Resend's changelog, 0.90 for 1,000"
        yield "email_price", f"{plain_usd(email_price(settings))} USD a recipient ({where})"

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        request = _without_empty_body(request)
        check_body(request)
        path, mark, _ = self.own_rest(request.url, settings).partition("?")
        if not _PATH.fullmatch(path) or "/." in path:
            raise denial("endpoint", "the path has characters that no path of Resend's has")
        kind, operation = kind_of(request.method, path), operation_of(request.method, path)
        key, callers = self.key_of(request)
        quote = Quote(operation, "resend", path, key=key, key_is_callers=callers, repeatable=True)
        line, credential = f"{request.method} {path}", kind == "credential"
        self.check_allowed(line, operation, settings, hands_out_credentials=credential)
        if kind == "read" or (credential and request.method == "GET"):
            return replace(quote, read=True, key=None)
        if wrong := self.check(settings):
            raise denial("unpriced", wrong)
        if mark:
            raise denial("unpriced", f"{operation} with a query string cannot be priced")
        price = settings.prices.get(operation)
        fixed = price is not None and kind not in ("emails", "batch", "cancel")
        if kind == "unpriced" and not fixed:
            raise self.no_price(operation, line)
        if kind in ("emails", "batch") and operation not in KEYED:
            raise denial("unpriced", f"{path} in other letters than Resend's cannot be priced")
        body = _read_body(request, operation, address_of(kind, request.method, path), fixed=fixed)
        if kind in ("emails", "batch"):
            return quote_mails(quote, body, settings)
        if kind == "cancel":
            object_id = path.split("/")[2]
            return replace(
                quote,
                target=object_id,
                object_id=object_id,
                only_less=True,
                fingerprint=f"{operation}|{object_id}",
            )
        content = digest(request.method, path, "", request.body.decode("latin-1"))
        if fixed:
            return replace(
                quote,
                total_micros=int(price or 0),
                target=f"{path}#{content[:12]}",
                fixed=True,
                repeatable=False,
                fingerprint=f"{operation}|{content}",
                fingerprint_before=f"{operation}|{price}|{content}",
            )
        if kind == "broadcast" and not _is_draft(body):
            raise self.no_price(operation, line)
        return replace(quote, free=True, target=path, fingerprint=f"{operation}|{content}")

    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
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
            opened = _opened_mails(quote, body)
            total = quote.total_micros if opened is None else sum(opened.values())
            return Outcome("settle", total_micros=total, opened=opened or {})
        if quote.operation == "emails.send":
            mail_id = body.get("id")
            if not isinstance(mail_id, str) or not mail_id:
                return unbelieved("the reply names no id")
            total = quote.total_micros
            return Outcome("settle", total_micros=total, worth_micros=total or 0, object_id=mail_id)
        return Outcome("settle", total_micros=quote.total_micros)

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        """Return the GET of the mail that an operator has named as a call's."""
        if quote.operation != "emails.send":
            return super().fetch(quote, object_id, request)
        return Request("GET", f"{self.home}/emails/{percent_encoded(object_id, safe='')}", {})

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        keyed = operation_of(request.method, self.own_rest(request.url, settings)) in KEYED
        return super().wire(_without_empty_body(request), settings, secret, key if keyed else "")

    def shape(self, error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> Reply:
        """Return a denial in Resend's error format (https://resend.com/docs/api-reference/errors)."""
        refusal = error_reply(error)
        body = {"statusCode": refusal.status, "name": refusal.code, "message": refusal.message}
        return Reply(refusal.status, refusal.headers, json.dumps(body).encode())


def _without_empty_body(request: Request) -> Request:
    """Return a request without the `{}` that the SDK sends with a GET or DELETE (resend-python 2.52)."""
    if request.method in ("GET", "DELETE") and request.body.strip() == b"{}":
        return replace(request, body=b"")
    return request


def _read_body(request: Request, operation: str, address: str | None, *, fixed: bool) -> Any:
    """Return the JSON that an operation is called with, None for none.

    Raises SpendDenied (`unpriced`) for what could be read in two ways, is not known, or may cost.
    """
    body = json_body(request) if request.body or operation in KEYED else None
    if address is None:
        raise denial("unpriced", f"{operation} is no operation that this version of luigi_spendguard knows")
    each = body if isinstance(body, list) and operation == "batch.send" else [body]
    if not all(isinstance(one, dict) or one is None for one in each):
        raise denial("unpriced", f"the body of {operation} must be a JSON object")
    parameters: dict[Name, set[str]] = {}
    for one in each:
        for name, its_values in values_in(one).items():
            parameters.setdefault(name, set()).update(its_values)
    LISTED.check(address, operation, parameters, fixed=fixed)
    return body


def _is_draft(broadcast: Any) -> bool:
    """Return whether a broadcast is only written down; one that is sent goes to nobody knows how many."""
    if not isinstance(broadcast, dict) or broadcast.get("scheduled_at"):
        return False
    return broadcast.get("send", False) is False


def _opened_mails(quote: Quote, body: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the mails of a batch and what each costs, without those that a permissive one names as errors.

    None where that does not add up: then it is paid for as asked.
    """
    errors, data = body.get("errors") or [], body.get("data")
    errors = errors if isinstance(errors, list) else []
    refused = {one["index"] for one in errors if isinstance(one, dict) and isinstance(one.get("index"), int)}
    taken = [part for index, part in enumerate(quote.parts) if index not in refused]
    ids = [one.get("id") for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    named = {one: part for one, part in zip(ids, taken, strict=False) if isinstance(one, str) and one.strip()}
    return named if len(ids) == len(taken) == len(named) else None


VENDOR = Resend()
