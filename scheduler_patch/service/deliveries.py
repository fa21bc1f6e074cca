"""Results of the ledger's threads, brought into the loop: those that are there together wake it once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_Arrived = tuple["asyncio.Future[Any]", "Future[Any]"]


class Deliveries:
    """As `asyncio.wrap_future`, which wakes the loop for each; what was begun is not cancelled."""

    def __init__(self) -> None:
        self._arrived: deque[_Arrived] = deque()
        #: The loop that has been woken, and has not looked yet.
        self._woken: asyncio.AbstractEventLoop | None = None

    def expect(self, future: Future[T]) -> asyncio.Future[T]:
        """Return what is done in the running loop once `future` is, in whatever thread."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(lambda done: self._arrive(loop, waiting, done))
        return waiting

    async def expect_within(self, seconds: float, future: Future[T]) -> T:
        """Return what `future` has done; after so many seconds it is taken back, unless it is under way.

        Raises asyncio.TimeoutError.
        """
        try:
            return await asyncio.wait_for(self.expect(future), seconds)
        except asyncio.TimeoutError:
            future.cancel()
            raise

    async def within(
        self, seconds: float, waiting: asyncio.Future[T], late: Callable[[asyncio.Future[T]], object]
    ) -> T:
        """Return what is expected; what comes after so many seconds goes to `late`.

        Raises asyncio.TimeoutError.
        """
        await asyncio.wait([waiting], timeout=seconds)
        if not waiting.done():
            waiting.add_done_callback(late)
            raise asyncio.TimeoutError
        return waiting.result()

    def _arrive(
        self, loop: asyncio.AbstractEventLoop, waiting: asyncio.Future[Any], done: Future[Any]
    ) -> None:
        if loop.is_closed() or waiting.done():  # Nobody waits any more.
            return
        self._arrived.append((waiting, done))
        if self._woken is not loop:
            self._woken = loop
            loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._woken = None  # First: what arrives from now on wakes the loop again.
        while self._arrived:
            waiting, done = self._arrived.popleft()
            if waiting.done():  # Nobody waits any more.
                continue
            if (error := done.exception()) is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(done.result())
