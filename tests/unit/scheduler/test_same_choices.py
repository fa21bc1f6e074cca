"""With and without the index the scheduler gives the same replies, whatever was done to it before.

Histories are drawn by a seed: what happens often in life does here, what is rare happens now and then.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any
from unittest import mock

import luigi.scheduler
import pytest
from luigi.task_status import DISABLED, DONE, FAILED, PENDING, SUSPENDED, UNKNOWN

from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.scheduler.index import Queue, ReadyIndex
from tests.support.gates import fed
from tests.support.twins import ask_both, batch, comparable

WORKERS = ("w1", "w2", "w3")
TASKS = tuple(f"T{number:02}" for number in range(12))
STEPS = 120


def kept(index: ReadyIndex) -> list[Any]:
    """Return what an index has, without what is empty and when each task became pending."""

    def tasks(queue: Queue) -> dict[Any, set[str]]:
        return {kind: {task.id for task in of_kind.values()} for kind, of_kind in queue.items()}

    counts = {one: (c.pending, c.unique, c.last) for one, c in index.counts.items() if c.pending}
    laden = {worker: number for worker, number in index.laden.items() if number}
    queues = {worker: tasks(queue) for worker, queue in index.queues.items() if queue}
    above = {task_id: set(waiting) for task_id, waiting in index._above.items()}
    # Of tasks that require themselves the counts are Luigi's.
    mine = [counts, index._vague] if not index._cyclic else [bool(index._cyclic)]
    return [queues, tasks(index.runnable), mine, laden, index.laden_ready, index.odd, above]


class Both:
    """A stock scheduler and ours: whatever is asked of one is asked of the other, and they answer alike."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        #: Some histories have no resources, batches, assistants or lost workers at all.
        rare = {"resources": 0.5, "batch": 0.5, "assistant": 0.5, "loss": 0.5, "prune": 0.1, "odd": 0.1}
        # `complete()` raises, tasks are disabled; they require themselves by way of others.
        rare |= {"stuck": 0.3, "cycle": 0.1}
        # The clock stands still for a while: tasks are equally old.
        rare |= {"still": 0.2}
        self.rare = {name for name, chance in rare.items() if self.random.random() < chance}
        self.base = self.now = 1_700_000_000.0
        self.running: dict[str, list[str]] = {worker: [] for worker in WORKERS}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.schedulers = self.make()
        self.work = 0

    def make(self) -> list[Any]:
        return [
            kind(
                state_path=str(self.folder / kind.__name__),
                retry_delay=5,
                remove_delay=60,
                worker_disconnect_delay=30,
                disable_persist=40,
                retry_count=3,
                stable_done_cooldown_secs=0,
                prune_on_get_work="prune" in self.rare,
            )
            for kind in (luigi.scheduler.Scheduler, BudgetScheduler)
        ]

    def time(self) -> float:
        if "still" not in self.rare:
            self.now += 0.001
        return self.now

    def ask(self, name: str, **kwargs: Any) -> Any:
        if "still" not in self.rare or self.random.random() < 0.1:
            self.base += 1
        self.asked.append((name, kwargs))
        replies = []
        for scheduler in self.schedulers:
            self.now = self.base
            try:
                replies.append(getattr(scheduler, name)(**kwargs))
            except Exception as error:  # What stock Luigi cannot do, it cannot do here.
                replies.append({"error": type(error)})
        shown = [comparable(reply) for reply in replies]
        assert shown[0] == shown[1], (*self.asked, *shown)
        self.look_at_index()
        return replies[1]

    def look_at_index(self) -> None:
        """Look that the index is what it would be if it were made now: nothing that is over stays in it."""
        state = self.schedulers[1]._state
        if state.choice is not None and len(self.asked) % 10 == 0:
            found, expected = (
                kept(index) for index in (state.choice.index, ReadyIndex(state.get_active_tasks()))
            )
            assert found == expected, (*self.asked, found, expected)

    def step(self) -> None:
        chances = {
            self.add: 40,
            self.get_work: 35,
            self.end: 20,
            self.count: 5,
            self.change: 3,
            self.wait: 2,
            self.pause: 1,
            self.restart: 1,
        }
        if "resources" in self.rare:
            chances |= {self.resources: 2, self.processes: 2}
        if "batch" in self.rare:
            chances |= {self.batcher: 3}
        if "loss" in self.rare:
            chances |= {self.disable: 1}
        self.random.choices(list(chances), list(chances.values()))[0]()

    def worker(self) -> str:
        return self.random.choice(WORKERS)

    def add(self) -> None:
        draw, number = self.random, self.random.randrange(len(TASKS))
        more: dict[str, Any] = {}
        if draw.random() < 0.6:
            below = TASKS if "cycle" in self.rare and draw.random() < 0.5 else TASKS[:number]
            more["deps"] = draw.sample(below, min(len(below), draw.choice([0, 0, 1, 2, 3])))
        seldom = 6 if "stuck" in self.rare else 1
        statuses = [PENDING, DONE, FAILED, UNKNOWN, DISABLED, SUSPENDED]
        status = draw.choices(statuses, [20, 1, 1, seldom, seldom, 1])[0]
        if "resources" in self.rare and draw.random() < 0.4:
            more["resources"] = {draw.choice("ab"): draw.randint(1, 2)}
        if "batch" in self.rare and draw.random() < 0.7:
            more["batchable"] = True
        if "assistant" in self.rare and draw.random() < 0.3:
            more["assistant"] = True
        self.ask(
            "add_task",
            worker=self.worker(),
            task_id=TASKS[number],
            family="AB"[number % 2],
            params={"x": str(number), "y": "1"},
            status=status,
            priority="odd" if "odd" in self.rare and draw.random() < 0.03 else draw.choice([0, 0, 1, 2, 0.5]),
            runnable=draw.random() < 0.9,
            expl='""',
            **more,
        )

    def get_work(self) -> None:
        worker, draw = self.worker(), self.random
        reply = self.ask(
            "get_work",
            worker=worker,
            host="h",
            assistant="assistant" in self.rare and draw.random() < 0.3,
            current_tasks=draw.choice([None, list(self.running[worker])]),
        )
        handed_out = reply.get("task_id")
        if reply.get("batch_id"):
            handed_out = "+".join(reply["batch_task_ids"])
            self.ask("add_task", worker=worker, task_id=handed_out, **batch(reply))
        if handed_out:
            self.work += 1
            self.running[worker].append(handed_out)

    def end(self) -> None:
        worker = self.worker()
        if not self.running[worker]:
            return
        task_id = self.running[worker].pop(self.random.randrange(len(self.running[worker])))
        status = self.random.choices([DONE, FAILED, PENDING], [5, 2, 1])[0]
        below = [each for each in TASKS if each < task_id]
        yielded = status == PENDING and below and self.random.random() < 0.7
        new_deps = self.random.sample(below, min(len(below), 2)) if yielded else None
        self.ask("add_task", worker=worker, task_id=task_id, status=status, expl='""', new_deps=new_deps)

    def count(self) -> None:
        self.ask("count_pending", worker=self.worker())

    def processes(self) -> None:
        self.ask("add_worker", worker=self.worker(), info=[("workers", self.random.randint(1, 3))])

    def batcher(self) -> None:
        family, most = self.random.choice("AB"), self.random.randint(1, 4)
        batch = {"task_family": family, "batched_args": ["x"], "max_batch_size": most}
        self.ask("add_task_batcher", worker=self.worker(), **batch)

    def disable(self) -> None:
        self.ask("disable_worker", worker=self.worker())

    def change(self) -> None:
        name = self.random.choice(["forgive_failures", "mark_as_done", "re_enable_task"])
        self.ask(name, task_id=self.random.choice(TASKS))

    def resources(self) -> None:
        self.ask("update_resource", resource=self.random.choice("ab"), amount=self.random.randint(0, 2))

    def pause(self) -> None:
        self.ask("pause")
        self.get_work()
        self.ask("unpause")

    def wait(self) -> None:
        self.base += self.random.choice([6, 45] if "loss" not in self.rare else [6, 31, 45, 70])
        if "loss" not in self.rare:
            for worker in WORKERS:
                self.ask("ping", worker=worker)
        self.ask("prune")

    def restart(self) -> None:
        self.ask("dump")
        if self.random.random() < 0.5:  # Each goes on where the other was.
            stock, ours = (Path(one._config.state_path) for one in self.schedulers)
            swapped = ours.read_bytes()
            ours.write_bytes(stock.read_bytes())
            stock.write_bytes(swapped)
        self.schedulers = self.make()
        self.ask("load")


