"""With vendor tasks, too, the index makes no difference: money, holds and approvals drawn by a seed."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from luigi.task_status import DONE, FAILED, PENDING, RUNNING

from scheduler_patch.dispatch.feed import approve, pay
from scheduler_patch.dispatch.feed import draw as draw_down
from scheduler_patch.scheduler import BudgetScheduler
from tests.support.gates import budget, day, fed
from tests.support.twins import ask_both

WORKERS = ("w1", "w2", "w3")
RUNS = ("r1", "r2")
TASKS = tuple(f"T{number:02}" for number in range(14))
STEPS = 100


class Pipeline:
    """A scheduler with vendor tasks, asked beside a copy of it that looks at all of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = draw = random.Random(seed)
        self.base = self.now = 1_700_000_000.0
        self.scheduler = BudgetScheduler(
            state_path=str(folder / "state"), retry_delay=5, remove_delay=60, stable_done_cooldown_secs=0
        )
        self.state = self.scheduler.gate.state
        self.running: dict[str, list[str]] = {worker: [] for worker in WORKERS}
        rules = self.state.rules
        rules.forecast = draw.choice(["off", "warn", "hold"])
        rules.single = draw.choice([None, None, 3_000_000])
        rules.shadow = draw.random() < 0.1
        rules.growth = Decimal(3)
        self.has_batches = draw.random() < 0.4
        self.mixes_runs = draw.random() < 0.5
        #: Tasks that are much alike are judged together, but for what is special about some.
        self.alike = draw.random() < 0.5
        self.runs = draw.choice([RUNS, RUNS, ("r1", "unopened"), ("unopened", "another")])
        self.work = self.blocked = 0
        if self.has_batches:
            for worker in WORKERS:
                self.scheduler.add_task_batcher(
                    worker=worker, task_family="V", batched_args=["x"], max_batch_size=3
                )

    def time(self) -> float:
        self.now += 0.001
        return self.now

    def step(self) -> None:
        self.base += 1
        self.now = max(self.base, self.now)
        chances = {
            self.add: 30,
            self.get_work: 40,
            self.end: 25,
            self.figures: 10,
            self.hold: 8,
            self.free: 10,
            self.scheduled: 8,
            self.wait: 5,
        }
        self.random.choices(list(chances), list(chances.values()))[0]()
        worker = self.random.choice(WORKERS)
        ask_both(self.scheduler, "count_pending", worker=worker)

    def add(self) -> None:
        draw, number = self.random, self.random.randrange(len(TASKS))
        run_id = draw.choice([*self.runs, None]) if self.mixes_runs else self.runs[number % 2]
        said: dict[str, Any] = {"run_id": run_id, "announcing": draw.random() < 0.5}
        if draw.random() < 0.9:
            said["max_cost_usd"] = draw.choice(["1", "4"] if self.alike else ["0", "1", "2", "4"])
        if draw.random() < 0.5 and not self.alike:
            said["vendors"] = draw.choice([["stripe"], ["twilio"], ["stripe", "twilio"]])
        more = {} if draw.random() < 0.3 else {"spendguard": said}
        self.scheduler.add_task(
            worker=draw.choice(WORKERS),
            task_id=TASKS[number],
            family="V" if self.alike else "VVW"[number % 3],
            params={"x": str(number)},
            deps=draw.sample(TASKS[:number], min(number, draw.choice([0, 0, 0, 1, 2]))),
            priority=draw.choice([0, 1]),
            runnable=True,
            batchable=self.has_batches,
            **more,
        )

    def scheduled(self) -> None:
        self.scheduler.add_worker(self.random.choice(WORKERS), [("first_task", TASKS[-1])])

    def get_work(self) -> None:
        worker, draw = self.random.choice(WORKERS), self.random
        assistant = draw.random() < 0.1
        current = draw.choice([None, list(self.running[worker])])
        reply = ask_both(
            self.scheduler, "get_work", worker=worker, host="h", assistant=assistant, current_tasks=current
        )
        handed_out = reply.get("task_id")
        if reply.get("batch_id"):
            handed_out = "+".join(reply["batch_task_ids"])
            self.scheduler.add_task(
                worker=worker,
                task_id=handed_out,
                status=RUNNING,
                batch_id=reply["batch_id"],
                family=reply["task_family"],
                params=reply["task_params"],
            )
        if handed_out:
            self.work += 1
            self.running[worker].append(handed_out)
        else:
            verdicts = ask_both(self.scheduler, "verdicts_of", worker=worker)
            self.blocked += any(one.is_blocked for one in verdicts.values())

    def end(self) -> None:
        draw, worker = self.random, self.random.choice(WORKERS)
        if not self.running[worker]:
            return
        task_id = self.running[worker].pop(draw.randrange(len(self.running[worker])))
        if draw.random() < 0.4:
            pay(self.state, task_id)
        how = draw.choice(["done", "done", "failed", "blocked"])
        more: dict[str, Any] = {"status": {"done": DONE, "failed": FAILED, "blocked": PENDING}[how]}
        if how == "blocked":
            denial = {"reason": "cap", "asked_usd": draw.choice(["1", "3"]), "remaining_usd": "0.5"}
            denial |= draw.choice(
                [
                    {"budget": "run"},
                    {"budget": "task"},
                    {"budget": "day"},
                    {"budget": "family", "part": "V"},
                    {"budget": "vendor", "part": "stripe"},
                    {"budget": "duplicate", "part": "c1", "of_task": draw.choice(TASKS)},
                ]
            )
            more["spendguard_blocked"] = draw.choice([denial, denial, denial, {"reason": "revoked"}, True])
            if task_id in self.state.tasks:
                self.state.tasks[task_id].denied = draw.random() < 0.5  # The ledger has said all of it.
        self.scheduler.add_task(worker=worker, task_id=task_id, expl='""', **more)

    def figures(self) -> None:
        draw, usd = self.random, 1_000_000
        if draw.random() < 0.2:
            day(self.scheduler.gate, draw.randint(0, 6) * usd, cap=6 * usd)
            return
        cap = draw.choice([3, 6, 9]) * usd
        spent = draw.randint(0, 9) * usd // 2
        rows = [
            budget("family", "V", 4 * usd, draw.randint(0, 4) * usd),
            budget("vendor", "stripe", 5 * usd, draw.randint(0, 5) * usd),
        ]
        fed(
            self.scheduler.gate,
            max(0, cap - spent),
            draw.choice(RUNS),
            draw.choices(["active", "frozen", "revoked", "ended"], [30, 2, 1, 1])[0],
            cap=cap,
            budgets=tuple(draw.sample(rows, draw.randint(0, 2))),
            approved=draw.choice([None, 20 * usd]),
        )

    def hold(self) -> None:
        draw = self.random
        budgets = [("run", ""), ("family", "V"), ("vendor", "stripe"), ("day", ""), ("task", "")]
        scope, part = draw.choice([*budgets, ("duplicate", "c")])
        beside = draw.choice(TASKS) if scope == "duplicate" else ""
        self.state.hold(draw.choice(TASKS), scope, draw.randint(0, 4) * 1_000_000, part, beside)

    def free(self) -> None:
        draw, task_id = self.random, self.random.choice(TASKS)
        if draw.random() < 0.5:
            approve(self.state, draw.choice(self.runs), task_id, 4_000_000, draw.choice([None, 4_000_000]))
        elif draw.random() < 0.5:
            draw_down(self.state, task_id, draw.randint(0, 4) * 1_000_000)
        else:
            self.state.look_again(task_id)

    def wait(self) -> None:
        self.base += self.random.choice([6, 31, 70])
        self.scheduler.prune()


@pytest.mark.parametrize("part", range(4))
def test_replies_are_those_of_a_look_at_all(part: int, tmp_path: Path) -> None:
    work = blocked = 0
    for seed in range(50 * part, 50 * part + 50):
        pipeline = Pipeline(tmp_path, seed)
        with mock.patch("luigi.scheduler.time.time", pipeline.time):
            for _ in range(STEPS):
                pipeline.step()
        work, blocked = work + pipeline.work, blocked + pipeline.blocked
    assert work > 200
    assert blocked > 200
