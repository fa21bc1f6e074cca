"""Whole pipelines: stock Luigi beside guarded ones, in turns. `python -m bench.pipeline --help`.

Every task charges one customer a cent at a fake Stripe, a process of its own that takes 50 ms. The worker,
its children and luigid are the real programs; each pipeline has a luigid and a ledger of its own. What was
charged is judged by the vendor's books.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import quantile, ratios, spread, text
from bench.processes import PIPELINES, Running, cpu_s, machine_cpu_s
from tests.support.processes import REPOSITORY, wait_until
from tests.support.site import Site
from tests.support.vendors import FakeStripe

STOCK_LUIGID, GUARDED_LUIGID = "tests.support.stock_luigid", "scheduler_patch"
RUN = "bench"


@dataclass(frozen=True)
class Side:
    """One way to run the pipeline: whose luigid, which program, who has the secret, and whose code."""

    name: str
    luigid: str
    program: str
    gateway: bool = False
    checkout: Path = REPOSITORY

    @property
    def charges(self) -> bool:
        """Return whether its tasks call a vendor."""
        return self.program != "files"

    @property
    def guarded(self) -> bool:
        """Return whether its tasks are vendor tasks."""
        return self.program == "charges_guarded"

    @property
    def root(self) -> str:
        """Return its root task's family."""
        return "Charges" if self.charges else "Files"


def sides(old: Path | None, *, plain: bool) -> list[Side]:
    """Return all sides, stock first; with `old`, a checkout of other code, its sides, too."""
    if plain:
        made = [Side("stock", STOCK_LUIGID, "files"), Side("guarded", GUARDED_LUIGID, "files")]
    else:
        made = [
            Side("stock", STOCK_LUIGID, "charges_stock"),
            Side("worker", GUARDED_LUIGID, "charges_guarded"),
            Side("gateway", GUARDED_LUIGID, "charges_guarded", gateway=True),
        ]
    if old is not None:
        made += [
            Side(f"old_{side.name}", side.luigid, side.program, side.gateway, old)
            for side in made
            if side.luigid == GUARDED_LUIGID
        ]
    return made


class Ground:
    """Where one pipeline runs: a site whose processes are of a side's code."""

    def __init__(self, folder: Path, side: Side, vendor: FakeStripe, **settings: Any) -> None:
        self.side = side
        money = {"default_cap_usd": 1_000_000, "max_cap_usd": 1_000_000, **settings.pop("spendguard", {})}
        self.site = Site(
            folder, stripe=vendor, start=False, gateway=side.gateway, spendguard=money, **settings
        )
        self.env = {
            "PYTHONPATH": os.pathsep.join(map(str, (side.checkout, PIPELINES))),
            "BENCH_STRIPE_URL": vendor.url,
            "BENCH_LAG_FILE": str(folder / "lag"),
        }

    def start(self, luigid: str | None = None) -> int:
        """Start luigid; return its process id."""
        self.site.start(luigid or self.side.luigid, **self.env)
        assert self.site.luigid is not None
        return self.site.luigid.popen.pid

    def worker(self, name: str, root: str, *args: str, **env: str) -> Running:
        """Start a worker."""
        line = ["-m", "luigi", "--module", self.side.program, root, *args]
        return Running(line, self.site.folder, name, self.site.environment(**self.env, **env))

    def spent_cents(self, run_id: str) -> float:
        """Return what the ledger says of a run."""
        return float(self.site.run(run_id)["spent_usd"]) * 100


def run_once(folder: Path, side: Side, vendor: FakeStripe, tasks: int, workers: int) -> dict[str, float]:
    """Run one pipeline to its end; return its seconds, after the books have been compared."""
    vendor.control(options={"idempotency": "honour"})
    ground = Ground(folder, side, vendor)
    pid = ground.start()
    try:
        luigid, machine, stub = cpu_s(pid), machine_cpu_s(), cpu_s(vendor.process.popen.pid)
        named = ["--run-id", RUN] if side.charges else []
        done = ground.worker(
            "worker", side.root, "--n", str(tasks), "--workers", str(workers), *named
        ).ended()
        luigid, machine = cpu_s(pid) - luigid, machine_cpu_s() - machine
        stub = cpu_s(vendor.process.popen.pid) - stub
        assert done.code == 0, done.output[-3000:]
        if side.charges:
            _judge(ground, vendor, tasks)
    finally:
        ground.site.end()
    return {
        "wall_s": done.wall_s,
        "luigid_cpu_s": luigid,
        "worker_cpu_s": done.cpu_s,
        "others_cpu_s": machine - luigid - stub - done.cpu_s,
    }


