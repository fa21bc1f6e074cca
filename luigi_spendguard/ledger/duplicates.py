"""Calls that may make another task's payment again: a corrected amount is another task's parameter.

A call is suspect when its target was charged by another task of the same family that has not completed. What
says what it is for is not: an idempotency key of the caller's, or a `payment_key` on both sides. Nor is what
another task of the same worker is at now: that has not died.
"""

from __future__ import annotations

import json

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.budgets import JournalEntry, journal, was_made
from luigi_spendguard.ledger.calls import ReservationDenied, Scope
from luigi_spendguard.ledger.claims import COMPLETIONS, OF_TASKS
from luigi_spendguard.ledger.database import NOT_DECLINED, Row, Tx
from luigi_spendguard.ledger.identity import Identity
from luigi_spendguard.ledger.runs import run_row
from luigi_spendguard.money import Micros, format_usd, plain_usd
from luigi_spendguard.protocol import ReserveRequest, command

#: What a budget's denial names where there is none, but an earlier call (`held_part` of a claim).
DUPLICATE = "duplicate"
#: So many of the newest charges of a target are looked at: one that is paid daily has thousands.
NEWEST = 1000
#: The newest call that has charged the same target, by a task that has not completed since (of a batch: one
#: of its members).
_CHARGED = f"""
    SELECT call.id, call.task_id, call.run_id, call.asked_micros, call.operation
    FROM call JOIN claim ON claim.id = call.claim_id
    WHERE call.rowid IN (SELECT rowid FROM call INDEXED BY call_charged WHERE family = ?1 AND target = ?2
                         AND base IS NOT NULL AND asked_micros > 0 ORDER BY rowid DESC LIMIT {NEWEST})
      AND call.vendor = ?3 AND call.account = ?4 AND call.operation = ?5
      AND call.verdict = 'allowed' AND call.state IN ('pending','settled','in_doubt') AND {NOT_DECLINED}
      AND call.task_id NOT IN (SELECT value FROM json_each(?6)) AND (call.payment = '' OR ?7 = '')
      AND call.id <> ?8 AND call.epoch = {COMPLETIONS.format("call")}
      AND (claim.members = '[]' OR EXISTS
           (SELECT 1 FROM json_each(claim.members) AS each JOIN member ON member.task_id = each.value
            AND member.claim_id = claim.id WHERE member.epoch = {COMPLETIONS.format("member")}))
      AND NOT (claim.ended_at IS NULL AND claim.worker = ?9)
    ORDER BY call.rowid DESC LIMIT 1
"""


def check_duplicate(tx: Tx, scope: Scope, ask: ReserveRequest, identity: Identity) -> str:
    """Return a warning of a call that may make another task's payment again, "" for one that does not.

    Raises ReservationDenied (`cap`, of the budget `duplicate`) where it waits for an approval.
    """
    rule = scope.caps.duplicates(ask.vendor)
    if rule == "off" or identity.base is None or ask.target is None or not ask.total_micros:
        return ""
    if ask.object_id is not None:
        return ""  # What the object counts for is known.
    claim, run_id = scope.claim, scope.run["run_id"]
    tasks = [claim["task_id"], *json.loads(claim["members"])]
    earlier = tx.one(
        _CHARGED,
        claim["family"],
        ask.target,
        ask.vendor,
        ask.account,
        ask.operation,
        json.dumps([*tasks, *identity.mates]),
        claim["payment"],
        ask.call_id,
        claim["worker"],
    )
    if earlier is None:
        return ""
    text = (
        f"call {ask.call_id} of task {claim['task_id']} asks for {format_usd(ask.total_micros)} "
        f"({ask.operation}), and call {earlier['id']} of task {earlier['task_id']} in run "
        f"{earlier['run_id']}, which has not completed, was for {format_usd(earlier['asked_micros'])} and "
        "the same target: it may be the same payment, corrected"
    )
    if rule == "warn" or scope.caps.shadow:
        return text
    if _is_approved(tx, run_id, tasks, earlier["id"], Micros(ask.total_micros)):
        return ""
    usd = plain_usd(Micros(ask.total_micros))
    advice = command(
        "approve", run_id, "--task", tasks[-1], "--cost", usd, "--duplicate-of", str(earlier["id"])
    )
    raise ReservationDenied(
        "cap",
        f"{text} (suspect_duplicates). If it is another one, {advice} lets it pass; a payment_key of the "
        "task says so beforehand",
        run_id=run_id,
        budget=DUPLICATE,
        part=earlier["id"],
        of_task=earlier["task_id"],
        asked_usd=usd,
    )


def _is_approved(tx: Tx, run_id: str, tasks: list[str], call_id: str, amount: Micros) -> bool:
    return bool(
        tx.value(
            "SELECT 1 FROM duplicate_approval WHERE run_id = ? AND call_id = ? AND amount_micros >= ?"
            " AND task_id IN (SELECT value FROM json_each(?))",
            run_id,
            call_id,
            amount,
            json.dumps(tasks),
        )
    )


def approve_duplicate(
    tx: Tx, run_id: str, task_id: str, call_id: str, amount: Micros, request_id: str
) -> Row:
    """Let a task's call of that amount pass though call `call_id` may have made its payment.

    Once for each `request_id`. Raises NotFound, Conflict (revoked, ended, or it waits for something else).
    """
    run = run_row(tx, run_id)
    entry = JournalEntry(
        "approve", run_id=run_id, request_id=request_id, note=f"{task_id} {amount} duplicate of {call_id}"
    )
    if was_made(tx, entry):
        return run
    if run["state"] in ("revoked", "ended"):
        raise Conflict(f"run {run_id} is {run['state']}: there is nothing to approve")
    held = tx.one(
        f"SELECT * FROM claim WHERE run_id = ?2 AND id IN ({OF_TASKS}) ORDER BY rowid DESC LIMIT 1",
        json.dumps([task_id]),
        run_id,
    )
    if held is None or (held["held_scope"], held["held_part"], held["held_micros"]) != (
        DUPLICATE,
        call_id,
        amount,
    ):
        raise Conflict(
            f"task {task_id} of run {run_id} does not wait for {format_usd(amount)} beside call {call_id} "
            "now: look at it again, then approve what is shown"
        )
    tx.run(
        "INSERT INTO duplicate_approval (run_id, task_id, call_id, amount_micros) VALUES (?1,?2,?3,?4)"
        " ON CONFLICT (run_id, task_id, call_id) DO UPDATE SET amount_micros = ?4",
        run_id,
        task_id,
        call_id,
        amount,
    )
    tx.run("UPDATE claim SET held_scope = '', held_part = '', held_micros = 0 WHERE id = ?", held["id"])
    journal(tx, entry)
    return run
