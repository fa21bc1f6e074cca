"""The one place that knows which database engine keeps the books.

SQLite: WAL and `synchronous=FULL`, so that a committed reservation survives power loss, and
`BEGIN IMMEDIATE`, so that several processes may write one file (https://sqlite.org/wal.html).
Statements use `?` and plain SQL; the database's clock sets times.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
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

#: Of `call`: not one that the vendor has declined. What such a one left open at the vendor goes on counting,
#: so that it is settled, but it was not made: the next try is another call.
NOT_DECLINED = "NOT call.declined"

#: A clock may be set back. What is stored as so many milliseconds later than now is from the future: nobody
#: knows how long ago it was, and it is over.
SKEW_MS = 2000


def is_over(since: int, lasts_ms: int, now: int) -> bool:
    """Return whether what began at `since` and lasts so long is over; all in milliseconds."""
    return now >= since + lasts_ms or since > now + SKEW_MS


def over(since: str, lasts_ms: str) -> str:
    """Return `is_over` of two columns (or terms of them) as a condition."""
    return f"({since} + {lasts_ms} <= {NOW} OR {since} > {NOW} + {SKEW_MS})"


#: How long a writer waits for another process's transaction, in seconds: less than a worker waits for
#: luigid (`ledger_client.GIVE_UP_S`), so that the worker hears why.
LOCK_SECONDS = 3
#: Seconds for which SQLite itself tries to begin, by and by less often, before a fork gets its turn.
_TRY_S = 0.2


_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": 1,
    "cache_size": -16_000,
}
_GONE = (
    "the ledger {} was deleted, replaced or cut off while this process had it open. Nothing is granted: "
    "it would be lost. Put the file back, or a backup of it, and start luigid again"
)


_CROWDED = (
    "more processes write to the ledger than it can serve: none of their transactions was long, but this one "
    "did not get its turn within {:g} s. Nothing was sent or lost. Use fewer workers at once, or one luigid "
    "for all of them"
)


@cache
def insertion(table: str, *columns: str) -> str:
    """Return the statement that inserts one row of these columns."""
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})"


#: Of a file: its device, its number there, and its size in bytes.
_Stood = tuple[int, int, int]


class LedgerFile(peewee.SqliteDatabase):
    """The database at `path`, not yet connected, for one thread at a time; no fork inherits it.

    It is the file that stood there when this was made: another one of that name is never written to.
    """

    def __init__(self, path: Path, *, read_only: bool = False, busy_s: float = LOCK_SECONDS) -> None:
        """`busy_s`: how long its writer waits, at the most, while other processes' transactions end."""
        super().__init__(
            # A file that is gone is not made anew.
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
            uri=True,
            pragmas={} if read_only else {**_PRAGMAS, "busy_timeout": int(1000 * _TRY_S)},
            timeout=_TRY_S,
            # One connection for whoever uses it: a fork closes it, whichever thread has opened it.
            thread_safe=False,
            check_same_thread=False,
        )
        self.busy_s = busy_s
        #: The names of each statement's columns; another file may have them in another order.
        self.names: dict[str, tuple[str, ...]] = {}
        self._path = str(path)
        self._opened = _stood(self._path)
        self._of: object = None
        self._beside: dict[str, _Stood | None] = dict.fromkeys((f"{path}-wal", f"{path}-shm"))
        forking.watch(self)

    def handle(self) -> sqlite3.Connection:
        """Return the connection, opened if need be."""
        connection: sqlite3.Connection = peewee.Database.connection(self)
        return connection

    def check(self) -> None:
        """Look whether the files are those that were opened. Raises LedgerUnavailable.

        SQLite would go on with files that have no name any more. Beside an open connection stand its WAL and
        the index of that, which never shrink while it is open. The index is mapped memory: reading what was
        cut off it would end the process by SIGBUS (https://sqlite.org/walformat.html).
        """
        self._compare(self._path, self._opened)
        connection = None if self.is_closed() else self.handle()
        if connection is not self._of:
            self._of, self._beside = connection, dict.fromkeys(self._beside)
        if connection is not None:
            for path, before in self._beside.items():
                self._beside[path] = self._compare(path, before) or before

    def check_opened(self) -> None:
        """Look at what stands beside a connection that was opened just now. Raises LedgerUnavailable."""
        if self._of is not self.handle():
            self.check()

    def _compare(self, path: str, before: _Stood | None) -> _Stood | None:
        now = _stood(path)
        # Of the file itself it is enough that it is not empty: it may be made smaller.
        least = 0 if before is None else min(1, before[2]) if path is self._path else before[2]
        if before is None or (now is not None and now[:2] == before[:2] and now[2] >= least):
            return now
        raise LedgerUnavailable(_GONE.format(self._path))


def _stood(path: str) -> _Stood | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size


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


#: Python 3.12.0 to 3.12.3 take `?1` for a name, and warn of a sequence (a bug of theirs, gh-117995).
_TAKES_FOR_NAMES = (3, 12, 0) <= sys.version_info < (3, 12, 4)


