"""A reservation's row and its money: recorded, taken from every budget, or refused."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass

from luigi_spendguard.errors import denial
from luigi_spendguard.ledger.budgets import (
    day_budget,
    journal,
    keep_budget,
    key_budgets,
    lend,
    move,
    run_budget,
    take,
)
from luigi_spendguard.ledger.claims import approved, key_hash
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.identity import FORMULA, Identity
from luigi_spendguard.money import Micros, format_usd, plain_usd
from luigi_spendguard.protocol import ReserveRequest, command, facts_of
from luigi_spendguard.settings.policy import Caps


@dataclass(frozen=True)
class Scope:
    """Who asks: the claim and its run, found by the vault key; and the caps in force.

    Attributes:
        terms: what a key that was asked for over HTTP may do; None for a claimed task's.
        relayed: a gateway asks, and it will send.
        ahead: the object at which another run's call has its turn before; empty: there is none.

    """

    claim: Row
    run: Row
    caps: Caps
    terms: Row | None = None
    relayed: bool = False
    ahead: str = ""

    def owns(self, call: Row) -> bool:
        """Return whether a call is of the same task, or of the same run where no task is known."""
        task_id = self.claim["task_id"]
        return bool(call["task_id"] == task_id and (task_id or call["run_id"] == self.run["run_id"]))


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


def find_scope(tx: Tx, key: str, caps: Caps, *, relayed: bool = False) -> Scope | None:
    """Return whose key this is, or None. The index finds its hash, of which time tells nothing useful."""
    wanted = key_hash(key)
    claim = tx.one("SELECT * FROM claim WHERE key_hash = ?", wanted)
    if claim is None or not hmac.compare_digest(claim["key_hash"], wanted):
        return None
    run = tx.one("SELECT * FROM run WHERE run_id = ?", claim["run_id"])
    assert run is not None
    terms = None if claim["task_id"] else tx.one("SELECT * FROM key_terms WHERE id = ?", claim["id"])
    return Scope(claim, run, caps, terms, relayed)


def object_of(tx: Tx, ask: ReserveRequest) -> Row | None:
    """Return what the ledger knows of the object that a call acts on."""
    if ask.object_id is None:
        return None
    return tx.one(
        "SELECT * FROM vendor_object WHERE vendor = ? AND account = ? AND object_id = ?",
        ask.vendor,
        ask.account,
        ask.object_id,
    )


def uncontested(tx: Tx, vendor: str, account: str, object_ids: str, *, relayed: int) -> list[str]:
    """Return those of some objects (blank between) on which no call is under way, or in doubt.

    What such a call has done is not known: its object goes on counting for itself, whatever covers it.
    """
    return [
        object_id
        for object_id in sorted(set(object_ids.split()))
        if not tx.value(
            "SELECT 1 FROM call WHERE vendor = ? AND account = ? AND object_id = ?"
            " AND state IN ('pending','in_doubt') AND relayed = ? LIMIT 1",
            vendor,
            account,
            object_id,
            relayed,
        )
    ]


def counted_for(tx: Tx, vendor: str, account: str, object_ids: list[str]) -> int:
    """Return what objects count for together, in micro-dollars."""
    return sum(
        int(
            tx.value(
                "SELECT counted_micros FROM vendor_object WHERE vendor = ? AND account = ? AND object_id = ?",
                vendor,
                account,
                object_id,
            )
            or 0
        )
        for object_id in object_ids
    )


def link_budgets(tx: Tx, scope: Scope, call_id: str, vendor: str) -> None:
    """Say which budgets a reservation is made in: they are today's, whatever an earlier try was made in."""
    caps, run_id, family = scope.caps, scope.run["run_id"], scope.claim["family"]
    budgets = [int(run_budget(tx, run_id)["id"])]
    if caps.day is not None:
        budgets.append(day_budget(tx, caps.day))
    if family in caps.task_families:
        budgets.append(keep_budget(tx, "family", run_id, family, caps.task_families[family]))
    if vendor in caps.vendors:
        budgets.append(keep_budget(tx, "vendor", run_id, vendor, caps.vendors[vendor]))
    if scope.terms is not None:
        budgets += key_budgets(tx, run_id, scope.terms)
    task_cap = scope.claim["max_cost_micros"]
    if task_cap is not None:
        budgets.append(keep_budget(tx, "task", run_id, scope.claim["task_id"], task_cap))
    tx.run("DELETE FROM call_budget WHERE call_id = ?", call_id)
    for budget_id in budgets:
        tx.insert("call_budget", call_id=call_id, budget_id=budget_id)


