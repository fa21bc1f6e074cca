"""Calls that may make another task's payment again: a corrected amount is another task's parameter.

A call is suspect when its target was charged by another task of the same family that has not completed. What
says what it is for is not: an idempotency key of the caller's, or a `payment_key` on both sides. Nor is what
another task of the same worker is at now: that has not died.

Where tasks do say what they pay for, a call is suspect that is for the same payment and repeats none of the
calls that another task has made for it: it has another target, or another key of its caller's. So is one of a
task that has paid under another `payment_key`, and has not completed since.
"""

from __future__ import annotations

import json

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.batches import NOT_COMPLETED, OF_TASKS
from luigi_spendguard.ledger.budgets import JournalEntry, journal, was_made
from luigi_spendguard.ledger.calls import ReservationDenied, Scope
from luigi_spendguard.ledger.database import NOT_DECLINED, Row, Tx
from luigi_spendguard.ledger.identity import Identity
from luigi_spendguard.ledger.runs import run_row
from luigi_spendguard.money import Micros, format_usd, plain_usd
from luigi_spendguard.protocol import DUPLICATE, ReserveRequest, command

#: So many of the newest charges of a target are looked at: one that is paid daily has thousands.
NEWEST = 1000
#: What an approval has let pass since it was given: it is for an amount, and used up by it.
_USED = """
    coalesce((SELECT sum(made.asked_micros) FROM call AS made
              WHERE made.run_id = ?6 AND made.task_id IN (SELECT value FROM json_each(?7)) AND made.id <> ?4
              AND made.vendor = ?1 AND made.operation = ?3 AND made.verdict = 'allowed'
              AND made.state IN ('pending','settled','in_doubt') AND made.declined = 0
              AND (SELECT max(id) FROM journal WHERE journal.call_id = made.id AND kind = 'reserve') >
              (SELECT max(id) FROM journal WHERE journal.run_id = ?6 AND kind = 'approve' AND note =
               passed.task_id || ' ' || passed.amount_micros || ' duplicate of ' || passed.call_id)), 0)
"""
#: Calls that this one may make again, but for what this attempt has repeated of them, and for a task's equal
#: ones up to that beside which an operator has let it pass.
_MAY_REPEAT = f"""
    call.vendor = ?1 AND call.account = ?2 AND call.operation = ?3 AND call.id <> ?4 AND call.claim_id <> ?5
    AND call.asked_micros > 0
    AND call.verdict = 'allowed' AND call.state IN ('pending','settled','in_doubt') AND {NOT_DECLINED}
    AND NOT EXISTS (SELECT 1 FROM call AS again WHERE again.claim_id = ?5 AND again.replay_of = call.id)
    AND NOT EXISTS (SELECT 1 FROM duplicate_approval AS passed JOIN call AS shown ON shown.id = passed.call_id
                    WHERE passed.run_id = ?6 AND passed.task_id IN (SELECT value FROM json_each(?7))
                    AND passed.amount_micros >= ?8 + {_USED} AND shown.task_id = call.task_id
                    AND shown.vendor = ?1 AND shown.account = ?2 AND shown.operation = ?3
                    AND shown.target IS call.target AND shown.rowid >= call.rowid)
"""
_COLUMNS = "SELECT call.id, call.task_id, call.run_id, call.asked_micros FROM call"
_LAST = "ORDER BY call.rowid DESC LIMIT 1"
#: The newest call that has charged the same target, by a task that has not completed since (of a batch: one
#: of its members), and that no worker is at: what has yielded tasks goes on when they are done.
_CHARGED = f"""
    {_COLUMNS}
    WHERE call.rowid IN (SELECT rowid FROM call INDEXED BY call_charged WHERE family = ?9 AND target = ?10
                         AND base IS NOT NULL AND asked_micros > 0 ORDER BY rowid DESC LIMIT {NEWEST})
      AND {_MAY_REPEAT}
      AND call.task_id NOT IN (SELECT value FROM json_each(?11)) AND (call.payment = '' OR ?12 = '')
      AND {NOT_COMPLETED}
      AND NOT EXISTS (SELECT 1 FROM claim AS last WHERE last.rowid = (SELECT max(rowid) FROM claim AS each
                      WHERE each.task_id = call.task_id) AND last.worker = ?13
                      AND (last.ended_at IS NULL OR last.outcome = 'yielded'))
    {_LAST}
"""
#: The newest call that another task has made for the same payment.
_FOR_PAYMENT = f"""
    {_COLUMNS} WHERE call.payment = ?9 AND call.payment <> '' AND {_MAY_REPEAT}
      AND call.task_id NOT IN (SELECT value FROM json_each(?7)) {_LAST}
"""
#: The newest call that this very task has made for another payment, and has not completed since.
_OTHERWISE = f"""
    {_COLUMNS} WHERE call.task_id = ?9 AND call.payment NOT IN ('', ?10) AND {_MAY_REPEAT}
      AND call.target IS ?11 AND call.base IS NOT NULL AND {NOT_COMPLETED} {_LAST}
"""


