"""Whose a thread is: what it runs, what has started it, or what has given it its work.

Contexts are not inherited by threads before Python 3.14, and never by those of a pool.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.pool import ThreadPool
from typing import Any


class Outside:
    """Owns a thread that runs a plain task or schedules: it belongs to no vendor task.

    `inherited`: so do the threads that it starts meanwhile.
    """

    ended = False

    def __init__(self, *, inherited: bool = True) -> None:
        self.inherited = inherited


#: What this thread runs: an attempt, or an `Outside`.
_own: ContextVar[Any] = ContextVar("spendguard_attempt", default=None)
#: The attribute of a thread that says what has started it.
_STARTED_BY = "_spendguard_begun_by"
#: What gives work to threads of pools; its first argument is called there.
_POOLS = (
    (ThreadPoolExecutor, "submit"),
    *((ThreadPool, name) for name in ("apply_async", "_map_async", "imap", "imap_unordered")),
)
_stock_start: Callable[[threading.Thread], None] | None = None
_stock_pools: dict[tuple[Any, str], Any] = {}


def own() -> Any:
    """Return what this thread runs, None where nothing is known of it."""
    return _own.get()


def starter() -> Any:
    """Return what ran in the thread that has started this one, None where nothing is known of it."""
    return getattr(threading.current_thread(), _STARTED_BY, None)


@contextmanager
def owned_by(owner: Any) -> Iterator[None]:
    """Let this thread run `owner` in the block."""
    token = _own.set(owner)
    try:
        yield
    finally:
        _own.reset(token)


def watch_threads() -> None:
    """Let every thread know from now on what has started it, or given it work; once is enough."""
    global _stock_start
    if _stock_start is not None:
        return
    stock = _stock_start = threading.Thread.start

    @functools.wraps(stock)
    def start(self: threading.Thread, *args: Any, **kwargs: Any) -> None:
        owner = own() or starter()
        if owner is not None and not (isinstance(owner, Outside) and not owner.inherited):
            setattr(self, _STARTED_BY, owner)
        stock(self, *args, **kwargs)

    setattr(threading.Thread, "start", start)  # noqa: B010  # the one seam that all threads pass
    for pool, name in _POOLS:
        _stock_pools[pool, name] = vars(pool).get(name)
        setattr(pool, name, _carrying(getattr(pool, name)))


def _carrying(stock: Any) -> Any:
    @functools.wraps(stock)
    def give(self: Any, *args: Any, **kwargs: Any) -> Any:
        owner = own() or starter()
        if owner is not None and args:
            args = (functools.partial(_run_owned, owner, args[0]), *args[1:])
        return stock(self, *args, **kwargs)

    return give


def _run_owned(owner: Any, act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with owned_by(owner):
        return act(*args, **kwargs)


def leave_threads() -> None:
    """Let threads be started, and given work, as ever."""
    global _stock_start
    if _stock_start is not None:
        setattr(threading.Thread, "start", _stock_start)  # noqa: B010  # its own again
        _stock_start = None
    for (pool, name), stock in _stock_pools.items():
        if stock is None:
            delattr(pool, name)
        else:
            setattr(pool, name, stock)
    _stock_pools.clear()