def as_they_became_pending(worker: Any, state: Any, *statuses: str) -> Iterable[Any]:
    """Return a worker's tasks as Luigi does where it has more of them than are pending."""
    return [task for task in state.get_active_tasks_by_status(*statuses) if worker.id in task.workers]


@pytest.mark.parametrize("part", range(4))
def test_replies_are_those_of_stock_luigi(part: int, tmp_path: Path) -> None:
    work = 0
    # Luigi walks over sets of tasks: by their addresses, else, and no two schedulers would be alike.
    as_named = mock.patch.object(luigi.scheduler.Task, "__hash__", lambda task: hash(task.id))
    for seed in range(100 * part, 100 * part + 100):
        both = Both(tmp_path, seed)
        with ExitStack() as patches:
            patches.enter_context(mock.patch("luigi.scheduler.time.time", both.time))
            patches.enter_context(as_named)
            if "still" in both.rare:  # Else, among equals, the order of a set decides.
                in_order = mock.patch.object(luigi.scheduler.Worker, "get_tasks", as_they_became_pending)
                patches.enter_context(in_order)
            for _ in range(STEPS):
                both.step()
        work += both.work
    assert work > 1000


def test_of_unknown_tasks_luigis_own_walk_decides() -> None:
    """T1 waits for a disabled task, and its `complete()` raises: what waits for it is counted, or not."""
    above = [("A", ["T1"]), ("B", ["T0", "T1"]), ("C", ["A", "T1"])]
    counts = []
    for order in permutations(above):
        replies = []
        for kind in (luigi.scheduler.Scheduler, BudgetScheduler):
            scheduler = kind()
            added = [("T0", DISABLED, None), ("T1", PENDING, ["T0"]), ("T1", UNKNOWN, None)]
            for task_id, status, deps in [*added, *((each, PENDING, deps) for each, deps in order)]:
                scheduler.add_task(worker="w", task_id=task_id, status=status, family="F", deps=deps)
            replies.append(scheduler.get_work(worker="w"))
        assert replies[0] == replies[1], order
        counts.append(replies[0]["n_pending_tasks"])
    assert min(counts) < 2  # As long as it walks so.


def test_for_that_walk_what_the_gate_blocks_is_disabled() -> None:
    scheduler = BudgetScheduler()
    fed(scheduler.gate, 1000)
    ours = {"run_id": "r1", "max_cost_usd": "9"}
    scheduler.add_task(worker="w", task_id="V", family="V", spendguard=ours)
    added = [("U", PENDING, "V"), ("U", UNKNOWN, "V"), ("A", PENDING, "U"), ("B", PENDING, "U")]
    for task_id, status, dep in added:
        scheduler.add_task(worker="w", task_id=task_id, status=status, family="F", deps=[dep])
    # B alone comes by U a second time.
    assert ask_both(scheduler, "count_pending", worker="w")["n_pending_tasks"] == 1
    assert ask_both(scheduler, "get_work", worker="w")["n_pending_tasks"] == 1
    fed(scheduler.gate, 9_000_000)
    assert ask_both(scheduler, "count_pending", worker="w")["n_pending_tasks"] == 3
