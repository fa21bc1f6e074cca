"""What the ledger's threads have done wakes the loop once, and reaches each who waits."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from scheduler_patch.service.deliveries import Deliveries


def test_what_is_done_together_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        loop, deliveries, wakes = asyncio.get_running_loop(), Deliveries(), list[Any]()
        wake = loop.call_soon_threadsafe

        def counted(*args: Any) -> Any:
            wakes.append(args)
            return wake(*args)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        futures: list[Future[int]] = [Future() for _ in range(4)]
        waiting = [deliveries.expect(future) for future in futures]
        waiting[1].cancel()

        def work() -> None:
            for number, future in enumerate(futures[:3]):
                future.set_result(number)
            futures[3].set_exception(ValueError("no"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(wakes) == 1
        said = await asyncio.gather(*waiting, return_exceptions=True)
        assert (said[0], said[2]) == (0, 2)
        assert isinstance(said[1], asyncio.CancelledError)
        assert isinstance(said[3], ValueError)
        last: Future[int] = Future()
        threading.Timer(0, last.set_result, (7,)).start()
        assert await deliveries.expect(last) == 7
        assert len(wakes) == 2

    asyncio.run(live())


def test_a_loop_that_is_closed_keeps_nothing_from_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries, early, late, last = Deliveries(), Future[int](), Future[int](), Future[int]()

    async def leave() -> None:
        deliveries.expect(early)
        deliveries.expect(late)
        # It is woken, and closed before it has looked.
        monkeypatch.setattr(asyncio.get_running_loop(), "call_soon_threadsafe", lambda *_: None)
        early.set_result(1)

    async def stay() -> int:
        future: Future[int] = Future()
        waiting = deliveries.expect(future)
        future.set_result(3)
        return await waiting

    async def leave_unwoken() -> None:
        deliveries.expect(last)

    asyncio.run(leave())
    late.set_result(2)
    asyncio.run(leave_unwoken())
    last.set_result(4)
    assert asyncio.run(asyncio.wait_for(stay(), 20)) == 3
    assert caplog.records == []
