"""Calls in doubt that are too old to be sent again: which are to be looked up by their tags now, and what has
ended them.

Each look is an entry of the journal, made before it begins: of several luigids the one that has made it
looks, and nobody looks again before its time. One that the vendor has refused for its rate was none: another
entry puts it off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from luigi_spendguard.ledger.budgets import event, journal
from luigi_spendguard.ledger.calls import CALL, scope_of
from luigi_spendguard.ledger.database import Row, Tx, is_over
from luigi_spendguard.ledger.replays import HOUR_MS, free_of, is_fresh, search_by_tag, take_found
from luigi_spendguard.ledger.settlement import end
from luigi_spendguard.protocol import EndRequest, ReserveReply
from luigi_spendguard.settings.policy import Caps

#: Milliseconds between the first two looks for a call; twice as many each time.
AGAIN_MS = HOUR_MS

_LOOK, _PUT_OFF = "look_up", "put_off"
_OF_CALL = "FROM journal WHERE call_id = call.id AND kind"
_OPEN = (
    "SELECT id, vendor, account, created_at,"
    f" (SELECT count(*) {_OF_CALL} = '{_LOOK}') - (SELECT count(*) {_OF_CALL} = '{_PUT_OFF}') AS looks,"
    f" (SELECT max(at) {_OF_CALL} = '{_LOOK}') AS looked_at,"
    f" (SELECT kind {_OF_CALL} IN ('{_LOOK}','{_PUT_OFF}') ORDER BY id DESC LIMIT 1) AS last"
    " FROM call WHERE state = 'in_doubt' AND tagged = 1"
)


@dataclass(frozen=True)
class Due:
    """A call that is to be looked up.

    Attributes:
        looks: how often it was looked up.
        looked_at: when that was begun the last time, put off or not, in milliseconds since the epoch; 0:
            never.

    """

    call_id: str
    vendor: str
    account: str
    looks: int
    looked_at: int


@dataclass(frozen=True)
class Lent:
    """A call that is being looked up: its row, and how it is searched for."""

    row: Row
    search: ReserveReply


def due(tx: Tx) -> list[Due]:
    """Return the calls that are to be looked up now, those first that were looked up the fewest times; what
    was put off has its turn behind its equals.
    """
    now = tx.now()
    found = [
        Due(row["id"], row["vendor"], row["account"], row["looks"], row["looked_at"] or 0)
        for row in tx.all(f"{_OPEN} ORDER BY created_at")
        if not is_fresh(row, now) and _is_due(row, now)
    ]
    return sorted(found, key=lambda one: (one.looks, one.looked_at))


def _is_due(row: Row, now: int) -> bool:
    if not row["looks"] or row["last"] == _PUT_OFF:
        return True
    return is_over(row["looked_at"], AGAIN_MS << min(row["looks"] - 1, 30), now)


def lend(tx: Tx, one: Due) -> Lent | None:
    """Let who asks look up a call; None: it has ended, or another process looks."""
    row = tx.one(f"{_OPEN} AND id = ?", one.call_id)
    if row is None or row["looks"] != one.looks:
        return None
    row = tx.one(CALL, one.call_id)
    assert row is not None
    journal(tx, event(_LOOK, row, "by its tag"))
    return Lent(row, search_by_tag(tx, row))


def put_off(tx: Tx, one: Due) -> None:
    """Give a call its turn back: its vendor has refused to answer for now, so that nobody has looked."""
    row = tx.one(f"{_OPEN} AND id = ?", one.call_id)
    if row is None or (row["looks"], row["last"]) != (one.looks + 1, _LOOK):
        return  # It has ended, or another process looks.
    call = tx.one(CALL, one.call_id)
    assert call is not None
    journal(tx, event(_PUT_OFF, call, "the vendor's rate limit"))


def end_found(tx: Tx, call_id: str, ends: Mapping[str, EndRequest]) -> Row | None:
    """End a call by the one object that has its tag and is no other call's; `ends` says of each object that
    has it how the call has ended. Return the call; None: it stays as it is.
    """
    row = tx.one(CALL, call_id)
    if row is None or row["state"] != "in_doubt" or is_fresh(row, tx.now()):
        return None
    free = free_of(tx, row, ends)
    scope = scope_of(tx, row["claim_id"], Caps())
    if len(free) != 1 or scope is None:
        return None
    take_found(tx, row, free[0])
    return end(tx, replace(scope, relayed=True), replace(ends[free[0]], ask=row["ask"]))
