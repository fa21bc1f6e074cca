"""Reserve: decide about one call and take its money, in one transaction.

`reserve` is idempotent by (call id, ask): the same request again gets the same answer, a higher ask is
the SDK's own retry of the same call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from luigi_spendguard.errors import denial
from luigi_spendguard.ledger.budgets import day_budget, journal, move, run_budget, take
from luigi_spendguard.ledger.engine import Row, Tx
from luigi_spendguard.ledger.identity import Identity, earlier, identify
from luigi_spendguard.ledger.runs import key_hash, revoked
from luigi_spendguard.messages import GRANT_SECONDS, Answer, Ask, facts_of
from luigi_spendguard.money import Micros, format_usd, plain_usd

#: An in-doubt call is sent again with its own key for so long; Stripe may forget keys after 24 h
#: (https://docs.stripe.com/api/idempotent_requests).
RESEND_MS = 23 * 3600 * 1000
GRANT_MS = int(GRANT_SECONDS * 1000)


@dataclass(frozen=True)
class Scope:
    """Who asks: the claim and its run, found by the vault key; and the caps in force."""

    claim: Row
    run: Row
    daily_cap: Micros | None


class _Refused(Exception):
    """Ends a reservation in a denial, which is put on record."""

    def __init__(self, reason: str, message: str, **facts: object) -> None:
        super().__init__(message)
        self.denied = denial(reason, message, facts_of(facts))


class _NoRoom(Exception):
    """Undoes the savepoint in which a budget had no room."""

    def __init__(self, budget: Row) -> None:
        super().__init__("no room")
        self.budget = budget


def find_scope(tx: Tx, key: str, daily_cap: Micros | None) -> Scope | None:
    """Return whose key this is, or None. The key's hash is compared by the index on it."""
    claim = tx.one("SELECT * FROM claim WHERE key_hash = ?", key_hash(key))
    if claim is None:
        return None
    run = tx.one("SELECT * FROM run WHERE run_id = ?", claim["run_id"])
    assert run is not None
    return Scope(claim, run, daily_cap)


def reserve(tx: Tx, scope: Scope, ask: Ask) -> Answer:
    """Decide about `ask`; when it is allowed its money is reserved. Denials are put on record."""
    now = tx.now()
    row = tx.one("SELECT * FROM call WHERE id = ?", ask.call_id)
    if row is not None and row["task_id"] != scope.claim["task_id"]:
        return Answer("denied", ask.call_id, reason="scope", message="the call is another task's")
    try:
        if row is not None:
            return _again(tx, scope, ask, row, now)
        return _new(tx, scope, ask, now)
    except _Refused as refused:
        denied = refused.denied
        if row is None:
            _record(tx, scope, ask, Identity(None, 0, None, 0), now, verdict="denied",
                    reason=denied.reason, message=denied.message)  # fmt: skip
        return Answer("denied", ask.call_id, ask.ask, reason=denied.reason,
                      message=denied.message, facts=denied.facts)  # fmt: skip


def _again(tx: Tx, scope: Scope, ask: Ask, row: Row, now: int) -> Answer:
    """Answer a request for a call that is known."""
    if row["verdict"] == "denied":
        return Answer("denied", row["id"], ask.ask, reason=row["reason"], message=row["message"])
    if row["verdict"] == "replayed":
        source = tx.one("SELECT * FROM call WHERE id = ?", row["replay_of"])
        assert source is not None
        return _replay(tx, ask, source)
    if ask.ask < row["ask"]:
        return Answer("stale", row["id"], row["ask"])
    if ask.ask == row["ask"]:
        if row["state"] == "pending":
            return _grant(tx, row)
        return Answer("stale", row["id"], row["ask"])
    if row["state"] == "settled":
        return _replay(tx, ask, row)
    _check_alive(scope, row)
    if ask.unsure:
        tx.run("UPDATE call SET unknown = 1 WHERE id = ?", row["id"])
    if row["state"] == "voided":
        wire_key = f"spendguard-{row['id']}-{ask.ask}"
        tx.run("UPDATE call SET wire_key = ? WHERE id = ?", wire_key, row["id"])
        _take(tx, scope, ask, row, now)
        return _regrant(tx, scope, row["id"], ask.call_id, ask.ask, now)
    return _resend(tx, scope, row, ask.call_id, ask.ask, now)


