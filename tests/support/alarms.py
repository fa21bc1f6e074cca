"""A signal's handler that raises in the midst of whatever is done, as that of a task's own time limit."""

from __future__ import annotations

import gc
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from weakref import WeakSet

#: Threads and others take themselves out of these when they are freed.
_OF_WEAK_SETS = WeakSet.__init__.__code__.co_filename


class Interrupted(Exception):
    """Raised by the handler."""


def _is_swallowed(frame: FrameType | None) -> bool:
    """Return whether something is being freed: what is raised then Python only prints."""
    while frame is not None:
        if frame.f_code.co_filename == _OF_WEAK_SETS:
            return True
        frame = frame.f_back
    return False


def interrupted(act: Callable[[], object], chance: random.Random, longest_s: float) -> None:
    """Do something, and interrupt it at any moment within `longest_s` seconds, if it takes so long.

    Not while something is freed: no code could hear of that.
    """
    under_way = {True}

    def interrupt(number: int, frame: FrameType | None) -> None:
        if under_way and not _is_swallowed(frame):
            raise Interrupted

    # It stays: an alarm that another thread was given comes late, and pytest-timeout's own handler (which
    # each test sets anew) would take it for its own.
    signal.signal(signal.SIGALRM, interrupt)
    gc.disable()
    with suppress(Interrupted):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, longest_s))
            act()
        finally:
            under_way.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.enable()
