"""Reserve + settle pairs a second of the ledger alone, beside what the disk's fsync allows."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from luigi_spendguard.protocol import EndRequest
from tests.support.books import Books


def _pairs(path: Path, callers: int, count: int) -> float:
    books = Books(path, cap=count * callers)
    keys = [books.claim(f"task-{number}") for number in range(callers)]

    def work(key: str) -> None:
        for _ in range(count):
            ask = books.ask(1)
            answer = books.reserve(key, ask)
            assert answer.verdict == "allowed", answer
            books.end(key, EndRequest("settle", ask.call_id, 1, total_micros=1, status=200, answer_body="{}"))

    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    assert books.figures() == (count * callers, 0, 0)
    books.ledger.close()
    return count * callers / seconds


def _fsyncs(path: Path, count: int) -> float:
    with path.open("wb", buffering=0) as file:
        begun = time.perf_counter()
        for _ in range(count):
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
        return count / (time.perf_counter() - begun)


def measure_ledger(folder: Path, count: int) -> dict[str, float]:
    """Return pairs a second at 1 and 16 callers, `synchronous=FULL`, and raw fdatasyncs a second."""
    return {
        "fdatasyncs_per_s": round(_fsyncs(folder / "raw", count)),
        "ledger_pairs_per_s_1_caller": round(_pairs(folder / "one.db", 1, count)),
        "ledger_pairs_per_s_16_callers": round(_pairs(folder / "many.db", 16, max(1, count // 8))),
    }
