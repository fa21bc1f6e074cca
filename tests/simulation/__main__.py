"""Live histories: `python -m tests.simulation --seed 7` one, `--histories 100000` many, in all processors."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.simulation.histories import failure, planned, shrunk
from tests.simulation.many import many

#: Seconds for which a failure is made shorter.
SHRINK_S = 60.0


def told(plan: dict[str, Any], why: str, folder: Path) -> str:
    """Make a failed history shorter and keep it; return how it is lived again."""
    limit = time.monotonic() + SHRINK_S
    shorter = shrunk(plan, lambda: time.monotonic() < limit)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"history-{plan['seed']}.json"
    path.write_text(json.dumps(shorter, indent=1))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return (
        f"seed {plan['seed']} at commit {commit or 'unknown'}: {why}\n"
        f"the shortest history found: {json.dumps(shorter)}\n"
        f"again: {sys.executable} -m tests.simulation --seed {plan['seed']} --history {path}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="live this one, and say all that happens in it")
    parser.add_argument(
        "--history", type=Path, help="a file that a failure was kept in, in place of the seed's own"
    )
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--quiet", action="store_true", help="say whether one has failed, and make none shorter"
    )
    options = parser.parse_args()
    if options.seed is not None:
        plan = json.loads(options.history.read_text()) if options.history else planned(options.seed)
        trace: list[str] = []
        why = failure(plan, trace)
        print(json.dumps(plan), *trace, why or "nothing was broken", sep="\n")
        return int(bool(why))
    begun = time.monotonic()
    total, seed, why = many(options.first, options.histories, options.seconds, options.jobs)
    lasted = time.monotonic() - begun
    print(f"{total} histories in {lasted:.0f} s, {60 * total / max(lasted, 0.001):.0f} a minute")
    if seed is None:
        return 0
    print(f"seed {seed}: {why}" if options.quiet else told(planned(seed), why, Path("build/simulation")))
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
