"""What one vault key, address or run may take of what all share, so that none stalls the others.

For tornado's thread alone: nothing here waits while something is changed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from luigi_spendguard.http.receiving import Receiving
from luigi_spendguard.http.relay import Refused
from luigi_spendguard.protocol import ASKED_AGAIN, ReserveReply, ReserveRequest, key_hash

#: What is left to those who hold nothing yet: one part in so many.
_KEPT_FREE = 4
#: So many wait at once for one key.
LONGEST_QUEUE = 1000
#: Bytes of requests' bodies that are held at once, of one key and of all.
BYTES_OF_A_KEY, BYTES = 40 << 20, 256 << 20
#: Wrong credentials of one peer within `WRONG_WINDOW_S` seconds, after which it is told to wait.
WRONG_LIMIT = 200
WRONG_WINDOW_S = 60.0
#: Peers that are remembered.
REMEMBERED_PEERS = 10_000
#: Seconds after which who has not asked again does not wait any more.
ASKED_WITHIN_S = 5.0


class TooMany(Exception):
    """So many wait for this key already that another one is refused."""


class Shares:
    """A thing of which there is so much (`total`), and of which each key may hold so much (`each`) at once.

    A quarter of it is kept for keys that hold nothing: a few busy ones do not take all of it. Who has to wait
    does so behind others of its key; keys take turns.
    """

    def __init__(self, each: int, total: int) -> None:
        self.each, self.total = each, total
        self._held: dict[str, int] = {}
        self._taken = 0
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    def held(self, key: str) -> int:
        """Return how much a key holds now."""
        return self._held.get(key, 0)

    @asynccontextmanager
    async def share(self, key: str, amount: int = 1) -> AsyncIterator[None]:
        """Hold so much for a key while the block runs. Raises TooMany."""
        await self.take(key, amount)
        try:
            yield
        finally:
            self.give_back(key, amount)

    async def take(self, key: str, amount: int = 1) -> None:
        """Wait until a key may hold so much more, and hold it. Raises TooMany."""
        queue = self._waiting.get(key)
        if not queue and self._fits(key, amount):
            self._hold(key, amount)
            return
        if queue is None:
            queue = self._waiting[key] = deque()
        if len(queue) >= LONGEST_QUEUE:
            raise TooMany
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give_back(key, amount)
            with suppress(ValueError):
                queue.remove((amount, turn))
            self._forget(key)
            raise

    def give_back(self, key: str, amount: int = 1) -> None:
        """End to hold so much, and let those go on who waited for it."""
        self._held[key] -= amount
        self._taken -= amount
        if not self._held[key]:
            del self._held[key]
        going = True
        while going:
            going = any(self._let_one_go_on(other) for other in list(self._waiting))

    def _let_one_go_on(self, key: str) -> bool:
        """Let the first go on who waits for a key, if there is room for him; return whether there was."""
        queue = self._waiting[key]
        while queue and queue[0][1].done():  # He has given up.
            queue.popleft()
        fits = bool(queue) and self._fits(key, queue[0][0])
        if fits:
            amount, turn = queue.popleft()
            self._hold(key, amount)
            turn.set_result(None)
            self._waiting.move_to_end(key)
        self._forget(key)
        return fits

    def _fits(self, key: str, amount: int) -> bool:
        """Return whether a key may hold so much more; one that holds nothing may hold any amount alone."""
        held = self.held(key)
        return (not held or held + amount <= self.each) and self.leaves(key, amount)

    def leaves(self, key: str, amount: int) -> bool:
        """Return whether what others hold leaves so much to a key."""
        limit = self.total - (self.total // _KEPT_FREE if self.held(key) else 0)
        return self._taken + amount <= limit or not self._taken

    def _hold(self, key: str, amount: int) -> None:
        self._held[key] = self.held(key) + amount
        self._taken += amount

    def _forget(self, key: str) -> None:
        if not self._waiting.get(key, True):
            del self._waiting[key]


class Bounded(Receiving):
    """A request whose body takes its room of what its vault key may hold, until it is answered.

    A subclass calls `hold` in `admit`.
    """

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


class Throttle:
    """Counts wrong tokens and keys by the peer's address; who shows too many is told so.

    It is asked about a credential that was looked at and is wrong: what is right is served at once, whoever
    else fails from the same address (a proxy's, a team's).

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
        begun, times = (begun, times + 1) if now - begun <= WRONG_WINDOW_S else (now, 1)
        self._wrong[peer] = begun, times
        self._wrong.move_to_end(peer)
        if len(self._wrong) > REMEMBERED_PEERS:
            self._wrong.popitem(last=False)
        return times > WRONG_LIMIT


@dataclass
class _Waiting:
    run_id: str
    place: int
    objects: frozenset[tuple[str, ...]]
    seen: float


class TurnQueue:
    """The calls that wait for their turn at an object: runs take turns.

    The ledger decides whose turn it is (`ledger/turns.py`), and whoever waits asks it again and again: of
    many who do, one of a run that has many would be the first nearly always. Each waiting call has a place,
    and a run that had its turn goes behind the others. Only other runs' calls are ahead of a call; those of
    one run go as they come. Forgotten with luigid's loop.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, _Waiting] = {}
        self._last = 0

    def ahead(self, ask: ReserveRequest, *, relayed: bool) -> str:
        """Return the object at which a call of another run comes before this one, else an empty text."""
        if not self._waiting or ask.read:
            return ""
        self._forget()
        mine, objects = self._waiting.get(ask.call_id), _objects(ask, relayed)
        for other in self._waiting.values():
            if mine is not None and (other.run_id == mine.run_id or other.place > mine.place):
                continue
            if common := other.objects & objects:
                return min(common)[-1]
        return ""

    def told(self, ask: ReserveRequest, answer: ReserveReply, run_id: str, *, relayed: bool) -> None:
        """Take note of what a call of a run was answered."""
        mine = self._waiting.get(ask.call_id)
        if mine is None and answer.verdict == "wait" and answer.object_id:
            place, objects = self._next(), _objects(ask, relayed)
            self._waiting[ask.call_id] = _Waiting(run_id, place, objects, self._clock())
        elif mine is not None and answer.verdict in ASKED_AGAIN:
            mine.seen = self._clock()
        elif mine is not None:
            del self._waiting[ask.call_id]
            if answer.verdict == "allowed":
                for other in sorted(self._waiting.values(), key=lambda one: one.place):
                    if other.run_id == run_id and other.objects & mine.objects:
                        other.place = self._next()

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _forget(self) -> None:
        """Forget who does not ask any more."""
        gone = self._clock() - ASKED_WITHIN_S
        for call_id in [one for one, waiting in self._waiting.items() if waiting.seen < gone]:
            del self._waiting[call_id]


def _objects(ask: ReserveRequest, relayed: bool) -> frozenset[tuple[str, ...]]:
    names = {*ask.acts_on, *ask.priced_by}
    return frozenset((str(int(relayed)), ask.vendor, ask.account, name) for name in names)
