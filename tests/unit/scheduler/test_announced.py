"""Under `forecast = hold` nothing of a run is dispatched while a worker is still adding tasks of it."""

from __future__ import annotations

from typing import Any

from scheduler_patch.scheduler import BudgetScheduler
from tests.support.gates import fed

RUN = {"run_id": "r1"}


def work(scheduler: Any, worker: str = "w") -> Any:
    return scheduler.get_work(worker=worker, host="h")["task_id"]


def test_only_what_a_worker_adds_is_announced_not_what_it_reports() -> None:
    """After a restart of luigid a report is the first it hears of a worker; nobody may wait for its end."""
    scheduler = BudgetScheduler()
    fed(scheduler.gate, 1000)
    scheduler.gate.state.rules.forecast = "hold"
    add = {"family": "V", "runnable": True}
    scheduler.add_task(task_id="a", worker="old", status="FAILED", family="V", spendguard=RUN)
    scheduler.add_task(task_id="b", worker="w", spendguard={**RUN, "announcing": True}, **add)
    assert work(scheduler) is None
    scheduler.add_worker("w", [("first_task", "b")])
    assert work(scheduler) == "b"
    scheduler.add_task(
        task_id="c", worker="w", spendguard={**RUN, "announcing": True, "max_cost_usd": "9"}, **add
    )
    assert work(scheduler, "old") is None
    scheduler.add_worker("w", [("first_task", "b")])
    assert scheduler.gate.verdict("c") == "forecast"
