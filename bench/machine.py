"""What was measured on: the machine, its load, and the versions."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.support.processes import REPOSITORY


def machine() -> dict[str, Any]:
    """Return the processors, memory, load and versions, and of which commit; no name of the machine's."""
    cpus = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "processor": cpus[0].partition(":")[2].strip() if cpus else platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_gb": round(int(memory) / 1e6, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "load": [round(load, 2) for load in os.getloadavg()],
        "commit": _commit(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in ("luigi", "stripe", "tornado")},
    }


def _commit() -> str:
    """Return the commit, with a `+` where other files than figures have changed; "" for none."""
    commit = _git("rev-parse", "--short", "HEAD")
    return commit + ("+" if _git("status", "--porcelain", "--", ".", ":!docs/performance*") else "")


def _git(*args: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", os.fspath(REPOSITORY), *args], check=False, capture_output=True, text=True
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text("utf-8").splitlines() if file.exists() else []
