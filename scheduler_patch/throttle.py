"""`Throttle`: counts failed attempts to authenticate, and makes who fails too often wait."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable

#: Failed attempts of one peer within `WINDOW_S` seconds after which it has to wait.
LIMIT = 200
WINDOW_S = 60.0
#: Peers, and credentials that were right, which are remembered.
REMEMBERED = 10_000


class Throttle:
    """What luigid knows of failed attempts, by the peer's address.

    A credential that was right before is always tried, so that a peer that shares its address with one that
    guesses (behind a proxy) goes on being served.

    Attributes:
        failed: how many attempts have failed since luigid was started.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failed = 0
        self._clock = clock
        self._salt = secrets.token_bytes(16)
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._bad: OrderedDict[str, deque[float]] = OrderedDict()

    def _digest(self, credential: str) -> bytes:
        return hashlib.sha256(self._salt + credential.encode()).digest()

    def is_limited(self, peer: str, credential: str) -> bool:
        """Return whether an attempt is refused unseen."""
        times = self._bad.get(peer)
        if times is None or self._digest(credential) in self._good:
            return False
        while times and times[0] < self._clock() - WINDOW_S:
            times.popleft()
        return len(times) >= LIMIT

    def was_right(self, credential: str) -> None:
        """Remember a credential that was right."""
        digest = self._digest(credential)
        self._good[digest] = None
        self._good.move_to_end(digest)
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)

    def was_wrong(self, peer: str) -> None:
        """Count a failed attempt."""
        self.failed += 1
        self._bad.setdefault(peer, deque(maxlen=LIMIT)).append(self._clock())
        self._bad.move_to_end(peer)
        if len(self._bad) > REMEMBERED:
            self._bad.popitem(last=False)
