"""How long the commands take to start, and what luigid holds over a long ledger."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import spread
from bench.processes import rss_mb
from tests.support.history import write_history
from tests.support.processes import environment
from tests.support.site import FakeStripe, Site

#: Commands, as their entry points start them.
_COMMANDS = {
    "luigid --help": "import luigi.cmdline; luigi.cmdline.luigid()",
    "luigid-spendguard --help": "from scheduler_patch.__main__ import main; main()",
    "spendguard --help": "from luigi_spendguard.__main__ import main; main()",
}


def measure_start(repeats: int) -> dict[str, Any]:
    """Return seconds until each command has said its help, in turns."""
    took: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for _ in range(repeats):
        for name, code in _COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code, "--help"],
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            took[name].append(time.perf_counter() - begun)
    return {name: spread(seconds) for name, seconds in took.items()}


def measure_history(folder: Path, runs: int, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Return what luigid takes to start over ledgers of so many calls, and to list their runs and calls."""
    vendor = FakeStripe(folder / "vendor")
    found: dict[str, Any] = {}
    try:
        for calls in sizes:
            place = folder / str(calls)
            ledger = place / "ledger" / "spendguard.db"
            ledger.parent.mkdir(parents=True)
            write_history(ledger, runs, calls)
            started: list[float] = []
            memory: list[float] = []
            asked: dict[str, list[float]] = {"/runs": [], f"/runs/run-{runs - 1:04}/calls": []}
            for _ in range(repeats):
                begun = time.perf_counter()
                with Site(place, stripe=vendor) as site:
                    started.append(time.perf_counter() - begun)
                    assert site.luigid is not None
                    for path, took in asked.items():
                        begun = time.perf_counter()
                        status, _ = site.call("GET", path, token=None)
                        took.append((time.perf_counter() - begun) * 1000)
                        assert status == 200
                    memory.append(rss_mb(site.luigid.popen.pid))
            runs_ms, calls_ms = asked.values()
            found[str(calls)] = {
                "file_mb": round(ledger.stat().st_size / 1e6, 1),
                "start_s": spread(started),
                "luigid_mb": spread(memory),
                "list_runs_ms": spread(runs_ms),
                "list_calls_ms": spread(calls_ms),
            }
    finally:
        vendor.process.end()
    return found
