"""`Notices`: hears at once that another process has changed what is decided by, at a PostgreSQL server.

It only spares who looks from time to time the wait: what it does not hear stops nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import psycopg

from luigi_spendguard import backoff
from luigi_spendguard.ledger.database.patience import at_most, cut
from luigi_spendguard.ledger.database.postgres import CHANNEL, patience
from luigi_spendguard.ledger.database.server_tx import ANSWER_S

logger = logging.getLogger(__name__)

#: Seconds for which its end is waited for.
_END_S = 5.0


class Notices:
    """Calls `heard` in a thread of its own whenever somebody has told, and when that may have been missed."""

    def __init__(self, url: str, heard: Callable[[], object]) -> None:
        self._url, self._heard = url, heard
        self._connection: psycopg.Connection[object] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="spendguard-listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and its connection."""
        self._over.set()
        if (connection := self._connection) is not None and not connection.closed:
            cut(connection.fileno())
        self._thread.join(_END_S)

    def _listen(self) -> None:
        waits, is_said = backoff.growing(*backoff.LATER), False
        while not self._over.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True, **patience(self._url)) as connection:
                    with at_most(connection, ANSWER_S):
                        if not _is_straight(connection):
                            text = "A pool is before the ledger's server: changes are looked for, not heard"
                            logger.info(text)
                            return
                        connection.execute(f"LISTEN {CHANNEL}".encode())
                    self._connection, waits, is_said = connection, backoff.growing(*backoff.LATER), False
                    self._hear(connection)
            except Exception as error:  # Whatever it is, nobody waits for it.
                if not is_said and not self._over.is_set():
                    is_said = True
                    text = "Changes of the ledger are looked for, not heard, until it is back: %s"
                    logger.warning(text, error)
            self._over.wait(next(waits))

    def _hear(self, connection: psycopg.Connection[object]) -> None:
        self._heard()  # What was told before is not told again.
        if not self._over.is_set():
            for _ in connection.notifies():
                self._heard()


def _is_straight(connection: psycopg.Connection[object]) -> bool:
    """Return whether the server itself answers: a pool's backend, which hears, is soon another client's."""
    row = connection.execute(b"SELECT pg_backend_pid()").fetchone()
    return row == (connection.info.backend_pid,)
