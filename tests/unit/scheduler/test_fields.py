"""What is said of vendor tasks in Luigi's open RPCs is of the types that we go by, or is refused."""

from __future__ import annotations

from typing import Any

import pytest

from luigi_spendguard.protocol.messages import BadMessage
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.scheduler.runs import root_named, runs_above
from tests.support.gates import fed

RUN = {"run_id": "r1", "announcing": True}
VENDOR_TASK: dict[str, Any] = {"task_id": "v", "worker": "w", "family": "V", "spendguard": RUN}
ODD = ({"a": 1}, ["a"], 5, True, "\ud800")


@pytest.fixture
def scheduler() -> BudgetScheduler:
    scheduler = BudgetScheduler()
    fed(scheduler.gate, 1000)
    return scheduler


@pytest.mark.parametrize("name", ["task_id", "worker", "family", "status", "batch_id"])
def test_texts(scheduler: BudgetScheduler, name: str) -> None:
    for odd in ODD:
        with pytest.raises(BadMessage, match=f"'{name}' .*must be a text"):
            scheduler.add_task(**VENDOR_TASK | {name: odd})
    assert not scheduler.gate.state.tasks
    assert not list(scheduler._state.get_active_tasks())


@pytest.mark.parametrize("name", ["deps", "new_deps"])
def test_lists_of_texts(scheduler: BudgetScheduler, name: str) -> None:
    for odd in ({"a": 1}, "abc", [5], [["a"]], ["\ud800"]):
        with pytest.raises(BadMessage, match=f"'{name}' .*must be a list of texts"):
            scheduler.add_task(**VENDOR_TASK | {name: odd})


@pytest.mark.parametrize(
    "ours",
    [
        *({"spendguard": odd} for odd in (["r1"], "r1", 5)),
        *({"spendguard": {**RUN, "run_id": odd}} for odd in (*ODD, "r" * 1001)),
        *({"spendguard": {**RUN, "yielded_by": odd}} for odd in ODD),
        *({"spendguard_root": odd} for odd in (["r1"], {"name": 5}, {"budget_usd": {}})),
        *({"spendguard_blocked": odd} for odd in (["cap"], {"reason": {}}, {"reason": "cap", "part": []})),
        {"params": "abc"},
    ],
)
def test_what_guarded_workers_say(scheduler: BudgetScheduler, ours: dict[str, Any]) -> None:
    with pytest.raises(BadMessage, match=f"'({'|'.join(ours)})"):
        scheduler.add_task(**VENDOR_TASK | ours)


def test_also_of_a_task_that_is_known_and_of_one_by_its_family(scheduler: BudgetScheduler) -> None:
    scheduler.add_task(**VENDOR_TASK)
    with pytest.raises(BadMessage):
        scheduler.add_task(task_id="v", worker="w", new_deps=[5])
    scheduler.gate.state.rules.vendor_tasks = ("Pat*",)
    with pytest.raises(BadMessage):
        scheduler.add_task(task_id="p", worker=5, family="PatX")
    with pytest.raises(BadMessage):
        scheduler.get_work(worker=5)


def test_of_other_tasks_luigi_takes_what_it_takes(scheduler: BudgetScheduler) -> None:
    scheduler.gate.state.rules.vendor_tasks = ("Pat*",)
    scheduler.add_task(task_id=5, worker=7, family={"a": 1}, deps=["x"])
    task = scheduler._state.get_task(5)
    assert (task.family, task.deps) == ({"a": 1}, {"x"})
    assert scheduler.get_work(worker=7)["n_pending_tasks"] == 1


def test_and_that_harms_no_vendor_task(scheduler: BudgetScheduler) -> None:
    """Somebody has added its task, or what is called its root, before it was announced."""
    scheduler.add_task(task_id="v", worker="evil", family={"a": 1}, params={"run_id": {}})
    scheduler.add_task(task_id=5, worker="evil", family={"a": 1}, deps=["v"])
    scheduler.add_task(**VENDOR_TASK)
    scheduler.add_worker("w", [("first_task", "v")])
    assert scheduler.gate.state.tasks["v"].family == "V"
    assert "5" in runs_above(scheduler, "v")
    root = root_named(scheduler, "v", "5")
    assert root is not None
    assert (root.family, root.task_id) == ("", "5")
    assert scheduler.get_work(worker="w")["task_id"] == "v"
