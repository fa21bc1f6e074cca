"""`Ledger`: the books of one process, opened; writes go through the writer, reads beside it.

The one writer of a process: a thread fed by a queue; what waits together is committed together.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from luigi_spendguard.errors import LedgerFailed, LedgerUnavailable, LedgerUnreached, SpendguardError
from luigi_spendguard.ledger.database import (
    LOCK_SECONDS,
    Database,
    Interrupted,
    Names,
    NotHeld,
    NotShared,
    Place,
    Tx,
    again,
)
from luigi_spendguard.ledger.database.away import Away
from luigi_spendguard.ledger.database.engines import CanClose, database_of, listening
from luigi_spendguard.ledger.foreseen import Foreseen, names_of
from luigi_spendguard.ledger.migrations import migrate
from luigi_spendguard.process_state import begin_thread

logger = logging.getLogger(__name__)

Operation = Callable[[Tx], Any]
#: How what an operation touches is foreseen; None: it may be anything.
Naming = Callable[[Foreseen], Names] | None
_Item = tuple[Operation, Naming, "Future[Any]"]
#: What an operation has returned, or how it has failed.
_Outcome = tuple[Any, BaseException | None]

#: Operations committed together at the most.
BATCH = 128
#: Where so many came at once before, the next ones are waited for, so many seconds at the most.
MANY, GATHER_S = 4, 0.001
#: Seconds, as the ledger is closed, for what is queued: then a server that stands still is given up.
CLOSE_S = 5.0


def closed() -> LedgerUnavailable:
    """Return why nothing is read or written any more."""
    return LedgerUnavailable("the ledger is closed: luigid is ending")


class Writer:
    """Runs operations one after the other, in a shared transaction.

    An operation's future is done when its transaction is durable. An operation that raises is undone
    alone, and others may be run again for that: it must not change anything but the ledger. A transaction
    that cannot be committed fails all of its operations. It has what all of them touch for itself, or all of
    the books where one of them may touch anything.
    """

    def __init__(self, db: Database, away: Away) -> None:
        self._db, self._away = db, away
        self._foreseen = Foreseen(db)
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        #: How many operations are expected to come at once.
        self._expected = 0
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="spendguard-ledger", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation, naming: Naming = None) -> Future[Any]:
        """Queue `operation`; the future holds its result once it is durable."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(closed())
            elif (away := self._away.why) is not None:  # It may still be waiting for that server itself.
                future.set_exception(away)
            else:
                self._queue.put((operation, naming, future))
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
        while (item := self._queue.get()) is not None:
            batch, ending = self._gathered(item)
            self._commit(batch)
            if ending:
                break
        self._db.disconnect()

    def _gathered(self, first: _Item) -> tuple[list[_Item], bool]:
        """Return what is committed together, and whether it is the last."""
        batch = [first]
        # Whoever was answered just now is about to ask again.
        limit = time.monotonic() + GATHER_S if self._expected >= MANY else 0.0
        while len(batch) < BATCH:
            left = limit - time.monotonic() if len(batch) < self._expected and limit else 0.0
            try:
                item = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        self._expected = max(len(batch), self._expected // 2)
        return batch, False

    def _commit(self, batch: list[_Item]) -> None:
        if (away := self._away.why) is not None:
            for _, _, future in batch:
                future.set_exception(away)
            return
        names = self._names(batch)
        if names is not None and len(names) > self._db.most_names and len(batch) > 1:
            half = len(batch) // 2
            self._commit(batch[:half])
            self._commit(batch[half:])
            return
        try:
            done = self._written([operation for operation, _, _ in batch], names)
        except BaseException as error:  # Whatever it is, every caller must hear of it.
            if isinstance(error, LedgerFailed) or not isinstance(error, SpendguardError):
                logger.exception("The ledger failed a transaction")
            self._away.learn(error)
            done = [(None, error)] * len(batch)
        for (_, _, future), (result, failure) in zip(batch, done, strict=True):
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _names(self, batch: list[_Item]) -> Names:
        """Return what operations touch together; None: it may be anything, or cannot be known now."""
        if not self._db.shares:
            return None
        names: set[str] = set()
        for _, naming, _ in batch:
            try:
                touched = None if naming is None else naming(self._foreseen)
            except Exception as error:  # It is only a guess: what is wrong fails the operation itself.
                logger.debug("What a transaction touches cannot be looked up: %s", error)
                return None
            if touched is None:
                return None
            names |= touched
        return frozenset(names)

    def _written(self, operations: list[Operation], names: Names) -> list[_Outcome]:
        """Do operations in one transaction; return what each has come to, once that is durable."""
        if names is not None:
            try:
                return self._tried(operations, names)
            except (NotHeld, Interrupted) as error:  # Nothing was decided.
                logger.debug("A transaction is done again, alone: %s", error)
                if not isinstance(error, NotShared):
                    self._foreseen.forget()
        return again(lambda: self._tried(operations, None))

    def _tried(self, operations: list[Operation], names: Names) -> list[_Outcome]:
        try:
            with self._db.writing(names) as tx:
                return [_attempt(self._db, tx, operation) for operation in operations]
        except _Undone as undone:
            if len(operations) == 1:
                return [(None, undone.error)]
        # One has failed when it had written something: they are done again, each so that it is undone alone.
        with self._db.writing(names) as tx:
            return [_attempt_apart(self._db, tx, operation) for operation in operations]


class _Undone(Exception):
    """Undoes a transaction of which an operation has failed when it had written something."""

    def __init__(self, error: Exception) -> None:
        super().__init__("undone")
        self.error = error


def _attempt(db: Database, tx: Tx, operation: Operation) -> _Outcome:
    """Do an operation. Raises _Undone where it fails and what it has written must not stay."""
    tx.wrote = False
    try:
        return operation(tx), None
    except NotHeld:
        raise
    except Exception as error:
        failure = _own_failure(db, error)
        if tx.wrote:
            raise _Undone(failure) from error
        return None, failure


def _attempt_apart(db: Database, tx: Tx, operation: Operation) -> _Outcome:
    """Do an operation, and undo it alone where it fails."""
    try:
        with tx.savepoint():
            return operation(tx), None
    except NotHeld:
        raise
    except Exception as error:
        return None, _own_failure(db, error)


def _own_failure(db: Database, error: Exception) -> Exception:
    """Return why an operation alone has failed. Raises LedgerUnavailable: then all of its transaction has."""
    failure = db.translate(error)
    is_mistake = isinstance(failure, LedgerFailed)  # Of this operation alone.
    if isinstance(failure, LedgerUnavailable) and not is_mistake:  # A full or locked disk.
        raise failure from error.__cause__ if failure is error else error
    if is_mistake or not isinstance(failure, SpendguardError):
        logger.error("A ledger operation failed", exc_info=failure)
    return failure


T = TypeVar("T")


class Ledger:
    """Opens (and brings up to date) the ledger at `path`. Raises LedgerUnavailable.

    `write(operation, …)` and `read(operation, …)` call `operation(tx, …)`, one of the functions of
    `runs`, `reservations`, `settlement` and `queries`, and return a future.
    """

    def __init__(self, path: Place, busy_s: float = LOCK_SECONDS) -> None:
        """`busy_s`: seconds for which a write waits for its turn among other processes."""
        migrate(path, busy_s)
        self.path = path
        self._db, self._reader, self._browser = (
            database_of(path, busy_s=busy_s),
            database_of(path),
            database_of(path),
        )
        self._away = Away(lambda: database_of(path))
        self._writer = Writer(self._db, self._away)
        self._listening: CanClose | None = None
        self._closed = False
        # One thread each, which must not take the processor from the writer: pages of people, who may ask for
        # much, and what a call or a change waits for.
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spendguard-read")
        self._browsing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spendguard-browse")

    def write(self, operation: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Run `operation(tx, *args)` in a durable transaction."""
        naming = names_of(operation, *args, **kwargs)
        return self._writer.submit(lambda tx: operation(tx, *args, **kwargs), naming)

    def read(self, operation: Callable[..., T], *args: Any) -> Future[T]:
        """Run `operation(tx, *args)`, which takes no time, beside the writer; it sees what is committed."""
        return self._looked(self._reading, self._reader, False, operation, *args)

    def browse(self, operation: Callable[..., T], *args: Any) -> Future[T]:
        """Run a reading operation that may take long, behind others of its kind alone."""
        return self._looked(self._browsing, self._browser, True, operation, *args)

    def _looked(
        self, pool: ThreadPoolExecutor, db: Database, slow: bool, operation: Callable[..., T], *args: Any
    ) -> Future[T]:
        why: LedgerUnavailable | None = self.away
        if why is None:
            try:
                return pool.submit(self._look, db, slow, operation, *args)
            except RuntimeError as error:
                # Python closes its pools as a program ends, before anybody is told so; or has no thread left.
                is_over = self._closed or "shutdown" in str(error)
                why = closed() if is_over else LedgerUnavailable(f"the ledger cannot be read now: {error}")
        future: Future[T] = Future()
        future.set_exception(why)
        return future

    def _look(self, db: Database, slow: bool, operation: Callable[..., T], *args: Any) -> T:
        def look() -> T:
            with db.reading(slow=slow) as tx:
                return operation(tx, *args)

        if (away := self.away) is not None:  # Since it was asked.
            raise away
        try:
            return again(look)
        except LedgerUnreached as error:
            if not slow:  # A page that takes too long says nothing of the server.
                self._away.learn(error)
            raise

    @property
    def away(self) -> LedgerUnreached | None:
        """Why its server is away: whatever is asked fails at once then; None: it is not known to be."""
        return self._away.why

    def listen(self, heard: Callable[[], object]) -> None:
        """Call `heard`, in a thread of its own, soon after what is decided by was changed at a server."""
        self._listening = self._listening or listening(self.path, heard)

    def close(self) -> None:
        """Commit what is queued and close the file; what a server has not answered within seconds is lost."""
        is_over = threading.Event()
        self._away.close()
        with suppress(RuntimeError):  # A program that has ended begins no thread.
            begin_thread(lambda: self._give_up_after(is_over), "spendguard-close")
        self._writer.close()
        if not self._closed:
            self._closed = True
            if self._listening is not None:
                self._listening.close()
            self._reading.shutdown()
            self._browsing.shutdown()
            self._reader.disconnect()
            self._browser.disconnect()
        is_over.set()

    def _give_up_after(self, is_over: threading.Event) -> None:
        if not is_over.wait(CLOSE_S):
            for database in (self._db, self._reader, self._browser):
                database.give_up()
