"""`Replies`: bounds what one vault key's replies hold of luigid's memory, from their reading until their
client has them.

A call's replies are counted once they are long. Whoever waits for room waits for others of its key, which
end by themselves: those that are read by the vendor's time-out, those that are passed on by `GRACE_S`, after
which a client that is slow, or reads nothing, is cut off where another call needs the room. No call waits
twice, so none holds what another one waits for while it waits itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from luigi_spendguard.http.transport import MAX_REPLY
from scheduler_patch.service.shares import Shares

#: Bytes of replies that are held at once: of one key's long ones, and of all.
REPLIES_OF_A_KEY, REPLIES = 3 * MAX_REPLY, 8 * MAX_REPLY
#: What is read for one call before it is counted, and what a client may leave unread, in bytes.
SHORT, UNREAD = 1 << 20, 1 << 16
#: Seconds for which a client's reply is not cut off, whoever waits; and how often that is looked at.
GRACE_S, LOOK_S = 5.0, 0.1


class Replies:
    """All keys' replies."""

    def __init__(self) -> None:
        self.shares = Shares(REPLIES_OF_A_KEY, REPLIES)
        #: Rooms whose reply is being passed on, and since when, the oldest first.
        self.passing: dict[Room, float] = {}

    async def take(self, who: str, amount: int, by: float) -> None:
        """Hold so much for a key. Raises TimeoutError at `by`, of the loop's clock."""
        loop = asyncio.get_running_loop()
        turn = asyncio.ensure_future(self.shares.take(who, amount))
        try:
            while not turn.done():
                left = by - loop.time()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait([turn], timeout=min(left, LOOK_S))
                if not turn.done():
                    self._cut_one(who, amount)
            turn.result()
        except BaseException:
            if not turn.cancel() and not turn.cancelled() and turn.exception() is None:
                self.shares.give_back(who, amount)
            raise

    def _cut_one(self, who: str, amount: int) -> None:
        """Cut off a client that has been slow: the key's own, else of the key that holds most, where it is
        the share of all that is taken.
        """
        late = asyncio.get_running_loop().time() - GRACE_S
        slow = [room for room, since in self.passing.items() if since <= late]
        cut_first = [room for room in slow if room.who == who]
        if not cut_first and not self.shares.leaves(who, amount):
            cut_first = sorted(slow, key=lambda room: -self.shares.held(room.who))
        if cut_first:
            cut_first[0].cut()


class Room:
    """What the replies of one call of a key hold: while it lives, and until its client has its answer.

    `cut` cuts that client off.
    """

    def __init__(self, replies: Replies, who: str, cut: Callable[[], None]) -> None:
        self.who = who
        self._replies, self._cut = replies, cut
        self._read = self._held = 0
        self._closed = False

    async def read(self, size: int, by: float) -> None:
        """Take note of bytes that were read; wait before there are more of them than is not counted.

        Raises TimeoutError at `by`, of the loop's clock.
        """
        self._read += size
        if self._read > SHORT:
            await self.hold_most(by)

    async def hold_most(self, by: float) -> None:
        """Hold as much as a reply may have. Raises TimeoutError at `by`, of the loop's clock."""
        if not self._held:
            await self._replies.take(self.who, MAX_REPLY, by)
            self._held = MAX_REPLY

    async def keep(self, size: int) -> None:
        """Hold no more than the answer, which is passed on from now on; nothing where nobody takes it."""
        size = 0 if self._closed or size <= UNREAD else size
        if size > self._held:
            await self._replies.take(self.who, size - self._held, math.inf)
            self._held = size
        self._give_back(self._held - (0 if self._closed else size))
        if self._held:
            self._replies.passing[self] = asyncio.get_running_loop().time()

    def cut(self) -> None:
        """Cut the client off."""
        self.close()
        self._cut()

    def close(self) -> None:
        """Take note that the client has its answer, or is gone; what the call itself still reads is kept."""
        self._closed = True
        if self._replies.passing.pop(self, None) is not None:
            self.end()

    def end(self) -> None:
        """Hold nothing any more."""
        self._give_back(self._held)

    def _give_back(self, amount: int) -> None:
        self._held -= amount
        if amount:
            self._replies.shares.give_back(self.who, amount)
