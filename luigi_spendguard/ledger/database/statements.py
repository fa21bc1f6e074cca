"""`Statements`: what is said to a PostgreSQL server, several statements in one message.

Each way there and back makes both sides wait, and while a transaction waits so do those behind it. libpq's
pipeline (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html) takes statements together; they
are executed one after the other, each as if it were alone, and none behind one that fails. It is used here
itself, as psycopg's cursors take more processor time for a statement than the server.
"""

from __future__ import annotations

import itertools
import select
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

#: Statements that are prepared at the most.
MOST_PREPARED = 2000
_Key = tuple[bytes, tuple[int, ...]]


class _Said(NamedTuple):
    """A statement, and its values as they are sent."""

    text: bytes
    values: Sequence[Any] | None
    types: tuple[int, ...]
    formats: Any
    is_kept: bool


class Answer:
    """What a statement has come to, as a cursor has it."""

    __slots__ = ("_next", "_result", "_rows", "rowcount")

    def __init__(self, result: PGresult, rows: list[tuple[Any, ...]]) -> None:
        self._result, self._rows, self._next = result, rows, 0
        self.rowcount = result.command_tuples or 0

    @property
    def description(self) -> list[tuple[str]]:
        """The names of its columns."""
        return [((self._result.fname(place) or b"").decode(),) for place in range(self._result.nfields)]

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, None behind the last."""
        if self._next >= len(self._rows):
            return None
        self._next += 1
        return self._rows[self._next - 1]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows that are left."""
        rows, self._next = self._rows[self._next :], len(self._rows)
        return rows


class Statements:
    """What is said over a connection; its answers are waited for without a bound (see `patience`)."""

    def __init__(self, connection: psycopg.Connection[Any], *, prepares: bool) -> None:
        """Say it there; `prepares`: its server stays the same, and may know statements by a name."""
        self.connection, self._pgconn, self._prepares = connection, connection.pgconn, prepares
        self._adapter = Transformer(connection)
        self._prepared: dict[_Key, bytes] = {}
        self._numbers = itertools.count(1)
        self._put: list[_Said] = []
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)

    def put(self, text: bytes, values: Sequence[Any] = (), *, is_kept: bool = True) -> int:
        """Let a statement be sent with the next one; return how many were put before.

        Raises psycopg.DataError for what no database takes. `is_kept`: it is worth being prepared.
        """
        before = len(self._put)
        if not values:
            self._put.append(_Said(text, None, (), None, is_kept))
            return before
        adapter = self._adapter
        dumped = adapter.dump_sequence(values, [PyFormat.AUTO] * len(values))
        self._put.append(_Said(text, dumped, tuple(adapter.types or ()), adapter.formats, is_kept))
        return before

    def ask(self, text: bytes, values: Sequence[Any] = ()) -> Answer:
        """Send a statement behind those that were put; return what it has come to. Raises psycopg.Error."""
        self.put(text, values)
        return self.send()[-1]

    def drop(self) -> None:
        """Forget what was put."""
        self._put.clear()

    def send(self) -> list[Answer]:
        """Send what was put; return what each has come to. Raises psycopg.Error: why the first one failed."""
        said, self._put = self._put, []
        answers: list[Answer] = []
        failed: psycopg.Error | None = None
        if not said:
            return answers
        if self.connection.closed:
            raise psycopg.OperationalError("the connection is closed")
        try:
            self._pgconn.enter_pipeline_mode()
            for key in self._sent(said):
                result = self._result()
                if failed is not None:
                    continue
                if result.status == ExecStatus.FATAL_ERROR:
                    failed = psycopg.errors.error_from_result(result)
                elif key is None:
                    answers.append(self._answer(result))
                else:
                    self._prepared[key[0]] = key[1]
            self._synchronise()
        except BaseException as error:
            # In the midst of a message nothing else can be said.
            if self._pgconn.status != ConnStatus.BAD:
                self.connection.close()
            if failed is None or not isinstance(error, psycopg.Error):
                raise
        if failed is not None:
            if isinstance(failed, psycopg.errors.FeatureNotSupported):  # A table has other columns by now.
                self._prepared.clear()
            raise failed
        return answers

    def _sent(self, said: list[_Said]) -> list[tuple[_Key, bytes] | None]:
        """Send statements; return, for each result that will come, what is known by a name then, or None."""
        pgconn, coming = self._pgconn, list[tuple[_Key, bytes] | None]()
        preparing: dict[_Key, bytes] = {}
        for text, values, types, formats, is_kept in said:
            key = (text, types)
            name = self._prepared.get(key) or preparing.get(key)
            if name is None and is_kept and self._prepares and len(self._prepared) < MOST_PREPARED:
                name = preparing[key] = b"books_%d" % next(self._numbers)
                pgconn.send_prepare(name, text, types)
                coming.append((key, name))
            if name is None:
                pgconn.send_query_params(text, values, types, formats)
            else:
                pgconn.send_query_prepared(name, values, formats)
            coming.append(None)
        pgconn.pipeline_sync()
        while pgconn.flush():  # It takes no more before it has been listened to.
            self._poll.modify(self.connection.fileno(), select.POLLIN | select.POLLOUT)
            self._poll.poll()
            self._poll.modify(self.connection.fileno(), select.POLLIN)
            pgconn.consume_input()
        return coming

    def _waited(self) -> PGresult | None:
        pgconn = self._pgconn
        while pgconn.is_busy():
            self._poll.poll()
            pgconn.consume_input()
        return pgconn.get_result()

    def _result(self) -> PGresult:
        """Return the next statement's result."""
        result = self._waited()
        if result is None or result.status == ExecStatus.PIPELINE_SYNC:
            raise psycopg.OperationalError("the server has said less than it was asked")
        if self._waited() is not None:
            raise psycopg.OperationalError("the server has said more than it was asked")
        return result

    def _synchronise(self) -> None:
        result = self._waited()
        if result is None or result.status != ExecStatus.PIPELINE_SYNC:
            raise psycopg.OperationalError("the server has not come to the end")
        self._pgconn.exit_pipeline_mode()

    def _answer(self, result: PGresult) -> Answer:
        if result.status != ExecStatus.TUPLES_OK:
            return Answer(result, [])
        self._adapter.set_pgresult(result)
        return Answer(result, self._adapter.load_rows(0, result.ntuples, tuple))
