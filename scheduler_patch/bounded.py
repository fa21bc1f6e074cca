"""`Bounded`: a request whose body takes its room of what its vault key may hold, until it is answered."""

from __future__ import annotations

from luigi_spendguard.ledger.claims import key_hash
from luigi_spendguard.peers import Refused
from luigi_spendguard.receiving import Receiving
from scheduler_patch.shares import Shares, TooMany


class Bounded(Receiving):
    """A subclass calls `hold` in `admit`."""

    _held: tuple[Shares, str, int] | None = None

    async def hold(self, shares: Shares, key: str) -> None:
        """Wait until a key may hold the body, or as much as it may have. Raises Refused."""
        length = self.declared
        room = self.limit if length is None else min(length, self.limit)
        if not room:
            return
        who = key_hash(key)
        try:
            await shares.take(who, room)
        except TooMany:
            raise Refused(503, "busy", "too many bodies of this vault key wait already") from None
        self._held = shares, who, room

    def on_finish(self) -> None:
        """Make room for another body: this one is not kept while a slow client takes the answer."""
        self.forget()
        held, self._held = self._held, None
        if held is not None:
            shares, who, room = held
            shares.give_back(who, room)
