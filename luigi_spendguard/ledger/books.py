"""`Ledger`: the books of one process, opened; writes go through the writer, reads beside it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from luigi_spendguard.ledger import forking
from luigi_spendguard.ledger.engine import LOCK_SECONDS, LedgerFile, reading
from luigi_spendguard.ledger.migrations import migrate
from luigi_spendguard.ledger.writer import Writer

T = TypeVar("T")


class Ledger:
    """Opens (and brings up to date) the ledger at `path`. Raises LedgerUnavailable.

    `write(operation, …)` and `read(operation, …)` call `operation(tx, …)`, one of the functions of
    `runs`, `reserving`, `ending` and `reading`, and return a future.
    """

    def __init__(self, path: Path, busy_s: float = LOCK_SECONDS) -> None:
        """`busy_s`: seconds for which a write waits for its turn among other processes."""
        migrate(path, busy_s)
        self.path = path
        self._db, self._reader, self._browser = (
            LedgerFile(path, busy_s=busy_s),
            LedgerFile(path),
            LedgerFile(path),
        )
        self._writer = Writer(self._db)
        self._closed = False
        # One thread each, which must not take the processor from the writer: pages of people, who may ask for
        # much, and what a call or a change waits for.
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spendguard-read")
        self._browsing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spendguard-browse")

    def write(self, operation: Callable[..., T], *args: Any) -> Future[T]:
        """Run `operation(tx, *args)` in a durable transaction."""
        return self._writer.submit(lambda tx: operation(tx, *args))

    def read(self, operation: Callable[..., T], *args: Any) -> Future[T]:
        """Run `operation(tx, *args)` beside the writer; it sees what is committed."""
        return self._reading.submit(self._look, self._reader, operation, *args)

    def browse(self, operation: Callable[..., T], *args: Any) -> Future[T]:
        """Run a reading operation that may take long, behind others of its kind alone."""
        return self._browsing.submit(self._look, self._browser, operation, *args)

    @staticmethod
    def _look(db: LedgerFile, operation: Callable[..., T], *args: Any) -> T:
        with reading(db) as tx:
            return operation(tx, *args)

    def close(self) -> None:
        """Commit what is queued and close the file."""
        self._writer.close()
        if not self._closed:
            self._closed = True
            self._reading.shutdown()
            self._browsing.shutdown()
            forking.close(self._reader)
            forking.close(self._browser)
