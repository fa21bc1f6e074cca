"""Whether a worker that was given no task stays: for what waits, or with `on_blocked = wait` is blocked."""

from __future__ import annotations

import logging
import time

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http.ledger_client import LedgerClient
from luigi_spendguard.protocol.rpcs import BlockedRequest, BlockedTasks

logger = logging.getLogger(__name__)

#: Seconds for which the scheduler is asked to wait until something is freed.
WAIT_S = 4
#: Seconds after which its answer counts as one that was waited for.
_WAITED_S = 1.0
#: Seconds for which its last answer holds while it cannot be reached: as long as Luigi's own retries.
KEPT_S = 90.0
#: Looks at the same tasks, ready but not handed out, after which they are left to other workers.
_LOOKS = 3


class Staying:
    """What a worker has heard of its tasks since it was last given one.

    Attributes:
        waited: the scheduler was waited for, or has news: no need to sleep as well.
        why: why its tasks are blocked, as `LedgerClient.blocked` has answered last.

    """

    def __init__(self) -> None:
        self.waited = False
        self.why: tuple[BlockedTasks, ...] = ()
        self._counts: tuple[int, ...] = ()
        self._looks = 0
        self._stays: bool | None = None
        self._heard = 0.0

    def given_work(self) -> None:
        """Begin again: the worker was given a task."""
        self._counts, self._looks = (), 0

    def stays(self, ledger: LedgerClient, worker: str, waits: bool) -> bool:
        """Ask the scheduler whether to stay; `waits`: for what is blocked too. Raises SpendguardError."""
        begun = time.monotonic()
        try:
            # The first look is at once: what is waited for is said before it is waited for.
            wait_s = WAIT_S if waits and self._counts else 0
            reply = ledger.blocked(BlockedRequest(worker, wait_s))
        except LedgerUnavailable as error:
            self.waited = False
            logger.debug("The scheduler does not say what is blocked: %s", error)
            if self._stays is None:
                self._stays, self._heard = waits, begun
            return self._stays and begun - self._heard < KEPT_S
        self._heard, self.why = time.monotonic(), reply.why
        counts = (reply.blocked, reply.ready, reply.waiting)
        news = counts != self._counts
        self._counts, self._looks = counts, 1 if news else self._looks + 1
        self.waited = waits and (news or self._heard - begun >= _WAITED_S)
        # What waits for another worker's tasks to end is not blocked, and never waits for ever. What is ready
        # became so after `get_work`, or Luigi itself holds it back: it is asked again, but not for ever.
        tries = reply.ready > 0 and self._looks < _LOOKS
        self._stays = bool(reply.waiting or tries or (waits and (reply.blocked or reply.ready)))
        return self._stays
