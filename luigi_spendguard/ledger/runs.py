"""Runs, claims and their vault keys: opening, claiming, finishing, closing, revoking, topping up.

Each function is one operation inside a transaction and idempotent by what the caller names.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from luigi_spendguard.errors import Conflict, KeyRevoked, NotFound
from luigi_spendguard.ledger.budgets import in_doubt, journal, open_budget, run_budget
from luigi_spendguard.ledger.engine import NOW, Row, Tx
from luigi_spendguard.money import MAX_MICROS, Micros, format_usd

KEY_PREFIX = "vault_key_"


def key_hash(key: str) -> str:
    """Return the SHA-256 under which a vault key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class RunRequest:
    """What a worker knows of a root task when it asks for the run.

    Attributes:
        name: the root's `run_id`, or its task_id when `by_task_id`.
        cap: granted cap in micro-dollars, pinned when the run is opened by this request.
        note: why the cap is what it is, said on the run.

    """

    name: str
    by_task_id: bool
    root_family: str
    root_task_id: str
    cap: Micros
    asked: Micros | None = None
    note: str = ""
    label: str = ""


def open_run(tx: Tx, request: RunRequest) -> Row:
    """Return the current run of that name, opened now if there is none or the last one ended.

    An existing run keeps its cap whatever is asked. The row has the budget's totals.
    """
    last = tx.one("SELECT * FROM run WHERE name = ? ORDER BY seq DESC LIMIT 1", request.name)
    if last is None or last["state"] == "ended":
        seq = 1 if last is None else last["seq"] + 1
        run_id = request.name if seq == 1 else f"{request.name}~{seq}"
        if tx.value("SELECT 1 FROM run WHERE run_id = ?", run_id):
            raise Conflict(f"the name {run_id} is taken by a run of another root: choose a run_id")
        tx.run(
            "INSERT INTO run (run_id, name, seq, by_task_id, root_family, root_task_id, label, state,"
            f" asked_micros, note, opened_at) VALUES (?,?,?,?,?,?,?,'active',?,?,{NOW})",
            run_id,
            request.name,
            seq,
            int(request.by_task_id),
            request.root_family,
            request.root_task_id,
            request.label,
            request.asked,
            request.note,
        )
        open_budget(tx, "run", run_id, "", request.cap)
        return run_row(tx, run_id)
    return run_row(tx, last["run_id"])


def run_row(tx: Tx, run_id: str) -> Row:
    """Return a run with its budget's totals. Raises NotFound."""
    row = tx.one("SELECT * FROM run WHERE run_id = ?", run_id)
    if row is None:
        raise NotFound(f"there is no run {run_id}: `spendguard runs` lists them")
    budget = run_budget(tx, run_id)
    row["budget_id"] = budget["id"]
    for column in ("cap", "spent", "reserved", "overrun", "remaining"):
        row[f"{column}_micros"] = budget[f"{column}_micros"]
    return row


@dataclass(frozen=True)
class ClaimRequest:
    """One attempt of a vendor task, as the worker that runs it names it."""

    claim_id: str
    run_id: str
    task_id: str
    family: str
    params: Mapping[str, str]
    worker: str


def claim(tx: Tx, request: ClaimRequest) -> tuple[Row, str]:
    """Claim a task for an attempt: end earlier claims of the task, return (claim row, vault key).

    The same claim asked again (its answer was lost) gets a new key and the old one is void.
    Raises KeyRevoked when the run is revoked, NotFound, Conflict.
    """
    run = run_row(tx, request.run_id)
    if run["state"] == "revoked":
        raise revoked(run["run_id"], bool(run["by_task_id"]))
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    known = tx.one("SELECT * FROM claim WHERE id = ?", request.claim_id)
    if known is not None:
        if known["state"] != "open" or known["task_id"] != request.task_id:
            raise Conflict(f"claim {request.claim_id} is over: a later attempt has the task")
        tx.run("UPDATE claim SET key_hash = ? WHERE id = ?", key_hash(key), request.claim_id)
        return known, key
    tx.run(
        f"UPDATE claim SET state = 'ended', outcome = 'superseded', ended_at = {NOW}"
        " WHERE task_id = ? AND state = 'open'",
        request.task_id,
    )
    tx.run(
        "INSERT INTO claim (id, run_id, task_id, family, params, worker, key_hash, state, claimed_at)"
        f" VALUES (?,?,?,?,?,?,?,'open',{NOW})",
        request.claim_id,
        request.run_id,
        request.task_id,
        request.family,
        json.dumps(dict(request.params), ensure_ascii=False),
        request.worker,
        key_hash(key),
    )
    row = tx.one("SELECT * FROM claim WHERE id = ?", request.claim_id)
    assert row is not None
    return row, key


