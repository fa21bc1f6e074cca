"""`dispatching SIZE KIND ROUNDS ASKS`: get_work beside stock Luigi's, both in this process, in turns.

KIND: plain, vendor or blocked tasks. Prints JSON: of each round, the median milliseconds (of processor time)
of its asks, of both, and what a pending task of either takes of memory, in bytes.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import time
from pathlib import Path
from statistics import median
from typing import Any

import luigi.scheduler

from scheduler_patch.scheduler import BudgetScheduler
from tests.support.gates import fed

RUN = "run"
#: More than any run here could ask for, in micro-dollars.
ENOUGH = 10**15


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


def filled(scheduler: Any, size: int, **more: Any) -> int:
    """Give a scheduler so many pending tasks; return the bytes that they take."""
    gc.collect()
    before = resident()
    for number in range(size):
        scheduler.add_task(
            worker="w",
            task_id=f"T{number}",
            family="F",
            params={"n": str(number)},
            priority=number % 7,
            **more,
        )
    scheduler.add_worker("w", [])
    gc.collect()
    return resident() - before


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("size", type=int)
    parser.add_argument("kind", choices=["plain", "vendor", "blocked"])
    parser.add_argument("rounds", type=int)
    parser.add_argument("asks", type=int)
    given = parser.parse_args()
    logging.disable(logging.ERROR)
    stock, ours = luigi.scheduler.Scheduler(), BudgetScheduler()
    taken = {"stock": filled(stock, given.size)}
    more: dict[str, Any] = {}
    if given.kind != "plain":
        money = 0 if given.kind == "blocked" else ENOUGH
        fed(ours.gate, money, RUN, cap=ENOUGH)
        more = {"spendguard": {"run_id": RUN, "announcing": True, "max_cost_usd": "0.000001"}}
    taken["ours"] = filled(ours, given.size, **more)
    took: dict[str, list[float]] = {"stock": [], "ours": []}
    for number in range(given.rounds + 1):
        for name, scheduler in (("stock", stock), ("ours", ours)):
            asks = []
            for _ in range(given.asks):
                begun = time.thread_time()
                reply = scheduler.get_work(worker="w", host="h")
                asks.append((time.thread_time() - begun) * 1000)
                assert (reply["task_id"] is None) is (given.kind == "blocked" and scheduler is ours), reply
            if number:  # The first one warms up.
                took[name].append(median(asks))
    bytes_a_task = {name: round(size / given.size) for name, size in taken.items()}
    print(json.dumps({"took_ms": took, "bytes_a_task": bytes_a_task}))


if __name__ == "__main__":
    main()
