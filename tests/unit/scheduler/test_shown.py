"""What Luigi is shown of the pending tasks: all of them wherever the index may not know better."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import luigi.scheduler
import pytest

from scheduler_patch.scheduler import BudgetScheduler, adopt
from scheduler_patch.scheduler.choice import Choice
from tests.support.gates import fed

USD = 1_000_000


def filled(scheduler: Any, tasks: int = 5) -> Any:
    for number in range(tasks):
        scheduler.add_task(worker="w", task_id=f"T{number}", family="F", priority=number)
    return scheduler


def others(scheduler: Any) -> None:
    """Have another worker wait for more: of a worker's tasks and the pending ones Luigi reads the fewer."""
    for number in range(9):
        scheduler.add_task(worker="another", task_id=f"P{number}", family="P")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many tasks each `get_work` was shown by the index."""
    found = []
    stock = Choice.candidates

    def candidates(self: Choice, *args: Any, **kwargs: Any) -> list[Any]:
        tasks = stock(self, *args, **kwargs)
        found.append(len(tasks))
        return tasks

    monkeypatch.setattr(Choice, "candidates", candidates)
    return found


def work(scheduler: Any, worker: str = "w", **more: Any) -> Any:
    return scheduler.get_work(worker=worker, host="h", **more)["task_id"]


def test_one_task_is_shown_of_many(shown: list[int]) -> None:
    assert work(filled(BudgetScheduler())) == "T4"
    assert shown == [1]


def test_nothing_is_found_by_the_index_once_it_is_switched_off(shown: list[int]) -> None:
    scheduler = filled(BudgetScheduler())
    assert work(scheduler) == "T4"
    scheduler.fast_dispatch = False
    assert [work(scheduler), work(scheduler)] == ["T3", "T2"]
    scheduler.fast_dispatch = True
    assert work(scheduler) == "T1"
    assert shown == [1, 1]


class LowestFirst(luigi.scheduler.Scheduler):
    """Somebody's own way to choose."""

    def _rank(self, task: Any) -> Any:
        return -task.priority, -task.time


class EvenOnes(luigi.scheduler.SimpleTaskState):
    """Somebody's own way to keep tasks."""

    def get_active_tasks_by_status(self, *statuses: str) -> Iterable[Any]:
        return [task for task in super().get_active_tasks_by_status(*statuses) if task.priority % 2 == 0]


def test_who_chooses_otherwise_goes_on_to(shown: list[int]) -> None:
    scheduler = filled(adopt(LowestFirst()))
    assert [work(scheduler), work(scheduler)] == ["T0", "T1"]
    assert shown == []


def test_who_keeps_tasks_otherwise_goes_on_to(shown: list[int]) -> None:
    stock = luigi.scheduler.Scheduler()
    state: Any = EvenOnes("")
    state._metrics_collector = stock._state._metrics_collector
    stock._state = state
    scheduler = filled(adopt(stock))
    assert [work(scheduler), work(scheduler), work(scheduler)] == ["T4", "T2", "T0"]
    assert shown == []


def test_pruning_at_each_request_is_done_before_the_choice(shown: list[int]) -> None:
    scheduler = filled(BudgetScheduler(prune_on_get_work=True, worker_disconnect_delay=-1))
    # Luigi prunes the worker itself: it has nothing to do then.
    assert work(scheduler) is None
    assert shown == []


def test_a_worker_of_tasks_that_luigi_has_dropped_is_shown_all_it_holds(shown: list[int]) -> None:
    scheduler = filled(BudgetScheduler())
    assert work(scheduler) == "T4"
    others(scheduler)
    scheduler._state.inactivate_tasks(["T3"])
    assert scheduler.count_pending("w")["n_pending_tasks"] == 4, "as stock Luigi counts them"
    assert work(scheduler, "another") == "P0"
    assert shown == [1, 1]