def _new(tx: Tx, scope: Scope, ask: Ask, now: int) -> Answer:
    """Decide about a call that is not known yet."""
    _check_alive(scope, None)
    if ask.denied is not None:
        raise _Refused(ask.denied, ask.message)
    identity = identify(tx, ask, scope.claim)
    match = None if ask.read else earlier(tx, identity, scope.run["run_id"])
    if match is not None:
        return _matched(tx, scope, ask, identity, match, now)
    if ask.total_micros is None and _object(tx, ask) is None:
        return Answer("look_up", ask.call_id, ask.ask)
    wire_key = ask.key or ("" if ask.read else f"spendguard-{ask.call_id}")
    if ask.key and tx.value("SELECT 1 FROM call WHERE wire_key = ? AND state = 'voided' LIMIT 1", ask.key):
        # Stripe answers a key that met a decline with that decline again.
        wire_key = f"{ask.key[:200]}-{ask.call_id}"
    with tx.savepoint():
        row = _record(tx, scope, ask, identity, now, verdict="allowed", wire_key=wire_key)
        budgets = [run_budget(tx, scope.run["run_id"])["id"]]
        if scope.daily_cap is not None:
            budgets.append(day_budget(tx, scope.daily_cap))
        for budget_id in budgets:
            tx.insert("call_budget", call_id=row["id"], budget_id=budget_id)
        _take(tx, scope, ask, row, now)
    if not ask.read:
        tx.insert("exchange", call_id=row["id"], request_body=ask.body, stored_at=now,
                  request_headers=json.dumps(ask.headers), answer_headers="{}",
                  answer_body="")  # fmt: skip
    return Answer("allowed", row["id"], ask.ask, wire_key=wire_key)


def _check_alive(scope: Scope, row: Row | None) -> None:
    """Refuse when the run or the key may not spend any more."""
    run, claim = scope.run, scope.claim
    if run["state"] == "revoked":
        error = revoked(run["run_id"], bool(run["by_task_id"]))
        raise _Refused("revoked", error.message, run_id=run["run_id"])
    if claim["state"] == "revoked":
        raise _Refused("revoked", "the task's vault key is revoked", run_id=run["run_id"])
    if claim["state"] == "ended":
        raise _Refused("expired", "the attempt this vault key was made for is over: a later attempt "
                       "has the task, or the task has ended", run_id=run["run_id"])  # fmt: skip
    if run["state"] == "frozen" and row is None:
        raise _Refused("cap", f"run {run['run_id']} is frozen: the vendor billed more than was "
                       "reserved. Look at `spendguard calls`, then `spendguard top-up` it",
                       run_id=run["run_id"])  # fmt: skip


def _matched(tx: Tx, scope: Scope, ask: Ask, identity: Identity, match: Row, now: int) -> Answer:
    """Answer a call that repeats `match`."""
    if match["fingerprint"] != ask.fingerprint:
        raise _Refused(
            "idempotency_mismatch",
            f"call {match['id']} of this task was for {format_usd(match['asked_micros'])} "
            f"({match['operation']}) and this one differs in amount, currency, operation, target or, "
            "where nothing names a target, in its body. If it is another call, pass `customer` or an "
            "idempotency key of your own",
            call_id=match["id"],
        )
    if match["state"] == "settled":
        _record(tx, scope, ask, identity, now, verdict="replayed", replay_of=match["id"])
        return _replay(tx, ask, match)
    if match["state"] == "pending":
        if match["sender"] == ask.call_id:
            return _grant(tx, match)
        if match["granted_at"] + GRANT_MS + match["timeout_ms"] > now:
            return Answer("wait", ask.call_id, ask.ask)
    return _resend(tx, scope, match, ask.call_id, match["ask"] + 1, now)


