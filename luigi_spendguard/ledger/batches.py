"""Whose a batch's call is: which tasks it may be of, and whether those have completed since.

A call that a single task has opened is that task's. Of one that a batch has opened nobody knows which of
its members it is for: it may be of any of them. But it is of the attempt that has sent it last: what a single
task has gone on with is that task's, whatever becomes of the rest of the batch.

All that a completion ends is asked here: what may be repeated, has paid, or is kept for either.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from luigi_spendguard.ledger.database import NOT_DECLINED, Row, Tx

#: Where in the journal's order a run (`{0}`) begins: clocks are set back, that is not.
BEGUN = "(SELECT begun FROM run WHERE run.run_id = {0})"
#: How often a task (of `{0}`) has completed.
COMPLETIONS = "coalesce((SELECT completions FROM task WHERE task.task_id = {0}.task_id), 0)"
#: The tasks of attempt `claim`: the members of a batch, or the one that it is of.
TASKS = (
    "json_each(CASE claim.members WHEN '[]' THEN json_array(claim.task_id) ELSE claim.members END) AS each"
)
#: These with how often each had completed by then; a single one only if it has gone on with a batch's call.
AS_MEMBERS = "member ON member.task_id = each.value AND member.claim_id = claim.id"
_EACH = f"{TASKS} JOIN {AS_MEMBERS}"
#: A call was opened by a batch (`{0}`: its task).
_IS_BATCHS = "EXISTS (SELECT 1 FROM claim AS opener WHERE opener.task_id = {0} AND opener.members <> '[]')"


def _of_some(incomplete: Callable[[str], str]) -> str:
    """Return the condition that a `call` is of a task that is `incomplete` (of `call`, or `member`) since."""
    return (
        f"({incomplete('call')} AND NOT EXISTS (SELECT 1 FROM claim WHERE claim.id = call.claim_id"
        " AND (claim.members <> '[]' OR claim.task_id <> call.task_id)"
        f" AND EXISTS (SELECT 1 FROM {_EACH}) AND NOT EXISTS (SELECT 1 FROM {_EACH}"
        f" WHERE {incomplete('member')})))"
    )


#: A `call` is of a task that has not completed since.
NOT_COMPLETED = _of_some(lambda of: f"{of}.epoch = {COMPLETIONS.format(of)}")


def may_repeat(entry: str) -> str:
    """Return the condition that a `call` is of a task that had not completed by an entry of the journal.

    Whoever had begun by then has seen that, and may do it again.
    """
    return _of_some(lambda of: incomplete(f"{of}.{{0}}", entry))


def incomplete(of: str, entry: str) -> str:
    """Return that condition for one task: `of` names its `task_id`, and the `epoch` of its call."""
    return (
        f"NOT EXISTS (SELECT 1 FROM completion WHERE completion.task_id = {of.format('task_id')}"
        f" AND completion.number = {of.format('epoch')} + 1 AND completion.entry < {entry})"
    )


def go_on(tx: Tx, claim: Row, row: Row) -> None:
    """Let a single task have the call of a batch that it goes on with: it is of no other any more."""
    task_id = claim["task_id"]
    if claim["members"] != "[]" or row["task_id"] == task_id:
        return
    if is_batchs(tx, row):
        tx.run(
            "INSERT INTO member (task_id, claim_id, epoch) VALUES (?1, ?2, ?3)"
            " ON CONFLICT (task_id, claim_id) DO UPDATE SET epoch = ?3",
            task_id,
            claim["id"],
            claim["completions"],
        )


def is_batchs(tx: Tx, row: Row) -> bool:
    """Return whether a batch has opened a call."""
    return bool(tx.value(f"SELECT 1 WHERE {_IS_BATCHS.format('?1')}", row["task_id"]))


def payers(tx: Tx, tasks: str, besides: str, run_id: str) -> list[str]:
    """Return who has paid for calls that some of these tasks (a JSON list) may have made under another id.

    Each by its payment, or else its task: but for `besides`. What had completed before the run began was
    another matter.
    """
    payer = "CASE call.payment WHEN '' THEN call.task_id ELSE call.payment END"
    own = "call.task_id IN (SELECT value FROM json_each(?1))"
    rows = tx.all(
        f"SELECT DISTINCT {payer} AS payer"
        " FROM call LEFT JOIN member ON member.claim_id = call.claim_id"
        " AND member.task_id IN (SELECT value FROM json_each(?1))"
        f" WHERE call.claim_id IN ({OF_TASKS}) AND {payer} <> ?2 AND call.verdict = 'allowed'"
        " AND call.base IS NOT NULL AND call.asked_micros > 0"
        f" AND call.state IN ('pending','settled','in_doubt') AND {NOT_DECLINED}"
        f" AND (call.payment <> '' OR {own} OR {_IS_BATCHS.format('call.task_id')})"
        f" AND {incomplete('coalesce(member.{0}, call.{0})', BEGUN.format('?3'))} ORDER BY payer",
        tasks,
        besides,
        run_id,
    )
    return [row["payer"] for row in rows]


#: Claims of any of the tasks (a JSON list), alone or in a batch.
OF_TASKS = (
    "WITH wanted AS (SELECT value FROM json_each(?1))"
    " SELECT id FROM claim WHERE task_id IN (SELECT value FROM wanted) UNION"
    " SELECT claim_id FROM member WHERE task_id IN (SELECT value FROM wanted)"
)


def tasks_of(claimed: Row) -> list[str]:
    """Return the tasks of an attempt: a batch's members, or the one that it is of."""
    return json.loads(claimed["members"]) or [claimed["task_id"]]


