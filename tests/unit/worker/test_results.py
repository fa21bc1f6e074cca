"""What a child hands to its worker: short or long it arrives whole, and nothing long goes through a pipe."""

from __future__ import annotations

import multiprocessing
import select
from typing import Any

import pytest

from luigi_spendguard.worker.preload import Loaded
from luigi_spendguard.worker.results import Aside, LongResults, Own, Results, ShortResults


class Recorded:
    """A queue between two processes, and what was put into it."""

    def __init__(self) -> None:
        self._queue: Any = multiprocessing.get_context("fork").Queue()
        self.got: list[Any] = []

    def put(self, item: Any) -> None:
        self._queue.put(item)

    def get(self, timeout: float) -> Any:
        self.got.append(self._queue.get(timeout=timeout))
        return self.got[-1]


@pytest.fixture
def queue() -> Recorded:
    return Recorded()


def handed(queue: Recorded, kept: LongResults, *items: Any) -> None:
    """Let a child put these."""
    child = multiprocessing.get_context("fork").Process(target=_put, args=(queue, kept, items))
    child.start()
    child.join()


def _put(queue: Recorded, kept: LongResults, items: tuple[Any, ...]) -> None:
    for item in items:
        ShortResults(queue, kept).put(item)


def test_results_arrive_as_they_were_and_nothing_long_goes_through_the_pipe(queue: Recorded) -> None:
    kept = LongResults("t")
    long, short = ("t", "FAILED", "x" * 300_000, [], [("m", "F", {"a": "1"})]), ("t", "DONE", "", [], [])
    modules = Loaded(tuple(f"luigi_spendguard.none_{number}" for number in range(500)))
    handed(queue, kept, modules, long, short, long)
    results = Results(queue)
    results.kept_of = {"t": kept}.get
    assert [results.get(timeout=20) for _ in range(3)] == [long, short, long]
    assert [type(item) for item in queue.got] == [Aside, Aside, Own, Aside]
    assert all(len(repr(item)) < select.PIPE_BUF / 4 for item in queue.got)


def test_a_result_of_a_process_that_was_given_up_is_passed_over(queue: Recorded) -> None:
    gone, here = LongResults("t"), LongResults("t")
    long, short = ("t", "FAILED", "x" * 10_000, [], []), ("t", "FAILED", "", [], [])
    handed(queue, gone, long, short)
    handed(queue, here, ("t", "DONE", "y" * 10_000, [], []))
    handed(queue, LongResults("other"), ("other", "FAILED", "z" * 10_000, [], []))
    handed(queue, here, ("t", "DONE", "", [], []))
    results = Results(queue)
    results.kept_of = {"t": gone}.get
    results.put(short)  # Luigi saw it dead.
    results.kept_of = {"t": here}.get
    results.put(("t", "FAILED", "died", [], []))
    assert results.get(timeout=20)[2] == "y" * 10_000
    assert [results.get(timeout=20)[1:3] for _ in range(2)] == [("DONE", ""), ("FAILED", "died")]


def test_where_nothing_can_be_kept_it_goes_as_under_any_luigi(
    queue: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise OSError("no space left on device")

    kept, long = LongResults("t"), ("t", "FAILED", "x" * 10_000, [], [])
    monkeypatch.setattr(LongResults, "keep", full)
    handed(queue, kept, long)
    results = Results(queue)
    results.kept_of = {"t": kept}.get
    assert results.get(timeout=20) == long
