"""Long looks in slices: Luigi's RPCs have their turn meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

#: Seconds that one of them keeps the thread for.
SLICE_S = 0.001


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield items, and let others have their turn whenever a slice is over."""
    until = time.perf_counter() + SLICE_S
    for item in items:
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_S
        yield item
