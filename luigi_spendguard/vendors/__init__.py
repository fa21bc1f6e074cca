"""What a vendor must tell the guard; one file here for each vendor.

A vendor knows no SQL, no Luigi and no sockets: it recognises an operation, quotes the most it can
cost, names its target, reads what became of it, and injects the secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from luigi_spendguard.config import VendorSettings


@dataclass(frozen=True)
class Request:
    """One HTTP request: absolute `url`, header names in lower case."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """One HTTP reply, header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


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
        look_up: the object must be fetched before this can be priced.
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
    keep_body: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a call, read from the vendor's reply.

    Attributes:
        kind: `settle` | `void` | `doubt`.
        total_micros: what `object_id` counts for from now on.
        worth_micros: the most it can still be made to move.
        definite: a void that holds even after an earlier send with an unknown outcome.
        error: set when the reply cannot be believed; the caller is told.

    """

    kind: str
    total_micros: int = 0
    worth_micros: int = 0
    object_id: str | None = None
    definite: bool = False
    note: str = ""
    error: str = ""


class Vendor(Protocol):
    """One vendor's knowledge; every method is pure."""

    name: str
    #: The environment variables in which this vendor's secret usually lives, best first.
    secret_variables: tuple[str, ...]

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        """Recognise and price a request. Raises SpendDenied."""

    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        """Read what became of the call; `resent` after an earlier send with an unknown outcome."""

    def look_up(self, quote: Quote, request: Request) -> Request:
        """Return the GET that fetches the object of `quote`."""

    def fetch(self, quote: Quote, object_id: str, request: Request) -> Request:
        """Return the GET that answers a repeated call of `quote` with what its first send has opened."""

    def complete(self, quote: Quote, reply: Reply, fx: Mapping[str, Decimal]) -> Quote:
        """Return `quote` with the total that the looked-up object says. Raises SpendDenied."""

    def wire(self, request: Request, settings: VendorSettings, secret: str, key: str) -> Request:
        """Return the request as it leaves: to the vendor's own host, with secret and wire key."""

    def kept_headers(self, request: Request) -> dict[str, str]:
        """Return the headers that must be sent again with a stored body."""
