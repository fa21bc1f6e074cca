"""The ledger alone: `pairs.py` of this code, and of another in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.figures import ratios, spread
from tests.support.processes import REPOSITORY

_PAIRS = REPOSITORY / "bench" / "pairs.py"


def measure_ledger(folder: Path, count: int, rounds: int, old: Path | None = None) -> dict[str, Any]:
    """Return each figure of `rounds`; with `old`, a checkout of other code, in turns: its own, and ratios."""
    checkouts = [("now", REPOSITORY), *([("before", old)] if old is not None else [])]
    each: dict[str, list[dict[str, float]]] = {name: [] for name, _ in checkouts}
    for number in range(rounds):
        for name, checkout in checkouts[:: -1 if number % 2 else 1]:
            (place := folder / f"{name}-{number}").mkdir(parents=True)
            environment = {**os.environ, "PYTHONPATH": os.fspath(checkout)}
            command = [sys.executable, os.fspath(_PAIRS), os.fspath(place), str(count)]
            done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, check=True)
            each[name].append(json.loads(done.stdout))
    found: dict[str, Any] = {}
    for figure in each["now"][0]:
        values = {name: [one[figure] for one in rounds_of] for name, rounds_of in each.items()}
        found[figure] = {name: spread(of_side) for name, of_side in values.items()}
        if old is not None:
            found[figure]["ratio"] = ratios(values["now"], values["before"])
    return found
