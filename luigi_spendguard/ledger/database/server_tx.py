"""`ServerTx`: a transaction, or reads, at a PostgreSQL server."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar, TypeVar

import psycopg

from luigi_spendguard.ledger.database import DAY_S, Names, NotShared, Tx, insertion
from luigi_spendguard.ledger.database.dialect import FUNCTIONS, ORDERED, spoken
from luigi_spendguard.ledger.database.late import LateChanges
from luigi_spendguard.ledger.database.patience import at_most
from luigi_spendguard.ledger.database.statements import Answer, Statements

T = TypeVar("T")
#: By how it is looked for: a position that was found, and the writers that may still come before it.
Unsettled = dict[Callable[[Tx], Any], tuple[Any, set[str]]]
#: A query and its values.
_Query = tuple[str, tuple[Any, ...]]
#: Rows that are inserted with one message at the most.
_TOGETHER = 500
#: Seconds in which a server that is there answers what takes it no time.
ANSWER_S = 5.0
#: Seconds for which transactions that are under way are waited for by who goes by numbers, and between looks.
SETTLE_S, _LOOK_S = 0.05, 0.002
#: What may be written by who has only some names to itself; each statement's own functions look at which row.
_SHARED = frozenset(
    {
        *("audit_block", "audit_row", "budget", "call", "call_budget", "call_target", "claim", "exchange"),
        *("journal", "price_due"),
        *("task", "turn", "vendor_object"),
    }
)
#: Tables whose rows the database numbers by their `id`.
_NUMBERED = frozenset({"run", "budget", "journal"})
#: The lock of the books: a number that other programs there hardly take.
BOOKS = b"hashtextextended('luigi_spendguard ledger ' || current_schema(), 0)"
#: Who shares it. A lock's number is shown in two halves (the view `pg_locks`).
_SHARING = (
    b"SELECT virtualtransaction FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
    b" AND mode = 'ShareLock' AND granted AND (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) = "
    + BOOKS
    + b" AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
)


@lru_cache(maxsize=4096)
def _is_shared(sql: str) -> bool:
    """Return whether a statement writes only what may be written by who has some names to itself."""
    found = _WRITES.match(sql)
    return found is not None and found[1] in _SHARED


_WRITES = re.compile(r"(?:INSERT INTO|INSERT OR IGNORE INTO|UPDATE|DELETE FROM) (\w+)")


class ServerTx(Tx):
    """A transaction, or reads, at a server."""

    for_update: ClassVar[str] = " FOR UPDATE"
    #: Seconds for which a statement is waited for.
    answer_s: float = ANSWER_S

    def __init__(
        self,
        statements: Statements,
        names: dict[str, tuple[str, ...]],
        held: Names = None,
        unsettled: Unsettled | None = None,
        *,
        waits_s: float = 0.0,
        begins: bool = False,
    ) -> None:
        """`waits_s`: seconds for which it may wait for locks; `begins`: its begin was put, and not sent."""
        self._statements, self._waits_s, self._begins = statements, waits_s, begins
        self._names, self.held = names, held
        self.late = None if held is None else LateChanges()
        self._unsettled = {} if unsettled is None else unsettled
        #: Of what was put since anything was sent: a query, where it was put ahead.
        self._put: list[_Query | None] = []
        #: What queries that were put ahead have come to, as nothing was written since.
        self._known: dict[_Query, Answer] = {}
        self._ahead: set[_Query] = set()

    def run(self, sql: str, *values: Any) -> int:
        self._check_shared(sql)
        return super().run(sql, *values)

    def change(self, sql: str, *values: Any) -> Any:
        self._ahead.clear()
        return super().change(sql, *values)

    def later(self, sql: str, *values: Any) -> None:
        if self.held is None:
            self.run(sql, *values)
            return
        self._check_shared(sql)
        self.wrote = True
        text, taken = spoken(sql)
        self._statements.put(text, [values[place] for place in taken])
        self._put.append(None)

    def ahead(self, sql: str, *values: Any) -> None:
        query = (sql, values)
        if self.held is not None and query not in self._ahead:
            text, taken = spoken(sql)
            self._statements.put(text, [values[place] for place in taken])
            self._put.append(query)
            self._ahead.add(query)
            self._known.pop(query, None)

    def _check_shared(self, sql: str) -> None:
        """Raise NotShared for what must not be written beside others. What was asked ahead is asked again."""
        self._ahead.clear()
        if self.held is not None and not _is_shared(sql):
            raise NotShared(sql)

    def _execute(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        query = (sql, values)
        if query in self._ahead:
            if query not in self._known:
                self._send()
            self._ahead.remove(query)
            return self._known.pop(query)
        text, taken = spoken(sql)
        self._statements.put(text, [values[place] for place in taken])
        self._put.append(None)
        return self._send()

    def _send(self) -> Answer:
        """Send what was put; return what the last statement has come to."""
        put, self._put = self._put, []
        seconds, self._begins = self.answer_s + self._waits_s * self._begins, False
        try:
            with at_most(self._statements.connection, seconds):
                answers = self._statements.send()
        except psycopg.Error as error:
            self.wrote = True  # Whatever it was, nothing more can be done in this transaction.
            self._say_alone(error)
            raise
        for query, answer in zip(put, answers[-len(put) :], strict=True):  # Its begin comes before.
            if query in self._ahead:
                self._known[query] = answer
        return answers[-1]

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        try:
            with super().savepoint():
                yield
        finally:
            self._ahead.clear()

    def _say_alone(self, error: psycopg.Error) -> None:
        """Raise NotShared for what failed beside others: whose statement it was, is told where none waits.

        Somebody else's may have come first, such as a call of the same id, which no name keeps apart; or the
        day's budget has another cap, or no room, by now.
        """
        its_own = isinstance(error, psycopg.errors.ProgramLimitExceeded)
        if self.held is not None and (its_own or not isinstance(error, psycopg.OperationalError)):
            raise NotShared(f"refused beside others: {error}") from error

    def insert(self, table: str, **values: Any) -> int:
        if self.held is not None and table not in _SHARED:
            raise NotShared(f"insert into {table}")
        self.wrote = True
        statement = insertion(table, *values)
        if table not in _NUMBERED:
            self.later(statement, *values.values())
            return 0
        self._ahead.clear()
        return int(self._execute(f"{statement} RETURNING id", tuple(values.values())).fetchone()[0])

    def insert_all(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        self.wrote = True
        text, taken = spoken(statement)
        some = iter(rows)
        while many := list(islice(some, _TOGETHER)):
            for values in many:
                self._statements.put(text, [values[place] for place in taken])
                self._put.append(None)
            self._send()

    def end(self) -> None:
        """Change the rest, and commit. Raises psycopg.Error, NotShared."""
        for statement in () if self.late is None else self.late.statements():
            self._statements.put(statement.encode(), is_kept=False)
        is_all = not self._statements.put(b"COMMIT", is_kept=False)
        try:
            with at_most(self._statements.connection, ANSWER_S + (0 if is_all else self._waits_s)):
                self._statements.send()
        except psycopg.Error as error:
            self._say_alone(error)
            raise

    def take_time(self, seconds: float = DAY_S) -> None:
        self.answer_s = max(self.answer_s, seconds)
        idle = "SELECT set_config('idle_in_transaction_session_timeout', ?, true)"
        self.value(idle, str(int(1000 * self.answer_s)))

    def has_tables(self, name: str = "") -> bool:
        return bool(
            self.value(
                "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = current_schema()"
                " AND ? IN ('', CAST(tablename AS TEXT)) LIMIT 1",
                name,
            )
        )

    def number_on(self, table: str) -> None:
        column = "id" if table in _NUMBERED else "rowid" if table in ORDERED else ""
        if column:
            last = f"(SELECT max({column}) FROM {table})"
            self.run(f"SELECT setval(pg_get_serial_sequence(?, ?), {last}) WHERE {last} > 0", table, column)

    def guard_journal(self) -> None:
        for statement in FUNCTIONS:
            self._statements.put(statement.encode(), is_kept=False)
            self._put.append(None)
            self._send()

    @contextmanager
    def deleting_entries(self) -> Iterator[None]:
        self.run("SELECT set_config('luigi_spendguard.prunes', 'yes', true)")
        yield
        self.run("SELECT set_config('luigi_spendguard.prunes', 'no', true)")

    def settled(self, position: Callable[[Tx], T]) -> T | None:
        found, under_way = position(self), self._sharing()
        limit = time.monotonic() + SETTLE_S
        # Numbers are taken under the lock, and what has ended is visible before it is let go.
        writers = under_way
        while writers:
            if time.monotonic() > limit:
                return self._settled_before(position, found, writers, under_way)
            time.sleep(_LOOK_S)
            under_way = self._sharing()
            writers = writers & under_way
        self._unsettled.pop(position, None)
        return found

    def _settled_before(
        self, position: Callable[[Tx], T], found: T, writers: set[str], under_way: set[str]
    ) -> T | None:
        """Return what was found at an earlier look and is settled by now: some writer there may always be."""
        earlier: T | None
        earlier, its_writers = self._unsettled.get(position, (None, set[str]()))
        if its_writers & under_way:
            return None
        self._unsettled[position] = found, writers
        return earlier

    def _sharing(self) -> set[str]:
        """Return the transactions that share the lock of the books now."""
        with at_most(self._statements.connection, ANSWER_S):
            return {str(row[0]) for row in self._statements.ask(_SHARING).fetchall()}
