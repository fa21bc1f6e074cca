"""A signal's handler that raises in the midst of whatever is done, as that of a task's own time limit."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from contextlib import suppress


class Interrupted(Exception):
    """Raised by the handler."""


def interrupted(act: Callable[[], object], chance: random.Random, longest_s: float) -> None:
    """Do something, and interrupt it at any moment within `longest_s` seconds, if it takes so long."""
    under_way = {True}

    def interrupt(number: int, frame: object) -> None:
        if under_way:
            raise Interrupted

    # It stays: an alarm that another thread was given comes late, and pytest-timeout's own handler (which
    # each test sets anew) would take it for its own.
    signal.signal(signal.SIGALRM, interrupt)
    with suppress(Interrupted):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, longest_s))
            act()
        finally:
            under_way.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
