"""A signal's handler that raises in the midst of whatever is done, as that of a task's own time limit."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from contextlib import suppress


class Interrupted(Exception):
    """Raised by the handler."""


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted


def interrupted(act: Callable[[], object], chance: random.Random, longest_s: float) -> None:
    """Do something, and interrupt it at any moment within `longest_s` seconds, if it takes so long."""
    before = signal.signal(signal.SIGALRM, _interrupt)
    with suppress(Interrupted):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, longest_s))
            act()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
