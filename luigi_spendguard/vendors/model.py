"""`Request` and `Reply`, and what a vendor makes of them: `Quote`, `Outcome`, `FollowedUp`."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from luigi_spendguard.protocol import MAX_TARGETS
from luigi_spendguard.protocol.messages import MAX_TEXT
from luigi_spendguard.redaction import Secret

#: What a header's name is made of here: CGI, WSGI and nginx read `X_FOO` as `X-FOO`, some whatever else.
_HEADER = re.compile(r"[A-Za-z0-9-]+", re.ASCII)
#: Header names whose values are secrets: they never show themselves.
_SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie")


def is_writable(text: str) -> bool:
    """Return whether the ledger can keep a text: half a surrogate pair and NUL fit no database."""
    return len(text) <= MAX_TEXT and "\0" not in text and text.encode("utf-8", "replace").decode() == text


#: Characters of an object's id: an index of PostgreSQL takes no more than 2,704 bytes.
MAX_ID = 255


def is_id(text: str) -> bool:
    """Return whether the ledger can keep an object's id."""
    return len(text) <= MAX_ID and is_writable(text)


@dataclass(frozen=True)
class Request:
    """One HTTP request: absolute `url`, header names in lower case; `repr` shows no secret and no body.

    A header whose name has another sign than letters, digits and `-` is dropped: neither believed nor sent.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not all(map(_HEADER.fullmatch, self.headers)):
            kept = {name: value for name, value in self.headers.items() if _HEADER.fullmatch(name)}
            object.__setattr__(self, "headers", kept)
        hidden = {name: Secret(self.headers[name]) for name in _SECRET_HEADERS if name in self.headers}
        if hidden:
            object.__setattr__(self, "headers", {**self.headers, **hidden})


@dataclass(frozen=True)
class Reply:
    """One HTTP reply, header names in lower case; `repr` shows neither them nor the body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Quote:
    """What a vendor makes of a request.

    Attributes:
        operation: such as `payment_intents.create`.
        account: whose money: config section, live or test, connected account; never the secret.
        path: the request's path, for the audit.
        target: who pays or receives, or the object acted on.
        targets_before: what an earlier version named as the target, "-" for nothing.
        object_id: the vendor's object that is acted on and may move money.
        total_micros: the most that object may count for afterwards, in micro-dollars; None: as
            much as it is known to be worth, looked up at the vendor when it is unknown.
        minor, currency: the amount as asked, in the currency's minor unit.
        fingerprint: what must be equal for two calls to be the same one: what is asked for, and not what
            it costs. `fingerprint_before` as an earlier version had it, with luigi.cfg's price.
        key: the idempotency key of the request; `key_is_callers` when the SDK cannot have made it.
        look_ups: the paths that the guard may fetch to complete this quote; `look_up` when it must,
            before the ledger is asked (else only when the ledger asks for it).
        covers: objects whose counted money is counted by `object_id` (or by what this opens) instead.
        covers_stay: they go on counting themselves, and `object_id` counts for what exceeds that.
        acts_on: objects that no other call may act on meanwhile, nor be priced by; `object_id` is one.
        priced_by: objects that no other call may act on meanwhile: what was looked up for this quote.
        only_less: the call can only free money: its object never counts for more afterwards.
        free: the call changes nothing of what any object counts for.
        fixed: at the operator's own price for the operation, each time it is called.
        firm: settled at `total_micros` unless it can be read what was billed, never at less for what is not
            billed yet.
        in_steps: the vendor does it in several steps, and may refuse a later one: what the object is then is
            looked up, or it counts.
        before: the invoice that was the newest before the call, and bills nothing of it.
        targets: each of several whom the call may reach: what an earlier attempt has sent to one of them, for
            another list, is not sent again.
        customers: the vendor's customers whom the call concerns, as far as they are known.
        owner_unknown: it acts on an object whose own customer is not (yet) among them.
        accounts: the connected accounts that the call names; none where no part of it goes to one.
        keep_body: whether the body may be kept in the ledger to be sent again.
        parts: what each item of a batch costs, in micro-dollars: the vendor may refuse some.
        fees_micros: what of `total_micros` the price that the vendor names later may not contain.
        repeatable: the vendor executes it once, however often it is sent under one idempotency key; another
            call whose outcome is unknown is searched for at the vendor, and never sent again.
        taggable: the vendor can put a tag of the call on what it makes (`Vendor.tagged`), and its caller has
            left room for that; `tag`: and luigi.cfg says that it does.

    """

    operation: str
    account: str
    path: str
    target: str | None = None
    targets_before: tuple[str, ...] = ()
    object_id: str | None = None
    total_micros: int | None = 0
    minor: int | None = None
    currency: str = ""
    fingerprint: str = ""
    fingerprint_before: str = ""
    read: bool = False
    key: str | None = None
    key_is_callers: bool = False
    look_up: bool = False
    look_ups: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    covers_stay: bool = False
    acts_on: tuple[str, ...] = ()
    priced_by: tuple[str, ...] = ()
    only_less: bool = False
    firm: bool = False
    in_steps: bool = False
    before: str = ""
    free: bool = False
    fixed: bool = False
    targets: tuple[str, ...] = ()
    customers: tuple[str, ...] = ()
    owner_unknown: bool = False
    accounts: tuple[str, ...] = ()
    keep_body: bool = True
    parts: tuple[int, ...] = ()
    fees_micros: int = 0
    repeatable: bool = False
    taggable: bool = False
    tag: bool = False

    @property
    def unkeepable(self) -> str:
        """What of the call is too long or unfit for the ledger, "" when nothing is."""
        named = {
            "its path": self.path,
            "its operation": self.operation,
            "its account": self.account,
            "whom it concerns": self.target or "",
            "whom it concerned before": " ".join(self.targets_before),
            "what it is known by": self.fingerprint,
            "what it was known by before": self.fingerprint_before,
            "its key": self.key or "",
            "its customers": " ".join(self.customers),
            "its accounts": " ".join(self.accounts),
            "its objects": " ".join([self.object_id or "", *self.covers]),
            "what it acts on": " ".join(self.acts_on),
            "what it is priced by": " ".join(self.priced_by),
        }
        if len(self.targets) > MAX_TARGETS:
            return f"it goes to {len(self.targets):,} and not to {MAX_TARGETS:,} at the most: split it"
        wrong = (name for name, text in named.items() if not is_writable(text))
        return next((f"{name} is too long or no text" for name in wrong), "")