def check_duplicate(tx: Tx, scope: Scope, ask: ReserveRequest, identity: Identity) -> str:
    """Return a warning of a call that may make a payment again, "" for one that does not.

    Raises ReservationDenied (`cap`, of the budget `duplicate`) where it waits for an approval.
    """
    rule = scope.caps.duplicates(ask.vendor)
    if rule == "off" or not ask.total_micros:
        return ""
    if ask.object_id is not None:
        return ""  # What the object counts for is known.
    claim, run_id = scope.claim, scope.run["run_id"]
    tasks = [claim["task_id"], *json.loads(claim["members"])]
    found = _find_suspect(tx, scope, ask, identity, tasks)
    if found is None:
        return ""
    earlier, of_task, what, remedy = found
    text = (
        f"call {ask.call_id} of task {claim['task_id']} asks for {format_usd(ask.total_micros)} "
        f"({ask.operation}), and call {earlier['id']} of {of_task} was for "
        f"{format_usd(earlier['asked_micros'])} and {what}: it may be the same payment, corrected"
    )
    if rule == "warn" or scope.caps.shadow:
        return text
    usd = plain_usd(Micros(ask.total_micros))
    advice = command(
        "approve", run_id, "--task", tasks[-1], "--cost", usd, "--duplicate-of", str(earlier["id"])
    )
    raise ReservationDenied(
        "cap",
        f"{text} (suspect_duplicates). If it is another one, {advice} lets it pass. If it is the same one, "
        f"{remedy}",
        run_id=run_id,
        budget=DUPLICATE,
        part=earlier["id"],
        of_task=earlier["task_id"],
        asked_usd=usd,
    )


def _find_suspect(
    tx: Tx, scope: Scope, ask: ReserveRequest, identity: Identity, tasks: list[str]
) -> tuple[Row, str, str, str] | None:
    """Return the call that this one may make again: with whose it is, what both have in common, a remedy."""
    claim = scope.claim
    if not (claim["payment"] or identity.known.charges):
        return None
    common = (
        *(ask.vendor, ask.account, ask.operation, ask.call_id, claim["id"], scope.run["run_id"]),
        *(json.dumps(tasks), ask.total_micros),
    )
    if claim["payment"] and claim["members"] == "[]":
        row = tx.one(_FOR_PAYMENT, *common, claim["payment"])
        if row is not None:
            what = "the same payment_key, with another target or idempotency key"
            return row, _whose(row), what, "take this task out of the pipeline; it waits until then"
    if identity.base is None:
        return None
    if claim["payment"]:
        row = tx.one(_OTHERWISE, *common, claim["task_id"], claim["payment"], ask.target)
        if row is not None:
            whose = f"the same task in run {row['run_id']}, which has not completed since,"
            what = "the same target, under another payment_key"
            remedy = "say the payment_key as it was then: the call gets the first answer, and nothing is paid"
            return row, whose, what, remedy
    if ask.target is None or not identity.known.charges:
        return None
    own = json.dumps([*tasks, *identity.mates])
    row = tx.one(_CHARGED, *common, claim["family"], ask.target, own, claim["payment"], claim["worker"])
    if row is None:
        return None
    whose = f"{_whose(row)}, which has not completed,"
    remedy = (
        f"take this task out of the pipeline before {row['task_id']} completes: from then on this one is not "
        "held any more, and charges as well. A payment_key that both have would refuse it for good"
    )
    return row, whose, "the same target", remedy


def _whose(row: Row) -> str:
    return f"task {row['task_id']} in run {row['run_id']}"


def approve_duplicate(
    tx: Tx, run_id: str, task_id: str, call_id: str, amount: Micros, request_id: str
) -> Row:
    """Let a task's call of that amount pass though call `call_id` may have made its payment.

    It is used up by what the task then pays: more of the same waits again. Once for each `request_id`. Raises
    NotFound, Conflict (revoked, or it waits for something else).
    """
    run = run_row(tx, run_id)
    entry = JournalEntry(
        "approve", run_id=run_id, request_id=request_id, note=f"{task_id} {amount} duplicate of {call_id}"
    )
    if was_made(tx, entry):
        return run
    if run["state"] == "revoked":
        raise Conflict(f"run {run_id} is revoked: there is nothing to approve")
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
