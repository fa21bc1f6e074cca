"""Reserve + settle pairs a second of the ledger, beside what the disk's fsync allows.

`python bench/pairs.py FOLDER COUNT` measures the code on PYTHONPATH, ours or another, and prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from asyncio import Future
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books

#: Callers at once: threads, or tasks of one event loop, as luigid has them.
SIDES = (("1 thread", 1), ("16 threads", 16), ("16 in a loop", 16))


class Pairs:
    """A ledger at `path`, and calls that are reserved and settled in it.

    `capped`: luigi.cfg caps the day, the task's family and the vendor, too, and the vendor names an object.
    """

    def __init__(self, path: Path, *, capped: bool = False) -> None:
        self.books = Books(path, cap=10**9)
        self.books.checked = False
        self.capped = capped
        if capped:
            cap = Micros(10**9)
            self.books.caps = Caps(day=cap, task_families={"Charge": cap}, vendors={"stripe": cap})

    def _end(self, call_id: str) -> EndRequest:
        object_id = f"pi_{call_id}" if self.capped else None
        answer = {"status": 200, "answer_body": "{}", "object_id": object_id}
        return EndRequest("settle", call_id, 1, total_micros=1, **answer)

    def make(self, key: str) -> None:
        """Reserve and settle one call."""
        ask = self.books.ask(1)
        answer = self.books.reserve(key, ask)
        assert answer.verdict == "allowed", answer
        self.books.end(key, self._end(ask.call_id))

    def per_second(self, side: str, callers: int, count: int) -> tuple[float, float]:
        """Return pairs a second, and this process's milliseconds of CPU a pair."""
        keys = [self.books.claim(f"task-{number}") for number in range(callers)]
        expect = _expecting()
        begun, used = time.perf_counter(), time.process_time()
        if side.endswith("loop"):
            asyncio.run(self._in_a_loop(keys, count, expect))
        else:
            self.in_threads(keys, count)
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        assert self.books.figures() == (count * callers, 0, 0)
        self.books.ledger.close()
        return count * callers / seconds, 1000 * used / (count * callers)

    def in_threads(self, keys: list[str], count: int) -> None:
        """Make so many calls in a thread for each key."""

        def work(key: str) -> None:
            for _ in range(count):
                self.make(key)

        threads = [threading.Thread(target=work, args=(key,)) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def _in_a_loop(self, keys: list[str], count: int, expect: Callable[[Any], Awaitable[Any]]) -> None:
        books, waits = self.books, self.books.write
        books.write = books.ledger.write  # What it returns is awaited here.

        async def work(key: str) -> None:
            for _ in range(count):
                ask = books.ask(1)
                answer = await expect(books.reserve(key, ask))
                assert answer.verdict == "allowed", answer
                await expect(books.end(key, self._end(ask.call_id)))

        await asyncio.gather(*map(work, keys))
        books.write = waits

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


def _expecting() -> Callable[[Any], Awaitable[Any]]:
    """Return how luigid of the code that is measured waits in its loop for what a thread does."""
    try:
        from scheduler_patch.service.deliveries import Deliveries
    except ImportError:
        return asyncio.wrap_future
    expect: Callable[[Any], Future[Any]] = Deliveries().expect
    return expect


def _fsyncs(path: Path, count: int) -> float:
    with path.open("wb", buffering=0) as file:
        begun = time.perf_counter()
        for _ in range(count):
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
        return count / (time.perf_counter() - begun)


def _measured(folder: Path, count: int) -> dict[str, float]:
    """Return pairs a second of each side, `synchronous=FULL`, and raw fdatasyncs a second."""
    found = {"fdatasyncs a second": _fsyncs(folder / "raw", count)}
    for side, callers in SIDES:
        pairs = Pairs(folder / f"{side.replace(' ', '-')}.db")
        rate, cpu_ms = pairs.per_second(
            side, callers, max(1, count if callers == 1 else 2 * count // callers)
        )
        found[f"pairs a second, {side}"] = rate
        found[f"processor time of a pair, {side}, ms"] = cpu_ms
    found["statements of a pair"] = Pairs(folder / "few.db").statements()
    found["statements of a pair, 4 budgets"] = Pairs(folder / "four.db", capped=True).statements()
    return found


if __name__ == "__main__":
    print(json.dumps(_measured(Path(sys.argv[1]), int(sys.argv[2]))))