def _judge(ground: Ground, vendor: FakeStripe, tasks: int) -> None:
    """Compare the vendor's books with what was to be done, and with the ledger."""
    books = vendor.books()
    customers = [entry["customer"] for entry in books["moved"]]
    assert len(customers) == len(set(customers)) == tasks, "a customer was charged twice, or never"
    assert sum(entry["amount"] for entry in books["moved"]) == tasks
    if ground.side.guarded:
        spent = ground.spent_cents(RUN)
        assert round(spent) == tasks, f"the vendor was paid {tasks} cents, the ledger says {spent}"


def measure_pipeline(
    folder: Path, chosen: Sequence[Side], tasks: int, workers: int, repeats: int, latency_s: float
) -> dict[str, Any]:
    """Run every side once in each round; return spreads, and ratios to stock within a round."""
    rounds: dict[str, list[dict[str, float]]] = {side.name: [] for side in chosen}
    vendor = FakeStripe(folder / "vendor")
    try:
        for number in range(repeats):
            for side in chosen:
                vendor.forget()
                vendor.control(options={"latency": latency_s})
                figures = run_once(folder / f"{number}-{side.name}", side, vendor, tasks, workers)
                rounds[side.name].append(figures)
                said = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
                print(
                    f"# {tasks} tasks, round {number + 1}, {side.name}: {said}", file=sys.stderr, flush=True
                )
    finally:
        vendor.process.end()
    found: dict[str, Any] = {"tasks": tasks, "workers": workers, "latency_ms": latency_s * 1000}
    stock = rounds[chosen[0].name]
    for name, figures in rounds.items():
        found[name] = {what: spread([one[what] for one in figures]) for what in figures[0]}
        found[name]["wall_ratio"] = ratios(*_column(figures, stock, "wall_s"))
        found[name]["luigid_cpu_ratio"] = ratios(*_column(figures, stock, "luigid_cpu_s"))
    return found


def _column(figures: Iterable[dict[str, float]], stock: Iterable[dict[str, float]], what: str) -> Any:
    return [one[what] for one in figures], [one[what] for one in stock]


def measure_lag(folder: Path, side: Side, blocked: int, waiting: int, seconds: float) -> dict[str, Any]:
    """Return how late luigid's loop is, in milliseconds: with nobody there, and beside blocked and waiting.

    `waiting` workers wait for the same `blocked` tasks of a run without money, while another run's worker
    charges one customer after the other.
    """
    vendor = FakeStripe(folder / "vendor", "--latency", "0.05")
    ground = Ground(
        folder,
        side,
        vendor,
        spendguard={"on_blocked": "wait"},
        worker={"wait_interval": None, "wait_jitter": None},
    )
    workers: list[Running] = []
    try:
        pid = ground.start("lagging")
        alone = _lags(ground, pid, seconds / 2)
        args = ("--n", str(blocked), "--run-id", "blocked", "--budget-usd", "0")
        for number in range(waiting):
            workers.append(ground.worker(f"waiting-{number}", "Charges", *args))
        wait_until(lambda: all(map(_wait, workers)), 900, "the workers waiting")
        still = _lags(ground, pid, seconds)
        enough = str(int(seconds * 40))
        others = ("--n", enough, "--first", str(blocked), "--run-id", RUN, "--workers", "2")
        workers.append(ground.worker("busy", "Charges", *others))
        wait_until(lambda: vendor.moved() > 0, 300, "the first charge")
        traffic = _lags(ground, pid, seconds)
        charged = {entry["customer"] for entry in vendor.books()["moved"]}
        assert not charged & {f"cus_{number}" for number in range(blocked)}, "a blocked task has charged"
    finally:
        for worker in workers:
            worker.stop()
        ground.site.end()
        vendor.process.end()
    return {
        "blocked": blocked,
        "waiting": waiting,
        "charged_meanwhile": len(charged),
        "alone": alone,
        "still": still,
        "beside_another_run": traffic,
    }