def test_what_is_no_priority_is_luigis_to_judge(shown: list[int]) -> None:
    scheduler = filled(BudgetScheduler())
    assert work(scheduler) == "T4"
    with pytest.raises(TypeError):
        scheduler.add_task(worker="w", task_id="odd", family="F", priority="high")
    scheduler.add_task(worker="w", task_id="odd", family="F", status="DONE", priority=0)
    assert work(scheduler) == "T3"
    assert shown == [1, 1]


def test_what_luigi_had_changed_before_it_failed_is_changed() -> None:
    scheduler = filled(BudgetScheduler())
    assert work(scheduler) == "T4"
    with pytest.raises(TypeError):
        scheduler.add_task(worker="w", task_id="T3", family="F", deps=["T0"], priority="high")
    assert [work(scheduler), work(scheduler), work(scheduler), work(scheduler)] == ["T2", "T1", "T0", None]


@pytest.mark.parametrize("status", ["DONE", "FAILED"])
def test_what_needed_resources_and_is_over_makes_no_look_longer(shown: list[int], status: str) -> None:
    scheduler = filled(BudgetScheduler())
    scheduler.add_task(worker="w", task_id="laden", family="F", priority=9, resources={"r": 1})
    assert work(scheduler) == "laden"
    scheduler.add_task(worker="w", task_id="laden", family="F", status=status, resources={"r": 1})
    assert work(scheduler) == "T4"
    assert shown == [6, 1]
    assert not scheduler._state.choice.index.laden["w"]


def test_what_is_no_number_is_luigis_to_judge_while_it_is_pending_or_runs(shown: list[int]) -> None:
    scheduler = BudgetScheduler()
    scheduler.add_task(worker="w", task_id="odd", family="F", priority=float("nan"))
    assert work(scheduler) == "odd"
    filled(scheduler)
    assert work(scheduler) is not None
    assert shown == []
    scheduler.add_task(worker="w", task_id="odd", family="F", status="DONE")
    assert work(scheduler) is not None
    assert shown == [1]
    scheduler.add_task(worker="another", task_id="odd too", family="F", priority=float("nan"))
    scheduler._state.inactivate_tasks(["odd too"])
    assert work(scheduler) is not None
    assert shown == [1, 1]


def test_a_worker_that_is_busy_keeps_no_resources_from_others() -> None:
    """Luigi keeps them for a task that comes first, where its own worker could run it now."""
    found = []
    for scheduler in (luigi.scheduler.Scheduler(), BudgetScheduler()):
        scheduler.update_resource("r", 1)
        scheduler.add_worker("w", [("workers", 1)])
        scheduler.add_task(worker="w", task_id="busy", family="F", priority=99)
        first = work(scheduler)
        for worker, priority in (("w", 9), ("v", 0)):
            task_id = f"of {worker}"
            scheduler.add_task(
                worker=worker, task_id=task_id, family="F", priority=priority, resources={"r": 1}
            )
        found.append([first, work(scheduler, "v")])
    assert found == [["busy", "of v"]] * 2


def test_a_batch_has_no_more_members_than_there_is_money_for(shown: list[int]) -> None:
    scheduler = BudgetScheduler()
    fed(scheduler.gate, 2 * USD, cap=2 * USD)
    scheduler.add_task_batcher(worker="w", task_family="V", batched_args=["x"], max_batch_size=9)
    for number in "1234":
        said = {"run_id": "r1", "max_cost_usd": "1"}
        scheduler.add_task(
            worker="w", task_id=number, family="V", params={"x": number}, batchable=True, spendguard=said
        )
    assert scheduler.get_work(worker="w", host="h")["batch_task_ids"] == ["1", "2"]
    assert shown == [4]


