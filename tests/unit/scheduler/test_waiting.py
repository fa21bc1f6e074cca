"""A cap is reached for somebody: a task that a worker waits for, not one that is over."""

from __future__ import annotations

import time

from scheduler_patch.scheduler import BudgetScheduler
from tests.support.gates import fed


def blocked() -> BudgetScheduler:
    """Return a scheduler with a task for which nothing remains."""
    scheduler = BudgetScheduler()
    fed(scheduler.gate, remaining=0)
    scheduler.add_task(worker="w", task_id="T", family="F", spendguard={"run_id": "r1", "max_cost_usd": "1"})
    return scheduler


def test_a_task_that_is_due_and_has_no_money_is_kept_waiting() -> None:
    scheduler = blocked()
    assert scheduler.is_kept_waiting("T")
    assert not scheduler.is_kept_waiting("no such task")
    [lack] = scheduler.gate.state.short.values()
    assert (lack.run.run_id, lack.task.task_id) == ("r1", "T")
    assert scheduler.gate.needed(lack.run, lack.task, next(iter(scheduler.gate.state.short))) == 1_000_000


def test_one_that_is_done_or_may_run_is_not() -> None:
    scheduler = blocked()
    fed(scheduler.gate, cap=10**9, remaining=10**9, seen=1)
    assert not scheduler.is_kept_waiting("T")
    scheduler = blocked()
    scheduler.add_task(worker="w", task_id="T", family="F", status="DONE")
    assert not scheduler.is_kept_waiting("T")


def test_a_worker_that_was_not_heard_of_since_luigid_began_waits_for_nothing() -> None:
    scheduler = blocked()
    scheduler.begun = time.time() + 60  # As after a restart, by what was pickled.
    assert not scheduler.is_kept_waiting("T")
    scheduler.begun = 0.0
    assert scheduler.is_kept_waiting("T")
