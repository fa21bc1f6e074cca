"""`get_work` beside stock Luigi's, in one process and in turns, with 1,000 to 50,000 pending tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import ratios, spread
from bench.processes import PIPELINES
from tests.support.processes import REPOSITORY, environment

SIZES = (1_000, 10_000, 50_000)
KINDS = ("plain", "vendor", "blocked")


def _asked(checkout: Path, size: int, kind: str, rounds: int, asks: int) -> dict[str, Any]:
    program = [sys.executable, str(PIPELINES / "dispatching.py"), str(size), kind, str(rounds), str(asks)]
    env = environment(PYTHONPATH=os.fspath(checkout))
    done = subprocess.run(program, env=env, cwd=checkout, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure_dispatch(sizes: Sequence[int], rounds: int, asks: int, old: Path | None = None) -> dict[str, Any]:
    """Return milliseconds of a `get_work`, its ratios to stock, and memory: by size, kind and code."""
    found: dict[str, Any] = {}
    for size in sizes:
        of_size = found[str(size)] = {}
        for kind in KINDS:
            for name, checkout in {"": REPOSITORY, **({"old_": old} if old else {})}.items():
                asked = _asked(checkout, size, kind, rounds, asks)
                ours, stock = asked["took_ms"]["ours"], asked["took_ms"]["stock"]
                of_size[name + kind] = {
                    "ms": spread(ours),
                    "stock_ms": spread(stock),
                    "ratio": ratios(ours, stock),
                    "bytes_a_task": asked["bytes_a_task"]["ours"],
                    "stock_bytes_a_task": asked["bytes_a_task"]["stock"],
                }
    return found
