"""Reserve: decide about one call and take its money, in one transaction.

`reserve` is idempotent by (call id, ask): the same request again gets the same answer, a higher ask is
the SDK's own retry of the same call.

What is done from time to time: pending calls whose sender is gone, answers that are too old.
"""

from __future__ import annotations

import json
from dataclasses import replace

from luigi_spendguard.ledger import objects
from luigi_spendguard.ledger.budgets import in_doubt
from luigi_spendguard.ledger.calls import Refused, Scope, link_budgets, object_of, record, reserve_money
from luigi_spendguard.ledger.claims import hold
from luigi_spendguard.ledger.database import NOT_DECLINED, NOW, SKEW_MS, Row, Tx, over
from luigi_spendguard.ledger.identity import FORMULA, Identity, earlier, identify, mates_of, tries, wire_key
from luigi_spendguard.ledger.keys import EXPIRED, check_operation, check_terms, ended, must_look_up
from luigi_spendguard.ledger.objects import adopt, is_gateways, same_call
from luigi_spendguard.ledger.replays import (
    GRANT_MS,
    check_overlap,
    grant,
    keep_targets,
    matched,
    regrant,
    replay,
    resend,
)
from luigi_spendguard.money import parse_usd
from luigi_spendguard.protocol import ReserveReply, ReserveRequest

#: What ends a target that was too long to be kept whole, before its digest.
_CUT = "…"


def reserve(tx: Tx, scope: Scope, ask: ReserveRequest) -> ReserveReply:
    """Decide about `ask`; when it is allowed its money is reserved. Denials are put on record."""
    answer = _decided(tx, scope, ask)
    if ask.look_up and ask.read and answer.verdict == "allowed":
        return replace(
            answer, entry=objects.last_entry(tx)
        )  # What it reads may be changed by what comes later.
    return answer


def _decided(tx: Tx, scope: Scope, ask: ReserveRequest) -> ReserveReply:
    now = tx.now()
    row = tx.one("SELECT * FROM call WHERE id = ?", ask.call_id)
    if row is not None and not (scope.owns(row) and bool(row["relayed"]) == scope.relayed):
        return ReserveReply("denied", ask.call_id, reason="scope", message="the call is another sender's")
    try:
        _check_objects(tx, scope, ask)
        if row is not None:
            return _again(tx, scope, ask, row, now)
        return _new(tx, scope, ask, now)
    except Refused as refused:
        denied = refused.denied
        if row is None and not (ask.look_up and denied.reason == "endpoint"):  # Its call will be.
            record(
                tx,
                scope,
                ask,
                Identity(None, 0, None, 0),
                now,
                verdict="denied",
                reason=denied.reason,
                message=denied.message,
            )
        if (asked := denied.facts.get("asked_usd")) is not None:
            hold(tx, scope.claim["id"], denied.facts["budget"], denied.facts["part"], parse_usd(asked))
        return ReserveReply(
            "denied", ask.call_id, ask.ask, reason=denied.reason, message=denied.message, facts=denied.facts
        )


def _again(tx: Tx, scope: Scope, ask: ReserveRequest, row: Row, now: int) -> ReserveReply:
    """Answer a request for a call that is known."""
    if row["verdict"] == "denied":
        return ReserveReply("denied", row["id"], ask.ask, reason=row["reason"], message=row["message"])
    if not same_call(row, ask):
        raise Refused("scope", f"call {row['id']} was for something else: a call id is for one call")
    if row["verdict"] == "replayed":
        source = tx.one("SELECT * FROM call WHERE id = ?", row["replay_of"])
        assert source is not None
        return replay(tx, ask, source)
    if ask.ask < row["ask"]:
        return ReserveReply("stale", row["id"], row["ask"])
    if ask.ask == row["ask"]:
        if row["state"] == "pending":
            return grant(tx, row)
        return ReserveReply("stale", row["id"], row["ask"])
    if row["state"] == "settled":
        return replay(tx, ask, row)
    if over_now := ended(scope, now):
        raise over_now
    check_terms(tx, scope, ask)
    if ask.unsure:
        tx.run("UPDATE call SET unknown = 1 WHERE id = ?", row["id"])
    if row["state"] == "voided":
        return _revived(tx, scope, ask, row, now)
    return resend(tx, scope, row, ask, ask.ask, now)


def _revived(tx: Tx, scope: Scope, ask: ReserveRequest, row: Row, now: int) -> ReserveReply:
    """Answer the retry of a call that ended with nothing spent: it is looked at as if it were new.

    Meanwhile an equal call of another thread may have taken its place.
    """
    identity = identify(tx, ask, scope.claim)
    match = None if ask.read else earlier(tx, identity, ask, scope.run["run_id"])
    if match is not None:
        return matched(tx, scope, ask, identity, match, now, row)
    check_overlap(tx, scope.claim, ask, identity)
    if wait := objects.not_yet(tx, ask, row["id"], relayed=scope.relayed, ahead=scope.ahead):
        return wait
    objects.take(tx, ask, row["id"], relayed=scope.relayed)
    used = tries(tx, identity)
    tx.run(
        "UPDATE call SET wire_key = ?, ordinal = ?, base = ?, key_id = ?, epoch = ?, formula = ?, tries = ?"
        " WHERE id = ?",
        wire_key(ask, identity, used),
        identity.ordinal,
        identity.base,
        identity.key_id,
        identity.epoch,
        FORMULA,
        used,
        row["id"],
    )
    link_budgets(tx, scope, row["id"], ask.vendor)
    reserve_money(tx, scope, ask, row, now)
    return regrant(tx, scope, row["id"], ask.call_id, ask.ask, now)


