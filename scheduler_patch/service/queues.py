"""`Queue`: runs take turns at a vendor's object, so that many calls of one run do not keep it from another.

The ledger decides whose turn it is (`ledger/turns.py`), and whoever waits asks it again and again: of many
who do, one of a run that has many would be the first nearly always. Each waiting call has a place, and a run
that had its turn goes behind the others. Only other runs' calls are ahead of a call; those of one run go as
they come. For luigid's loop alone, and forgotten with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from luigi_spendguard.protocol import ReserveReply, ReserveRequest

#: Seconds after which who has not asked again does not wait any more.
LIVE_S = 5.0
#: What a call is answered that will ask again.
_ASKED_AGAIN = ("wait", "outdated", "look_up", "search")


@dataclass
class _Waiting:
    run_id: str
    place: int
    objects: frozenset[tuple[str, ...]]
    seen: float


class Queue:
    """The calls that wait for their turn at an object."""

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
        elif mine is not None and answer.verdict in _ASKED_AGAIN:
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
        gone = self._clock() - LIVE_S
        for call_id in [one for one, waiting in self._waiting.items() if waiting.seen < gone]:
            del self._waiting[call_id]


def _objects(ask: ReserveRequest, relayed: bool) -> frozenset[tuple[str, ...]]:
    names = {*ask.acts_on.split(), *ask.priced_by.split()}
    return frozenset((str(int(relayed)), ask.vendor, ask.account, name) for name in names)