def reserve_money(tx: Tx, scope: Scope, ask: ReserveRequest, row: Row, now: int) -> None:
    """Reserve what the call may cost beyond what its object already counts for."""
    known = object_of(tx, ask)
    counted = known["counted_micros"] if known else 0
    total = ask.total_micros
    if total is None:
        total = known["worth_micros"] if known else 0
    covered = uncontested(tx, ask.vendor, ask.account, ask.covers, relayed=int(scope.relayed))
    counted += counted_for(tx, ask.vendor, ask.account, covered)
    amount = Micros(max(0, total - counted))
    if amount and scope.run["state"] == "frozen":
        frozen = Refused(
            "cap",
            f"run {scope.run['run_id']} is frozen: the vendor billed more than was "
            "reserved. Look at `spendguard calls`, then `spendguard top-up` it",
            run_id=scope.run["run_id"],
        )
        if not scope.caps.shadow:
            raise frozen
        _let_through(tx, row["id"], frozen)
    try:
        with tx.savepoint():
            if amount:
                _take(tx, scope, row["id"], amount)
            if ask.object_id is not None and amount:
                _count(tx, ask, row, amount, total)
            tx.run(
                "UPDATE call SET state = 'pending', reserved_micros = ?, granted_at = ? WHERE id = ?",
                amount,
                now,
                row["id"],
            )
            if not ask.read:
                journal(tx, "reserve", run_id=row["run_id"], call_id=row["id"], reserved=amount)
    except _NoRoom as full:
        raise _refuse_cap(scope, full.budget, amount) from None


def _count(tx: Tx, ask: ReserveRequest, row: Row, amount: Micros, total: int) -> None:
    """Let the object count for what is reserved: an equal call of another thread reserves the rest."""
    tx.run(
        "INSERT INTO vendor_object (vendor, account, object_id, run_id, call_id, counted_micros,"
        " worth_micros, customer) VALUES (?1,?2,?3,?4,?5,?6,?7,?8) ON CONFLICT (vendor, account, object_id)"
        " DO UPDATE SET counted_micros = counted_micros + ?6",
        ask.vendor,
        ask.account,
        ask.object_id,
        row["run_id"],
        row["id"],
        amount,
        max(amount, total),
        "" if ask.owner_unknown else ask.customer,
    )


def _take(tx: Tx, scope: Scope, call_id: str, amount: Micros) -> None:
    """Take the money from every budget of a call; in shadow mode also what none of them has."""
    linked = tx.all("SELECT budget_id FROM call_budget WHERE call_id = ?", call_id)
    budgets = [int(link["budget_id"]) for link in linked]
    try:
        with tx.savepoint():
            full = take(tx, budgets, amount)
            if full is not None:
                raise _NoRoom(full)
    except _NoRoom as full:
        if not scope.caps.shadow:
            raise
        _check_threshold(tx, scope, amount)
        lend(tx, budgets, amount)
        _let_through(tx, call_id, _refuse_cap(scope, full.budget, amount))


def _let_through(tx: Tx, call_id: str, denied: Refused) -> None:
    """Record what shadow mode lets through."""
    message = f"let through in shadow mode: {denied}"
    tx.run("UPDATE call SET reason = 'cap', message = ? WHERE id = ?", message, call_id)


