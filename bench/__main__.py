"""Run all benchmarks and print their figures with the machine's load and the versions."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
from pathlib import Path

import luigi
import stripe
import tornado

from bench.calls import measure_calls
from bench.gateway import measure_gateway
from bench.ledger import measure_ledger
from bench.page import measure_page
from bench.scheduler import measure_scheduler


def main() -> None:
    """Measure and print; `--json` prints one object instead of lines."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the ledger lies; its disk is what is measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spendguard-bench-", dir=given.folder) as name:
        folder = Path(name)
        found = {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "luigi": luigi.__version__,
            "stripe": stripe.VERSION,
            "tornado": tornado.version,
            "cores": os.cpu_count() or 0,
            "load_before": round(os.getloadavg()[0], 2),
            **measure_calls(folder, 100 if given.quick else 1000),
            **measure_ledger(folder, 100 if given.quick else 2000),
            **measure_scheduler(folder / "scheduler", (100,) if given.quick else (1000, 10_000)),
            **measure_gateway(folder / "gateway", 1 if given.quick else 8),
            **measure_page(folder / "page", *((50, 2000, 1) if given.quick else (1000, 100_000, 8))),
            "load_after": round(os.getloadavg()[0], 2),
        }
    if given.json:
        json.dump(found, sys.stdout, indent=2)
        print()
        return
    for figure, value in found.items():
        print(f"{figure:34} {value}")


if __name__ == "__main__":
    main()
