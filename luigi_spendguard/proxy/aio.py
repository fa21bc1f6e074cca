"""Runs a call of an asynchronous program in a thread: its I/O waits, and an event loop must not.

A cancelled `await` ends nothing that has begun: the thread lives the call to its end, and its reservation
ends with it. `drain` waits for such calls.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from luigi_spendguard.counted import counted
from luigi_spendguard.errors import PluginError
from luigi_spendguard.process_state import at_fork

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Calls of asynchronous programs that are under way at once in a process; others wait their turn.
THREADS = 64
#: Seconds after a vendor's time-out within which a call has told the ledger how it ended.
ENDING_S = 15.0

_lock = threading.Lock()
_pool: concurrent.futures.ThreadPoolExecutor | None = None
_running: dict[str, set[concurrent.futures.Future[Any]]] = {}


def _begin_anew() -> None:
    """Start without inherited threads: a child has none of them."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None
    _running.clear()


at_fork(_begin_anew)


async def in_thread(owner: str, act: Callable[[], T]) -> T:
    """Return what `act` returns in a thread of its own, on behalf of `owner` (a claim_id).

    Raises what `act` raises, and PluginError outside asyncio.
    """
    return await asyncio.wrap_future(_submit(owner, act))


def _submit(owner: str, act: Callable[[], T]) -> concurrent.futures.Future[T]:
    global _pool
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # Before anything begins: another event loop could not be told the result.
        raise PluginError(
            "asynchronous vendor calls inside vendor tasks need asyncio: run the program with "
            "asyncio.run, or use the SDK's synchronous calls in threads"
        ) from None
    with _lock:
        if _pool is None:
            _pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="spendguard-async")
        future = _pool.submit(contextvars.copy_context().run, act)
        _running.setdefault(owner, set()).add(future)

    def ended(future: concurrent.futures.Future[T]) -> None:
        with _lock:
            _running.get(owner, set()).discard(future)

    future.add_done_callback(ended)
    return future


def drain(owner: str, timeout_s: float) -> bool:
    """Wait, at most `timeout_s` seconds, until no call of `owner` is under way; say whether it is so."""
    with _lock:
        running = list(_running.pop(owner, ()))
    left = concurrent.futures.wait(running, timeout_s).not_done
    if left:
        logger.error(
            "%s of an asynchronous program still under way although its task has ended",
            counted(len(left), "call"),
        )
    return not left
