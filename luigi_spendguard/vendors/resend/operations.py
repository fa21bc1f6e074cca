"""Resend: which operation a request is and of which kind, whom a mail goes to, and what that costs.

What is in no rule is unpriced, and so is what could go to more people than it says.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from email.utils import getaddresses
from functools import cache
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.bodies import digest
from luigi_spendguard.vendors.model import Quote, Row
from luigi_spendguard.vendors.parameters import Kinds, Parameters

TABLE = (
    Row(
        "emails.send",
        "recipients (to, cc and bcc) times `email_price`",
        "as quoted; 0 once canceled",
        "fields that are not in Resend's description, headers that name recipients, line breaks in its head",
    ),
    Row(
        "batch.send",
        "the recipients of all its mails times `email_price`",
        "without the mails that a permissive batch names as errors; without each mail that is canceled",
        "more than 100 mails; `attachments`, which Resend ignores in a batch",
    ),
    Row("emails.update", "nothing", "nothing", "anything but another `scheduled_at`"),
    Row("emails.cancel", "nothing", "gives back the mail's amount"),
    Row("broadcasts.create", "nothing for a draft", "nothing", "with `send`: to how many is not known"),
)

_ID = r"[^/]+"
#: By "METHOD path". Checked against the 104 operations of Resend's description and the 147 of resend-python
#: 2.52.0.
_KINDS = Kinds(
    [
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
        # Whom somebody's scheduled broadcast reaches is decided when it is sent.
        ("unpriced", rf"POST /contacts/{_ID}/segments/{_ID}|POST /suppressions/batch/remove"),
        ("unpriced", rf"DELETE /(?:suppressions|topics|contact-properties)/{_ID}"),
        ("unpriced", rf"PATCH /contact-properties/{_ID}"),
        ("free", rf"POST /(?:broadcasts/{_ID}/cancel|automations/{_ID}/stop)"),
        ("free", r"POST /(?:templates|segments|topics|contact-properties|audiences|events|suppressions)"),
        ("free", rf"PATCH /(?:templates|segments|topics|events)/{_ID}"),
        ("free", rf"POST /templates/{_ID}/(?:publish|duplicate)|POST /suppressions/batch/add"),
        ("free", rf"PATCH /webhooks/{_ID}"),
        ("free", rf"PATCH /contacts/{_ID}(?:/topics)?"),
        ("free", rf"PATCH /audiences/{_ID}/contacts/{_ID}"),
        ("free", r"DELETE /.*"),
        ("read", r"(?:GET|HEAD) /.*"),
    ]
)
#: The operations of which Resend reads an idempotency key.
KEYED = ("emails.send", "batch.send")

#: Every operation that writes, with its parameters.
LISTED = Parameters("resend")
#: Where what has a rule of its own is listed, in whatever letters its path is written.
RULED = {
    "emails": "POST /emails",
    "batch": "POST /emails/batch",
    "cancel": "POST /emails/{id}/cancel",
    "move": "PATCH /emails/{id}",
    "broadcast": "POST /broadcasts",
}
_HAS_ID = re.compile(r".*[0-9@].*")
_VERBS = {
    "GET": ("list", "get"),
    "POST": ("create", "update"),
    "PATCH": ("update", "update"),
    "DELETE": ("remove", "remove"),
}

#: What a mail more costs on Resend's plans: 0.90 for a bucket of 1,000 (changelog "Pay-as-you-go pricing", as
#: stored on 2026-11-25), that is 0.0009 each once the bucket is full.
EMAIL_PRICE = 900
#: The most mails in a batch (https://resend.com/docs/api-reference/emails/send-batch-emails).
MOST_MAILS = 100
#: The most people of one mail that are counted: Resend takes far fewer.
MOST_PEOPLE = 1000
#: A longer text is no address with its name, and to count what it may name would take long; nor is one that
#: is longer once its signs are the usual ones.
LONGEST = 1000

#: Headers of a mail that name recipients.
_WHOM = r"(resent-|apparently-)?(to|cc|bcc)"
#: What becomes a line of a mail's head: a second line in it could name recipients.
_LINES = ("from", "to", "cc", "bcc", "subject", "reply_to")
#: What does not stand in an address, and in the ledger could not: blanks, controls, half a surrogate pair.
_UNWRITABLE = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]")
#: What a mail's recipients do not see: it may differ in a repeated call.
_UNSEEN = {"headers", "tags"}


def kind_of(method: str, path: str) -> str:
    """Return of which kind an operation is: what its method and path say."""
    return _KINDS.of(f"{method} {path.rstrip('/')}")


def address_of(kind: str, method: str, path: str) -> str | None:
    """Return where an operation's parameters are listed; None for one that is not known."""
    return RULED.get(kind) or LISTED.address_of(method, path.rstrip("/"))


