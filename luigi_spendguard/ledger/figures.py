"""Figures of runs and budgets, as the dispatch gate is fed with them after each operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luigi_spendguard.ledger.budgets import REMAINING, run_budget
from luigi_spendguard.ledger.engine import Row, Tx

#: Earlier runs whose tasks are averaged for a forecast.
RECENT_RUNS = 50


@dataclass(frozen=True)
class Figures:
    """One run as the gate sees it.

    Attributes:
        run: its row; one without a name only has the state.
        budgets: the budgets that may have changed (rows).
        seen: the journal's last entry when this was read: what was read earlier has a lower one.
        approvals: what tasks of it may cost by an operator's word; None: not read.

    """

    run: Row
    budgets: list[Row]
    seen: int = 0
    approvals: Mapping[str, int] | None = None


#: What a run has come to: what is in doubt (or under way) may have been spent.
CAME_TO = "spent_micros + overrun_micros + reserved_micros"
#: A run's columns for the gate, `last_micros` excepted.
COLUMNS = (
    "run.run_id, run.name, run.state, run.root_family, run.root_task_id, run.by_task_id,"
    " run.forecast_micros, run.estimated_micros, run.unknown_tasks,"
    " (SELECT amount_micros FROM approval WHERE approval.run_id = run.run_id AND task_id = '')"
    " AS approved_micros,"
    " (SELECT unknown_tasks FROM approval WHERE approval.run_id = run.run_id AND task_id = '')"
    " AS approved_unknown"
)
#: With what the last run of the same root family came to that has spent something and was not revoked.
RUN = (
    f"SELECT {COLUMNS}, (SELECT {CAME_TO} FROM run earlier"
    " JOIN budget ON budget.scope = 'run' AND budget.subject = earlier.run_id AND budget.part = ''"
    " WHERE earlier.root_family = run.root_family AND earlier.id < run.id AND earlier.state <> 'revoked'"
    f" AND {CAME_TO} > 0 ORDER BY earlier.id DESC LIMIT 1) AS last_micros FROM run"
)


def last_entry(tx: Tx) -> int:
    """Return the journal's last entry: whatever is read together with it is not older."""
    return int(tx.value("SELECT max(id) FROM journal") or 0)


def of_run(tx: Tx, run_id: str) -> Figures:
    """Return a run with all its budgets but its tasks' own. Raises NotFound."""
    row = tx.one(f"{RUN} WHERE run.run_id = ?", run_id)
    assert row is not None, "the caller has found the run"
    budgets = tx.all(
        f"SELECT *, {REMAINING} AS remaining_micros FROM budget"
        " WHERE subject = ? AND scope IN ('run','family','vendor')",
        run_id,
    )
    approved = tx.all("SELECT * FROM approval WHERE run_id = ? AND task_id <> ''", run_id)
    approvals = {row["task_id"]: row["amount_micros"] for row in approved}
    return Figures(row, budgets, last_entry(tx), approvals)


def of_call(tx: Tx, run_id: str, call_id: str) -> Figures:
    """Return a run's state, and the budgets that a call's reservation is made in."""
    row = tx.one("SELECT run_id, state FROM run WHERE run_id = ?", run_id)
    assert row is not None, "a call has a run"
    budgets = tx.all(
        f"SELECT budget.*, {REMAINING} AS remaining_micros FROM call_budget"
        " JOIN budget ON budget.id = call_budget.budget_id WHERE call_budget.call_id = ?",
        call_id,
    )
    return Figures(row, budgets or [run_budget(tx, run_id)], last_entry(tx))


def task_left(tx: Tx, run_id: str, task_id: str) -> int | None:
    """Return what a task's own budget has left in micro-dollars, None where it has none."""
    left = tx.value(
        f"SELECT {REMAINING} FROM budget WHERE scope = 'task' AND subject = ? AND part = ?", run_id, task_id
    )
    return None if left is None else int(left)


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
