"""Reserve + settle pairs a second of the ledger alone, beside what the disk's fsync allows.

`python -m bench.ledger --against CHECKOUT` measures another checkout of this project in turn with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books

#: Callers at once.
CALLERS = (1, 16)


class _Pairs:
    """A ledger at `path`, and calls that are reserved and settled in it.

    `capped`: luigi.cfg caps the day, the task's family and the vendor, too, and the vendor names an object.
    """

    def __init__(self, path: Path, *, capped: bool = False) -> None:
        self.books = Books(path, cap=10**9)
        self.capped = capped
        if capped:
            cap = Micros(10**9)
            self.books.caps = Caps(day=cap, task_families={"Charge": cap}, vendors={"stripe": cap})

    def make(self, key: str) -> None:
        """Reserve and settle one call."""
        ask = self.books.ask(1)
        answer = self.books.reserve(key, ask)
        assert answer.verdict == "allowed", answer
        end = EndRequest(
            "settle",
            ask.call_id,
            1,
            total_micros=1,
            status=200,
            answer_body="{}",
            object_id=f"pi_{ask.call_id}" if self.capped else None,
        )
        self.books.end(key, end)

    def per_second(self, callers: int, count: int) -> tuple[float, float]:
        """Return pairs a second, and this process's milliseconds of CPU a pair."""
        keys = [self.books.claim(f"task-{number}") for number in range(callers)]

        def work(key: str) -> None:
            for _ in range(count):
                self.make(key)

        threads = [threading.Thread(target=work, args=(key,)) for key in keys]
        begun, used = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        assert self.books.figures() == (count * callers, 0, 0)
        self.books.ledger.close()
        return count * callers / seconds, 1000 * used / (count * callers)

    def statements(self) -> int:
        """Return how many statements one pair is, those that begin and commit its transactions included."""
        key, seen = self.books.claim("task"), list[str]()
        self.make(key)  # Budgets are made by the first call.
        connection = self.books.ledger._db.handle()
        connection.set_trace_callback(seen.append)
        self.make(key)
        connection.set_trace_callback(None)
        self.books.ledger.close()
        return len(seen)


def _fsyncs(path: Path, count: int) -> float:
    with path.open("wb", buffering=0) as file:
        begun = time.perf_counter()
        for _ in range(count):
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
        return count / (time.perf_counter() - begun)


def measure_ledger(folder: Path, count: int) -> dict[str, float]:
    """Return pairs a second at 1 and 16 callers, `synchronous=FULL`, and raw fdatasyncs a second."""
    found: dict[str, float] = {"fdatasyncs_per_s": round(_fsyncs(folder / "raw", count))}
    for callers in CALLERS:
        pairs = _Pairs(folder / f"{callers}.db")
        rate, cpu_ms = pairs.per_second(callers, max(1, count if callers == 1 else 2 * count // callers))
        name = f"{callers}_caller{'s' if callers > 1 else ''}"
        found[f"ledger_pairs_per_s_{name}"] = round(rate)
        found[f"ledger_cpu_ms_a_pair_{name}"] = round(cpu_ms, 3)
    found["ledger_statements_a_pair"] = _Pairs(folder / "few.db").statements()
    found["ledger_statements_a_pair_4_budgets"] = _Pairs(folder / "four.db", capped=True).statements()
    return found


def _measure_apart(checkout: Path, folder: Path | None, count: int) -> dict[str, float]:
    """Return what a checkout's own code comes to, in a process of its own."""
    command = [sys.executable, __file__, "--json", "--count", str(count)]
    command += ["--folder", str(folder)] if folder else []
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(other: Path, folder: Path | None, count: int, rounds: int) -> dict[str, str]:
    """Measure this checkout and another in turn: each figure's medians, and the median of its ratios."""
    here = Path(__file__).parents[1]
    each: list[tuple[dict[str, float], dict[str, float]]] = []
    for number in range(rounds):
        sides = [_measure_apart(side, folder, count) for side in (here, other)[:: 1 if number % 2 else -1]]
        each.append((sides[0], sides[1]) if number % 2 else (sides[1], sides[0]))
    shown = {}
    for name in each[0][0]:
        ours, theirs = [one[name] for one, _ in each], [one[name] for _, one in each]
        ratios = sorted(one / two for one, two in zip(ours, theirs, strict=True))
        shown[name] = (
            f"{statistics.median(ours):g}, there {statistics.median(theirs):g}: "
            f"{statistics.median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--count", type=int, default=1000, help="pairs of one caller; of 16 twice as many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the ledger lies; its disk is what is measured")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, float] | dict[str, str]
    if given.against is not None:
        found = compare(given.against.absolute(), given.folder, given.count, given.rounds)
    else:
        with tempfile.TemporaryDirectory(prefix="spendguard-bench-", dir=given.folder) as name:
            found = measure_ledger(Path(name), given.count)
    if given.json:
        print(json.dumps(found))
        return
    for figure, value in found.items():
        print(f"{figure:36} {value}")


if __name__ == "__main__":
    main()
