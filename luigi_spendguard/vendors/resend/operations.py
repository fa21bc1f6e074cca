"""Resend: which operation a request is, and of which kind. What is in no rule is unpriced."""

from __future__ import annotations

import re

from luigi_spendguard.vendors.model import Row
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