def _payments_in(tx: Tx, payment: str) -> set[str]:
    """Return the single payments that one stands for: a batch's members'."""
    rows = tx.all("SELECT payment FROM batch_payment WHERE batch = ?", payment)
    return {row["payment"] for row in rows} or {payment}


def _by_payment(tx: Tx, claim: Row, row: Row, sent: Row | None) -> tuple[set[str], set[str]]:
    """Return the payments of an attempt, and those that a call may be for."""
    theirs = _payments_in(tx, row["payment"])
    senders = _payments_in(tx, sent["payment"]) if sent is not None else set()
    if len(theirs) > 1 and senders & theirs:  # Else its sender's key has changed since.
        theirs = senders
    return _payments_in(tx, claim["payment"]), theirs


def _by_task(tx: Tx, claim: Row, row: Row, sent: Row | None) -> tuple[set[str], set[str]]:
    """Return the tasks of an attempt, and those that a call may be of."""
    theirs = {*tasks_of(sent)} if sent is not None and is_batchs(tx, row) else {row["task_id"]}
    return {*tasks_of(claim)}, theirs


def _sent_by(tx: Tx, row: Row) -> Row | None:
    return tx.one("SELECT task_id, members, payment FROM claim WHERE id = ?", row["claim_id"])


def is_others(tx: Tx, claim: Row, row: Row) -> bool:
    """Return whether a call is of none of the tasks of an attempt: others have gone on with it."""
    if bool(claim["payment"]) != bool(row["payment"]):
        return False
    sent = _sent_by(tx, row)
    kinds = (_by_task, _by_payment) if claim["payment"] else (_by_task,)
    return all(mine.isdisjoint(theirs) for mine, theirs in (kind(tx, claim, row, sent) for kind in kinds))


def strangers(tx: Tx, claim: Row, row: Row) -> set[str]:
    """Return those tasks of an attempt (or their payments) that a call is not of, where it may be theirs.

    Of a payment it is not where all that it may be for are here: each of them gets what was made for it.
    """
    sent = _sent_by(tx, row)
    if not (claim["payment"] and row["payment"]):
        mine, theirs = _by_task(tx, claim, row, sent)
        return mine - theirs
    mine, theirs = _by_payment(tx, claim, row, sent)
    return mine - theirs if theirs - mine else set()