def operation_of(method: str, path: str) -> str:
    """Return an operation's name: `emails.send`, `batch.send`, `broadcasts.send`, `contacts.create`."""
    if name := {"POST /emails": "emails.send", "POST /emails/batch": "batch.send"}.get(f"{method} {path}"):
        return name
    parts = path.strip("/").split("/")
    words = [re.sub("[^a-z0-9]", "_", part.lower()) for part in parts if not _HAS_ID.fullmatch(part)]
    if method == "POST" and len(parts) > 1 and not _HAS_ID.fullmatch(parts[-1]):
        return ".".join(words)  # `broadcasts/{id}/send`, `events/send`.
    return ".".join([*words, _VERBS.get(method, (method.lower(),) * 2)[bool(_HAS_ID.fullmatch(parts[-1]))]])


@cache
def named_lines() -> Mapping[str, tuple[str, ...]]:
    """Return every listed line by its operation's name."""
    lines: dict[str, tuple[str, ...]] = {}
    for address in LISTED.marks:
        method, path = address.split(" ")
        name = operation_of(method, path.replace("{id}", "0" * 8))
        lines[name] = (*lines.get(name, ()), address)
    return lines


def email_price(settings: VendorSettings) -> int:
    """Return what a mail costs for each recipient, in micro-dollars."""
    return int(settings.own.get("email_price", EMAIL_PRICE))


def quote_mails(quote: Quote, body: Any, settings: VendorSettings) -> Quote:
    """Quote a mail, or a batch of them. Raises SpendDenied (`unpriced`)."""
    batch = quote.operation == "batch.send"
    if isinstance(body, list) is not batch:
        kind = "list" if batch else "object"
        raise denial("unpriced", f"the body of {quote.operation} must be a JSON {kind}")
    mails: list[Any] = body if batch else [body]
    if not 1 <= len(mails) <= MOST_MAILS:
        raise denial("unpriced", f"a batch has 1 to {MOST_MAILS} mails, this one {len(mails)}")
    recipients = [_recipients(mail) for mail in mails]
    parts = tuple(max(len(each), 1) * email_price(settings) for each in recipients)
    targets = tuple(sorted({one for each in recipients for one in each}))
    everybody = " ".join(targets)
    long = len(everybody) > 200
    target = f"{everybody[:180]}… #{digest(everybody)[:12]}" if long else everybody
    seen = [{name: value for name, value in mail.items() if name not in _UNSEEN} for mail in mails]
    return replace(
        quote,
        total_micros=sum(parts),
        target=target,
        parts=parts if batch else (),
        targets=targets,
        customers=() if long else tuple(everybody.split()),
        fingerprint=f"{quote.operation}|{digest(seen, [len(each) for each in recipients])}",
        fingerprint_before=f"{quote.operation}|{sum(parts)}|{digest(seen)}",
    )


def _recipients(mail: Any) -> list[str]:
    """Return the addresses of a mail's to, cc and bcc."""
    if not isinstance(mail, dict):
        raise denial("unpriced", "a mail must be a JSON object")
    headers = mail.get("headers") or {}
    if not isinstance(headers, dict) or any(
        re.fullmatch(_WHOM, re.sub("[^a-z-]", "", str(name).lower())) for name in headers
    ):
        raise denial(
            "unpriced", "headers that name recipients may send a mail to more people: use to, cc, bcc"
        )
    if _is_broken([*headers, *headers.values(), *(mail.get(name) for name in _LINES)]):
        raise denial("unpriced", "a line break in what is one line of a mail could name recipients")
    recipients: list[str] = []
    for name in ("to", "cc", "bcc"):
        listed = mail.get(name) or []
        listed = [listed] if isinstance(listed, str) else listed
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise denial("unpriced", f"{name} must be an address or a list of them")
        for one in listed:
            # Other signs for "@" and ","; a single one may become eighteen.
            text = unicodedata.normalize("NFKC", one) if len(one) <= LONGEST else one
            if len(text) > LONGEST:
                raise denial(
                    "unpriced", f"an address in {name} has more than {LONGEST} characters: list them"
                )
            addresses = [address.lower() for _, address in getaddresses([text]) if "@" in address]
            recipients += [_writable(address) for address in addresses]
            # What cannot be read is as many as it has signs, and one at the least.
            recipients += [_writable(text)] * max(text.count("@") - len(addresses), not addresses)
            if len(recipients) > MOST_PEOPLE:
                raise denial("unpriced", f"a mail to more than {MOST_PEOPLE} people cannot be priced")
    return recipients


def _writable(address: str) -> str:
    return _UNWRITABLE.sub("", address)[:300]


def _is_broken(value: Any) -> bool:
    """Return whether a text, or one in a list, has a line break."""
    if isinstance(value, list):
        return any(_is_broken(one) for one in value)
    return bool(re.search(r"[\r\n]", str(value)))
