"""`LedgerServer`: the books in a database of a PostgreSQL server.

Isolation is READ COMMITTED (each statement sees the newest) under advisory locks, which a transaction holds
from its begin to its end. One that does not say what it touches has the lock of the books alone: nobody else
writes. One that does (`ledger.names`) shares that lock and has one of its own for each name, so that a hot
run does not make another one wait.

The order: the lock of the books, then those of the names by their numbers, all in the message that begins
the transaction; then, of rows that are anybody's, the day's budget alone, as late as can be (`late`). So two
transactions wait for each other at most around midnight, with budgets of two days: the server ends one of
them, and it is done again, alone. Nothing else may be written by what shares (`server_tx`). What is numbered
as it is written may become visible in another order then: `ServerTx.settled` is for who goes by it.

Reads take no lock. All state is the transaction's own, so that a pool such as PgBouncer may stand between
(https://www.pgbouncer.org/features.html).
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from luigi_spendguard import backoff
from luigi_spendguard.errors import Conflict, LedgerUnavailable, LedgerUnreached
from luigi_spendguard.ledger import database
from luigi_spendguard.ledger.database import (
    Database,
    Interrupted,
    Names,
    NotConnected,
    NotShared,
    Tx,
    mistaken,
)
from luigi_spendguard.ledger.database.dialect import SPOKEN_NOW, adapt
from luigi_spendguard.ledger.database.patience import StandsStill, at_most, cut
from luigi_spendguard.ledger.database.server_tx import ANSWER_S, BOOKS, ServerTx, Unsettled
from luigi_spendguard.ledger.database.statements import Statements
from luigi_spendguard.ledger.database.unreached import STANDS_STILL, remedy, unreached
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.settings.values import ledger_name

#: Seconds in which a server that is there takes a connection.
CONNECT_S = 3
#: Seconds after which the server ends the transaction of a process that stands still: all others wait for it.
STALLED_S = 10.0


class LedgerServer(Database):
    """The database at a URL, not yet connected, for one thread at a time; no fork inherits it."""

    shares: ClassVar[bool] = True
    most_names: ClassVar[int] = 200  # A server keeps some thousands of locks in all.

    def __init__(self, url: str, *, read_only: bool = False, busy_s: float = database.LOCK_SECONDS) -> None:
        """`busy_s`: how long its writer waits, at the most, while other processes' transactions end."""
        self.busy_s = max(busy_s, database.LOCK_SECONDS)
        self.names: dict[str, tuple[str, ...]] = {}
        self._unsettled: Unsettled = {}
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._statements: Statements | None = None
        #: Who writes here, and its last transaction: see `_has_landed`.
        self._writer, self._number = "", 0
        self._is_given_up = False
        #: No pool stands between.
        self._is_straight = False
        #: Its server keeps the lock.
        self._is_known = False
        #: The schema that the books are in: several may be in one database.
        self._schema = ""
        at_fork(self._forget)

    def _forget(self) -> None:
        # psycopg ends what another process has connected in that process alone.
        self._connection, self._statements, self._writer = None, None, ""

    def _connected(self) -> psycopg.Connection[Any]:
        """Return the connection, opened if need be. Raises psycopg.Error, LedgerUnavailable."""
        if self._is_given_up:
            raise LedgerUnavailable("its server has not answered, and this process ends")
        if self._connection is None or self._connection.closed:
            self._connection = None  # What fails now is that there is none.
            connection = psycopg.connect(
                self._url,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                client_encoding="UTF8",
                **patience(self._url),
            )
            adapt(connection)
            # A pool gives each transaction another backend, where a statement's name may be another client's.
            # It takes connections itself: its server may stand still all the same.
            try:
                with at_most(connection, ANSWER_S):
                    found = connection.execute(b"SELECT pg_backend_pid(), current_schema()").fetchone()
                    assert found is not None
                    is_straight, self._schema = found[0] == connection.info.backend_pid, str(found[1])
                    if is_straight:  # Else its server goes on waiting when we have cut it off.
                        connection.execute(_LOCKED_READS)
            except BaseException:
                connection.close()
                raise
            connection.prepare_threshold = None  # `Statements` does.
            self._statements = Statements(connection, prepares=is_straight)
            self._connection, self._is_straight = connection, is_straight
        return self._connection

    def _said(self) -> Statements:
        """Return what is said over the connection, as `_connected`."""
        self._connected()
        assert self._statements is not None
        self._statements.drop()  # A transaction that was undone may have left some.
        return self._statements

    @contextmanager
    def writing(self, names: Names = None) -> Iterator[Tx]:
        # A process's first transaction is alone: there may be no tables yet.
        held = names if self._writer and self._is_known and len(names or ()) <= self.most_names else None
        with self._translated():
            statements = self._begun(held)
            connection = statements.connection
            tx = ServerTx(statements, self.names, held, waits_s=self.busy_s, begins=held is not None)
            tx.answer_s = database.LOCK_SECONDS + ANSWER_S  # It may wait for a row.
            try:
                yield tx
            except BaseException:
                _undo(connection)
                raise
            try:
                tx.end()
            except NotShared:
                _undo(connection)
                raise
            except psycopg.Error as error:
                if not connection.closed and not connection.broken:
                    _undo(connection)
                    raise
                if not isinstance(error, psycopg.OperationalError):
                    raise
                if not self._has_landed(error):
                    raise Interrupted(f"the ledger's server ended a transaction: {_line(error)}") from error
            if tx.tells:
                self._tell()

    def _tell(self) -> None:
        """Let other processes know that something was committed, in a transaction of its own.

        All that notify commit one after the other. Without it they find it a moment later.
        """
        connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error), at_most(connection, ANSWER_S):
                connection.execute(TELL)

    def _begun(self, names: Names = None) -> Statements:
        """Begin a transaction when no other one writes (what `names` stand for). Raises psycopg.Error.

        One with names begins with its first statement: that goes along.
        """
        statements = self._said()
        connection = statements.connection
        if names is not None:
            for text, values in self._beginning(names):
                statements.put(text, values)
            return statements
        begin = _BEGIN % {b"wait": int(1000 * self.busy_s), b"idle": int(1000 * STALLED_S)}
        try:
            with at_most(connection, self.busy_s + ANSWER_S):
                connection.execute(begin + self._numbered())  # In one message.
                if not self._is_known:
                    self._check(connection)
                if not self._writer and ServerTx(statements, {}).has_tables("writer"):
                    self._writer, self._number = uuid.uuid4().hex, 0
                    connection.execute(_FORGET_WRITERS + self._numbered())
        except BaseException:  # It has begun where it waited in vain: the next one could not.
            _undo(connection)
            raise
        return statements

    def _numbered(self) -> bytes:
        """Return what leaves a transaction's number, where there is a table for it."""
        if not self._writer:
            return b""
        self._number += 1
        number = _NUMBERED_NOW % {b"writer": b"'%s'" % self._writer.encode(), b"number": b"%d" % self._number}
        return b"; " + number

    def _beginning(self, names: frozenset[str]) -> Iterator[tuple[bytes, list[Any]]]:
        """Yield what begins a transaction that has some names to itself, in the order of their numbers."""
        numbers = sorted({_number_of(f"{self._schema} {name}") for name in names})
        yield _BEGIN_SHARED, []
        yield _SHARE, [str(int(1000 * self.busy_s)), str(int(1000 * STALLED_S))]
        if numbers:
            yield _OWN, [f"{{{','.join(map(str, numbers))}}}"]
        self._number += 1
        yield _NUMBERED_HERE, [self._writer, self._number]

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        """Look once whether its server keeps the lock, and all texts. Raises LedgerUnavailable."""
        if connection.execute(_IS_LOCKED).fetchone() is None:
            raise LedgerUnavailable(
                "its server keeps no advisory locks: let [spendguard] ledger_url lead to PostgreSQL itself"
            )
        encoding = connection.execute(b"SELECT current_setting('server_encoding')").fetchone()
        if encoding != ("UTF8",):
            raise LedgerUnavailable(
                f"{ledger_name(self._url)} keeps texts as {encoding and encoding[0]}, which has not all that "
                "vendors say: make another one, `createdb -E UTF8 -T template0 NAME`, and let "
                "[spendguard] ledger_url name that"
            )
        self._is_known = True

    def _has_landed(self, error: Exception) -> bool:
        """Return whether the transaction is durable whose commit was not acknowledged.

        It is looked up under the lock that it held: while its backend is still at it, it is waited for.
        Raises LedgerUnavailable where that cannot be known now.
        """
        writer, number = self._writer, self._number
        limit = time.monotonic() + ANSWER_S
        for wait_s in backoff.growing(0.05, 1.0):
            try:
                connection = self._begun().connection
                with at_most(connection, ANSWER_S):
                    row = connection.execute(b"SELECT before FROM writer WHERE id = $1", [writer]).fetchone()
                    connection.execute(b"ROLLBACK")
            except psycopg.Error as found:
                if time.monotonic() > limit or isinstance(found, _STILL):
                    break
                time.sleep(wait_s)
            else:
                if row is None:
                    self._writer = ""
                # `_begun` has counted this look itself: what stands there before it says what was.
                return row is not None and row[0] == number
        self._writer = ""
        raise LedgerUnavailable(
            f"the ledger's PostgreSQL went away while it was written to ({_line(error)}), and whether that "
            "has been written is not known yet: it is asked again by the call's id"
        ) from error

    @contextmanager
    def reading(self, *, slow: bool = False) -> Iterator[Tx]:
        with self._translated():
            tx = ServerTx(self._said(), self.names, unsettled=self._unsettled)
            tx.answer_s = database.MINUTE_S if slow else ANSWER_S
            yield tx

    def is_used(self) -> bool:
        # A pool keeps connections of those that have gone: what it shows says nothing.
        with self._translated():
            connection = self._connected()
            if not self._is_straight:
                return False
            limit = time.monotonic() + _ENDING_S
            with at_most(connection, _ENDING_S + ANSWER_S):
                while connection.execute(_OTHERS).fetchone() is not None:
                    if time.monotonic() > limit:
                        return True
                    time.sleep(0.1)
            return False

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the engine's errors into LedgerUnavailable with advice, or Interrupted."""
        try:
            yield
        except psycopg.Error as error:
            if (told := self.translate(error)) is error:
                raise
            raise told from error

    def translate(self, error: Exception) -> Exception:
        if isinstance(error, _NEVER):  # At whichever try: nothing else waits for it.
            return Conflict(f"the ledger's database does not take what was said: {_line(error)}")
        if not isinstance(error, psycopg.Error) or isinstance(error, psycopg.IntegrityError):
            return error
        if isinstance(error, _STILL):  # Whoever waits is told: again would take as long.
            return LedgerUnreached(
                str(error) if isinstance(error, StandsStill) else unreached(_line(error), STANDS_STILL)
            )
        if isinstance(error, psycopg.ProgrammingError) and not isinstance(error, _OPERATORS):
            return mistaken(error)
        known = (advice for kind, advice in _ADVICE.items() if isinstance(error, kind))
        text = f"the ledger cannot be used now: {next(known, _line(error))}"
        connection = self._connection
        if connection is None and isinstance(error, psycopg.OperationalError):
            what = remedy(_line(error))
            text = unreached(_line(error), what.text)
            return LedgerUnreached(text) if what.lasts else NotConnected(text)
        is_lost = connection is None or connection.closed or connection.broken
        if isinstance(error, _AGAIN) or (is_lost and isinstance(error, psycopg.OperationalError)):
            return Interrupted(text)
        return LedgerUnavailable(text)

    def prepare(self) -> None:
        """Nothing: the database is made by who runs the server."""

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def give_up(self) -> None:
        self._is_given_up = True
        if (connection := self._connection) is not None:
            with suppress(psycopg.Error):
                cut(connection.fileno())