def _replay(tx: Tx, ask: Ask, source: Row) -> Answer:
    """Answer with the stored reply of `source`; nothing is sent."""
    stored = tx.one("SELECT * FROM exchange WHERE call_id = ?", source["id"])
    if stored is None or stored["status"] is None:
        raise _Refused(
            "idempotency_mismatch",
            f"this call was made before (call {source['id']}, vendor object "
            f"{source['object_id'] or 'unknown'}) and its answer is no longer kept "
            "([spendguard] replay_days): fetch the object from the vendor",
            call_id=source["id"],
            object_id=source["object_id"] or "",
        )
    return Answer(
        "replayed",
        ask.call_id,
        ask.ask,
        status=stored["status"],
        answer_headers=json.loads(stored["answer_headers"]),
        answer_body=stored["answer_body"],
        first_at=source["ended_at"] or source["created_at"],
    )


def _resend(tx: Tx, scope: Scope, row: Row, sender: str, ask: int, now: int) -> Answer:
    """Let `sender` send an in-doubt (or retried) call again, with its stored body and wire key."""
    if now - row["created_at"] > RESEND_MS and row["state"] == "in_doubt":
        raise _Refused(
            "in_doubt",
            f"an earlier attempt of this very call ({row['id']}) has an unknown outcome and is too old "
            f"to be sent again: look it up at the vendor, then `spendguard resolve {row['id']}`",
            call_id=row["id"],
        )
    if row["state"] == "pending" and row["sender"] != sender:
        tx.run("UPDATE call SET unknown = 1 WHERE id = ?", row["id"])
        journal(tx, "doubt", run_id=row["run_id"], call_id=row["id"], note="its sender is gone")
    return _regrant(tx, scope, row["id"], sender, ask, now)


def _regrant(tx: Tx, scope: Scope, call_id: str, sender: str, ask: int, now: int) -> Answer:
    tx.run(
        "UPDATE call SET state = 'pending', sender = ?, ask = ?, granted_at = ?, claim_id = ? WHERE id = ?",
        sender,
        ask,
        now,
        scope.claim["id"],
        call_id,
    )
    row = tx.one("SELECT * FROM call WHERE id = ?", call_id)
    assert row is not None
    return _grant(tx, row)


def _grant(tx: Tx, row: Row) -> Answer:
    stored = tx.one("SELECT * FROM exchange WHERE call_id = ?", row["id"])
    return Answer(
        "allowed",
        row["id"],
        row["ask"],
        wire_key=row["wire_key"],
        resend=bool(row["unknown"]),
        body=stored["request_body"] if stored else "",
        headers=json.loads(stored["request_headers"]) if stored else {},
    )


def _object(tx: Tx, ask: Ask) -> Row | None:
    if ask.object_id is None:
        return None
    return tx.one(
        "SELECT * FROM vendor_object WHERE vendor = ? AND account = ? AND object_id = ?",
        ask.vendor,
        ask.account,
        ask.object_id,
    )


def _take(tx: Tx, scope: Scope, ask: Ask, row: Row, now: int) -> None:
    """Reserve what the call may cost beyond what its object already counts for."""
    known = _object(tx, ask)
    counted = known["counted_micros"] if known else 0
    total = ask.total_micros
    if total is None:
        total = known["worth_micros"] if known else 0
    amount = Micros(max(0, total - counted))
    try:
        with tx.savepoint():
            linked = tx.all("SELECT budget_id FROM call_budget WHERE call_id = ?", row["id"])
            if amount:
                full = take(tx, [link["budget_id"] for link in linked], amount)
                if full is not None:
                    raise _NoRoom(full)
            if known and amount:
                tx.run(
                    "UPDATE vendor_object SET counted_micros = counted_micros + ?"
                    " WHERE vendor = ? AND account = ? AND object_id = ?",
                    amount,
                    ask.vendor,
                    ask.account,
                    ask.object_id,
                )
            tx.run("UPDATE call SET state = 'pending', reserved_micros = ?, granted_at = ?"
                   " WHERE id = ?", amount, now, row["id"])  # fmt: skip
            if not ask.read:
                journal(tx, "reserve", run_id=row["run_id"], call_id=row["id"], reserved=amount)
    except _NoRoom as full:
        raise _refuse_cap(scope, full.budget, amount) from None


