"""What a dispatch gate starts from, and what has changed in the ledger since it last looked."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field

from luigi_spendguard.ledger.budgets import REMAINING, keep_budget
from luigi_spendguard.ledger.engine import NOT_DECLINED, TODAY, Row, Tx
from luigi_spendguard.ledger.figures import CAME_TO, COLUMNS, RUN, Figures, last_entry
from luigi_spendguard.ledger.paid import have_paid
from luigi_spendguard.policy import Caps


@dataclass(frozen=True)
class Changes:
    """What has changed after one entry of the journal, up to entry `seen`.

    Attributes:
        runs: the runs concerned, each with those of its budgets (its tasks' own too) that have changed.
        day: today's budget of all runs, changed or not.
        paid: tasks that have paid, a batch's members too.

    """

    seen: int
    runs: list[Figures] = field(default_factory=list)
    day: Row | None = None
    paid: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Start(Changes):
    """What a gate that knows nothing starts from.

    Attributes:
        claims: of each task that has not completed since, the latest claim, oldest first; where its end was
            not heard the task may be running.
        batches: batches that have been attempted and must come back with the same members, newest last.

    """

    claims: list[Row] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)


_FRESH = "WITH fresh AS (SELECT id, kind, run_id, call_id, budget_id FROM journal WHERE id > ?)"


def changes(tx: Tx, since: int) -> Changes:
    """Return what has changed after the journal's entry `since`."""
    seen = last_entry(tx)  # First: what is written meanwhile is looked at again the next time.
    if seen <= since:
        return Changes(seen, day=today(tx))
    budgets = tx.all(
        f"{_FRESH} SELECT *, {REMAINING} AS remaining_micros FROM budget WHERE scope <> 'day' AND id IN"
        " (SELECT budget_id FROM fresh UNION SELECT call_budget.budget_id FROM fresh"
        " JOIN call_budget ON call_budget.call_id = fresh.call_id WHERE fresh.budget_id IS NULL)",
        since,
    )
    named = [row["run_id"] for row in tx.all(f"{_FRESH} SELECT DISTINCT run_id FROM fresh", since)]
    concerned = json.dumps(sorted({*named, *(row["subject"] for row in budgets)}))
    rows = tx.all(f"{RUN} WHERE run.run_id IN (SELECT value FROM json_each(?)) ORDER BY run.id", concerned)
    approvals = tx.all("SELECT * FROM approval WHERE task_id <> '' AND run_id IN"
                       " (SELECT value FROM json_each(?))", concerned)  # fmt: skip
    reserved = tx.all(f"{_FRESH} SELECT call_id FROM fresh WHERE kind = 'reserve'", since)
    return Changes(seen, _together(rows, budgets, approvals, seen), today(tx),
                   have_paid(tx, [row["call_id"] for row in reserved]))  # fmt: skip


def start(tx: Tx, caps: Caps) -> Start:
    """Bring budgets to the configured caps, and return all that the gate counts from."""
    follow(tx, caps)
    claims = tx.all(
        f"SELECT claim.*, {REMAINING} AS left_micros FROM claim"
        " JOIN run ON run.run_id = claim.run_id AND run.state <> 'ended'"
        " LEFT JOIN budget ON budget.scope = 'task' AND budget.subject = claim.run_id"
        " AND budget.part = claim.task_id"
        " WHERE claim.task_id <> '' AND claim.rowid IN (SELECT max(rowid) FROM claim GROUP BY task_id)"
        " AND (claim.ended_at IS NULL OR (coalesce(claim.outcome, '') <> 'completed' AND NOT EXISTS"
        " (SELECT 1 FROM member JOIN claim batch ON batch.id = member.claim_id WHERE"
        " member.task_id = claim.task_id AND batch.rowid > claim.rowid AND batch.outcome = 'completed')))"
        " ORDER BY claim.rowid"
    )
    batches = tx.all(
        "SELECT members FROM claim WHERE members <> '[]' AND EXISTS (SELECT 1 FROM call WHERE"
        f" call.claim_id = claim.id AND call.state IN ('pending','settled','in_doubt') AND {NOT_DECLINED}"
        " AND asked_micros > 0)"
        " AND NOT EXISTS (SELECT 1 FROM member JOIN task ON task.task_id = member.task_id"
        " WHERE member.claim_id = claim.id AND task.completions > member.epoch) ORDER BY claimed_at"
    )
    return Start(
        last_entry(tx),
        _all_runs(tx),
        today(tx),
        have_paid(tx),
        claims,
        [json.loads(row["members"]) for row in batches],
    )


def _all_runs(tx: Tx) -> list[Figures]:
    """Return the runs that are not ended, with their budgets but their tasks' own."""
    rows = tx.all(f"SELECT {COLUMNS} FROM run WHERE state <> 'ended' ORDER BY id")
    last = _precedents(tx)
    for row in rows:
        row["last_micros"] = last[row["run_id"]]
    budgets = tx.all(
        f"SELECT budget.*, {REMAINING} AS remaining_micros FROM budget JOIN run ON run.run_id = subject"
        " WHERE run.state <> 'ended' AND scope IN ('run','family','vendor')"
    )
    approvals = tx.all("SELECT * FROM approval WHERE task_id <> ''")
    return _together(rows, budgets, approvals, last_entry(tx))


def _precedents(tx: Tx) -> dict[str, int | None]:
    """Return what the last run of the same root family came to, for each run, as `RUN` does for one.

    In one pass: asked for run by run, 5,000 runs that have spent nothing are gone through 5,000 times.
    """
    came_to: dict[str, int] = {}
    last: dict[str, int | None] = {}
    for row in tx.all(
        f"SELECT run.run_id, root_family, state, {CAME_TO} AS came_to FROM run JOIN budget"
        " ON budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = '' ORDER BY run.id"
    ):
        last[row["run_id"]] = came_to.get(row["root_family"])
        if row["came_to"] and row["state"] != "revoked":
            came_to[row["root_family"]] = row["came_to"]
    return last


def _together(rows: list[Row], budgets: list[Row], approvals: list[Row], seen: int) -> list[Figures]:
    """Return figures of runs, each with its budgets and its tasks' approvals."""
    budgets_of: defaultdict[str, list[Row]] = defaultdict(list)
    for budget in budgets:
        budgets_of[budget["subject"]].append(budget)
    approvals_of: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in approvals:
        approvals_of[row["run_id"]][row["task_id"]] = row["amount_micros"]
    return [Figures(row, budgets_of[row["run_id"]], seen, dict(approvals_of[row["run_id"]])) for row in rows]


def today(tx: Tx) -> Row | None:
    """Return today's budget of all runs, None where nothing was taken from it yet."""
    return tx.one(
        f"SELECT *, {REMAINING} AS remaining_micros FROM budget WHERE scope = 'day' AND part = {TODAY}"
    )


def follow(tx: Tx, caps: Caps) -> None:
    """Bring the budgets that follow luigi.cfg to what it says now."""
    wanted = {("family", part): cap for part, cap in caps.task_families.items()}
    wanted |= {("vendor", part): cap for part, cap in caps.vendors.items()}
    if caps.day is not None:
        wanted["day", str(tx.value(f"SELECT {TODAY}"))] = caps.day
    for (scope, part), cap in wanted.items():
        for row in tx.all("SELECT subject FROM budget WHERE scope = ? AND part = ?", scope, part):
            keep_budget(tx, scope, row["subject"], part, cap)
