"""With vendor tasks, too, the index makes no difference: money, holds and approvals drawn by a seed."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from luigi.task_status import DONE, FAILED, PENDING

from scheduler_patch.dispatch import endings, holds
from scheduler_patch.dispatch.feed import approve, claimed, pay
from scheduler_patch.dispatch.feed import draw as draw_down
from scheduler_patch.dispatch.kinds import TaskKind, _amount, kind_of
from scheduler_patch.dispatch.state import DispatchState
from scheduler_patch.scheduler import BudgetScheduler
from tests.support.gates import budget, day, fed
from tests.support.twins import batch, compare

WORKERS = ("w1", "w2", "w3")
RUNS = ("r1", "r2")
TASKS = tuple(f"T{number:02}" for number in range(9))
STEPS = 80
USD = 1_000_000
#: What a history is about, beside what all of them have: where much of it is met, little else is in its way.
ABOUT = ("everything", "batches", "budgets of tasks", "vendors", "runs", "denials", "claims")


class Pipeline:
    """A scheduler with vendor tasks, asked beside a copy of it that looks at all of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = draw = random.Random(seed)
        self.about = ABOUT[seed % len(ABOUT)]
        self.base = self.now = 1_700_000_000.0
        self.folder, self.prunes = folder, draw.random() < 0.05
        self.scheduler = self.make()
        self.running: dict[str, list[str]] = {worker: [] for worker in WORKERS}
        rules = self.scheduler.gate.state.rules
        rules.forecast = draw.choices(["off", "warn", "hold"], [4, 2, 1])[0]
        rules.single = draw.choice([None, None, None, 3 * USD])
        rules.shadow = draw.random() < 0.05
        rules.growth = Decimal(3)
        self.has_batches = self.about == "batches" or draw.random() < 0.2
        self.is_nested = draw.random() < 0.1
        self.mixes_runs = self.about == "runs" or draw.random() < 0.2
        #: Tasks that are much alike are judged together, but for what is special about some.
        self.alike = draw.random() < 0.6
        #: Fewer of them have more happen to each.
        self.tasks = TASKS[: draw.randint(4, len(TASKS))]
        self.runs = draw.choices(
            [RUNS, ("r1", "r1"), ("r1", "unopened"), ("unopened", "another")], [4, 4, 1, 1]
        )[0]
        self.work = self.blocked = 0
        if self.has_batches:
            for worker in WORKERS:
                self.scheduler.add_task_batcher(
                    worker=worker, task_family="V", batched_args=["x"], max_batch_size=3
                )

    def make(self) -> BudgetScheduler:
        return BudgetScheduler(
            state_path=str(self.folder / "state"),
            retry_delay=5,
            remove_delay=60,
            stable_done_cooldown_secs=0,
            prune_on_get_work=self.prunes,
        )

    @property
    def state(self) -> DispatchState:
        return self.scheduler.gate.state

    def rewind(self) -> None:
        self.now = self.base

    def time(self) -> float:
        self.now += 0.001
        return self.now

    def step(self) -> None:
        self.base += 1
        self.rewind()
        chances = {
            self.add: 30,
            self.get_work: 40,
            self.end: 35,
            self.figures: 10,
            self.hold: 15 if self.about in ("budgets of tasks", "denials") else 4,
            self.free: 10,
            self.forgive: 8 if self.has_batches else 2,
            self.pay: 4,
            self.claim: 20 if self.about == "claims" else 4,
            self.scheduled: 6,
            self.wait: 4,
            self.configure: 1,
            self.restart: 1,
        }
        self.random.choices(list(chances), list(chances.values()))[0]()
        compare(
            self.scheduler,
            [(name, {"worker": worker}) for worker in WORKERS for name in ("count_pending", "verdicts_of")],
            self.rewind,
        )
        self.look_at_kinds()

    def look_at_kinds(self) -> None:
        """Look that each pending vendor task is among its like: whatever makes it unlike them was told."""
        choice, state = self.scheduler._state.choice, self.state
        if choice is None or state.changed or self.base % 3:
            return
        pending = {task.id for task in self.scheduler._state.get_active_tasks_by_status(PENDING)}
        places = choice._kinds._places
        assert places.keys() == pending & state.tasks.keys()
        for task_id, (kind, amount) in places.items():
            task = state.tasks[task_id]
            now = kind_of(task, state)
            if isinstance(kind, TaskKind) and isinstance(now, TaskKind):
                # Until it changes otherwise it may be more alone than it had to be.
                now = now._replace(
                    refused=now.refused or kind.refused, announced=now.announced or kind.announced
                )
            assert (now, _amount(task)) == (kind, amount)

    def add(self) -> None:
        draw, number = self.random, self.random.randrange(len(self.tasks))
        run_id = draw.choice([*self.runs, None]) if self.mixes_runs else self.runs[number % 2]
        said: dict[str, Any] = {
            "run_id": run_id,
            "announcing": draw.random() < (0.5 if self.about == "runs" else 0.2),
        }
        if draw.random() < 0.9:
            costs = ["1", "4"] if self.alike else ["0", "1", "2", "4"]
            said["max_cost_usd"] = "1" if self.about == "denials" else draw.choice(costs)
        if self.about == "vendors" or (draw.random() < 0.3 and not self.alike):
            said["vendors"] = draw.choice([[], ["stripe"], ["twilio"], ["stripe", "twilio"]])
        more = {} if draw.random() < 0.1 else {"spendguard": said}
        self.scheduler.add_task(
            worker=draw.choice(WORKERS),
            task_id=TASKS[number],
            family="V" if self.alike and self.about not in ("vendors", "denials") else "VVW"[number % 3],
            params={"x": str(number)},
            deps=draw.sample(TASKS[:number], min(number, draw.choice([0, 0, 0, 0, 1, 2]))),
            priority=draw.choice([0, 1]),
            runnable=True,
            batchable=self.has_batches,
            **more,
        )

    def scheduled(self) -> None:
        info: list[tuple[str, Any]] = [("first_task", self.tasks[-1])]
        if self.is_nested:
            info.append(("spendguard_within", [self.random.choice(self.tasks)]))
        self.scheduler.add_worker(self.random.choice(WORKERS), info)

    def get_work(self) -> None:
        worker, draw = self.random.choice(WORKERS), self.random
        assistant = draw.random() < 0.1
        current = draw.choice([None, list(self.running[worker])])
        asked = {"worker": worker, "host": "h", "assistant": assistant, "current_tasks": current}
        (reply,) = compare(self.scheduler, [("get_work", asked)], self.rewind)
        handed_out = reply.get("task_id")
        if reply.get("batch_id"):
            # The combined task is one of its members where parameters are joined by `max`.
            members = reply["batch_task_ids"]
            handed_out = draw.choice(["+".join(members), members[-1]])
            self.scheduler.add_task(worker=worker, task_id=handed_out, **batch(reply))
        if handed_out:
            self.work += 1
            self.running[worker].append(handed_out)
            if draw.random() < 0.5:
                self.claimed(handed_out, worker)
        else:
            verdicts = self.scheduler.verdicts_of(worker)
            self.blocked += any(one.is_blocked for one in verdicts.values())

    def claimed(self, task_id: str, worker: str) -> None:
        """Have a worker claim a task, with a budget of its own or without."""
        draw, task = self.random, self.state.tasks.get(task_id)
        runs = task.runs if task is not None and draw.random() < 0.8 else self.runs
        own = draw.choice([None, (USD, USD), (4 * USD, 4 * USD)])
        claimed(self.state, task_id, draw.choice(runs or RUNS), worker, "V", own)

    def claim(self) -> None:
        """Have a task claimed of which Luigi knows nothing: luigid has lost its state."""
        self.claimed(self.random.choice(self.tasks), self.random.choice(WORKERS))

    def end(self) -> None:
        draw, worker = self.random, self.random.choice(WORKERS)
        if not self.running[worker]:
            return
        task_id = self.running[worker].pop(draw.randrange(len(self.running[worker])))
        if draw.random() < 0.3:
            pay(self.state, task_id)
        weights = [1, 3, 8, 1] if self.about == "denials" else [4, 4, 2, 1]
        how = draw.choices(["done", "failed", "blocked", "yields"], weights)[0]
        more: dict[str, Any] = {"status": {"done": DONE, "failed": FAILED}.get(how, PENDING)}
        if how == "yields":
            # (Tasks that wait for each other never run; how stock Luigi counts them depends on its walk.)
            more["new_deps"] = [draw.choice([each for each in TASKS if each < task_id] or ["T"])]
        if how == "blocked":
            denial = {"reason": "cap", "asked_usd": draw.choice(["1", "3"]), "remaining_usd": "0.5"}
            denial |= draw.choice(
                [
                    {"budget": "run"},
                    {"budget": "task"},
                    {"budget": "day"},
                    {"budget": "family", "part": "V"},
                    {"budget": "vendor", "part": "stripe"},
                    {"budget": "duplicate", "part": "c1", "of_task": draw.choice(self.tasks)},
                    {"budget": "approval"},
                ]
            )
            more["spendguard_blocked"] = draw.choice([denial, denial, denial, {"reason": "revoked"}, True])
        self.scheduler.add_task(worker=worker, task_id=task_id, expl='""', **more)

    def figures(self) -> None:
        draw, usd = self.random, USD
        if draw.random() < 0.2:
            day(self.scheduler.gate, draw.randint(0, 6) * usd, cap=6 * usd)
            return
        cap = draw.choice([3, 6, 9]) * usd
        spent = draw.randint(0, 9) * usd // 2
        rows = [
            budget("family", "V", 4 * usd, draw.randint(0, 4) * usd),
            budget("vendor", "stripe", 5 * usd, draw.randint(0, 5) * usd),
            budget("family", "W", 4 * usd, draw.randint(0, 4) * usd),
            budget("vendor", "twilio", 5 * usd, draw.randint(0, 5) * usd),
        ]
        fed(
            self.scheduler.gate,
            max(0, cap - spent),
            draw.choice(RUNS),
            draw.choices(
                ["active", "frozen", "revoked", "ended"], [30, 2, 1, 5 if self.about == "runs" else 1]
            )[0],
            cap=cap,
            budgets=tuple(
                rows if self.about in ("vendors", "denials") else draw.sample(rows, draw.randint(0, 2))
            ),
            approved=draw.choice([None, 20 * usd]),
        )

    def hold(self) -> None:
        draw = self.random
        budgets = [("run", ""), ("family", "V"), ("vendor", "stripe"), ("day", ""), ("task", "")]
        budgets += [("family", "W"), ("vendor", "twilio")] * (self.about in ("vendors", "denials"))
        for task_id in draw.sample(self.tasks, draw.randint(1, 3)):
            scope, part = draw.choice([*budgets, ("duplicate", "c")])
            if self.about == "budgets of tasks":
                scope, part = "task", ""
            beside = draw.choice(self.tasks) if scope == "duplicate" else ""
            holds.hold(self.state, task_id, scope, draw.choice([0, 2, 2, 4]) * USD, part, beside)

    def free(self) -> None:
        draw, task_id = self.random, self.random.choice(self.tasks)
        if draw.random() < 0.3:
            approve(
                self.state, draw.choice(self.runs), task_id, 4 * USD, draw.choice([None, (4 * USD, 4 * USD)])
            )
        elif draw.random() < 0.5:
            draw_down(self.state, task_id, draw.randint(0, 4) * USD)
        elif draw.random() < 0.5:
            holds.free(self.state, task_id)
        else:
            holds.look_again(self.state, task_id)

    def forgive(self) -> None:
        self.scheduler.forgive_failures(task_id=self.random.choice([*self.tasks, *self.state.tasks]))

    def pay(self) -> None:
        task_id = self.random.choice(self.tasks)
        if self.random.random() < 0.7:
            pay(self.state, task_id)
        else:
            endings.completed(self.state, [task_id], self.random.choice([None, *self.runs]))

    def configure(self) -> None:
        rules = self.state.rules
        self.state.rules = replace(rules, single=self.random.choice([None, 3 * USD]), day=None)

    def wait(self) -> None:
        self.base += self.random.choice([6, 6, 31, 70])
        self.scheduler.prune()

    def restart(self) -> None:
        """Have luigid begin again: of money it knows what the ledger tells it."""
        before = self.state
        self.scheduler.dump()
        self.scheduler = self.make()
        self.scheduler.load()
        self.state.rules = before.rules
        for run_id in RUNS:
            if run_id in before.runs:
                fed(self.scheduler.gate, self.random.randint(0, 9) * USD, run_id)


@pytest.mark.parametrize("part", range(4))
def test_replies_are_those_of_a_look_at_all(part: int, tmp_path: Path) -> None:
    work = blocked = 0
    for seed in range(50 * part, 50 * part + 50):
        pipeline = Pipeline(tmp_path, seed)
        with mock.patch("luigi.scheduler.time.time", pipeline.time):
            for _ in range(STEPS):
                pipeline.step()
        work, blocked = work + pipeline.work, blocked + pipeline.blocked
    assert work > 100
    assert blocked > 200
