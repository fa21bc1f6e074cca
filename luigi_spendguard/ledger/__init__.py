"""`Ledger`: the books of one process, opened; writes go through the writer, reads beside it.

The one writer of a process: a thread fed by a queue; what waits together is committed together.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from luigi_spendguard.errors import LedgerUnavailable, SpendguardError
from luigi_spendguard.ledger import forking
from luigi_spendguard.ledger.database import LOCK_SECONDS, LedgerFile, Tx, reading, translated, writing
from luigi_spendguard.ledger.migrations import migrate

logger = logging.getLogger(__name__)

Operation = Callable[[Tx], Any]
_Item = tuple[Operation, "Future[Any]"]

#: Operations committed together at the most.
BATCH = 128


class Writer:
    """Runs operations one after the other, each in a savepoint of a shared transaction.

    An operation's future is done when its transaction is durable. An operation that raises is undone
    alone; a transaction that cannot be committed fails all of its operations.
    """

    def __init__(self, db: LedgerFile) -> None:
        self._db = db
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="spendguard-ledger", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> Future[Any]:
        """Queue `operation`; the future holds its result once it is durable."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(LedgerUnavailable("the ledger is closed: luigid is ending"))
            else:
                self._queue.put((operation, future))
        return future

    def close(self) -> None:
        """End after everything queued so far is committed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        ending = False
        while not ending:
            batch: list[_Item] = []
            item = self._queue.get()
            while True:
                if item is None:
                    ending = True
                    break
                batch.append(item)
                if len(batch) >= BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._commit(batch)
        forking.close(self._db)

    def _commit(self, batch: list[_Item]) -> None:
        done: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with writing(self._db) as tx:
                done = [(future, *_attempt(tx, operation)) for operation, future in batch]
        except BaseException as error:  # Whatever it is, every caller must hear of it.
            if not isinstance(error, SpendguardError):
                logger.exception("The ledger failed a transaction")
            done = [(future, None, error) for _, future in batch]
        for future, result, failure in done:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)


def _attempt(tx: Tx, operation: Operation) -> tuple[Any, BaseException | None]:
    try:
        with translated(), tx.savepoint():
            return operation(tx), None
    except LedgerUnavailable:
        raise  # A full or locked disk is not this operation's fault alone: nothing is committed.
    except Exception as error:
        if not isinstance(error, SpendguardError):
            logger.exception("A ledger operation failed")
        return None, error


T = TypeVar("T")


class Ledger:
    """Opens (and brings up to date) the ledger at `path`. Raises LedgerUnavailable.

    `write(operation, …)` and `read(operation, …)` call `operation(tx, …)`, one of the functions of
    `runs`, `reservations`, `settlement` and `queries`, and return a future.
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