def _wait(worker: Running) -> bool:
    """Return whether a worker has been told that there is no work."""
    assert worker.popen.poll() is None, worker.log.read_text()[-3000:]
    return "There are no more tasks to run at this time" in worker.log.read_text()


def _lags(ground: Ground, pid: int, seconds: float) -> dict[str, Any]:
    """Wait a while, then return how late the loop was in it, and how busy its process."""
    begun, used = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    over, used = time.monotonic(), cpu_s(pid) - used
    lines = (ground.site.folder / "lag").read_text().splitlines()[:-1]
    ticks = [tuple(map(float, line.split())) for line in lines]
    late = [lag for due, lag in ticks if begun <= due < over]
    return {
        "p50_ms": round(quantile(late, 0.5), 2),
        "p99_ms": round(quantile(late, 0.99), 2),
        "max_ms": round(max(late), 2),
        "ticks": len(late),
        "luigid_busy": round(used / (over - begun), 3),
    }


def print_pipeline(found: dict[str, Any]) -> None:
    """Print one line a side."""
    print(f"{found['tasks']} tasks, {found['workers']} workers, {found['latency_ms']:.0f} ms at the vendor")
    for name, side in found.items():
        if isinstance(side, dict):
            print(
                f"  {name:12} wall {text(side['wall_s'], 1)} s, ratio {text(side['wall_ratio'])};"
                f" luigid {text(side['luigid_cpu_s'], 1)} s, ratio {text(side['luigid_cpu_ratio'])};"
                f" workers {text(side['worker_cpu_s'], 1)} s; others {text(side['others_cpu_s'], 1)} s"
            )


def print_lag(side: str, found: dict[str, Any]) -> None:
    """Print one line for each of the loop's situations."""
    print(
        f"{side}: {found['blocked']} blocked tasks, {found['waiting']} waiting workers; the loop is late by"
    )
    for name in ("alone", "still", "beside_another_run"):
        late = found[name]
        print(
            f"  {name:20} p50 {late['p50_ms']:.1f}, p99 {late['p99_ms']:.1f}, max {late['max_ms']:.1f} ms;"
            f" luigid busy {late['luigid_busy']:.0%}"
        )


def main() -> None:
    """Measure what was asked for; print it, and keep it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--plain", action="store_true", help="tasks that call no vendor")
    parser.add_argument("--lag", action="store_true", help="luigid's loop beside blocked tasks")
    parser.add_argument("--blocked", type=int, default=5000, help="with --lag: how many tasks are blocked")
    parser.add_argument("--seconds", type=float, default=20, help="with --lag: how long each part is watched")
    parser.add_argument("--only", help="sides, by name, such as stock,worker")
    parser.add_argument("--old", type=Path, help="a checkout of other code, measured in turns with this one")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--folder", type=Path, help="where ledgers lie; its disk is measured, too")
    given = parser.parse_args()
    old = given.old.resolve() if given.old else None
    chosen = sides(old, plain=given.plain)
    if given.only:
        chosen = [side for side in chosen if side.name in given.only.split(",")]
    found: dict[str, Any]
    with tempfile.TemporaryDirectory(prefix="spendguard-bench-", dir=given.folder) as name:
        folder = Path(name)
        if given.lag:
            lagging = [side for side in chosen if side.guarded and not side.gateway]
            found = {
                side.name: measure_lag(folder / side.name, side, given.blocked, 4, given.seconds)
                for side in lagging
            }
            for side_name, late in found.items():
                print_lag(side_name, late)
        else:
            found = measure_pipeline(
                folder, chosen, given.tasks, given.workers, given.repeats, given.latency_ms / 1000
            )
            print_pipeline(found)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
