"""Many histories, in several processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice

from tests.simulation.histories import failure, planned

#: Seeds that a process takes at a time.
SLICE = 25


def lived(seeds: range) -> tuple[int, int | None, str]:
    """Live the histories of these seeds; return how many, and the first that has failed and why."""
    for number, seed in enumerate(seeds, 1):
        if why := failure(planned(seed)):
            return number, seed, why
    return len(seeds), None, ""


def many(first: int, count: int, seconds: float, jobs: int) -> tuple[int, int | None, str]:
    """Live so many histories, or as many as there is time for; stop at the first that fails."""
    until = time.monotonic() + seconds
    last = first + count
    slices: Iterable[range] = (range(one, min(one + SLICE, last)) for one in range(first, last, SLICE))
    slices, total = iter(slices), 0
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(lived, seeds) for seeds in islice(slices, 2 * jobs)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                number, seed, why = future.result()
                total += number
                if seed is not None:
                    pool.shutdown(cancel_futures=True)
                    return total, seed, why
            if time.monotonic() < until:
                waiting |= {pool.submit(lived, seeds) for seeds in islice(slices, len(done))}
    return total, None, ""
