"""What belongs to one process: what a forked child makes anew, its threads, blocks that overlap in them.

What is made once, when it is first asked for, needs a lock nowhere: see `made_once`.
"""

from __future__ import annotations

import _thread
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, Generic, NamedTuple, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Act = Callable[[], object]
#: Python's own: what `proxy/owners` puts in its place asks whose the thread is, and these are nobody's.
_start = threading.Thread.start


class _Hook(NamedTuple):
    """What one part of the process does at a fork; each is called for what it is to do, None for nothing."""

    in_child: Callable[[], _Act | None]
    before: Callable[[], _Act | None]
    in_parent: Callable[[], _Act | None]


_numbers = itertools.count()
_hooks: dict[int, _Hook] = {}


def at_fork(in_child: _Act, *, before: _Act | None = None, in_parent: _Act | None = None) -> None:
    """Call `in_child` in each process that this one forks, to make anew what a fork must not inherit.

    Args:
        in_child: makes anew what the child has inherited: locks that nobody there lets go of, threads that
            are not there, connections that are the parent's.
        before: called in the parent before it forks; who was registered last is called first.
        in_parent: called in the parent after it has forked.

    A bound method does not keep its object alive, and is not called any more once that is gone. What raises
    is logged, and the others are called.

    """
    number = next(_numbers)

    def held(act: _Act | None) -> Callable[[], _Act | None]:
        if isinstance(act, MethodType):
            return weakref.WeakMethod(act, lambda _: _hooks.pop(number, None))
        return lambda: act

    _hooks[number] = _Hook(held(in_child), held(before), held(in_parent))


def _do(acts: Iterable[Callable[[], _Act | None]]) -> None:
    for hold in acts:
        act = hold()
        try:
            if act is not None:
                act()
        except BaseException:  # Even one that a signal's handler has raised: nobody hears it here.
            logger.exception("What a fork asks for has failed")


if hasattr(os, "register_at_fork"):
    # The only one, and made after logging's own: logging's lock is not held while `before` waits.
    os.register_at_fork(
        before=lambda: _do([hook.before for hook in reversed(list(_hooks.values()))]),
        after_in_parent=lambda: _do([hook.in_parent for hook in list(_hooks.values())]),
        after_in_child=lambda: _do([hook.in_child for hook in list(_hooks.values())]),
    )


def begin_thread(act: Callable[[], object], name: str) -> None:
    """Do `act` in a daemon thread of that name; a signal's handler may raise in the caller at any moment.

    In the midst of `Thread.start` that would leave a thread that ends before it has done anything. Handlers
    are called in the main thread only (docs.python.org, "signal"), so another one starts it.
    """
    _thread.start_new_thread(_start, (threading.Thread(target=act, name=name, daemon=True),))


class made_once(Generic[T]):  # a decorator
    """A property that is made when it is first asked for, and kept; two threads at once may both make it.

    In place of `functools.cached_property`, which has a lock for all objects of a class (Python 3.10 and
    3.11): a child that is forked while another thread makes one waits for ever for its own.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, one: Any, owner: type | None = None) -> T:
        made: T = one.__dict__.setdefault(self._name, self._make(one))
        return made


class Blocks:
    """Blocks that overlap in several threads: the first puts something in place, the last puts it back.

    Attributes:
        lock: held while a block begins or ends; a forked child has a new one, as nobody there could let
            go of the parent's.

    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._open = 0
        at_fork(self._renew)

    def _renew(self) -> None:
        self.lock = threading.Lock()

    @contextmanager
    def block(self, begin: Callable[[bool], object], end: Callable[[bool], object]) -> Iterator[None]:
        """Call `begin` before a block, with whether it is the first, and `end` after it: the last?"""
        with self.lock:
            begin(not self._open)
            self._open += 1
        try:
            yield
        finally:
            with self.lock:
                self._open -= 1
                end(not self._open)
