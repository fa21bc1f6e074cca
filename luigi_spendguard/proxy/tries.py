"""The numbers of what is sent to a gateway: one that its own retry has overtaken is known by that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from luigi_spendguard.process_state import at_fork


class Tries:
    """Numbers each try: what is asked later has the greater number, whichever process asks.

    Each is the time in microseconds since the epoch by `clock` (in nanoseconds), and at least one more than
    the last of this process, or of those that have forked it: a clock that is set back changes nothing
    there. Safe under threads and forks.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock, self._last = clock, 0
        self._renew()
        at_fork(self._renew)

    def _renew(self) -> None:
        # A signal's handler may make a call, too, while the lock is held.
        self._lock = threading.RLock()

    def next(self) -> int:
        """Return the number of what is sent now."""
        with self._lock:
            self._last = max(self._clock() // 1000, self._last + 1)
            return self._last
