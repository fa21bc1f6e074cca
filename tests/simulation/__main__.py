"""Live histories: `python -m tests.simulation --seed 7` one, `--many 100000` many, in all processors."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.simulation.histories import Plan, failure, many, planned, shrunk
from tests.simulation.mutants import look_for

#: Seconds for which a failure is made shorter.
SHRINK_S = 60.0


def told(plan: Plan, why: str, folder: Path) -> str:
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
    parser.add_argument("--history", type=Path, help="a file of a failure, in place of the seed's own")
    parser.add_argument("--many", type=int, default=2000, metavar="N")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--with", dest="words", nargs="*", default=(), help="only plans in which these stand")
    parser.add_argument("--quiet", action="store_true", help="make no history that has failed shorter")
    parser.add_argument(
        "--mutants", nargs="*", metavar="NAME", help="look for broken promises: for all, or some"
    )
    options = parser.parse_args()
    if options.mutants is not None:
        return int(look_for(options.mutants) > 0)
    if options.seed is not None:
        plan = json.loads(options.history.read_text()) if options.history else planned(options.seed)
        trace: list[str] = []
        why = failure(plan, trace)
        print(json.dumps(plan), *trace, why or "nothing was broken", sep="\n")
        return int(bool(why))
    begun = time.monotonic()
    total, seed, why = many(
        options.first, options.many, 60 * options.minutes, options.jobs, tuple(options.words)
    )
    lasted_s = max(time.monotonic() - begun, 0.001)
    print(f"{total} histories in {lasted_s:.0f} s, {60 * total / lasted_s:.0f} a minute")
    if seed is None:
        return 0
    print(f"seed {seed}: {why}" if options.quiet else told(planned(seed), why, Path("build/simulation")))
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
