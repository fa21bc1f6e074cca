"""What the dispatch gate is fed with: figures of runs and budgets, and all that it starts from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from luigi_spendguard.ledger.budgets import REMAINING, keep_budget, run_budget
from luigi_spendguard.ledger.engine import TODAY, Row, Tx
from luigi_spendguard.policy import Caps

#: Earlier runs whose tasks are averaged for a forecast.
RECENT_RUNS = 50


@dataclass(frozen=True)
class Figures:
    """One run as the gate sees it: its row, and the budgets that may have changed (rows)."""

    run: Row
    budgets: list[Row]


@dataclass(frozen=True)
class Start:
    """What a gate that knows nothing starts from."""

    runs: list[Figures] = field(default_factory=list)
    day: Row | None = None
    paid: list[str] = field(default_factory=list)
    approvals: list[Row] = field(default_factory=list)
    #: Claims whose end was not heard: their tasks may be running.
    claims: list[Row] = field(default_factory=list)
    #: Batches that have been attempted and must come back with the same members, newest last.
    batches: list[list[str]] = field(default_factory=list)


_RUN = (
    "SELECT run.run_id, run.name, run.state, run.root_family, run.root_task_id, run.by_task_id,"
    " run.forecast_micros, run.estimated_micros, run.unknown_tasks,"
    " (SELECT amount_micros FROM approval WHERE approval.run_id = run.run_id AND task_id = '')"
    " AS approved_micros,"
    " (SELECT max(spent_micros + overrun_micros, coalesce(earlier.forecast_micros, 0)) FROM run earlier"
    " JOIN budget ON budget.scope = 'run' AND budget.subject = earlier.run_id"
    " WHERE earlier.root_family = run.root_family AND earlier.id < run.id AND budget.spent_micros > 0"
    " ORDER BY earlier.id DESC LIMIT 1) AS last_micros FROM run"
)


def of_run(tx: Tx, run_id: str) -> Figures:
    """Return a run with all its budgets but its tasks' own. Raises NotFound."""
    row = tx.one(f"{_RUN} WHERE run.run_id = ?", run_id)
    assert row is not None, "the caller has found the run"
    budgets = tx.all(
        f"SELECT *, {REMAINING} AS remaining_micros FROM budget"
        " WHERE subject = ? AND scope IN ('run','family','vendor')",
        run_id,
    )
    return Figures(row, budgets)


def of_call(tx: Tx, run_id: str, call_id: str) -> Figures:
    """Return a run's state, and the budgets that a call's reservation is made in."""
    row = tx.one("SELECT run_id, state FROM run WHERE run_id = ?", run_id)
    assert row is not None, "a call has a run"
    budgets = tx.all(
        f"SELECT budget.*, {REMAINING} AS remaining_micros FROM call_budget"
        " JOIN budget ON budget.id = call_budget.budget_id WHERE call_budget.call_id = ?",
        call_id,
    )
    return Figures(row, budgets or [run_budget(tx, run_id)])


def task_left(tx: Tx, run_id: str, task_id: str) -> int | None:
    """Return what a task's own budget has left in micro-dollars, None where it has none."""
    left = tx.value(
        f"SELECT {REMAINING} FROM budget WHERE scope = 'task' AND subject = ? AND part = ?", run_id, task_id
    )
    return None if left is None else int(left)


def paid_since(tx: Tx, seen: int) -> tuple[int, list[str]]:
    """Return the last row after `seen`, and the tasks (a batch's members too) that may have paid since."""
    rows = tx.all(
        "SELECT max(call.rowid) AS last, call.task_id, claim.members FROM call JOIN claim"
        " ON claim.id = claim_id WHERE call.rowid > ? AND verdict = 'allowed' AND asked_micros > 0"
        " GROUP BY call.task_id",
        seen,
    )
    tasks = [task for row in rows for task in (row["task_id"], *json.loads(row["members"]))]
    return max((row["last"] for row in rows), default=seen), tasks


def refreshed(tx: Tx) -> tuple[list[Figures], Row | None]:
    """Return the runs that are not ended with their budgets, and today's budget of all runs."""
    runs = tx.all(f"{_RUN} WHERE run.state <> 'ended'")
    by_run: dict[str, list[Row]] = {row["run_id"]: [] for row in runs}
    for budget in tx.all(
        f"SELECT budget.*, {REMAINING} AS remaining_micros FROM budget JOIN run ON run.run_id = subject"
        " WHERE run.state <> 'ended' AND scope IN ('run','family','vendor')"
    ):
        by_run[budget["subject"]].append(budget)
    day = tx.one(
        f"SELECT *, {REMAINING} AS remaining_micros FROM budget WHERE scope = 'day' AND part = {TODAY}"
    )
    return [Figures(row, by_run[row["run_id"]]) for row in runs], day


def start(tx: Tx, caps: Caps) -> Start:
    """Bring budgets to the configured caps, and return all that the gate counts from.

    A task has paid when a call of its current epoch costs something and is settled or in doubt.
    """
    follow(tx, caps)
    runs, day = refreshed(tx)
    paid = tx.all(
        "SELECT DISTINCT call.task_id FROM call LEFT JOIN task ON task.task_id = call.task_id"
        " WHERE call.verdict = 'allowed' AND call.asked_micros > 0 AND call.task_id <> ''"
        " AND call.state IN ('pending','settled','in_doubt')"
        " AND call.epoch = coalesce(task.completions, 0)"
    )
    claims = tx.all(
        f"SELECT claim.task_id, claim.run_id, claim.worker, claim.state, {REMAINING} AS left_micros"
        " FROM claim JOIN run ON run.run_id = claim.run_id AND run.state <> 'ended'"
        " LEFT JOIN budget ON budget.scope = 'task' AND budget.subject = claim.run_id"
        " AND budget.part = claim.task_id WHERE claim.ended_at IS NULL AND claim.task_id <> ''"
    )
    batches = tx.all(
        "SELECT members FROM claim WHERE members <> '[]' AND EXISTS (SELECT 1 FROM call WHERE"
        " call.claim_id = claim.id AND call.state IN ('pending','settled','in_doubt') AND asked_micros > 0)"
        " AND NOT EXISTS (SELECT 1 FROM member JOIN task ON task.task_id = member.task_id"
        " WHERE member.claim_id = claim.id AND task.completions > member.epoch) ORDER BY claimed_at"
    )
    return Start(
        runs,
        day,
        [row["task_id"] for row in paid],
        tx.all("SELECT * FROM approval WHERE task_id <> ''"),
        claims,
        [json.loads(row["members"]) for row in batches],
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


def averages(tx: Tx) -> dict[str, int]:
    """Return what a completed task of each family has cost on average, in micro-dollars.

    Over the newest runs; a batch counts as many tasks as it had members.
    """
    recent = f"SELECT run_id FROM run ORDER BY id DESC LIMIT {RECENT_RUNS}"
    rows = tx.all(
        "SELECT done.family, total, number FROM (SELECT family, sum(max(1, json_array_length(members)))"
        f" AS number FROM claim WHERE outcome = 'completed' AND run_id IN ({recent}) GROUP BY family) done"
        " JOIN (SELECT family, sum(settled_micros + corrected_micros + overrun_micros) AS total FROM call"
        f" WHERE run_id IN ({recent}) GROUP BY family) spent ON spent.family = done.family"
    )
    return {row["family"]: -(-row["total"] // row["number"]) for row in rows}
