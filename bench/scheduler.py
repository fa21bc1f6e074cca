"""`add_task` and `get_work` over RPC, beside a stock luigid: same machine, interleaved."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import luigi.rpc

from tests.support.attempts import Pretender
from tests.support.site import FakeStripe, Site

#: Requests to one luigid before the next has its turn.
TURN = 10
#: `get_work` requests that are timed at each size.
ASKED = 60


class Side:
    """One luigid with a worker that adds tasks and asks for work."""

    def __init__(self, site: Site, name: str, tasks: dict[str, Any]) -> None:
        self.name, self.tasks = name, tasks
        self.rpc = luigi.rpc.RemoteScheduler(site.url)
        self.added: list[float] = []
        self.asked: list[float] = []

    def add(self, number: int) -> None:
        """Add a pending task."""
        begun = time.perf_counter()
        self.rpc.add_task(
            worker="w", task_id=f"T{number}", family="F", runnable=True, params={}, **self.tasks
        )
        self.added.append(time.perf_counter() - begun)

    def ask(self) -> None:
        """Ask for work; only a blocked run gets none."""
        begun = time.perf_counter()
        reply = self.rpc.get_work(worker="w", host="h", current_tasks=None)
        self.asked.append(time.perf_counter() - begun)
        assert (reply["task_id"] is None) is (self.name == "blocked"), reply


def _sides(folder: Path, vendor: FakeStripe) -> tuple[list[Site], list[Side]]:
    sites, sides = [], []
    for name in ("stock", "stock_again", "plain", "vendor", "blocked"):
        site = Site(folder / name, stripe=vendor, start=False)
        site.start("tests.support.stock_luigid" if name.startswith("stock") else "scheduler_patch")
        sites.append(site)
        tasks: dict[str, Any] = {}
        if name in ("vendor", "blocked"):
            cap = "0" if name == "blocked" else "100"
            run = Pretender(site, "run", budget_usd=cap)
            tasks = {"spendguard": {"run_id": run.run_id, "max_cost_usd": "0.000001"}}
        sides.append(Side(site, name, tasks))
    return sites, sides


def measure_scheduler(folder: Path, sizes: tuple[int, ...]) -> dict[str, float]:
    """Return milliseconds and ratios to stock; `stock_again` is stock beside itself: the noise."""
    vendor = FakeStripe(folder / "vendor")
    found: dict[str, float] = {}
    sites, sides = _sides(folder, vendor)
    try:
        filled = 0
        for size in sizes:
            for side in sides:
                side.added.clear()
                side.asked.clear()
            for first in range(filled, size, TURN):
                for side in sides:
                    for number in range(first, min(size, first + TURN)):
                        side.add(number)
            filled = size
            for _ in range(0, min(ASKED, size // 10), TURN):
                for side in sides:
                    for _ in range(TURN):
                        side.ask()
            for what in ("added", "asked"):
                name = "add_task" if what == "added" else "get_work"
                stock = median(getattr(sides[0], what))
                found[f"{name}_{size}_stock_ms"] = round(stock * 1000, 3)
                for side in sides[1:]:
                    found[f"{name}_{size}_{side.name}_ratio"] = round(median(getattr(side, what)) / stock, 3)
    finally:
        for site in sites:
            site.end()
        vendor.process.end()
    return found
