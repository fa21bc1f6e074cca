"""However many tasks are blocked, a look judges a few of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from scheduler_patch.dispatch import READY, Gate, Verdict, endings, holds, model
from scheduler_patch.dispatch.feed import approve, draw
from scheduler_patch.dispatch.kinds import TaskKinds
from scheduler_patch.dispatch.model import Hold, TaskState
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.scheduler.choice import Choice
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
        holds.hold(gate.state, task_id, "run", USD + number)
        endings.stopped(gate.state, task_id)
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
        holds.hold(scheduler.gate.state, task_id, "duplicate", USD + number, f"call {number}", f"P{number}")


def beyond_their_own(scheduler: BudgetScheduler) -> None:
    add(scheduler, max_cost_usd="0.1")
    for number, task_id in enumerate(TASKS):
        draw(scheduler.gate.state, task_id, 100_000)
        holds.hold(scheduler.gate.state, task_id, "task", 200_000 + number)


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
        endings.stopped(scheduler.gate.state, task_id)
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
        holds.hold(scheduler.gate.state, task_id, "vendor", 500_000, vendor)
    assert answers(scheduler) == ({TASKS[0]: READY, TASKS[1]: Verdict.VENDOR, TASKS[2]: READY}, 2)


def test_all_that_makes_a_kind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what changes together with something else that is told, such as who pays for a task."""
    read = set[str]()

    class Read(TaskState):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    state = Gate().state
    state.rules.single = USD
    key = Read("T", "V", ["r1"], hold=Hold("key", "", 0))
    for task in (Read("T", "V", cost=2 * USD), Read("T", "V", ["r1"], hold=Hold("run", "", USD)), key):
        TaskKinds().put(task, state)
    assert read & {one.name for one in fields(TaskState)} - {"task_id", "changed"} == model._TELLING


def test_a_task_that_is_done_and_comes_back_as_a_plain_one_is_not_blocked() -> None:
    scheduler = BudgetScheduler(stable_done_cooldown_secs=0)
    fed(scheduler.gate, 0, "r1", cap=USD)
    add(scheduler, max_cost_usd="1")
    assert scheduler.count_pending("w")["n_pending_tasks"] == 0
    for status in ("DONE", "PENDING"):
        scheduler.add_task(worker="w", task_id="T000", family="V", status=status)
    assert scheduler.count_pending("w")["n_pending_tasks"] == 1
    assert scheduler.get_work(host="h", worker="w")["task_id"] == "T000"


def test_of_those_that_cost_more_than_is_left_none_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, looked_at = BudgetScheduler(), Counter[str]()
    fed(scheduler.gate, USD, "r1", cap=9 * USD)
    for task_id in TASKS:
        said = {"run_id": "r1", "max_cost_usd": "2" if task_id != "T100" else "1"}
        priority = 0 if task_id == "T100" else 1
        scheduler.add_task(worker="w", task_id=task_id, family="V", spendguard=said, priority=priority)
    verdict = scheduler.gate.verdict
    monkeypatch.setattr(
        scheduler.gate,
        "verdict",
        lambda task_id, *rest: looked_at.update([task_id]) or verdict(task_id, *rest),
    )
    assert scheduler.get_work(host="h", worker="w")["task_id"] == "T100"
    assert looked_at.total() < 20
    admits = Choice._admits
    monkeypatch.setattr(
        Choice,
        "_admits",
        lambda self, kind, task_id: looked_at.update([task_id]) or admits(self, kind, task_id),
    )
    assert scheduler.get_work(host="h", worker="w")["task_id"] is None
    assert looked_at.total() < 20


def test_who_was_denied_less_is_freed_by_less() -> None:
    scheduler = BudgetScheduler()
    fed(scheduler.gate, 2 * USD, "r1", cap=9 * USD)
    for number, task_id in enumerate(TASKS[:3]):
        scheduler.add_task(worker="w", task_id=task_id, family="V", spendguard={"run_id": "r1"})
        holds.hold(scheduler.gate.state, task_id, "run", (number + 1) * USD)
    expected = dict(zip(TASKS, (READY, READY, Verdict.CAP), strict=False))
    assert answers(scheduler) == (expected, 2)


def test_whom_a_worker_has_announced_a_task_for_makes_it_unlike_the_others() -> None:
    scheduler = BudgetScheduler()
    fed(scheduler.gate, 0, "r1", cap=USD)
    fed(scheduler.gate, 0, "r2", "frozen", cap=USD)
    for task_id, workers in ((TASKS[0], "wv"), (TASKS[1], "vw")):
        for worker, run_id in zip(workers, ("r1", "r2"), strict=True):
            scheduler.add_task(worker=worker, task_id=task_id, family="V", spendguard={"run_id": run_id})
    assert answers(scheduler) == ({TASKS[0]: Verdict.CAP, TASKS[1]: Verdict.FROZEN}, 0)


def test_an_approval_in_the_run_that_pays_makes_a_task_unlike_the_others() -> None:
    scheduler = BudgetScheduler()
    scheduler.gate.state.rules.single = USD // 2
    for run_id in ("r1", "r2"):
        fed(scheduler.gate, 9 * USD, run_id)
    for task_id in TASKS[:2]:
        said = {"run_id": "r1", "max_cost_usd": "1"}
        scheduler.add_task(worker="w", task_id=task_id, family="V", spendguard=said)
        scheduler.gate.started(task_id, "r2", "w")
        endings.stopped(scheduler.gate.state, task_id)
    approve(scheduler.gate.state, "r2", TASKS[0], USD, None)
    assert answers(scheduler) == ({TASKS[0]: READY, TASKS[1]: Verdict.APPROVAL}, 1)
