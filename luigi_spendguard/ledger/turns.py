"""Whose turn it is at a vendor's object: one call at a time acts on it.

A pending call has the objects that it acts on for itself, and those that it was priced by together with
others that were. Its turn begins with its reservation, for all of them in one transaction, so that nobody
holds one and waits for another, and ends with it. What has been looked up for a price before that is looked
up again where another call has acted on it since. A sender that is gone keeps nothing: its turn ends when its
call is put in doubt.
"""

from __future__ import annotations

from collections.abc import Iterator

from luigi_spendguard.ledger.budgets import put_in_doubt
from luigi_spendguard.ledger.calls import GRANT_MS, Scope
from luigi_spendguard.ledger.database import NOW, Row, Tx, is_over
from luigi_spendguard.ledger.names import of_object
from luigi_spendguard.protocol import ReserveReply, ReserveRequest

_HERE = "turn.vendor = ? AND turn.account = ? AND turn.object_id = ?"


def wait_for_turn(tx: Tx, scope: Scope, ask: ReserveRequest, call_id: str) -> ReserveReply | None:
    """Return why call `call_id` may not have its turn now; None: it may.

    `wait`: another call acts on an object of it, or another run's comes before it at an object;
    `outdated`: one has acted on what it was priced by.
    """
    if scope.ahead:
        return ReserveReply("wait", ask.call_id, ask.ask, object_id=scope.ahead)
    for object_id, alone in _objects(ask):
        tx.check(of_object(ask.vendor, ask.account, object_id))
        for other in _others(tx, ask, object_id, call_id, scope.relayed):
            if not (alone or other["alone"]):
                continue
            if other["state"] == "pending" and not _is_gone(tx, other):
                return ReserveReply("wait", ask.call_id, ask.ask, object_id=object_id, message=other["id"])
            if other["alone"] and ask.since and _last_of(tx, other) > ask.since:
                return ReserveReply("outdated", ask.call_id, ask.ask, object_id=object_id)
    return None


def take_turn(tx: Tx, scope: Scope, ask: ReserveRequest, call_id: str) -> None:
    """Let call `call_id` have its turn, which `wait_for_turn` has allowed in this transaction."""
    for object_id, alone in _objects(ask):
        # Who acts on it now is all that is to be known of it; of those that share it, who still does.
        over = "" if alone else " AND turn.alone = 0 AND (call.state IS NULL OR call.state <> 'pending')"
        tx.later(
            "DELETE FROM turn WHERE vendor = ?1 AND account = ?2 AND object_id = ?3 AND call_id IN"
            " (SELECT call.id FROM turn JOIN call ON call.id = turn.call_id WHERE turn.vendor = ?1"
            " AND turn.account = ?2 AND turn.object_id = ?3"
            f" AND (call.id = ?4 OR call.relayed = ?5{over}))",
            ask.vendor,
            ask.account,
            object_id,
            call_id,
            int(scope.relayed),
        )
        tx.insert(
            "turn",
            vendor=ask.vendor,
            account=ask.account,
            object_id=object_id,
            call_id=call_id,
            alone=int(alone),
        )


def forget_turns(tx: Tx) -> None:
    """Forget the turns of a day ago: nobody goes on with a price that was looked up before."""
    tx.run(
        "DELETE FROM turn WHERE EXISTS (SELECT 1 FROM call WHERE call.id = turn.call_id"
        f" AND created_at < {NOW} - 86400000 AND (state IS NULL OR state <> 'pending'))"
    )


def _objects(ask: ReserveRequest) -> Iterator[tuple[str, bool]]:
    """Yield the objects of a call, and whether it has each for itself."""
    if ask.read:
        return
    alone = set(ask.acts_on)
    for object_id in sorted(alone.union(ask.priced_by)):
        yield object_id, object_id in alone


def _others(tx: Tx, ask: ReserveRequest, object_id: str, call_id: str, relayed: bool) -> list[Row]:
    """Return the other calls that have, or had, their turn at an object.

    What a gateway sends never waits for what a worker says, nor the other way round.
    """
    return tx.all(
        f"SELECT call.*, turn.alone FROM turn JOIN call ON call.id = turn.call_id WHERE {_HERE}"
        " AND call.id <> ? AND call.relayed = ?",
        ask.vendor,
        ask.account,
        object_id,
        call_id,
        int(relayed),
    )


def _is_gone(tx: Tx, call: Row) -> bool:
    """Return whether a pending call's sender must be gone: then it is in doubt, and its turn over."""
    if not is_over(call["granted_at"], GRANT_MS + call["timeout_ms"], tx.now()):
        return False
    put_in_doubt(tx, call, "its sender is gone")
    return True


def _last_of(tx: Tx, call: Row) -> int:
    return int(tx.value("SELECT max(id) FROM journal WHERE call_id = ?", call["id"]) or 0)
