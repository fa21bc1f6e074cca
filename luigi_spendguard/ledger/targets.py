"""Calls for several targets: whoever an earlier attempt has reached is not reached twice.

An identity has the targets of a call as one, so a list that has changed by one is another call. Each target
is kept by itself, too, as a digest, until the task has completed; one of a payment stays.
"""

from __future__ import annotations

import json

from luigi_spendguard.ledger.batches import BEGUN, NOT_COMPLETED, is_others, may_repeat, strangers
from luigi_spendguard.ledger.calls import ReservationDenied
from luigi_spendguard.ledger.claims import payment_keys_in
from luigi_spendguard.ledger.database import NOT_DECLINED, Row, Tx
from luigi_spendguard.ledger.identity import RESOLVED, Identity, key_digest
from luigi_spendguard.protocol import ReserveRequest

#: What ends a target that was too long to be kept whole, before its digest.
_CUT = "…"
#: Calls that may have reached a target: of the task, which has not completed since, or for the same payment;
#: and not of this attempt, unless nobody knows how they ended, or the task was not told (nor of what an
#: operator has ended). What this attempt has repeated is done with.
_REACHED = f"""
    SELECT call.id, call.operation, count(*) AS many
    FROM call_target JOIN call ON call.id = call_target.call_id
    WHERE call_target.target IN (SELECT value FROM json_each(?1))
      AND (call.task_id = ?2 AND {NOT_COMPLETED}
           OR call.payment <> '' AND call.payment IN (SELECT value FROM json_each(?8)))
      AND call.vendor = ?3 AND call.account = ?4 AND call.base IS NOT NULL
      AND call.verdict = 'allowed' AND call.state IN ('pending','settled','in_doubt')
      AND {NOT_DECLINED} AND call.id <> ?6
      AND (call.claim_id <> ?5 OR call.state = 'in_doubt'
           OR {RESOLVED}
           OR call.key_id IN (SELECT value FROM json_each(?7))
           OR call.id IN (SELECT value FROM json_each(?7)))
      AND NOT EXISTS (SELECT 1 FROM call AS again WHERE again.claim_id = ?5 AND again.replay_of = call.id)
    GROUP BY call.id ORDER BY call.rowid DESC LIMIT 1
"""


def check_overlap(tx: Tx, claim: Row, ask: ReserveRequest, identity: Identity) -> None:
    """Refuse a call that would reach somebody whom an earlier one of the task has reached, for other targets.

    A call with a key of its caller's own is what that says. Raises ReservationDenied
    (`idempotency_mismatch`).
    """
    targets = ask.targets
    if not targets or identity.base is None:
        return
    untold = [key_digest(ask, key) for key in ask.unanswered]
    paid = tx.one(
        _REACHED,
        json.dumps(targets),
        claim["task_id"],
        ask.vendor,
        ask.account,
        claim["id"],
        ask.call_id,
        json.dumps([*untold, *ask.unanswered]),
        json.dumps([claim["payment"], *identity.mates]),
    )
    if paid is None:
        return
    whose = "for this payment" if claim["payment"] else "of this task"
    some = f"{paid['many']} of its {len(targets)} recipients" if len(targets) > 1 else "its recipient"
    raise ReservationDenied(
        "idempotency_mismatch",
        f"an earlier attempt {whose} has made call {paid['id']} ({paid['operation']}) to {some}, and "
        "for another list: they would get it twice. Make that call with its own list again (it is answered, "
        "nothing is sent) and this one for the others alone; or, where it is another message, give it an "
        'idempotency key of its own: the SDK\'s, or `with idempotency_key("…")`',
        call_id=paid["id"],
    )


def keep_targets(tx: Tx, call_id: str, ask: ReserveRequest) -> None:
    """Remember whom a call may reach."""
    if ask.targets:
        tx.later(
            "INSERT OR IGNORE INTO call_target (target, call_id) SELECT value, ? FROM json_each(?)",
            call_id,
            json.dumps(ask.targets),
        )


#: Calls of other tasks, or payments (?1), that this attempt (?6, in run ?5) may repeat: but for what it has.
_MATES = f"""
    SELECT target, task_id, payment, claim_id FROM call WHERE vendor = ?2 AND account = ?3 AND operation = ?4
    AND verdict = 'allowed' AND base IS NOT NULL AND state IN ('pending','settled','in_doubt')
    AND {NOT_DECLINED}
    AND (payment <> '' AND payment IN (SELECT value FROM json_each(?1))
         OR payment = '' AND task_id IN (SELECT value FROM json_each(?1))
            AND (run_id || '' = ?5 OR {may_repeat(BEGUN.format("?5"))}))
    AND claim_id <> ?6
    AND NOT EXISTS (SELECT 1 FROM call AS again WHERE again.claim_id = ?6 AND again.replay_of = call.id)
"""


def check_mates(tx: Tx, claim: Row, identity: Identity, ask: ReserveRequest) -> None:
    """Refuse what may repeat a part of what other batches of these tasks have paid for.

    Calls are matched by their target: one without, or for some of several, cannot be. Nor can one of several
    equal ones that batches have made each for itself.
    """
    mates = json.dumps(identity.mates)
    for row in tx.all(_MATES, mates, ask.vendor, ask.account, ask.operation, claim["run_id"], claim["id"]):
        if _may_overlap(ask.target, row["target"]) and not is_others(tx, claim, row):
            raise ReservationDenied(
                "idempotency_mismatch",
                f"{row['task_id']} has paid for a part of this batch, and Luigi has made another batch of "
                "it: whether this call repeats a part of that cannot be known. Name one target in each "
                "call, pass an idempotency key of your own, or mark what was paid as complete",
            )


#: Of ?1: nobody takes it for incomplete any more.
_HAS_COMPLETED = f"SELECT 1 FROM call WHERE id = ?1 AND NOT {may_repeat('?2')}"


def check_whose(tx: Tx, claim: Row, identity: Identity, match: Row) -> None:
    """Refuse a call that is matched, by its target, with one of a completed batch of some of these tasks.

    It may be that of a task which that one did not have: until such a batch has completed, what it has paid
    for comes back with others; after that only what goes on beside it does.
    """
    by_key = identity.key_id is not None and match["key_id"] in (identity.key_id, *identity.keys_before)
    if not identity.mates or by_key or match["base"] == identity.base:
        return
    others = strangers(tx, claim, match)
    if others and tx.value(_HAS_COMPLETED, match["id"], 2**62):
        raise ReservationDenied(
            "idempotency_mismatch",
            f"call {match['id']} was made for a part of this batch, in another one that has completed since "
            f"(task {match['task_id']}), or for none: {_name(min(others))} was not in that. Nothing was "
            "sent. Submit the root again, so that what is complete is left out, and let the rest run one by "
            "one (`max_batch_size = 1`): what was paid is answered then. Or pass your own idempotency key",
            call_id=match["id"],
        )


def _name(of: str) -> str:
    """Return a task_id as it is, and a payment as its `payment_key`."""
    keys = payment_keys_in(of) if of.startswith("[") else []
    return f"payment_key {keys[0]!r}" if keys else of


def _may_overlap(one: str | None, other: str | None) -> bool:
    """Return whether two targets (blanks between several) may have somebody in common."""
    if one is None or other is None or _CUT in one + other:
        return True
    return bool(set(one.split()) & set(other.split()))
