"""`Throttle`: counts wrong tokens and keys by the peer's address; who shows too many is told so.

It is asked about a credential that was looked at and is wrong: what is right is served at once, whoever
else fails from the same address (a proxy's, a team's).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

#: Wrong credentials of one peer within `WINDOW_S` seconds, after which it is told to wait.
LIMIT = 200
WINDOW_S = 60.0
#: Peers that are remembered.
REMEMBERED = 10_000


class Throttle:
    """What luigid knows of wrong credentials.

    Attributes:
        failed: how many have been shown since luigid was started.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failed = 0
        self._clock = clock
        #: By peer: when its window has begun, and how many were wrong in it.
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def was_wrong(self, peer: str) -> bool:
        """Count a wrong credential; return whether its peer shows too many."""
        self.failed += 1
        now = self._clock()
        begun, times = self._wrong.get(peer, (now, 0))
        begun, times = (begun, times + 1) if now - begun <= WINDOW_S else (now, 1)
        self._wrong[peer] = begun, times
        self._wrong.move_to_end(peer)
        if len(self._wrong) > REMEMBERED:
            self._wrong.popitem(last=False)
        return times > LIMIT