def revoked(run_id: str, by_task_id: bool) -> KeyRevoked:
    """Return the error that says a run is revoked and how to start anew."""
    fresh = (
        "set SPENDGUARD_RUN_ID in the worker's environment to start anew"
        if by_task_id
        else "give its root another run_id to start anew"
    )
    return KeyRevoked("revoked", f"run {run_id} is revoked for good; {fresh}", {"run_id": run_id})


#: How an attempt may end.
OUTCOMES = ("completed", "failed", "yielded", "blocked", "died")


def finish(tx: Tx, claim_id: str, outcome: str) -> Row | None:
    """End a claim and its key; `completed` counts a completion of the task, once.

    `died`: the process is gone for certain, so its pending calls are in doubt now. Returns the claim
    row, None for an unknown claim (it was never made).
    """
    row = tx.one("SELECT * FROM claim WHERE id = ?", claim_id)
    if row is None:
        return None
    if row["state"] == "open" or (outcome == "completed" and row["outcome"] != "completed"):
        tx.run(
            f"UPDATE claim SET state = 'ended', outcome = ?, ended_at = {NOW} WHERE id = ?",
            outcome,
            claim_id,
        )
        if outcome == "completed":
            count_completion(tx, row["task_id"])
    if outcome == "died":
        for call in tx.all("SELECT * FROM call WHERE claim_id = ? AND state = 'pending'", claim_id):
            in_doubt(tx, call, "its sender died")
    return row


def count_completion(tx: Tx, task_id: str) -> None:
    """Count that a task completed: the next run of another name pays for its calls again."""
    tx.run(
        "INSERT INTO task (task_id, completions) VALUES (?, 1)"
        " ON CONFLICT (task_id) DO UPDATE SET completions = completions + 1",
        task_id,
    )


def close_run(tx: Tx, name: str) -> Row | None:
    """End the current run of that name if it was named by task_id: its root has completed.

    Claims whose end was never heard count as completed with it. Returns the run row, or None.
    """
    row = tx.one("SELECT * FROM run WHERE name = ? ORDER BY seq DESC LIMIT 1", name)
    if row is None or not row["by_task_id"] or row["state"] not in ("active", "frozen"):
        return row
    tx.run(f"UPDATE run SET state = 'ended', ended_at = {NOW} WHERE id = ?", row["id"])
    for lost in tx.all("SELECT id, task_id FROM claim WHERE run_id = ? AND state = 'open'", row["run_id"]):
        finish(tx, lost["id"], "completed")
    journal(tx, "close", run_id=row["run_id"])
    return run_row(tx, row["run_id"])


def revoke(tx: Tx, run_id: str) -> Row:
    """Revoke a run for good; repeating it changes nothing. Returns the run row."""
    row = run_row(tx, run_id)
    if row["state"] != "revoked":
        tx.run(f"UPDATE run SET state = 'revoked', ended_at = {NOW} WHERE run_id = ?", run_id)
        tx.run("UPDATE claim SET state = 'revoked' WHERE run_id = ? AND state = 'open'", run_id)
        journal(tx, "revoke", run_id=run_id)
    return run_row(tx, run_id)


def pending_calls(tx: Tx, run_id: str) -> int:
    """Return how many calls a run may still send, an earlier run's that it sends again included."""
    return int(
        tx.value(
            "SELECT count(*) FROM call JOIN claim ON claim.id = call.claim_id"
            " WHERE call.state = 'pending' AND ? IN (call.run_id, claim.run_id)",
            run_id,
        )
    )


def top_up(tx: Tx, run_id: str, amount: Micros, request_id: str) -> Row:
    """Raise a run's cap by `amount`, once for each `request_id`. A frozen run is active again.

    Raises NotFound, Conflict (revoked, ended, too much, or the request id was used otherwise).
    """
    row = run_row(tx, run_id)
    done = tx.one("SELECT * FROM journal WHERE request_id = ?", request_id)
    if done is not None:
        if (done["kind"], done["run_id"], done["cap_micros"]) != ("top_up", run_id, amount):
            raise Conflict(f"request id {request_id} was used for another change: make a new one")
        return row
    if row["state"] == "revoked":
        raise Conflict(f"run {run_id} is revoked for good and cannot be topped up")
    if row["state"] == "ended":
        raise Conflict(f"run {run_id} has ended: its root completed")
    if amount <= 0 or row["cap_micros"] + amount > MAX_MICROS:
        raise Conflict(f"a top-up of {format_usd(amount)} is out of range")
    tx.run("UPDATE budget SET cap_micros = cap_micros + ? WHERE id = ?", amount, row["budget_id"])
    tx.run("UPDATE run SET state = 'active' WHERE run_id = ? AND state = 'frozen'", run_id)
    journal(tx, "top_up", run_id=run_id, budget_id=row["budget_id"], cap=amount,
            request_id=request_id)  # fmt: skip
    return run_row(tx, run_id)
