"""The one place that knows which database engine keeps the books.

SQLite: WAL and `synchronous=FULL`, so that a committed reservation survives power loss, and
`BEGIN IMMEDIATE`, so that several processes may write one file (https://sqlite.org/wal.html).
Statements use `?` and plain SQL; the database's clock sets times.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peewee

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger import forking

Row = dict[str, Any]

#: Milliseconds since the epoch, by the database's clock.
NOW = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
#: The UTC day, as `2026-11-23`, by the same clock.
TODAY = "strftime('%Y-%m-%d', 'now')"

#: How long a writer waits for another process's transaction, in seconds: less than a worker waits for
#: luigid (`client.GIVE_UP_S`), so that the worker hears why.
LOCK_SECONDS = 3


def database(path: Path) -> peewee.SqliteDatabase:
    """Return the database at `path`, not yet connected, for one thread at a time; no fork inherits it."""
    db = peewee.SqliteDatabase(
        str(path),
        pragmas={
            "journal_mode": "wal",
            "synchronous": "full",
            "foreign_keys": 1,
            "busy_timeout": LOCK_SECONDS * 1000,
            "cache_size": -16_000,
        },
        timeout=LOCK_SECONDS,
        # One connection for whoever uses it: a fork closes it, whichever thread has opened it.
        thread_safe=False,
        check_same_thread=False,
    )
    return forking.watched(db)


def prepare_file(path: Path) -> None:
    """Make the ledger's folder and file, readable by their owner alone. Raises LedgerUnavailable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LedgerUnavailable(
            f"the ledger {path} cannot be written: {error.strerror}. Set [spendguard] ledger_url in "
            "luigi.cfg to a file in a folder that this user may write"
        ) from None


class Tx:
    """A transaction: the few ways in which the ledger's operations talk to the database."""

    def __init__(self, db: peewee.SqliteDatabase) -> None:
        self._execute: Callable[..., Any] = db.connection().execute

    def run(self, sql: str, *values: Any) -> int:
        """Execute a statement and return how many rows it changed."""
        return int(self._execute(sql, values).rowcount)

    def insert(self, table: str, **values: Any) -> int:
        """Insert one row and return its rowid."""
        marks = ",".join("?" * len(values))
        sql = f"INSERT INTO {table} ({','.join(values)}) VALUES ({marks})"  # names are ours
        return int(self._execute(sql, tuple(values.values())).lastrowid or 0)

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Return all rows of a query."""
        cursor = self._execute(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def one(self, sql: str, *values: Any) -> Row | None:
        """Return the first row of a query, or None."""
        cursor = self._execute(sql, values)
        row = cursor.fetchone()
        if row is None:
            return None
        return dict(zip((column[0] for column in cursor.description), row, strict=True))

    def value(self, sql: str, *values: Any) -> Any:
        """Return the first column of the first row, or None."""
        row = self._execute(sql, values).fetchone()
        return None if row is None else row[0]

    def now(self) -> int:
        """Return the database's time in milliseconds since the epoch."""
        return int(self.value(f"SELECT {NOW}"))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what the block did when it raises, and nothing else."""
        self._execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK TO part")
            self._execute("RELEASE part")
            raise
        self._execute("RELEASE part")


@contextmanager
def writing(db: peewee.SqliteDatabase) -> Iterator[Tx]:
    """One durable write transaction. Raises LedgerUnavailable when it cannot be had or committed."""
    with translated(), forking.transaction():
        tx = Tx(db)
        tx.run("BEGIN IMMEDIATE")
        try:
            yield tx
            tx.run("COMMIT")
        except BaseException:
            # A failed COMMIT (a full disk) may have ended the transaction by itself.
            connection: sqlite3.Connection = db.connection()
            if connection.in_transaction:
                tx.run("ROLLBACK")
            raise


@contextmanager
def reading(db: peewee.SqliteDatabase) -> Iterator[Tx]:
    """Statements that change nothing; each sees what is committed. Raises LedgerUnavailable."""
    with translated(), forking.transaction():
        yield Tx(db)


_ADVICE: Sequence[tuple[str, str]] = (
    (
        "locked",
        "another program keeps its file locked (an open sqlite3 shell, a backup, a stopped process): "
        "let that program finish, and look with `fuser` who has the file open. Nothing was sent or "
        "lost, and it is tried again with the next call",
    ),
    ("full", "its disk is full: make room; nothing was sent or lost"),
    ("readonly", "it is read-only for this user: mend its mode or its owner"),
    ("unable to open", "it cannot be opened: mend the folder's mode or [spendguard] ledger_url"),
    ("not a database", "the file is not a ledger: set [spendguard] ledger_url to another file"),
    ("malformed", "the file is damaged: stop luigid and restore a backup"),
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the engine's errors into LedgerUnavailable with advice."""
    try:
        yield
    except (peewee.OperationalError, peewee.DatabaseError, sqlite3.Error) as error:
        if isinstance(error, (peewee.IntegrityError, sqlite3.IntegrityError)):
            raise
        text = str(error)
        advice = next((advice for word, advice in _ADVICE if word in text), text)
        raise LedgerUnavailable(f"the ledger cannot be used now: {advice}") from error
