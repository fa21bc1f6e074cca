"""A dispatch gate fed as the ledger feeds it."""

from __future__ import annotations

from typing import Any

from luigi_spendguard.ledger.snapshot import Figures
from scheduler_patch.dispatch import Gate
from scheduler_patch.dispatch.feed import feed, feed_day
from scheduler_patch.dispatch.reasons import Reason, reason_of
from scheduler_patch.scheduler import BudgetScheduler


def budget(scope: str, part: str, cap: int, remaining: int, spent: int | None = None) -> dict[str, Any]:
    """Return a budget's row."""
    spent = cap - remaining if spent is None else spent
    return {
        "scope": scope,
        "part": part,
        "cap_micros": cap,
        "remaining_micros": remaining,
        "spent_micros": spent,
        "reserved_micros": 0,
        "overrun_micros": 0,
        "shadow_micros": 0,
    }


def configure(gate: Gate, row: dict[str, Any]) -> None:
    """Let luigi.cfg name the cap of a budget, so that calls take from it."""
    rules, cap = gate.state.rules, {row["part"]: row["cap_micros"]}
    if row["scope"] == "family":
        rules.families = {**rules.families, **cap}
    elif row["scope"] == "vendor":
        rules.vendors = {**rules.vendors, **cap}
    elif row["scope"] == "day":
        rules.day = row["cap_micros"]


def fed(
    gate: Gate,
    remaining: int = 1000,
    run_id: str = "r1",
    state: str = "active",
    *,
    name: str | None = None,
    cap: int | None = None,
    budgets: tuple[dict[str, Any], ...] = (),
    last: int | None = None,
    approved: int | None = None,
    approved_unknown: int | None = None,
    seen: int = 0,
) -> None:
    """Feed a run that has so much left, as it was read at entry `seen` of the journal."""
    row = {
        "run_id": run_id,
        "name": name or run_id,
        "state": state,
        "root_family": "Root",
        "last_micros": last,
        "approved_micros": approved,
        "approved_unknown": approved_unknown,
        "forecast_micros": None,
        "estimated_micros": 0,
        "unknown_tasks": 0,
    }
    for one in budgets:
        configure(gate, one)
    own = budget("run", "", max(remaining, 1000) if cap is None else cap, remaining)
    feed(gate.state, Figures(row, [own, *budgets], seen))


def day(gate: Gate, remaining: int, cap: int = 1000, window: str = "2026-11-24", seen: int = 0) -> None:
    """Feed the day's budget of all runs."""
    row = budget("day", window, cap, remaining)
    configure(gate, row)
    feed_day(gate.state, row, seen)


def blocked(scheduler: BudgetScheduler, worker: str) -> dict[str, Reason]:
    """Return a worker's tasks that are ready but blocked, and why."""
    found = {
        task_id: reason_of(scheduler.gate, task_id, verdict, worker)
        for task_id, verdict in scheduler.verdicts_of(worker).items()
    }
    return {task_id: reason for task_id, reason in found.items() if reason is not None}
