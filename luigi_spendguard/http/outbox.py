"""`Outbox`: ends that must not be lost are said to the ledger now, or later in their order.

In this process's memory, and on disk what cannot be said at once (`spool.py`): where the process is gone by
then, another one says it. A forked child begins with an empty one (its parent says what is its own). One that
an attempt has forked asks behind what the attempt has told.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import mmap
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator

from luigi_spendguard import backoff
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import LedgerUnavailable, PluginError, SpendDenied, SpendguardError
from luigi_spendguard.http.spool import Kept, Spool
from luigi_spendguard.process_state import at_fork, begin_thread

logger = logging.getLogger(__name__)

#: Seconds for which what could not be delivered is tried again when a process ends.
FLUSH_S = 30.0
#: The ledger cannot be reached, or not by that way: it may be later.
LATER = (LedgerUnavailable, PluginError)

#: What luigid answers (HTTP status) to what it will never take: the rest may be mended.
_FOR_GOOD = frozenset({400, 404, 409, 413})
#: Seconds for which it is waited at the end for another thread that writes to the disk.
_WRITE_S = 5.0

_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


class Undelivered:
    """A message that is not delivered, or not known to be.

    Attributes:
        kept: returns it as it may stand on disk; None: it may not.
        is_on_disk: it is there, or on its way; `number`: its own there, 0 where it has none yet.

    """

    def __init__(self, what: str, say: Callable[[], object], kept: Callable[[], Kept] | None) -> None:
        self.what, self.say, self.kept = what, say, kept
        self.is_on_disk, self.number = False, 0


class Outbox:
    """Messages to the ledger of one client; safe under threads."""

    def __init__(self, spool: Spool | None = None) -> None:
        """`spool`: where what cannot be said at once is kept."""
        self._spool = spool
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
        #: What is said for the first time just now, by who has it to say.
        self._trying: list[Undelivered] = []
        #: What is not delivered; the first is being said.
        self._waiting: deque[Undelivered] = deque()
        self._sender: threading.Thread | None = None
        #: Puts what waits on disk; who does so, or takes out what was said, holds `_keeping`.
        self._keeper: threading.Thread | None = None
        self._keeping = threading.Lock()
        #: Something could not be delivered just now; and why nothing could be put on disk.
        self._is_away, self._unkept = False, ""
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

    def tell(self, what: str, say: Callable[[], object], kept: Callable[[], Kept] | None = None) -> None:
        """Say something to the ledger, now or later; never loses it while we live.

        `kept`: returns the same as it may stand on disk; None: it may not.

        Raises nothing but what interrupts it (Ctrl-C). An `Exception` may be that of a signal's handler, too:
        after any the message is said again, by a thread that no signal reaches.
        """
        told = Undelivered(what, say, kept)
        if not self._waiting:  # Else it waits behind what could not be delivered.
            self._trying.append(told)
            try:
                say()
                self.forget(told)
                return
            except LATER as error:
                self._why, self._is_away = str(error), True
                logger.error("%s is not delivered yet and will be tried again: %s", what, error)
            except SpendguardError as error:
                _log_refusal(what, error)
                self.forget(told)
                return
            except Exception:
                logger.exception("%s has failed, or was interrupted, and will be tried again", what)
            except BaseException:
                self._wait_for(told)
                raise
        self._wait_for(told)

    def begin(self, what: str, say: Callable[[], object], kept: Callable[[], Kept]) -> Undelivered:
        """Take what the caller begins to say with something else; then it calls `forget` or `say_later`."""
        told = Undelivered(what, say, kept)
        self._trying.append(told)
        return told

    def forget(self, told: Undelivered) -> None:
        """Forget what was heard at the first try; where it is on disk by then, a thread takes it out."""
        with self._lock:
            if told in self._trying:
                self._trying.remove(told)
        if told.is_on_disk:
            told.say = _nothing
            self._wait_for(told)

    def say_later(self, told: Undelivered, *, is_away: bool) -> None:
        """Let a thread say what was begun; `is_away`: the ledger could not hear it."""
        self._is_away = self._is_away or is_away
        self._wait_for(told)

    def keep_now(self) -> None:
        """Put on disk what is being said: the ledger is not there, though it is tried some more."""
        if self._trying:
            self._begin_to_keep()

    def tell_later(
        self, what: str, say: Callable[[], object], kept: Callable[[], Kept] | None = None
    ) -> None:
        """Let a thread say something, behind what could not be delivered yet; `kept`: as `tell`."""
        self._wait_for(Undelivered(what, say, kept))

    def _wait_for(self, told: Undelivered) -> None:
        with self._lock:
            self._waiting.append(told)
            self._owes[0] = 1
            if told in self._trying:
                self._trying.remove(told)
        self._begin()
        if self._is_away:
            self._begin_to_keep()

    def _begin(self) -> None:
        """See to it that what waits is being said: who was to begin the thread may have been interrupted."""
        sender = self._sender  # It takes itself away when it has said all.
        if self._waiting and (sender is None or not sender.is_alive()):
            with contextlib.suppress(RuntimeError):  # There is no thread to be had now: who waits asks again.
                begin_thread(self._work, "spendguard-outbox")

    def _begin_to_keep(self) -> None:
        """Let a thread put what waits on disk: no signal interrupts it, and nobody waits for the disk."""
        keeper = self._keeper
        if self._spool is not None and (keeper is None or not keeper.is_alive()):
            with contextlib.suppress(RuntimeError):  # Then the next one does it, or who waits at the end.
                begin_thread(self._keep_in_thread, "spendguard-spool")

    def _keep_in_thread(self) -> None:
        self._keeper = threading.current_thread()
        self._keep()
        self._keeper = None
        if self._is_away and not self._unkept and self._to_keep():  # Told meanwhile.
            self._begin_to_keep()

    def _keep(self) -> None:
        """Put on disk what waits and is not there; where that cannot be, all goes on in memory."""
        if self._spool is None or not self._keeping.acquire(timeout=_WRITE_S):
            return
        try:
            while told := self._to_keep():
                numbers = self._spool.keep([one.kept() for one in told if one.kept is not None])
                for one, number in zip(told, numbers, strict=True):
                    one.number = number
                self._unkept = ""
        except Exception as error:
            if not self._unkept:
                logger.error(
                    "What waits for the ledger is not put on disk, and would be lost with this process: %s",
                    error,
                )
            self._unkept = str(error)
        finally:
            self._keeping.release()

    def _to_keep(self) -> list[Undelivered]:
        with self._lock:
            undelivered = dict.fromkeys([*self._trying, *self._waiting])
            told = [one for one in undelivered if one.kept is not None and not one.number]
            for one in told:
                one.is_on_disk = True
        return told

    def flush(self, timeout_s: float = FLUSH_S, kept_s: float | None = None) -> bool:
        """Wait until everything is delivered; say what is not after `timeout_s` seconds.

        `kept_s`: after so many it is enough that all of it stands on disk; None: it is not.
        """
        limit = time.monotonic() + timeout_s
        enough = limit if kept_s is None else min(limit, time.monotonic() + kept_s)
        if self._waiting:
            self._hurry.put(None)
        while self._waiting:
            now = time.monotonic()
            if now > limit or (now > enough and self._is_kept()):
                self._say_what_waits()
                return False
            self._begin()
            time.sleep(0.005)
        return True

    def _is_kept(self) -> bool:
        with self._lock:
            return all(one.number for one in self._waiting)

    def _say_what_waits(self) -> None:
        self._keep()
        waiting = list(self._waiting)
        kept = sum(1 for one in waiting if one.number)
        if kept and self._spool is not None:
            logger.warning(
                "What waits for the ledger in %s: %s of process %d. The next worker here says it, or "
                "`spendguard deliver`; `spendguard check` shows what waits",
                self._spool.folder,
                counted(kept, "message"),
                os.getpid(),
            )
        if lost := len(waiting) - kept:
            logger.error(
                "%s of process %d to the ledger could not be delivered, and calls will be in doubt: "
                "see `spendguard calls` once the scheduler is back",
                counted(lost, "message"),
                os.getpid(),
            )

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
                    refused = _said(first)
                    break
                except LATER as error:
                    self._why, self._is_away = str(error), True
                    self._begin_to_keep()
                    self._wait(wait_s)
            self._is_away = False
            self._delivered(first, refused)

    def _delivered(self, first: Undelivered, refused: SpendguardError | None) -> None:
        """Forget what was said; what was refused for good is put aside, or goes on waiting on disk."""
        with self._lock:
            if not first.is_on_disk:
                self._waiting.popleft()
                return
        is_free = self._keeping.acquire(timeout=_WRITE_S)  # A disk that hangs holds nothing up for ever.
        try:
            if is_free and self._spool is not None and first.number:
                if refused is None:
                    self._spool.said([first.number])
                elif is_for_good(refused):
                    self._spool.refused(first.number, str(refused))
        finally:
            self._waiting.popleft()
            if is_free:
                self._keeping.release()

    def _first(self) -> Undelivered | None:
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


def _said(told: Undelivered) -> SpendguardError | None:
    """Say it once; return why it was refused: it would be again. Raises LedgerUnavailable, PluginError."""
    try:
        told.say()
    except LATER:
        raise
    except SpendguardError as error:
        _log_refusal(told.what, error)
        return error
    except Exception:
        logger.exception("%s failed", told.what)
    return None


def is_for_good(refused: SpendguardError) -> bool:
    """Return whether the ledger will never take what it has refused, whoever says it, under which token."""
    return not isinstance(refused, SpendDenied) or refused.facts.get("http_status") in _FOR_GOOD


def _nothing() -> None:
    """Say nothing: it was said."""


def _log_refusal(what: str, error: SpendguardError) -> None:
    logger.error("%s was refused: %s", what, error)


def flush_all(timeout_s: float = FLUSH_S) -> None:
    """Deliver what this process still has to say."""
    for outbox in list(_outboxes):
        outbox.flush(timeout_s)


atexit.register(flush_all)