def _undo(connection: psycopg.Connection[Any]) -> None:
    with suppress(psycopg.Error), at_most(connection, ANSWER_S):
        connection.execute(b"ROLLBACK")


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _number_of(text: str) -> int:
    """Return the number of an advisory lock."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


#: The name under which processes let each other know, and the statement that does; nothing waits for a disk.
CHANNEL = "luigi_spendguard"
TELL = f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', '')".encode()
#: Begins a transaction that writes; alone, and beside others.
_BEGIN_SHARED = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_BEGIN = (
    _BEGIN_SHARED + b"; SET LOCAL lock_timeout = %(wait)d;"
    b" SET LOCAL synchronous_commit = on; SET LOCAL idle_in_transaction_session_timeout = %(idle)d;"
    b" SELECT pg_advisory_xact_lock(" + BOOKS + b")"
)
_SHARE = (
    b"SELECT set_config('lock_timeout', $1, true), set_config('synchronous_commit', 'on', true),"
    b" set_config('idle_in_transaction_session_timeout', $2, true), pg_advisory_xact_lock_shared("
    + BOOKS
    + b")"
)
#: Numbers of locks, in the order in which they are taken.
_OWN = b"SELECT pg_advisory_xact_lock(number) FROM unnest(CAST(CAST($1 AS text) AS bigint[])) AS own (number)"
#: Reads wait so long for a table that somebody has locked.
_LOCKED_READS = f"SET lock_timeout = {1000 * database.LOCK_SECONDS}".encode()
#: Seconds in which a connection that was closed is gone, and whether there are others.
_ENDING_S = 2.0
_OTHERS = (
    b"SELECT 1 FROM pg_catalog.pg_stat_activity WHERE application_name = 'luigi_spendguard'"
    b" AND datname = current_database() AND pid <> pg_backend_pid() LIMIT 1"
)
_IS_LOCKED = (
    b"SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()"
)
#: Each transaction leaves its number, and that of the one before: see `_has_landed`. Its row is not there yet
#: where those before were undone, or any more.
_NUMBERED_NOW = (
    f"INSERT INTO writer (id, last, before, at) VALUES (%(writer)s, %(number)s, 0, {SPOKEN_NOW})"
    " ON CONFLICT (id) DO UPDATE SET before = writer.last, last = EXCLUDED.last, at = EXCLUDED.at"
).encode()
_NUMBERED_HERE = _NUMBERED_NOW % {b"writer": b"$1", b"number": b"$2"}
_FORGET_WRITERS = f"DELETE FROM writer WHERE at < {SPOKEN_NOW} - 86400000".encode()
#: What an operation has said is nothing that a database takes (NUL, half a surrogate pair), or is too long.
_NEVER = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, UnicodeEncodeError)
#: A statement is refused that is right: tables, or leave to use them, were taken away.
_OPERATORS = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InvalidCatalogName,
)
#: A server that is there, but says nothing.
_STILL = (StandsStill, psycopg.errors.ConnectionTimeout)
#: Ends a transaction of which nothing was decided.
_AGAIN = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.AdminShutdown,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.InterfaceError,
    psycopg.errors.FeatureNotSupported,  # A table has another column by now: what was prepared is forgotten.
    psycopg.errors.OutOfMemory,  # Of locks: alone it takes one.
)
_ADVICE: Mapping[type[Exception], str] = {
    psycopg.errors.LockNotAvailable: (
        "more processes write to it than it can serve, or one holds its lock: look at pg_stat_activity. "
        "Nothing was sent or lost, and it is tried again with the next call"
    ),
    psycopg.errors.DiskFull: "the disk of its server is full: make room; nothing was sent or lost",
    psycopg.errors.ReadOnlySqlTransaction: (
        "its server takes no writes (a standby?): let [spendguard] ledger_url lead to the primary"
    ),
}


def patience(url: str) -> dict[str, Any]:
    """Return how long a server that says nothing is waited for, where the URL does not say it."""
    said = conninfo_to_dict(url)
    usual = {
        "connect_timeout": CONNECT_S,
        "keepalives_idle": 2,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": 5000,
        "application_name": "luigi_spendguard",
    }
    return {name: value for name, value in usual.items() if name not in said}
