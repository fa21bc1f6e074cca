"""Rounds of faults by seed, as long as asked: `python -m tests.faults --minutes 10`, or one: `--seed 7`."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults.plans import by_seed
from tests.faults.rounds import Round
from tests.support.processes import REPOSITORY


def commit() -> str:
    """Return what is tried."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True).stdout.strip() or "?"


def play(seed: int, keep: Path | None) -> bool:
    """Play the round of a seed; return whether all is well, and say what is not."""
    plan = by_seed(seed)
    folder = Path(tempfile.mkdtemp(prefix=f"round-{seed}-", dir=keep))
    begun, one = time.monotonic(), Round(plan, folder)
    try:
        wrong = one.play()
    except Exception:
        wrong = [traceback.format_exc()]
    took = time.monotonic() - begun
    print(
        f"{plan}: {took:.0f} s, deaths {one.deaths}, {one.harmed.total()} connections harmed,"
        f" not passed {one.unpassed}",
        flush=True,
    )
    if not wrong:
        return True
    print("\n".join(wrong))
    print("faults:", *plan.faults, sep="\n  ")
    print(f"commit {commit()}, left in {folder}; again: python -m tests.faults --seed {seed}", flush=True)
    for name, said in one.said.items():
        (folder / f"{name}.out").write_text(said)
    return False


def main() -> None:
    """Play rounds; exit with how many went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--first", type=int, default=int(time.time()) % 1_000_000, help="the first seed")
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--keep", type=Path, help="where folders of rounds are left")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that what was started is ended.
    seeds = [args.seed] if args.seed is not None else None
    print(f"commit {commit()}, from seed {args.first if seeds is None else args.seed}", flush=True)
    limit, seed, failed = time.monotonic() + 60 * args.minutes, args.first, 0
    if seeds is not None:
        sys.exit(not play(args.seed, args.keep))
    while time.monotonic() < limit:
        failed += not play(seed, args.keep)
        seed += 1
    print(f"{seed - args.first} rounds, {failed} with faults of ours", flush=True)
    sys.exit(min(failed, 100))


if __name__ == "__main__":
    main()
