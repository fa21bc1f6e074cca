"""Vault keys that were worth something a moment ago: who shows one again is not looked up before his request
is read. What its calls may do is decided where they are written, from the ledger, whatever is known here.

For tornado's thread alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from luigi_spendguard.protocol import key_hash

#: Seconds for which a key is believed: another luigid or gateway may have ended it since.
BELIEVED_S = 5.0
#: So many are remembered, the latest.
_MOST = 4096


class _Look:
    """A look into the ledger that has not come back, and what was forgotten meanwhile."""

    def __init__(self) -> None:
        self.over: set[str] = set()
        self.all_over = False


class KnownKeys:
    """The keys, by their hash, with their claim; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._claims: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._hashes: dict[str, str] = {}
        self._looks: set[_Look] = set()

    @contextmanager
    def looking(self) -> Iterator[Callable[[str, str], None]]:
        """Look into the ledger in the block; it comes with what takes note of a key that is worth something.

        That takes the key and its claim, and does nothing where that was forgotten since the block began:
        the look may have been earlier than what has ended the key, and have come back later.
        """
        look = _Look()

        def learn(key: str, claim_id: str) -> None:
            if not look.all_over and claim_id not in look.over:
                self._learn(key, claim_id)

        self._looks.add(look)
        try:
            yield learn
        finally:
            self._looks.discard(look)

    def _learn(self, key: str, claim_id: str) -> None:
        self._drop(claim_id)
        hashed = key_hash(key)
        self._claims[hashed] = claim_id, self._clock() + BELIEVED_S
        self._hashes[claim_id] = hashed
        if len(self._claims) > _MOST:
            _, (oldest, _) = self._claims.popitem(last=False)
            del self._hashes[oldest]

    def believes(self, key: str) -> bool:
        """Return whether a key was worth something within the last `BELIEVED_S` seconds."""
        _, until = self._claims.get(key_hash(key), ("", 0.0))
        return self._clock() < until

    def forget(self, claim_id: str) -> None:
        """Believe the key of a claim no more, once the ledger has that it is over."""
        for look in self._looks:
            look.over.add(claim_id)
        self._drop(claim_id)

    def _drop(self, claim_id: str) -> None:
        if (hashed := self._hashes.pop(claim_id, None)) is not None:
            del self._claims[hashed]

    def forget_all(self) -> None:
        """Believe no key any more, once the ledger has what has ended some."""
        for look in self._looks:
            look.all_over = True
        self._claims.clear()
        self._hashes.clear()
