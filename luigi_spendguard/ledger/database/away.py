"""`Away`: remembers that the ledger's server cannot be reached, so that nobody else waits for it in vain."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from luigi_spendguard import backoff
from luigi_spendguard.errors import LedgerUnavailable, LedgerUnreached
from luigi_spendguard.ledger.database import Database
from luigi_spendguard.process_state import begin_thread

logger = logging.getLogger(__name__)

#: Seconds between two looks whether it is back: the first, and the longest.
_LOOK_S = (0.05, 0.5)


class Away:
    """What the writer and the readers of a ledger know of its server; safe under threads.

    Whoever has found it away says so (`learn`). From then on all others are told at once, while a thread of
    its own looks until it answers again.
    """

    def __init__(self, database: Callable[[], Database]) -> None:
        """`database`: makes a connection of its own to look with."""
        self._database = database
        self._why = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._looking: Database | None = None

    @property
    def why(self) -> LedgerUnreached | None:
        """Why it is away; None: it is there, as far as is known."""
        return LedgerUnreached(self._why) if self._why else None

    def learn(self, error: BaseException) -> None:
        """Take note of what has failed; only LedgerUnreached says that the server is away."""
        if not isinstance(error, LedgerUnreached) or self._over.is_set():
            return
        with self._lock:
            is_known, self._why = bool(self._why), str(error)
        if is_known:
            return
        logger.error("Until it is back nobody is kept waiting: %s", error)
        try:
            begin_thread(self._look, "spendguard-away")
        except RuntimeError:  # A program that has ended begins no thread.
            self._why = ""

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        if (database := self._looking) is not None:
            database.give_up()

    def _look(self) -> None:
        self._looking = database = self._database()
        waits = backoff.growing(*_LOOK_S)
        while not self._over.wait(next(waits)):
            try:
                with database.reading() as tx:
                    tx.value("SELECT 1")
                break
            except LedgerUnavailable as error:
                with self._lock:
                    self._why = str(error)
            except Exception:  # Whatever that is: those who ask hear it themselves.
                logger.exception("It cannot be looked whether the ledger's server is back")
                break
        with self._lock:
            self._why, self._looking = "", None
        with suppress(Exception):
            database.disconnect()
        if not self._over.is_set():
            logger.info("The ledger's server answers again")
