"""The ledger at a PostgreSQL server: pairs a second of a hot run, and what another run waits beside it.

`python -m bench.server BOOKS RUN NAME CALLERS SECONDS PAUSE_S DAY` is one process of it: it prints `ready`,
begins when it is told to, and prints JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import quantile, ratios, spread
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books
from tests.support.postgres import SERVER, PostgresServer
from tests.support.processes import REPOSITORY

CAP = 10**12
#: Seconds between two pairs of the other run: it is never the one that takes all there is.
PAUSE_S = 0.02


@dataclass(frozen=True)
class _Process:
    """A process that makes pairs; `place`: whose books (other books are in another database)."""

    place: Path
    run: str
    callers: int = 1
    pause_s: float = 0.0
    day: bool = False

    def begun(self, number: int, seconds: float) -> subprocess.Popen[str]:
        """Start it."""
        asked = (self.place, self.run, number, self.callers, seconds, self.pause_s, int(self.day))
        return subprocess.Popen(
            [sys.executable, "-m", "bench.server", *map(str, asked)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def measure_server(folder: Path, seconds: float, rounds: int, processes: int = 8) -> dict[str, Any]:
    """Return pairs a second of one hot run, and the milliseconds of another run's pairs beside it.

    `elsewhere`: beside as much work in other books, at the same server and on the same processors: what is
    more than that, the hot run's locks have cost.
    """
    on_disk = Path(tempfile.mkdtemp(prefix="spendguard-pg-"))
    with PostgresServer(settings="fsync = on\n", folder=on_disk) as server:
        os.environ[SERVER] = server.url
        try:
            return _measured(folder, seconds, rounds, processes)
        finally:
            del os.environ[SERVER]


def _measured(folder: Path, seconds: float, rounds: int, processes: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {}
    waits: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        here, there = folder / f"{number}.db", folder / f"{number}-elsewhere.db"
        for place, run in ((here, "hot"), (there, "hot"), (here, "other"), (here, "warm")):
            Books(place, cap=CAP, run_id=run).ledger.close()
        other = _Process(here, "other", pause_s=PAUSE_S)
        sides: dict[str, Sequence[_Process]] = {
            "1 process": [_Process(here, "hot")],
            f"{processes} processes": [_Process(here, "hot")] * processes,
            f"{processes} processes of 8 callers": [_Process(here, "hot", callers=8)] * processes,
            f"{processes} processes, daily_cap_usd": [_Process(here, "hot", day=True)] * processes,
            f"{processes} processes, a run each": [_Process(here, f"run-{n}") for n in range(processes)],
            f"{processes} processes, a run each, daily_cap_usd": [
                _Process(here, f"run-{n}", day=True) for n in range(processes)
            ],
        }
        if processes == 1:  # Only to see that it runs: each process takes a second to begin.
            sides = {"1 process": sides["1 process"]}
        for name, hot in sides.items():
            found = _at_once(hot, seconds)
            rates.setdefault(name, []).append(sum(one["pairs"] for one in found) / seconds)
        beside: dict[str, Sequence[_Process]] = {
            "alone": [],
            "elsewhere": [_Process(there, "hot")] * processes,
            "beside": [_Process(here, "hot")] * processes,
        }
        for name, hot in beside.items():
            waits.setdefault(name, []).append(_at_once([other, *hot], seconds)[0])
    found_waits: dict[str, Any] = {}
    for name, each in waits.items():
        found_waits[name] = {p: spread([one[f"{p}_ms"] for one in each]) for p in ("p50", "p99")}
        for p in ("p50", "p99"):
            at = [[one[f"{p}_ms"] for one in waits[which]] for which in (name, "alone", "elsewhere")]
            found_waits[name][f"{p}_to_alone"] = ratios(at[0], at[1])
            found_waits[name][f"{p}_to_elsewhere"] = ratios(at[0], at[2])
    return {"pairs": {name: spread(each) for name, each in rates.items()}, "other run": found_waits}


def _at_once(processes: Sequence[_Process], seconds: float) -> list[dict[str, float]]:
    """Let processes make pairs at the same time; return what each has found."""
    begun = [process.begun(number, seconds) for number, process in enumerate(processes)]
    for one in begun:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in begun:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    found = [json.loads(one.communicate(timeout=seconds + 60)[0]) for one in begun]
    assert [one.returncode for one in begun] == [0] * len(begun)
    return found


class _Pairs:
    """A process's books, and what its pairs of a reservation and its end have taken."""

    def __init__(self, place: Path, run: str, name: str, callers: int, *, day: bool) -> None:
        self._books = Books(place, cap=CAP, run_id=run)
        self._books.checked = False
        if day:
            self._books.caps = Caps(day=Micros(CAP))
        self._keys = [self._books.claim(f"task-{run}-{name}-{number}", run) for number in range(callers)]
        self.took_ms: list[float] = []
        for key in self._keys:  # Budgets are made, and statements prepared.
            for _ in range(3):
                self._make(key)
        self.took_ms.clear()

    def _make(self, key: str) -> None:
        ask, begun = self._books.ask(1), time.perf_counter()
        answer = self._books.reserve(key, ask)
        assert answer.verdict == "allowed", answer
        said = {"status": 200, "answer_body": "{}", "object_id": f"pi_{ask.call_id}"}
        self._books.end(key, EndRequest("settle", ask.call_id, 1, total_micros=1, **said))
        self.took_ms.append(1000 * (time.perf_counter() - begun))

    def make(self, seconds: float, pause_s: float) -> None:
        """Make pairs for so long."""
        end = time.monotonic() + seconds

        def work(key: str) -> None:
            while time.monotonic() < end:
                self._make(key)
                time.sleep(pause_s)

        threads = [threading.Thread(target=work, args=(key,)) for key in self._keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._books.ledger.close()


def _main(place: str, run: str, name: str, callers: str, seconds: str, pause_s: str, day: str) -> None:
    pairs = _Pairs(Path(place), run, name, int(callers), day=bool(int(day)))
    print("ready", flush=True)
    sys.stdin.readline()
    pairs.make(float(seconds), float(pause_s))
    p50, p99 = quantile(pairs.took_ms, 0.5), quantile(pairs.took_ms, 0.99)
    print(json.dumps({"pairs": len(pairs.took_ms), "p50_ms": p50, "p99_ms": p99}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
