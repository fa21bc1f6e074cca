"""Which earlier call a new one repeats.

The caller's own idempotency key decides; else (account, task, operation, target, ordinal). Ordinal =
the lowest number that no equal call of this attempt holds open or with success and has answered.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from luigi_spendguard.ledger.engine import NOT_DECLINED, Row, Tx
from luigi_spendguard.messages import Ask


@dataclass(frozen=True)
class Identity:
    """What makes a call the same call: `key_id` when it came with a key, `base` and `ordinal`."""

    base: str | None
    ordinal: int
    key_id: str | None
    epoch: int


def _digest(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def identify(tx: Tx, ask: Ask, claim: Row) -> Identity:
    """Return the identity of `ask` within the attempt `claim`."""
    # With the vendor's name: what a worker says of a vendor that no gateway serves answers no call of one's.
    whose = f"{ask.vendor} {ask.account}"
    if not claim["task_id"]:
        # No task is known: the key on the wire holds within the run, and without one each call is a new one.
        own = None if ask.read or not ask.key else _digest("wire", claim["run_id"], whose, ask.key)
        return Identity(None, 0, own, 0)
    epoch = tx.value("SELECT completions FROM task WHERE task_id = ?", claim["task_id"]) or 0
    if ask.read:
        return Identity(None, 0, None, int(epoch))
    key_id = _digest("key", whose, ask.key) if ask.key else None
    if key_id and ask.key_is_callers:
        return Identity(None, 0, key_id, int(epoch))
    base = _digest("call", whose, claim["task_id"], ask.operation, ask.target)
    unanswered = {_digest("key", whose, key) for key in ask.unanswered.split()}
    held = {
        row["ordinal"]
        for row in tx.all(
            "SELECT ordinal, key_id FROM call WHERE claim_id = ? AND base = ?"
            f" AND (state IN ('pending','settled') AND {NOT_DECLINED} OR verdict = 'replayed')",
            claim["id"],
            base,
        )
        if row["key_id"] not in unanswered
    }
    ordinal = next(n for n in range(1, len(held) + 2) if n not in held)
    return Identity(base, ordinal, key_id, int(epoch))


#: Calls that count as earlier ones: of this run, or of a task that has not completed since.
_EARLIER = (
    f"verdict = 'allowed' AND state IN ('pending','settled','in_doubt') AND {NOT_DECLINED}"
    " AND (run_id = ? OR epoch ="
    " coalesce((SELECT completions FROM task WHERE task.task_id = call.task_id), 0))"
    " ORDER BY created_at DESC, rowid DESC LIMIT 1"
)


def earlier(tx: Tx, identity: Identity, run_id: str) -> Row | None:
    """Return the earlier call that this one repeats, or None. A voided or declined call is no earlier one."""
    if identity.key_id is not None:
        row = tx.one(f"SELECT * FROM call WHERE key_id = ? AND {_EARLIER}", identity.key_id, run_id)
        if row is not None:
            return row
    if identity.base is None:
        return None
    return tx.one(
        f"SELECT * FROM call WHERE base = ? AND ordinal = ? AND {_EARLIER}",
        identity.base,
        identity.ordinal,
        run_id,
    )
