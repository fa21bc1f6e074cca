"""Whose word counts: a gateway's about what it sends, a worker's about what that worker sends.

A worker that calls through a gateway has no vendor secret but a vault key, with which it may still say what
it likes about calls of its own. So neither a call nor a vendor object is ever believed across the two.
"""

from __future__ import annotations

from luigi_spendguard.ledger.engine import Row, Tx
from luigi_spendguard.messages import Ask

_OWNED = (
    "vendor = ? AND account = ? AND object_id = ?"
    " AND (SELECT relayed FROM call WHERE call.id = vendor_object.call_id) = ?"
)


def same_call(row: Row, ask: Ask) -> bool:
    """Return whether `ask` is about the call that is recorded as `row` and not just named like it."""
    return (row["vendor"], row["account"], row["operation"], row["fingerprint"]) == (
        ask.vendor, ask.account, ask.operation, ask.fingerprint,
    )  # fmt: skip


#: Statuses of a vendor that has not begun to execute the request: its key is as good as new.
_NOT_BEGUN = (401, 403, 409, 429)


def uses_up(status: int) -> bool:
    """Return whether a vendor may answer a call's key with this HTTP status for ever (0: no answer)."""
    return status >= 400 and status not in _NOT_BEGUN


def is_gateways(tx: Tx, vendor: str, account: str, object_ids: str) -> bool:
    """Return whether a gateway has said what one of these objects (separated by spaces) counts for."""
    return any(
        tx.value(f"SELECT 1 FROM vendor_object WHERE {_OWNED}", vendor, account, object_id, 1)
        for object_id in object_ids.split()
    )


def adopt(tx: Tx, vendor: str, account: str, object_ids: str) -> None:
    """Forget what workers have said of these objects: a gateway looks at them itself."""
    for object_id in object_ids.split():
        tx.run(f"DELETE FROM vendor_object WHERE {_OWNED}", vendor, account, object_id, 0)
