"""Which engine keeps the books of a place; the other one is not imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger.database import LOCK_SECONDS, Database, Place


def database_of(place: Place, *, read_only: bool = False, busy_s: float = LOCK_SECONDS) -> Database:
    """Return the database at a path, or of a server's URL (`postgresql://…`), not yet connected.

    `busy_s`: how long its writer waits, at the most, while other processes' transactions end. Raises
    LedgerUnavailable where what it needs is not installed.
    """
    if isinstance(place, Path):
        from luigi_spendguard.ledger.database.sqlite import LedgerFile  # Its own base stands above.

        return LedgerFile(place, read_only=read_only, busy_s=busy_s)
    try:
        from luigi_spendguard.ledger.database.postgres import LedgerServer
    except ImportError as error:
        raise LedgerUnavailable(
            f"a ledger at a PostgreSQL server needs psycopg ({error}): install luigi-spendguard[postgres]"
        ) from None
    return LedgerServer(place, read_only=read_only, busy_s=busy_s)


class CanClose(Protocol):
    """Goes on until it is closed."""

    def close(self) -> None:
        """End it."""


def listening(place: Place, heard: Callable[[], object]) -> CanClose | None:
    """Let `heard` be called, in another thread, soon after a process has told (`Tx.tells`); None: of a file.

    It may be called for nothing, and is not called while the server is away: who needs to know looks, too.
    """
    if isinstance(place, Path):
        return None
    from luigi_spendguard.ledger.database.listening import Notices  # It needs psycopg.

    return Notices(place, heard)


@contextmanager
def opened(place: Place, *, read_only: bool = False) -> Iterator[Database]:
    """Return the database of a place for the block."""
    database = database_of(place, read_only=read_only)
    try:
        yield database
    finally:
        database.disconnect()