def test_a_worker_that_was_gone_is_shown_few_again(shown: list[int]) -> None:
    scheduler = filled(BudgetScheduler(worker_disconnect_delay=10, remove_delay=0))
    assert work(scheduler) == "T4"
    others(scheduler)
    scheduler._state.inactivate_tasks(["T3"])
    scheduler._state.get_worker("w").last_active = 0
    scheduler.prune()
    index = scheduler._state.choice.index
    assert [("w" in kept, "another" in kept) for kept in (index.queues, index.counts)] == [(False, True)] * 2
    scheduler.add_task(worker="w", task_id="new", family="F")
    assert work(scheduler) == "new"
    assert shown == [1, 1]


def test_what_is_counted_is_not_read(shown: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, read = filled(BudgetScheduler()), list[str]()
    upstream_status = scheduler._upstream_status
    monkeypatch.setattr(
        scheduler,
        "_upstream_status",
        lambda task_id, table: read.append(task_id) or upstream_status(task_id, table),
    )
    assert scheduler.count_pending("w")["n_pending_tasks"] == 5
    assert read == []


def test_a_loaded_state_is_looked_at_anew(tmp_path: Path) -> None:
    saved = filled(BudgetScheduler(state_path=str(tmp_path / "state")))
    saved.dump()
    scheduler = BudgetScheduler(state_path=str(tmp_path / "state"))
    assert work(scheduler) is None
    scheduler.load()
    assert work(scheduler) == "T4"


def test_children_of_a_local_scheduler_are_sent_no_index() -> None:
    scheduler = filled(BudgetScheduler())
    assert work(scheduler) == "T4"
    assert pickle.loads(pickle.dumps(scheduler))._state.choice is None


def test_among_equals_who_became_pending_first_is_first() -> None:
    """Where they need resources: else stock Luigi's order among equals is that of a set."""
    found = []
    with mock.patch("luigi.scheduler.time.time", return_value=1_700_000_000.0):
        for scheduler in (luigi.scheduler.Scheduler(retry_delay=0), BudgetScheduler(retry_delay=0)):
            for task_id in "ab":
                scheduler.add_task(worker="w", task_id=task_id, family="F", resources={"r": 1})
            first = work(scheduler)
            scheduler.add_task(worker="w", task_id=first, family="F", status="FAILED")
            scheduler.add_task(worker="w", task_id=first, family="F", resources={"r": 1})
            found.append([first, work(scheduler)])
    assert found == [["a", "b"]] * 2


def test_arguments_are_taken_by_their_place_as_well() -> None:
    stock, ours = filled(luigi.scheduler.Scheduler()), filled(BudgetScheduler())
    for scheduler in (stock, ours):
        scheduler.add_task("T9", worker="w", priority=9)
        scheduler.add_worker("helper", [])
    assert [one.get_work("h", True, worker="helper")["task_id"] for one in (stock, ours)] == ["T9", "T9"]


def test_a_worker_whose_batch_was_denied_goes_on_to_be_served() -> None:
    """It holds the batch's combined task, which is gone: Luigi would hand that out, and fail."""
    scheduler = BudgetScheduler()
    scheduler.add_task_batcher(worker="w", task_family="V", batched_args=["x"], max_batch_size=2)
    vendor_task = {"worker": "w", "family": "V", "spendguard": {"run_id": "r1"}}
    for number in "12":
        scheduler.add_task(task_id=number, params={"x": number}, batchable=True, **vendor_task)
    others(scheduler)
    reply = scheduler.get_work(worker="w", host="h")
    batch = {"task_id": "both", "status": "RUNNING", "batch_id": reply["batch_id"], **vendor_task}
    scheduler.add_task(params=reply["task_params"], **batch)
    scheduler.add_task(spendguard_blocked=True, **batch)
    for fast in (True, False):
        scheduler.fast_dispatch = fast
        assert scheduler.count_pending("w")["n_pending_tasks"] == 0, "both members are blocked"
        scheduler.add_task(worker="w", task_id=f"plain{fast}", family="F", priority=9)
        assert work(scheduler) == f"plain{fast}"