@dataclass(frozen=True)
class Outcome:
    """What became of a call, read from the vendor's reply.

    Attributes:
        kind: `settle` | `void` | `doubt`.
        total_micros: what `object_id` counts for from now on; None: as much as before.
        only_less: never more than before.
        only_more: never less than before.
        covers: the objects whose counted money `object_id` counts from now on.
        covers_stay: they go on counting themselves, and `object_id` counts for what exceeds that.
        worth_micros: the most it can still be made to move.
        billed_at: where it is read what was billed, before the call ends (`Vendor.billed`).
        definite: a void that holds even after an earlier send with an unknown outcome.
        error: set when the reply cannot be believed; the caller is told.
        price_due: the vendor names the price later: it is asked for then (`Vendor.follow_up`).
        opened: what each of several objects counts for, in micro-dollars, where the call has opened more than
            one: what is freed later of one of them is given back to this call.
        executed_before: what the vendor had kept under the call's key has answered a first send: another call
            may count for it, and the ledger knows which.
        kept: it has answered some send with that: this is an older state of the object.

    """

    kind: str
    total_micros: int | None = 0
    worth_micros: int = 0
    billed_at: str = ""
    only_less: bool = False
    only_more: bool = False
    covers: tuple[str, ...] = ()
    covers_stay: bool = False
    object_id: str | None = None
    definite: bool = False
    note: str = ""
    error: str = ""
    price_due: bool = False
    opened: Mapping[str, int] = field(default_factory=dict)
    executed_before: bool = False
    kept: bool = False


@dataclass(frozen=True)
class TaggedPage:
    """What a page of a vendor's list shows of one tag.

    Attributes:
        found: by object id, oldest first, the reply that the call would have got.
        after: the object behind which the next page begins; "": there is none.
        seen: how many objects the page has.

    """

    found: Mapping[str, Reply]
    after: str = ""
    seen: int = 0


@dataclass(frozen=True)
class FollowedUp:
    """What a vendor says later of what an object has cost.

    Attributes:
        total_micros: what it has cost, in micro-dollars; None: that is not known (yet).
        final: nothing more will be said.
        note: why, for the journal.
        whole: the call's fees are in it, whatever they were thought to be.
        problem: why it cannot be booked until somebody has done something; said in the log and on the run.

    """

    total_micros: int | None
    final: bool = False
    note: str = ""
    whole: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """A line of docs/vendors.md: how an operation is quoted and settled, and what of it is denied."""

    operation: str
    quoted: str
    settled: str
    denied: str = "-"


@dataclass(frozen=True)
class Flows:
    """Operations whose money has a counterparty of its own, each as `vendor operation`.

    The cap counts them like any other.

    Attributes:
        inflow: what comes to the account that is called for: a top-up, a transfer that is reversed.
        outflow: what leaves it for somebody: a refund, a transfer, a payout, a lost dispute.

    """

    inflow: tuple[str, ...] = ()
    outflow: tuple[str, ...] = ()


def bearer(request: Request) -> str:
    """Return the token of bearer authentication, "" without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def basic(request: Request) -> tuple[str, str]:
    """Return user and password of basic authentication, empty ones without it."""
    scheme, _, pair = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(pair.strip(), validate=True).decode("ascii").partition(":")
    except ValueError:  # No base64, or no text in it.
        return "", ""
    return user, password
