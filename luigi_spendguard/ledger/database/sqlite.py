"""`LedgerFile`: the books in a file of SQLite's.

WAL and `synchronous=FULL`, so that a committed reservation survives power loss, and
`BEGIN IMMEDIATE`, so that several processes may write one file (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peewee

from luigi_spendguard.errors import Conflict, LedgerUnavailable
from luigi_spendguard.ledger import database, forking
from luigi_spendguard.ledger.database import DAY_S, Database, Names, Tx, insertion, mistaken

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


_NO_UPDATE = (
    "CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal"
    " BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
)
_NO_DELETE = (
    "CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal"
    " BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
)
_CROWDED = (
    "more processes write to the ledger than it can serve: none of their transactions was long, but this one "
    "did not get its turn within {:g} s. Nothing was sent or lost. Use fewer workers at once, or one luigid "
    "for all of them"
)


#: Of a file: its device, its number there, and its size in bytes.
_Stood = tuple[int, int, int]


class LedgerFile(peewee.SqliteDatabase, Database):
    """The database at `path`, not yet connected, for one thread at a time; no fork inherits it.

    It is the file that stood there when this was made: another one of that name is never written to.
    """

    def __init__(self, path: Path, *, read_only: bool = False, busy_s: float = database.LOCK_SECONDS) -> None:
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
        self.path, self._path = path, str(path)
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

    @contextmanager
    def writing(self, names: Names = None) -> Iterator[Tx]:
        with translated(self.path):
            tx, gate = _begun(self)
            try:
                self.check_opened()
                yield tx
                tx.run("COMMIT")
                self.check()  # Else it may be durable in a file that nobody will find.
            except BaseException:
                # A failed COMMIT (a full disk) may have ended the transaction by itself.
                if self.handle().in_transaction:
                    tx.run("ROLLBACK")
                raise
            finally:
                forking.leave(gate)

    @contextmanager
    def reading(self, *, slow: bool = False) -> Iterator[Tx]:
        with translated(self.path), forking.transaction():
            self.check()
            yield FileTx(self)

    def is_used(self) -> bool:
        # Not while it is open here: that closes the index, and with it this process's locks of it.
        assert self.is_closed()
        return _has_others(f"{self.path}-shm")

    def translate(self, error: Exception) -> Exception:
        return translate(error, self.path)

    def prepare(self) -> None:
        prepare_file(self.path)

    def disconnect(self) -> None:
        forking.close(self)

    def give_up(self) -> None:
        """Nothing: a file answers."""

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


#: The byte of a WAL's index that all share who have the file open (SQLite's `UNIX_SHM_DMS`).
_SHARED_BYTE = 128


def _has_others(index: str) -> bool:
    try:
        descriptor = os.open(index, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _SHARED_BYTE)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


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


class FileTx(Tx):
    """A transaction of a file."""

    def __init__(self, db: LedgerFile) -> None:
        self._handle: Callable[..., Any] = db.handle().execute
        self._names = db.names

    def _execute(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        return self._handle(sql, _bound(sql, values))

    def insert(self, table: str, **values: Any) -> int:
        self.wrote = True
        return int(self._execute(insertion(table, *values), tuple(values.values())).lastrowid or 0)

    def insert_all(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        for values in rows:
            self.run(statement, *values)

    def take_time(self, seconds: float = DAY_S) -> None:
        """Nothing: nobody ends a file's transaction."""

    def has_tables(self, name: str = "") -> bool:
        return bool(self.value("SELECT 1 FROM sqlite_master WHERE ? IN ('', name) LIMIT 1", name))

    def number_on(self, table: str) -> None:
        """Nothing: a file goes on from the highest number."""

    def guard_journal(self) -> None:
        self.run(_NO_UPDATE)
        self.run(_NO_DELETE)

    @contextmanager
    def deleting_entries(self) -> Iterator[None]:
        self.run("DROP TRIGGER journal_no_delete")
        yield
        self.run(_NO_DELETE)


def _begun(db: LedgerFile) -> tuple[FileTx, forking.ForkGate]:
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
            tx = FileTx(db)
            try:
                tx.run("BEGIN IMMEDIATE")
                return tx, gate
            except sqlite3.OperationalError as error:
                now, seen = time.monotonic(), tx.value("PRAGMA data_version")
                moved = moved if version in (None, seen) else now
                version = seen
                if "locked" not in str(error) or now - moved >= database.LOCK_SECONDS:
                    raise
                if now - begun >= max(db.busy_s, database.LOCK_SECONDS):
                    raise LedgerUnavailable(_CROWDED.format(db.busy_s)) from error
        except BaseException:
            forking.leave(gate)
            raise
        forking.leave(gate)


_ADVICE: Sequence[tuple[str, str]] = (
    (
        "locked",
        "another program keeps its file locked (an open sqlite3 shell, a backup, a stopped process): "
        "let that program finish, and look with `fuser` who has the file open. Nothing was sent or "
        "lost, and it is tried again with the next call",
    ),
    ("full", "its disk is full: make room; nothing was sent or lost"),
    ("readonly", "{} is read-only for this user: mend its mode or its owner"),
    ("unable to open", "{} cannot be opened: mend the folder's mode or [spendguard] ledger_url"),
    ("not a database", "{} is not a ledger: set [spendguard] ledger_url to another file"),
    ("malformed", "{} is damaged: stop luigid and restore a backup"),
)


#: What an operation has said is nothing that a database takes: half a surrogate pair, or too much.
_NEVER = (sqlite3.DataError, peewee.DataError, UnicodeEncodeError, OverflowError)


#: What SQLite says of a statement that it cannot do; Python 3.10 has no code for it.
_MISTAKES = re.compile(
    "no such (?:column|function)|no column named|syntax error|incomplete input|ambiguous column"
    "|wrong number of arguments|misuse of|number of bindings"
)


def translate(error: Exception, path: Path) -> Exception:
    """Return an error of the engine with a file as LedgerUnavailable with advice, or LedgerFailed; any other
    (a constraint's) as it is.
    """
    if isinstance(error, _NEVER):  # At whichever try: nothing else waits for it.
        return Conflict(f"the ledger's database does not take what was said: {error}")
    if not isinstance(error, (peewee.DatabaseError, sqlite3.Error)):
        return error
    if isinstance(error, (peewee.IntegrityError, sqlite3.IntegrityError)):
        return error
    text = str(error)
    if _MISTAKES.search(text):
        return mistaken(error)
    advice = next((advice for word, advice in _ADVICE if word in text), text)
    return LedgerUnavailable(f"the ledger cannot be used now: {advice.replace('{}', str(path), 1)}")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the engine's errors with a file into LedgerUnavailable with advice."""
    try:
        yield
    except Exception as error:
        if (told := translate(error, path)) is error:
            raise
        raise told from error
