"""Everything this package raises.

    SpendguardError
        PluginError           the plugin cannot work here (unknown Luigi, missing SDK)
        LedgerError           the books refuse an operation
            LedgerUnavailable     they cannot be written or read now
                LedgerUnreached       their server takes no connection
                LedgerFailed          one request has failed
            NotFound              no such run, call or claim
            Conflict              the operation does not fit the state
        SpendDenied           a vendor call was refused; nothing was sent
            BudgetExceeded        it does not fit a budget
            KeyRevoked            its key is revoked, expired or unknown
            GatewayUnreachable    no connection to the gateway could be made
        VendorUnreachable     no connection to the vendor could be made; nothing was sent
        BooksUnread           a vendor's own books cannot be read to their end now
        OutcomeUnknown        a vendor call was sent and nobody knows what became of it

`ConfigError` (`luigi_spendguard.config`) and `BadAmount` (`luigi_spendguard.money`) are `ValueError`s
about bad input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

_Error = TypeVar("_Error", bound=BaseException)


class SpendguardError(Exception):
    """Base of all errors of this package."""


class PluginError(SpendguardError):
    """The plugin cannot work in this environment; the message says what to install or change."""


class LedgerError(SpendguardError):
    """The ledger refuses an operation."""

    status = 500
    code = "ledger_error"


class LedgerUnavailable(LedgerError):
    """The ledger cannot be read or written now; calls are denied until it can (fail closed)."""

    status = 503
    code = "ledger_unavailable"


class LedgerUnreached(LedgerUnavailable):
    """The ledger's server takes no connection; the message says what to do."""


class LedgerFailed(LedgerUnavailable):
    """The ledger has failed at one request, by a mistake of ours; at another it may not."""

    status = 500
    code = "internal"


class NotFound(LedgerError):
    """There is no such run, call or claim."""

    status = 404
    code = "not_found"


class Conflict(LedgerError):
    """The operation does not fit the state of what it is about."""

    status = 409
    code = "conflict"


class NotAllowed(LedgerError):
    """An operator may not do so much, or not alone, by what the ledger has of them."""

    status = 403
    code = "forbidden"


#: HTTP status of every denial reason (the contract of the denials' table).
DENIAL_STATUS: Mapping[str, int] = {
    "cap": 429,
    "endpoint": 403,
    "scope": 403,
    "unpriced": 403,
    "currency": 403,
    "revoked": 401,
    "expired": 401,
    "unknown_key": 401,
    "idempotency_mismatch": 400,
    "in_doubt": 409,
    "ledger_unavailable": 503,
}


class SpendDenied(SpendguardError):
    """A vendor call was refused before anything was sent.

    Attributes:
        reason: one of `DENIAL_STATUS`.
        facts: figures behind the refusal, such as `cap_usd` and `asked_usd` (decimal strings).

    """

    def __init__(self, reason: str, message: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.facts: dict[str, Any] = dict(facts or {})

    @property
    def denial_status(self) -> int:
        """The HTTP status that goes with the reason."""
        return DENIAL_STATUS[self.reason]


class BudgetExceeded(SpendDenied):
    """The call's worst case does not fit what remains of a budget. The task is blocked, not failed."""


class KeyRevoked(SpendDenied):
    """The run or its key is revoked (then the task is blocked for good), expired or unknown (it fails)."""


class GatewayUnreachable(SpendDenied):
    """No connection to the gateway could be made (`ledger_unavailable`): to an SDK's user, a lost one."""


DENIAL_CLASS: Mapping[str, type[SpendDenied]] = {
    "cap": BudgetExceeded,
    "revoked": KeyRevoked,
    "expired": KeyRevoked,
    "unknown_key": KeyRevoked,
}


def denial(reason: str, message: str, facts: Mapping[str, Any] | None = None) -> SpendDenied:
    """Return the `SpendDenied` of the class that belongs to `reason`."""
    return DENIAL_CLASS.get(reason, SpendDenied)(reason, message, facts)


def blocks(denied: object) -> bool:
    """Return whether a denial blocks its task: a budget's, which has figures, or a revoked run's or key's.

    Whatever else keeps a task from its vendor (a key that is missing, unknown or over) is a failure.
    """
    if not isinstance(denied, (BudgetExceeded, KeyRevoked)):
        return False
    return denied.reason == "revoked" or (denied.reason == "cap" and bool(denied.facts))


class VendorUnreachable(SpendguardError):
    """No connection to the vendor could be made: nothing was sent, and the call may be made again."""


class BooksUnread(SpendguardError):
    """A vendor's own books cannot be read to their end now; the message says why.

    Attributes:
        refused: the vendor will say the same when it is asked again.

    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class OutcomeUnknown(SpendguardError):
    """The call was sent, its outcome is unknown and goes on counting as in doubt.

    Attributes:
        call_id: the call, for `spendguard resolve`.
        again: the very same call may be sent again, and the vendor then say what became of it.

    """

    def __init__(self, message: str, call_id: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.call_id = call_id
        self.again = again


def bare(error: _Error) -> _Error:
    """Return an error without the frames that it, and what it came of, went through: they hold credentials.

    To be raised after the `except` that caught it, else that adds them again.
    """
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            todo += [one.__cause__, one.__context__]
    return error