def _refuse_cap(scope: Scope, budget: Row, amount: Micros) -> _Refused:
    run_id = scope.run["run_id"]
    if budget["scope"] == "run":
        what = f"the cap of {format_usd(budget['cap_micros'])} of run {run_id}"
        advice = f"`spendguard top-up {run_id} USD` raises it"
        if not budget["cap_micros"] and scope.run["note"]:
            advice = scope.run["note"]
    else:
        what = f"the daily cap of {format_usd(budget['cap_micros'])} of all runs ({budget['window']})"
        advice = "it is [spendguard] daily_cap_usd"
    return _Refused(
        "cap",
        f"{what} has no room for {format_usd(amount)}: {format_usd(budget['spent_micros'])} spent, "
        f"{format_usd(budget['reserved_micros'])} reserved, "
        f"{format_usd(budget['remaining_micros'])} remaining; {advice}",
        run_id=run_id,
        budget=budget["scope"],
        cap_usd=plain_usd(budget["cap_micros"]),
        spent_usd=plain_usd(budget["spent_micros"]),
        reserved_usd=plain_usd(budget["reserved_micros"]),
        remaining_usd=plain_usd(budget["remaining_micros"]),
        asked_usd=plain_usd(amount),
    )


def _record(
    tx: Tx,
    scope: Scope,
    ask: Ask,
    identity: Identity,
    now: int,
    *,
    verdict: str,
    reason: str = "",
    message: str = "",
    replay_of: str | None = None,
    wire_key: str = "",
) -> Row:
    """Insert the audit row of a call."""
    values = {
        "id": ask.call_id,
        "run_id": scope.run["run_id"],
        "claim_id": scope.claim["id"],
        "task_id": scope.claim["task_id"],
        "family": scope.claim["family"],
        "vendor": ask.vendor,
        "account": ask.account,
        "operation": ask.operation,
        "method": ask.method,
        "path": ask.path,
        "target": ask.target,
        "base": identity.base,
        "ordinal": identity.ordinal,
        "key_id": identity.key_id,
        "epoch": identity.epoch,
        "fingerprint": ask.fingerprint,
        "wire_key": wire_key,
        "currency": ask.currency,
        "object_id": ask.object_id,
        "verdict": verdict,
        "reason": reason,
        "message": message,
        "replay_of": replay_of,
        "state": None,
        "asked_micros": ask.total_micros or 0,
        "reserved_micros": 0,
        "settled_micros": 0,
        "corrected_micros": 0,
        "overrun_micros": 0,
        "sender": ask.call_id,
        "ask": ask.ask,
        "unknown": 0,
        "timeout_ms": ask.timeout_ms,
        "status": 0,
        "created_at": now,
    }
    tx.insert("call", **values)
    return values


def tombstone(tx: Tx, scope: Scope, call_id: str, ask: int) -> None:
    """Void a call that is not known: a late request to reserve it is refused."""
    unknown = Ask(call_id=call_id, vendor="", account="", operation="", method="", path="", ask=ask)
    row = _record(tx, scope, unknown, Identity(None, 0, None, 0), tx.now(), verdict="denied",
                  reason="ledger_unavailable", message="voided before it was reserved")  # fmt: skip
    move(tx, "void", row, note="tombstone")