def _check_threshold(tx: Tx, scope: Scope, amount: Micros) -> None:
    """Refuse what takes a task above what it may spend without an approval: that is no cap to be lent."""
    run_id, task_id, single = scope.run["run_id"], scope.claim["task_id"], scope.caps.single
    own = tx.one(
        "SELECT spent_micros + reserved_micros + overrun_micros AS counted FROM budget"
        " WHERE scope = 'task' AND subject = ? AND part = ?",
        run_id,
        task_id,
    )
    if single is None or own is None:
        return
    tasks = json.loads(scope.claim["members"]) or [task_id]
    allowed = Micros(sum(max(single, approved(tx, run_id, task) or 0) for task in tasks))
    wanted = Micros(own["counted"] + amount)
    if wanted > allowed:
        raise Refused(
            "cap",
            f"task {task_id} would spend {format_usd(wanted)}, and may spend {format_usd(allowed)} without "
            f"an approval (approve_above_usd): `spendguard approve {run_id} --task {task_id} --cost "
            f"{plain_usd(wanted)}` lets it pass",
            run_id=run_id,
            budget="approval",
            part=task_id,
            asked_usd=plain_usd(wanted),
        )


def _budget_name(scope: Scope, budget: Row) -> tuple[str, str]:
    """Return what a budget is called, and what raises it."""
    run_id, part = scope.run["run_id"], budget["part"]
    if budget["scope"] == "run":
        no_cap = not budget["cap_micros"] and scope.run["note"]
        return f"of run {run_id}", scope.run[
            "note"
        ] if no_cap else f"{command('top-up', run_id, 'USD')} raises it"
    if budget["scope"] == "day":
        return f"a day of all runs ({part})", "it is [spendguard] daily_cap_usd"
    if budget["scope"] == "family":
        return f"of {part} in run {run_id}", "it is set in [spendguard_family_caps]"
    if budget["scope"] in ("key", "key_day"):
        what = "of the vault key" if budget["scope"] == "key" else "a day of the vault key"
        return f"{what} (run {run_id})", f"`spendguard top-up {run_id} USD` raises it"
    if budget["scope"] == "vendor":
        return f"at {part} in run {run_id}", f"it is [spendguard_{part}] run_cap_usd"
    if budget["cap_micros"] - budget["shadow_micros"] == scope.caps.single:
        approve = command("approve", run_id, "--task", part, "--cost", "USD")
        return f"of a single task ({part})", f"{approve} raises it (approve_above_usd)"
    return f"of task {part}", "it is the task's max_cost_usd"


def _refuse_cap(scope: Scope, budget: Row, amount: Micros) -> Refused:
    run_id = scope.run["run_id"]
    what, advice = _budget_name(scope, budget)
    cap = budget["cap_micros"] - budget["shadow_micros"]
    return Refused(
        "cap",
        f"the cap of {format_usd(cap)} {what} has no room for {format_usd(amount)}: "
        f"{format_usd(budget['spent_micros'])} spent, "
        f"{format_usd(budget['reserved_micros'])} reserved, "
        f"{format_usd(budget['remaining_micros'])} remaining; {advice}",
        run_id=run_id,
        budget=budget["scope"],
        part=budget["part"],
        cap_usd=plain_usd(cap),
        spent_usd=plain_usd(budget["spent_micros"]),
        reserved_usd=plain_usd(budget["reserved_micros"]),
        remaining_usd=plain_usd(budget["remaining_micros"]),
        asked_usd=plain_usd(amount),
    )


def record(
    tx: Tx,
    scope: Scope,
    ask: ReserveRequest,
    identity: Identity,
    now: int,
    *,
    verdict: str,
    reason: str = "",
    message: str = "",
    replay_of: str | None = None,
    wire_key: str = "",
    tries: int = 0,
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
        "formula": FORMULA,
        "tries": tries,
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
        "relayed": int(scope.relayed),
        "declined": 0,
        "timeout_ms": ask.timeout_ms,
        "status": 0,
        "created_at": now,
    }
    tx.insert("call", **values)
    return values


def tombstone(tx: Tx, scope: Scope, call_id: str, ask: int) -> None:
    """Void a call that is not known: a late request to reserve it is refused."""
    unknown = ReserveRequest(
        call_id=call_id, vendor="", account="", operation="", method="", path="", ask=ask
    )
    row = record(
        tx,
        scope,
        unknown,
        Identity(None, 0, None, 0),
        tx.now(),
        verdict="denied",
        reason="ledger_unavailable",
        message="voided before it was reserved",
    )
    move(tx, "void", row, note="tombstone")
