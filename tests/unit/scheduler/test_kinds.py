"""However many tasks are blocked, a look judges a few of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from scheduler_patch.dispatch import READY, Gate, Verdict
from scheduler_patch.dispatch.feed import approve, draw
from scheduler_patch.scheduler import BudgetScheduler
from tests.support.gates import budget, fed

USD = 1_000_000
TASKS = tuple(f"T{number:03}" for number in range(200))


def add(scheduler: BudgetScheduler, run_id: str = "r1", worker: str = "w", **said: Any) -> None:
    for task_id in TASKS:
        scheduler.add_task(
            worker=worker, task_id=task_id, family="V", spendguard={"run_id": run_id, **said}, params={}
        )


def declared(scheduler: BudgetScheduler) -> None:
    add(scheduler, max_cost_usd="1")


def denied(scheduler: BudgetScheduler) -> None:
    """Each was dispatched and came back, denied another amount."""
    add(scheduler)
    gate = scheduler.gate
    for number, task_id in enumerate(TASKS):
        gate.started(task_id, "r1", "w")
        gate.state.hold(task_id, "run", USD + number)
        gate.state.stopped(task_id)
        gate.came_back(task_id, "w")


def unapproved(scheduler: BudgetScheduler) -> None:
    scheduler.gate.state.rules.single = USD // 2
    add(scheduler, max_cost_usd="1")


def shared(scheduler: BudgetScheduler) -> None:
    fed(scheduler.gate, 0, "r2")
    add(scheduler, max_cost_usd="1")
    add(scheduler, "r2", "other", max_cost_usd="1")


def duplicates(scheduler: BudgetScheduler) -> None:
    add(scheduler)
    for number, task_id in enumerate(TASKS):
        scheduler.gate.state.hold(task_id, "duplicate", USD + number, f"call {number}", f"P{number}")


def beyond_their_own(scheduler: BudgetScheduler) -> None:
    add(scheduler, max_cost_usd="0.1")
    for number, task_id in enumerate(TASKS):
        draw(scheduler.gate.state, task_id, 100_000)
        scheduler.gate.state.hold(task_id, "task", 200_000 + number)


@pytest.mark.parametrize(
    "blocked",
    [declared, denied, unapproved, shared, duplicates, beyond_their_own],
    ids=lambda one: one.__name__,
)
def test_of_many_that_are_alike_a_few_are_judged(
    blocked: Callable[[BudgetScheduler], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, judged = BudgetScheduler(), Counter[str]()
    fed(scheduler.gate, USD // 4, "r1", cap=USD)
    blocked(scheduler)
    stock = Gate.verdict_anew

    def verdict_anew(self: Gate, task_id: str, worker: str | None = None) -> Any:
        judged[task_id] += 1
        return stock(self, task_id, worker)

    monkeypatch.setattr(Gate, "verdict_anew", verdict_anew)
    for name in ("count_pending", "get_work", "verdicts_of"):
        answers = []
        for fast in (True, False):
            judged.clear()
            scheduler.fast_dispatch = fast
            if name == "get_work":
                answers.append(scheduler.get_work(host="h", worker="w"))
            else:
                answers.append(getattr(scheduler, name)("w"))
            assert (judged.total() <= 20) is fast, (name, judged.total())
        assert answers[0] == answers[1]
        assert answers[0].get("task_id") is None


def test_an_approval_makes_a_task_unlike_the_others() -> None:
    scheduler = BudgetScheduler()
    fed(scheduler.gate, 9 * USD, "r1")
    unapproved(scheduler)
    assert scheduler.get_work(host="h", worker="w")["task_id"] is None
    approve(scheduler.gate.state, "r1", "T042", USD, None)
    assert scheduler.get_work(host="h", worker="w")["task_id"] == "T042"
    assert scheduler.get_work(host="h", worker="w")["task_id"] is None


def answers(scheduler: BudgetScheduler, worker: str = "w") -> tuple[Any, Any]:
    """Return the verdicts on a worker's tasks and how many it is told of, with the index as without it."""
    found = []
    for fast in (True, False):
        scheduler.fast_dispatch = fast
        found.append((scheduler.verdicts_of(worker), scheduler.count_pending(worker)["n_pending_tasks"]))
    assert found[0] == found[1]
    return found[0]


def test_who_has_come_back_is_unlike_who_has_not() -> None:
    scheduler, (first, second, third) = BudgetScheduler(), TASKS[:3]
    fed(scheduler.gate, 9 * USD, "r1")
    for task_id in TASKS[:3]:
        for worker in ("w", "v"):
            scheduler.add_task(worker=worker, task_id=task_id, family="V", spendguard={"run_id": "r1"})
        scheduler.gate.started(task_id, "r1", "w")
        scheduler.gate.state.stopped(task_id)
    scheduler.gate.came_back(first, "w")
    scheduler.gate.came_back(third, "v")
    assert answers(scheduler, "w") == ({first: Verdict.REFUSED, second: READY, third: READY}, 3)
    assert answers(scheduler, "v") == ({first: READY, second: READY, third: Verdict.REFUSED}, 3)


def test_who_was_denied_by_another_vendor_is_unlike_the_others() -> None:
    scheduler = BudgetScheduler()
    rows = (budget("vendor", "stripe", USD, 0), budget("vendor", "twilio", USD, USD))
    fed(scheduler.gate, 9 * USD, "r1", budgets=rows)
    for task_id, vendor in zip(TASKS, ("twilio", "stripe", "twilio"), strict=False):
        scheduler.add_task(worker="w", task_id=task_id, family="V", spendguard={"run_id": "r1"})
        scheduler.gate.state.hold(task_id, "vendor", 500_000, vendor)
    assert answers(scheduler) == ({TASKS[0]: READY, TASKS[1]: Verdict.VENDOR, TASKS[2]: READY}, 2)
