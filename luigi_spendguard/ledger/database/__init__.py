"""What differs between database engines is in this folder: `sqlite` keeps the books in a file, `postgres` in
a server's database.

The operations are written once, in the SQL that both take: `?` or `?1` for a value, times by the database's
clock. `postgres` says in its own words what PostgreSQL calls otherwise. In a file one transaction writes at a
time, so that an operation decides by what is there and nothing changes meanwhile. At a server that is true
of what a transaction has for itself: all of the books or, where its operations have said so, what some names
stand for (`ledger.names`).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from luigi_spendguard import backoff
from luigi_spendguard.errors import LedgerFailed, LedgerUnavailable, LedgerUnreached
from luigi_spendguard.ledger.database.late import LateChanges

R = TypeVar("R")
T = TypeVar("T")
Row = dict[str, Any]
#: What a transaction has for itself, by names; None: all of the books.
Names = frozenset[str] | None
#: Where the books are kept: the path of a file, or the URL of a server's database.
Place = Path | str

#: Milliseconds since the epoch, by the database's clock.
NOW = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
#: The UTC day, as `2026-11-23`, by the same clock.
TODAY = "strftime('%Y-%m-%d', 'now')"

#: The beginning of a UTC day, a value's mark, in milliseconds since the epoch.
MIDNIGHT = "CAST(strftime('%s', {}) AS INTEGER) * 1000"

#: Of `call`: not one that the vendor has declined. What such a one left open at the vendor goes on counting,
#: so that it is settled, but it was not made: the next try is another call.
NOT_DECLINED = "call.declined = 0"

#: A clock may be set back. What is stored as so many milliseconds later than now is from the future: nobody
#: knows how long ago it was, and it is over.
SKEW_MS = 2000

#: How long a writer waits for another process's transaction, in seconds: less than a worker waits for
#: luigid (`ledger_client.GIVE_UP_S`), so that the worker hears why.
LOCK_SECONDS = 3

#: Seconds for what reads or writes many rows while luigid runs, and for what is done beside it.
MINUTE_S, DAY_S = 60.0, 86400.0


def is_over(since: int, lasts_ms: int, now: int) -> bool:
    """Return whether what began at `since` and lasts so long is over; all in milliseconds."""
    return now >= since + lasts_ms or since > now + SKEW_MS


def over(since: str, lasts_ms: str) -> str:
    """Return `is_over` of two columns (or terms of them) as a condition."""
    return f"({since} + {lasts_ms} <= {NOW} OR {since} > {NOW} + {SKEW_MS})"


@cache
def insertion(table: str, *columns: str) -> str:
    """Return the statement that inserts one row of these columns."""
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})"


class Interrupted(LedgerUnavailable):
    """A transaction has ended before anything of it was decided, and may be done again at once."""


def mistaken(error: Exception) -> LedgerFailed:
    """Return what is said of a statement that the database cannot do: it is wrong, and nothing is away."""
    line = str(error).strip().partition("\n")[0]
    failed = LedgerFailed(f"the ledger has failed at this, by a mistake of ours (the log has more): {line}")
    failed.__cause__ = error
    return failed


class NotConnected(Interrupted):
    """There is no connection to the ledger's server."""


def again(act: Callable[[], R]) -> R:
    """Do what may be interrupted before anything of it is decided. Raises LedgerUnavailable after a time."""
    limit = math.inf
    for wait_s in backoff.growing(0.02, 0.5):
        try:
            return act()
        except Interrupted as error:
            limit = min(limit, time.monotonic() + LOCK_SECONDS)
            if time.monotonic() >= limit:
                away = isinstance(error, NotConnected)
                raise (LedgerUnreached if away else LedgerUnavailable)(str(error)) from error
            time.sleep(wait_s)
    raise AssertionError("there is always another wait")


class NotHeld(Exception):
    """An operation came to what its transaction does not have for itself: it is done again, alone."""


class NotShared(NotHeld):
    """It came to what nobody shares, whatever was foreseen."""


