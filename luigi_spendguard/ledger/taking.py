"""A reservation's row and its money: recorded, taken from every budget, or refused."""

from __future__ import annotations

from dataclasses import dataclass

from luigi_spendguard.errors import denial
from luigi_spendguard.ledger.budgets import journal, move, take
from luigi_spendguard.ledger.engine import Row, Tx
from luigi_spendguard.ledger.identity import Identity
from luigi_spendguard.ledger.runs import key_hash
from luigi_spendguard.messages import Ask, facts_of
from luigi_spendguard.money import Micros, format_usd, plain_usd


@dataclass(frozen=True)
class Scope:
    """Who asks: the claim and its run, found by the vault key; and the caps in force."""

    claim: Row
    run: Row
    daily_cap: Micros | None


class Refused(Exception):
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


def object_of(tx: Tx, ask: Ask) -> Row | None:
    """Return what the ledger knows of the object that a call acts on."""
    if ask.object_id is None:
        return None
    return tx.one(
        "SELECT * FROM vendor_object WHERE vendor = ? AND account = ? AND object_id = ?",
        ask.vendor,
        ask.account,
        ask.object_id,
    )


def reserve_money(tx: Tx, scope: Scope, ask: Ask, row: Row, now: int) -> None:
    """Reserve what the call may cost beyond what its object already counts for."""
    known = object_of(tx, ask)
    counted = known["counted_micros"] if known else 0
    total = ask.total_micros
    if total is None:
        total = known["worth_micros"] if known else 0
    amount = Micros(max(0, total - counted))
    if amount and scope.run["state"] == "frozen":
        raise Refused("cap", f"run {scope.run['run_id']} is frozen: the vendor billed more than was "
                      "reserved. Look at `spendguard calls`, then `spendguard top-up` it",
                      run_id=scope.run["run_id"])  # fmt: skip
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


def _refuse_cap(scope: Scope, budget: Row, amount: Micros) -> Refused:
    run_id = scope.run["run_id"]
    if budget["scope"] == "run":
        what = f"the cap of {format_usd(budget['cap_micros'])} of run {run_id}"
        advice = f"`spendguard top-up {run_id} USD` raises it"
        if not budget["cap_micros"] and scope.run["note"]:
            advice = scope.run["note"]
    else:
        what = f"the daily cap of {format_usd(budget['cap_micros'])} of all runs ({budget['window']})"
        advice = "it is [spendguard] daily_cap_usd"
    return Refused(
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


def record(
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
    row = record(tx, scope, unknown, Identity(None, 0, None, 0), tx.now(), verdict="denied",
                  reason="ledger_unavailable", message="voided before it was reserved")  # fmt: skip
    move(tx, "void", row, note="tombstone")
