"""What a vendor must tell the guard; one file here for each vendor.

A vendor knows no SQL, no Luigi and no sockets: it recognises an operation, quotes the most it can
cost, names its target, reads what became of it, and injects the secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, VendorUnreachable
from luigi_spendguard.redaction import Secret

#: Header names whose values are secrets: they never show themselves.
_SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie")


@dataclass(frozen=True)
class Request:
    """One HTTP request: absolute `url`, header names in lower case; `repr` shows no secret and no body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
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
        object_id: the vendor's object that is acted on and may move money.
        total_micros: the most that object may count for afterwards, in micro-dollars; None: as
            much as it is known to be worth, looked up at the vendor when it is unknown.
        minor, currency: the amount as asked, in the currency's minor unit.
        fingerprint: what must be equal for two calls to be the same one.
        key: the idempotency key of the request; `key_is_callers` when the SDK cannot have made it.
        look_ups: the paths that the guard may fetch to complete this quote; `look_up` when it must,
            before the ledger is asked (else only when the ledger asks for it).
        covers: objects whose counted money is counted by `object_id` (or by what this opens) instead.
        only_less: the call can only free money: its object never counts for more afterwards.
        free: the call changes nothing of what any object counts for.
        fixed: at the operator's own price for the operation, each time it is called.
        firm: settled at `total_micros`, whatever amounts the reply names.
        customers: the vendor's customers whom the call concerns, as far as they are known.
        owner_unknown: it acts on an object whose own customer is not (yet) among them.
        accounts: the connected accounts that the call names; none where no part of it goes to one.
        keep_body: whether the body may be kept in the ledger to be sent again.

    """

    operation: str
    account: str
    path: str
    target: str | None = None
    object_id: str | None = None
    total_micros: int | None = 0
    minor: int | None = None
    currency: str = ""
    fingerprint: str = ""
    read: bool = False
    key: str | None = None
    key_is_callers: bool = False
    look_up: bool = False
    look_ups: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    only_less: bool = False
    firm: bool = False
    free: bool = False
    fixed: bool = False
    customers: tuple[str, ...] = ()
    owner_unknown: bool = False
    accounts: tuple[str, ...] = ()
    keep_body: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a call, read from the vendor's reply.

    Attributes:
        kind: `settle` | `void` | `doubt`.
        total_micros: what `object_id` counts for from now on; None: as much as before.
        only_less: never more than before.
        only_more: never less than before.
        covers: the objects whose counted money `object_id` counts from now on.
        worth_micros: the most it can still be made to move.
        definite: a void that holds even after an earlier send with an unknown outcome.
        error: set when the reply cannot be believed; the caller is told.

    """

    kind: str
    total_micros: int | None = 0
    worth_micros: int = 0
    only_less: bool = False
    only_more: bool = False
    covers: tuple[str, ...] = ()
    object_id: str | None = None
    definite: bool = False
    note: str = ""
    error: str = ""


class Vendor(Protocol):
    """One vendor's knowledge; every method is pure."""

    name: str
    #: The environment variables in which this vendor's secret usually lives, best first.
    secret_variables: tuple[str, ...]

    def check(self, settings: VendorSettings) -> str:
        """Return what is wrong with this vendor's own settings, "" when nothing is."""

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        """Recognise and price a request. Raises SpendDenied."""

    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        """Read what became of the call; `resent` after an earlier send with an unknown outcome."""

    def look_up(self, quote: Quote, request: Request, path: str) -> Request:
        """Return the GET that fetches one of `quote.look_ups`."""

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        """Return the GET that answers a repeated call of `quote` with what its first send has opened."""

    def complete(
        self,
        quote: Quote,
        request: Request,
        found: Mapping[str, Reply],
        settings: VendorSettings,
        fx: Mapping[str, Decimal],
    ) -> Quote:
        """Price the request again with what was `found` at each path so far. Raises SpendDenied.

        The answer may name further `look_ups`; a path that was found is not named again.
        """

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        """Return the request as it leaves: to the vendor's own host, with secret and wire key."""

    def kept_headers(self, request: Request) -> dict[str, str]:
        """Return the headers that must be sent again with a stored body."""

    def credential(self, request: Request) -> str:
        """Return what the request shows as its credential, "" when it shows none."""

    def shape(self, error: SpendDenied | OutcomeUnknown | VendorUnreachable) -> Reply:
        """Return a denial, or why there is no reply, in the vendor's own error format."""

    def url(self, rest: str) -> str:
        """Return the vendor's own URL for what stands behind `/<vendor>` in a gateway's URL.

        Raises SpendDenied (`endpoint`).
        """