class Tx(ABC):
    """A transaction: the few ways in which the ledger's operations talk to the database.

    A statement's text is prepared once, so what changes belongs into its values.

    Attributes:
        actor: who asks for the operation in person, kept with what it journals; "": nobody.
        wrote: whether a statement was executed that may have changed something.
        tells: whether other processes are to hear at once that it was committed, where they can.
        held: what nobody else changes before it ends; None: all of the books (or it only reads).
        late: what it changes as it ends; None: it changes everything at once.
        for_update: ends a query whose rows nobody else is to change before this transaction ends.

    """

    actor: str = ""
    wrote: bool = False
    tells: bool = False
    held: Names = None
    late: LateChanges | None = None
    for_update: ClassVar[str] = ""

    #: The names of each statement's columns; another file may have them in another order.
    _names: dict[str, tuple[str, ...]]

    @abstractmethod
    def _execute(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        """Execute a statement; return a cursor."""

    @abstractmethod
    def insert(self, table: str, **values: Any) -> int:
        """Insert one row; return its `id` where the database numbers the table's rows by that."""

    @abstractmethod
    def insert_all(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute an `insertion` once for each row's values."""

    @abstractmethod
    def take_time(self, seconds: float = DAY_S) -> None:
        """Let each of its statements last so long, and this transaction stand still between them.

        All that write wait for one that writes: unasked, it has the few seconds that a call is let wait.
        """

    @abstractmethod
    def has_tables(self, name: str = "") -> bool:
        """Return whether there is a table of that name; without one, whether there is any."""

    @abstractmethod
    def number_on(self, table: str) -> None:
        """Let rows that are made from now on have higher numbers than those that were copied into a table."""

    @abstractmethod
    def guard_journal(self) -> None:
        """Let no entry of the journal be changed or deleted from now on."""

    @abstractmethod
    def deleting_entries(self) -> AbstractContextManager[None]:
        """Let entries of the journal be deleted in the block: pruning puts others in their place."""

    def run(self, sql: str, *values: Any) -> int:
        """Execute a statement and return how many rows it changed."""
        self.wrote = True
        return int(self._execute(sql, values).rowcount)

    def later(self, sql: str, *values: Any) -> None:
        """Execute a statement that changes rows, of which nothing is asked: it may go with the next one."""
        self.run(sql, *values)

    def ahead(self, sql: str, *values: Any) -> None:
        """Let a query go with the next one: it will be asked, with these values, before a change is made."""
        return  # A file answers at once.

    def change(self, sql: str, *values: Any) -> Any:
        """Execute a statement that changes rows; return the first column of the first row that it returns."""
        self.wrote = True
        row = self._execute(sql, values).fetchone()
        return None if row is None else row[0]

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Return all rows of a query."""
        cursor = self._execute(sql, values)
        rows = cursor.fetchall()
        if not rows:
            return []
        names = self._names_of(sql, cursor, len(rows[0]))
        return [dict(zip(names, row, strict=True)) for row in rows]

    def one(self, sql: str, *values: Any) -> Row | None:
        """Return the first row of a query, or None."""
        cursor = self._execute(sql, values)
        row = cursor.fetchone()
        return None if row is None else dict(zip(self._names_of(sql, cursor, len(row)), row, strict=True))

    def values(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """Return the first row of a query without the names of its columns, or None."""
        row: tuple[Any, ...] | None = self._execute(sql, values).fetchone()
        return row

    def value(self, sql: str, *values: Any) -> Any:
        """Return the first column of the first row, or None."""
        row = self._execute(sql, values).fetchone()
        return None if row is None else row[0]

    def _names_of(self, sql: str, cursor: Any, count: int) -> tuple[str, ...]:
        names = self._names.get(sql)
        if names is None or len(names) != count:  # A newer version may add columns to an open file.
            names = self._names[sql] = tuple(column[0] for column in cursor.description)
        return names

    def check(self, *names: str) -> None:
        """Raise NotHeld unless nobody else changes what these names stand for before this ends."""
        if self.held is not None and not self.held.issuperset(names):
            raise NotHeld(f"not held: {', '.join(sorted({*names} - self.held))}")

    def check_alone(self, what: str) -> None:
        """Raise NotHeld unless nobody else writes before this ends; `what`: why that has to be."""
        if self.held is not None:
            raise NotShared(what)

    def settled(self, position: Callable[[Tx], T]) -> T | None:
        """Return a position in what is numbered as it is written, once nothing can come before it any more.

        Where transactions that are under way go on for long, it is that of an earlier look; None: not even
        that is settled.
        """
        return position(self)

    def now(self) -> int:
        """Return the database's time in milliseconds since the epoch."""
        return int(self.value(f"SELECT {NOW}"))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what the block did when it raises, and nothing else."""
        self._execute("SAVEPOINT part")
        late = None if self.late is None else self.late.copy()
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK TO part")
            self.late = late
            self._execute("RELEASE part")
            raise
        self._execute("RELEASE part")


class Database(ABC):
    """A connection to the books, opened when it is needed, for one thread at a time; no fork inherits it.

    Attributes:
        shares: whether several transactions write at once, where they have said what they touch.
        most_names: how many names a transaction has for itself at the most, not to have all of the books.

    """

    shares: ClassVar[bool] = False
    most_names: ClassVar[int] = 0

    @abstractmethod
    def writing(self, names: Names = None) -> AbstractContextManager[Tx]:
        """One durable write transaction; nobody else writes meanwhile (what `names` stand for).

        Raises LedgerUnavailable when it cannot be had or committed, and Interrupted.
        """

    @abstractmethod
    def reading(self, *, slow: bool = False) -> AbstractContextManager[Tx]:
        """Statements that change nothing; each sees what is committed. Raises LedgerUnavailable.

        Each is given up where a server does not answer within seconds; `slow`: it may take a minute.
        """

    @abstractmethod
    def is_used(self) -> bool:
        """Return whether another process has the books open: luigid, a gateway, a worker. Raises
        LedgerUnavailable.
        """

    @abstractmethod
    def translate(self, error: Exception) -> Exception:
        """Return an error of the engine as LedgerUnavailable, Interrupted or LedgerFailed; a constraint's
        as it is.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Make what must be there before it can be connected to. Raises LedgerUnavailable."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close the connection; the next use opens it again."""

    @abstractmethod
    def give_up(self) -> None:
        """Let nobody wait any longer for a server that does not answer; called in another thread."""
