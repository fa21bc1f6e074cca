"""What the guard makes of a reply of the ledger's that grants nothing: a wait, an earlier answer, a denial.

A call waits for an equal one until that has ended, for its turn at an object `TURN_SECONDS` at the most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timezone

from luigi_spendguard import backoff
from luigi_spendguard.errors import OutcomeUnknown, SpendDenied, denial
from luigi_spendguard.guard.effects import Pause
from luigi_spendguard.protocol import GRANT_SECONDS, REPLAYED, ReserveReply
from luigi_spendguard.vendors import Quote, Reply

logger = logging.getLogger(__name__)

#: How long a call waits for its turn at an object before it is denied: less than SDKs wait for a reply.
TURN_SECONDS = 30.0
#: The longest pause before it asks again: its turn may come, and others wait for it then.
TURN_PAUSE_S = 0.25
#: A call that waits so long, in seconds, for an equal one says so in the log, once.
SILENT_S = 3.0


class Waiting:
    """The waiting of one call, by a monotonic clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._turn_since = clock, 0.0
        self._pauses = backoff.growing(0.05, 1.0)
        self._equal_since, self._is_logged = 0.0, False

    def pause(self, answer: ReserveReply) -> Pause:
        """Return how long to wait after a `wait`. Raises SpendDenied as `check_turn` does."""
        if answer.object_id:
            self.check_turn(answer)
        else:
            self._log(answer)
        longest = TURN_PAUSE_S if answer.object_id else 1.0
        return Pause(min(next(self._pauses), longest))

    def _log(self, answer: ReserveReply) -> None:
        now = self._clock()
        self._equal_since = self._equal_since or now
        if now - self._equal_since >= SILENT_S and not self._is_logged:
            self._is_logged = True
            logger.warning(
                "Waiting for call %s, which is this very call and has not ended. If the process that made it "
                "is gone, that is known the vendor's timeout_s and %g seconds after it was sent; then this "
                "one finds out what came of it. Nothing is sent meanwhile",
                answer.message,
                GRANT_SECONDS,
            )

    def check_turn(self, answer: ReserveReply) -> None:
        """Raise SpendDenied (`in_doubt`) when a call has waited for its turn too long."""
        now = self._clock()
        self._turn_since = self._turn_since or now
        if now - self._turn_since >= TURN_SECONDS:
            who = f" (call {answer.message})" if answer.message else "s, one after the other,"
            raise denial(
                "in_doubt",
                f"another call{who} acts on {answer.object_id}, one call at a time does, and after "
                f"{TURN_SECONDS:.0f} seconds it is not this one's turn: nothing was sent; try again later",
                {"object_id": answer.object_id},
            )


def still_unknown(call_id: str, error: Exception) -> OutcomeUnknown:
    """Return the error of a call in doubt that could not be sent again."""
    return OutcomeUnknown(
        f"call {call_id} was sent before, and no reply came: it is in doubt and counts. "
        f"It could not be sent again now ({error}). Made again later, it is ended by what the "
        f"vendor says; or `spendguard resolve {call_id}`",
        call_id,
        again=True,
    )


def say_replayed(what: str, first_at: int) -> None:
    """Say in the task's log that `what` was answered before, at `first_at` (milliseconds since the epoch)."""
    logger.warning(
        "Replayed: %s was made before, answered at %s; nothing was sent or spent now",
        what,
        datetime.fromtimestamp(first_at / 1000, timezone.utc).isoformat(" ", "seconds"),
    )


def replayed(quote: Quote, answer: ReserveReply) -> Reply:
    """Return the answer that the call had before, and say so in the task's log."""
    say_replayed(f"{quote.operation} {quote.target or ''}".rstrip(), answer.first_at)
    headers = {**answer.answer_headers, REPLAYED: str(answer.first_at)}
    return Reply(answer.status, headers, answer.answer_body.encode("utf-8"))


def denied_by(answer: ReserveReply) -> SpendDenied:
    """Return the denial that the ledger has answered with."""
    if answer.verdict == "stale":
        return denial("ledger_unavailable", "the ledger knows a later request of this call: denied")
    return denial(answer.reason, answer.message, {**answer.facts, "call_id": answer.call_id})