def _bound(sql: str, values: tuple[Any, ...]) -> Any:
    """Return the values of a statement as its marks want them."""
    if _TAKES_FOR_NAMES and "?1" in sql:
        return {str(number): value for number, value in enumerate(values, 1)}
    return values


class Tx:
    """A transaction: the few ways in which the ledger's operations talk to the database.

    A statement's text is prepared once, so what changes belongs into its values.

    Attributes:
        actor: who asks for the operation in person, kept with what it journals; "": nobody.
        wrote: whether a statement was executed that may have changed something.

    """

    actor: str = ""
    wrote: bool = False

    def __init__(self, db: LedgerFile) -> None:
        self._execute: Callable[..., Any] = db.handle().execute
        self._names = db.names

    def run(self, sql: str, *values: Any) -> int:
        """Execute a statement and return how many rows it changed."""
        self.wrote = True
        return int(self._execute(sql, _bound(sql, values)).rowcount)

    def insert(self, table: str, **values: Any) -> int:
        """Insert one row and return its rowid."""
        self.wrote = True
        return int(self._execute(insertion(table, *values), tuple(values.values())).lastrowid or 0)

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Return all rows of a query."""
        cursor = self._execute(sql, _bound(sql, values))
        rows = cursor.fetchall()
        if not rows:
            return []
        names = self._names_of(sql, cursor, len(rows[0]))
        return [dict(zip(names, row, strict=True)) for row in rows]

    def one(self, sql: str, *values: Any) -> Row | None:
        """Return the first row of a query, or None."""
        cursor = self._execute(sql, _bound(sql, values))
        row = cursor.fetchone()
        return None if row is None else dict(zip(self._names_of(sql, cursor, len(row)), row, strict=True))

    def values(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row of a query without the names of its columns, or None."""
        row: tuple[Any, ...] | None = self._execute(sql, _bound(sql, values)).fetchone()
        return row

    def value(self, sql: str, *values: Any) -> Any:
        """Return the first column of the first row, or None."""
        row = self._execute(sql, _bound(sql, values)).fetchone()
        return None if row is None else row[0]

    def _names_of(self, sql: str, cursor: Any, count: int) -> tuple[str, ...]:
        names = self._names.get(sql)
        if names is None or len(names) != count:  # A newer version may add columns to an open file.
            names = self._names[sql] = tuple(column[0] for column in cursor.description)
        return names

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
def writing(db: LedgerFile) -> Iterator[Tx]:
    """One durable write transaction. Raises LedgerUnavailable when it cannot be had or committed."""
    with translated():
        tx, gate = _begun(db)
        try:
            db.check_opened()
            yield tx
            tx.run("COMMIT")
            db.check()  # Else it may be durable in a file that nobody will find.
        except BaseException:
            # A failed COMMIT (a full disk) may have ended the transaction by itself.
            if db.handle().in_transaction:
                tx.run("ROLLBACK")
            raise
        finally:
            forking.leave(gate)


def _begun(db: LedgerFile) -> tuple[Tx, forking.ForkGate]:
    """Begin a transaction; return it with the gate that keeps forks waiting until it is left.

    A fork need not wait while this process waits for another. Where many processes write, each gets its
    turn: it waits as long as others' transactions end, `busy_s` at the most, and LOCK_SECONDS for one that
    does not.
    """
    begun = moved = time.monotonic()
    version = None
    while True:
        gate = forking.enter()
        try:
            db.check()
            tx = Tx(db)
            try:
                tx.run("BEGIN IMMEDIATE")
                return tx, gate
            except sqlite3.OperationalError as error:
                now, seen = time.monotonic(), tx.value("PRAGMA data_version")
                moved = moved if version in (None, seen) else now
                version = seen
                if "locked" not in str(error) or now - moved >= LOCK_SECONDS:
                    raise
                if now - begun >= max(db.busy_s, LOCK_SECONDS):
                    raise LedgerUnavailable(_CROWDED.format(db.busy_s)) from error
        except BaseException:
            forking.leave(gate)
            raise
        forking.leave(gate)


@contextmanager
def reading(db: LedgerFile) -> Iterator[Tx]:
    """Statements that change nothing; each sees what is committed. Raises LedgerUnavailable."""
    with translated(), forking.transaction():
        db.check()
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


def translate(error: Exception) -> Exception:
    """Return an error of the engine as LedgerUnavailable with advice; any other (a constraint's) as it is."""
    if not isinstance(error, (peewee.DatabaseError, sqlite3.Error)):
        return error
    if isinstance(error, (peewee.IntegrityError, sqlite3.IntegrityError)):
        return error
    text = str(error)
    advice = next((advice for word, advice in _ADVICE if word in text), text)
    return LedgerUnavailable(f"the ledger cannot be used now: {advice}")


@contextmanager
def translated() -> Iterator[None]:
    """Turn the engine's errors into LedgerUnavailable with advice."""
    try:
        yield
    except Exception as error:
        if (told := translate(error)) is error:
            raise
        raise told from error
