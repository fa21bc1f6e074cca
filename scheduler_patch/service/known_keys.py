"""Vault keys that were worth something a moment ago: who shows one again is not looked up before his request
is read. What its calls may do is decided where they are written, from the ledger, whatever is known here.

For tornado's thread alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from luigi_spendguard.ledger.claims import key_hash

#: Seconds for which a key is believed: another luigid or gateway may have ended it since.
BELIEVED_S = 5.0
#: So many are remembered, the latest.
_MOST = 4096


class KnownKeys:
    """The keys, by their hash, with their claim; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._claims: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._hashes: dict[str, str] = {}

    def learn(self, key: str, claim_id: str) -> None:
        """Take note that a key is worth something now."""
        self.forget(claim_id)
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
        """Believe the key of a claim no more."""
        if (hashed := self._hashes.pop(claim_id, None)) is not None:
            del self._claims[hashed]

    def forget_all(self) -> None:
        """Believe no key any more."""
        self._claims.clear()
        self._hashes.clear()
