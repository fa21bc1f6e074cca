"""`Outbox`: ends that must not be lost are said to the ledger now, or later in their order.

In this process's memory; a forked child begins with an empty one (its parent says what is its own). One that
an attempt has forked asks behind what the attempt has told.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import mmap
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator

from luigi_spendguard import backoff
from luigi_spendguard.errors import LedgerUnavailable, PluginError, SpendguardError
from luigi_spendguard.process_state import at_fork, begin_thread

logger = logging.getLogger(__name__)

#: Seconds for which what could not be delivered is tried again when a process ends.
FLUSH_S = 30.0
#: The ledger cannot be reached, or not by that way: it may be later.
_LATER = (LedgerUnavailable, PluginError)

_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


class Outbox:
    """Messages to the ledger of one client; safe under threads."""

    def __init__(self) -> None:
        #: How many attempts run in this process; what it forks then belongs to one.
        self._attempts = 0
        #: Memory that forked children share: whether something is not delivered.
        self._owes, self._above = mmap.mmap(-1, 1), tuple[mmap.mmap, ...]()
        self._renew()
        _outboxes.add(self)
        at_fork(self._begin_anew)

    def _begin_anew(self) -> None:
        if self._attempts:
            self._above = (*self._above, self._owes)
        self._owes = mmap.mmap(-1, 1)
        self._renew()

    def _renew(self) -> None:
        """Start without inherited messages, threads and locks."""
        #: What is not delivered; the first is being said.
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._sender: threading.Thread | None = None
        # A signal's handler that raises leaves it free, and one that tells something does not wait for it.
        self._lock = threading.RLock()
        #: Has something in it where what failed is to be tried again now; and why it has failed.
        self._hurry: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._why = ""

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Let the processes that are forked in the block ask behind what this one has told."""
        with self._lock:
            self._attempts += 1
        try:
            yield
        finally:
            with self._lock:
                self._attempts -= 1

    def tell(self, what: str, say: Callable[[], object]) -> None:
        """Say something to the ledger, now or later; never loses it while we live.

        Raises nothing but what interrupts it (Ctrl-C). An `Exception` may be that of a signal's handler, too:
        after any the message is said again, by a thread that no signal reaches.
        """
        if not self._waiting:  # Else it waits behind what could not be delivered.
            try:
                say()
                return
            except _LATER as error:
                self._why = str(error)
                logger.error("%s is not delivered yet and will be tried again: %s", what, error)
            except SpendguardError as error:
                _log_refusal(what, error)
                return
            except Exception:
                logger.exception("%s has failed, or was interrupted, and will be tried again", what)
            except BaseException:
                self.tell_later(what, say)
                raise
        self.tell_later(what, say)

    def tell_later(self, what: str, say: Callable[[], object]) -> None:
        """Let a thread say something, behind what could not be delivered yet."""
        with self._lock:
            self._waiting.append((what, say))
            self._owes[0] = 1
        self._begin()

    def _begin(self) -> None:
        """See to it that what waits is being said: who was to begin the thread may have been interrupted."""
        sender = self._sender  # It takes itself away when it has said all.
        if self._waiting and (sender is None or not sender.is_alive()):
            with contextlib.suppress(RuntimeError):  # There is no thread to be had now: who waits asks again.
                begin_thread(self._work, "spendguard-outbox")

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything is delivered; say what is not after `timeout_s` seconds."""
        limit = time.monotonic() + timeout_s
        if self._waiting:
            self._hurry.put(None)
        while self._waiting:
            if time.monotonic() > limit:
                logger.error(
                    "%d messages to the ledger could not be delivered: their calls will be in doubt. "
                    "See `spendguard calls` once the scheduler is back",
                    len(self._waiting),
                )
                return False
            self._begin()
            time.sleep(0.005)
        return True

    def deliver(self, timeout_s: float) -> None:
        """Wait until what the attempt has told is delivered: what it asks for next is decided behind that.

        Raises LedgerUnavailable where it is not after `timeout_s` seconds.
        """
        limit = time.monotonic() + timeout_s
        while self._waiting or any(owes[0] for owes in self._above):
            if time.monotonic() > limit:
                why = self._why if self._waiting else "another process of the task has still to deliver it"
                raise LedgerUnavailable(f"what was said to it before is not delivered yet: {why}")
            self._begin()
            self._hurry.put(None)
            time.sleep(0.02)

    def _work(self) -> None:
        with self._lock:
            if self._sender is not None and self._sender.is_alive():
                return
            self._sender = threading.current_thread()
        while (first := self._first()) is not None:
            for wait_s in backoff.growing(*backoff.LATER):
                try:
                    _say(*first)
                    break
                except _LATER as error:
                    self._why = str(error)
                    self._wait(wait_s)
            self._waiting.popleft()

    def _first(self) -> tuple[str, Callable[[], object]] | None:
        """Return what is to be said now; None: nothing, and the thread that asks ends."""
        with self._lock:
            if self._waiting:
                return self._waiting[0]
            self._sender = None
            self._owes[0] = 0
            return None

    def _wait(self, wait_s: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._hurry.get(timeout=wait_s)
            while True:
                self._hurry.get_nowait()


def _say(what: str, say: Callable[[], object]) -> None:
    """Say it once. Raises LedgerUnavailable, PluginError; what is refused would be refused again."""
    try:
        say()
    except _LATER:
        raise
    except SpendguardError as error:
        _log_refusal(what, error)
    except Exception:
        logger.exception("%s failed", what)


def _log_refusal(what: str, error: SpendguardError) -> None:
    logger.error("%s was refused: %s", what, error)


def flush_all(timeout_s: float = FLUSH_S) -> None:
    """Deliver what this process still has to say."""
    for outbox in list(_outboxes):
        outbox.flush(timeout_s)


atexit.register(flush_all)