def _new(tx: Tx, scope: Scope, ask: ReserveRequest, now: int) -> ReserveReply:
    """Decide about a call that is not known yet."""
    if over_now := ended(scope, now):
        raise over_now
    if ask.denied is not None:
        raise Refused(ask.denied, ask.message)
    check_operation(tx, scope, ask)
    if must_look_up(tx, scope, ask):
        return ReserveReply("look_up", ask.call_id, ask.ask)
    check_terms(tx, scope, ask)
    identity = identify(tx, ask, scope.claim)
    match = None if ask.read else earlier(tx, identity, ask, scope.run["run_id"])
    if match is not None:
        return matched(tx, scope, ask, identity, match, now)
    check_overlap(tx, scope.claim, ask, identity)
    if scope.claim["mixed"] and identity.base is not None and ask.total_micros != 0:
        _check_mates(tx, scope, ask)
    if wait := objects.not_yet(tx, ask, ask.call_id, relayed=scope.relayed, ahead=scope.ahead):
        return wait
    if ask.total_micros is None and object_of(tx, ask) is None:
        return ReserveReply("look_up", ask.call_id, ask.ask)
    used = 0 if ask.read else tries(tx, identity)
    key = wire_key(ask, identity, used)
    with tx.savepoint():
        row = record(tx, scope, ask, identity, now, verdict="allowed", wire_key=key, tries=used)
        link_budgets(tx, scope, row["id"], ask.vendor)
        reserve_money(tx, scope, ask, row, now)
        objects.take(tx, ask, row["id"], relayed=scope.relayed)
    keep_targets(tx, row["id"], ask)
    if not ask.read:
        tx.insert(
            "exchange",
            call_id=row["id"],
            request_body=ask.body,
            stored_at=now,
            request_headers=json.dumps(ask.headers),
            answer_headers="{}",
            answer_body="",
        )
    return ReserveReply("allowed", row["id"], ask.ask, wire_key=key)


def _check_mates(tx: Tx, scope: Scope, ask: ReserveRequest) -> None:
    """Refuse what may repeat a part of what other batches of these tasks have paid for.

    Calls are matched by their target: one without, or for some of several, cannot be.
    """
    mates = mates_of(scope.claim)
    rows = tx.all(
        "SELECT DISTINCT target, task_id FROM call WHERE task_id IN (SELECT value FROM json_each(?))"
        " AND vendor = ? AND account = ? AND operation = ? AND verdict = 'allowed' AND base IS NOT NULL"
        " AND state IN ('pending','settled','in_doubt') AND " + NOT_DECLINED,
        json.dumps(mates),
        ask.vendor,
        ask.account,
        ask.operation,
    )
    for row in rows:
        if _may_overlap(ask.target, row["target"]):
            raise Refused(
                "idempotency_mismatch",
                f"{row['task_id']} has paid for a part of this batch, and Luigi has made another batch of "
                "it: whether this call repeats a part of that cannot be known. Name one target in each "
                "call, pass an idempotency key of your own, or mark what was paid as complete",
            )


def _may_overlap(one: str | None, other: str | None) -> bool:
    """Return whether two targets (blanks between several) may have somebody in common."""
    if one is None or other is None or _CUT in one + other:
        return True
    return bool(set(one.split()) & set(other.split()))


def _check_objects(tx: Tx, scope: Scope, ask: ReserveRequest) -> None:
    """Keep what a gateway knows of an object, and what workers say of it, apart."""
    named = f"{ask.object_id or ''} {ask.covers}"
    if scope.relayed:
        adopt(tx, ask.vendor, ask.account, named)
    elif not ask.read and is_gateways(tx, ask.vendor, ask.account, named):
        raise Refused("scope", f"{named.strip()} was paid through a gateway: go on with it there")


def sweep(tx: Tx) -> list[str]:
    """Put in doubt every pending call whose sender must be gone, and end expired keys.

    Returns the runs whose calls are concerned.
    """
    overdue = f"state = 'pending' AND {over('granted_at', f'timeout_ms + {GRANT_MS}')}"
    rows = tx.all(f"SELECT id, run_id FROM call WHERE {overdue}")
    for row in rows:
        in_doubt(tx, row, "its sender is gone")
    # For good: an expired key stays so, whatever the clock says later.
    tx.run(
        f"UPDATE claim SET state = 'ended', ended_at = {NOW} WHERE state = 'open' AND task_id = ''"
        f" AND EXISTS (SELECT 1 FROM key_terms WHERE key_terms.id = claim.id AND ({EXPIRED}))"
    )
    return sorted({row["run_id"] for row in rows})


def forget(tx: Tx, days: int) -> int:
    """Delete answers older than `days`; identity and amounts stay. In-doubt calls keep theirs.

    One from the future is as old as can be known: it begins to age now.
    """
    # Nobody goes on with a price that was looked up a day ago.
    tx.run(
        "DELETE FROM turn WHERE EXISTS (SELECT 1 FROM call WHERE call.id = turn.call_id"
        f" AND created_at < {NOW} - 86400000 AND (state IS NULL OR state <> 'pending'))"
    )
    tx.run(f"UPDATE exchange SET stored_at = {NOW} WHERE stored_at > {NOW} + {SKEW_MS}")
    return tx.run(
        f"DELETE FROM exchange WHERE stored_at < {NOW} - ? AND call_id NOT IN"
        " (SELECT id FROM call WHERE state IN ('pending','in_doubt'))",
        days * 86_400_000,
    )
