"""How long a guarded call waits for others: for an equal one until that has ended, for its turn at an object
`TURN_SECONDS` at the most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from luigi_spendguard.errors import denial
from luigi_spendguard.guard.effects import Pause
from luigi_spendguard.protocol import GRANT_SECONDS, ReserveReply

logger = logging.getLogger(__name__)

#: How long a call waits for its turn at an object before it is denied: less than SDKs wait for a reply.
TURN_SECONDS = 30.0
#: The longest pause before it asks again: its turn may come, and others wait for it then.
TURN_PAUSE_S = 0.25
#: A call that waits so long, in seconds, for an equal one says so in the log, once.
SILENT_S = 3.0


class Patience:
    """The waiting of one call, by a monotonic clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._next, self._since = clock, 0.05, 0.0
        self._begun, self._said = 0.0, False

    def pause(self, answer: ReserveReply) -> Pause:
        """Return how long to wait after a `wait`. Raises SpendDenied as `check` does."""
        if answer.object_id:
            self.check(answer)
        else:
            self._say(answer)
        longest = TURN_PAUSE_S if answer.object_id else 1.0
        seconds, self._next = min(self._next, longest), min(1.0, self._next * 2)
        return Pause(seconds)

    def _say(self, answer: ReserveReply) -> None:
        now = self._clock()
        self._begun = self._begun or now
        if now - self._begun >= SILENT_S and not self._said:
            self._said = True
            logger.warning(
                "Waiting for call %s, which is this very call and has not ended. If the process that made it "
                "is gone, that is known the vendor's timeout_s and %g seconds after it was sent; then this "
                "one finds out what came of it. Nothing is sent meanwhile",
                answer.message,
                GRANT_SECONDS,
            )

    def check(self, answer: ReserveReply) -> None:
        """Raise SpendDenied (`in_doubt`) when a call has waited for its turn too long."""
        now = self._clock()
        self._since = self._since or now
        if now - self._since >= TURN_SECONDS:
            who = f" (call {answer.message})" if answer.message else "s, one after the other,"
            raise denial(
                "in_doubt",
                f"another call{who} acts on {answer.object_id}, one call at a time does, and after "
                f"{TURN_SECONDS:.0f} seconds it is not this one's turn: nothing was sent; try again later",
                {"object_id": answer.object_id},
            )
