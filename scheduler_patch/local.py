"""`--local-scheduler`: the ledger in the worker's own process, and in each of its forked children.

A forked child holds a copy of the scheduler, which nobody hears: its calls reach the ledger's file itself,
and the worker's own scheduler reads there what they have spent. Found by name by the worker (the one
place of luigi_spendguard that reaches up).
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import Conflict, LedgerUnavailable, NotFound, denial
from luigi_spendguard.http.gathering import LastWords
from luigi_spendguard.http.ledger_client import GIVE_UP_S, LedgerClient, say_in_doubt
from luigi_spendguard.http.lost_calls import asking, left_ends, note, saying
from luigi_spendguard.http.outbox import FLUSH_S, Outbox
from luigi_spendguard.http.shared import CallsUnderWay
from luigi_spendguard.http.spool import Kept, Spool
from luigi_spendguard.ledger.database import Row
from luigi_spendguard.money import BadAmount
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest, rpcs
from luigi_spendguard.protocol.messages import BadMessage
from luigi_spendguard.protocol.rpcs import (
    AcknowledgeRequest,
    BlockedReply,
    BlockedRequest,
    ClaimReply,
    ClaimRequest,
    CloseRunRequest,
    CorrectReply,
    CorrectRequest,
    DuePricesReply,
    DuePricesRequest,
    FinishRequest,
    OpenRunReply,
    OpenRunRequest,
)
from scheduler_patch.scheduler import BudgetScheduler, adopt
from scheduler_patch.service import LedgerService, spooled
from scheduler_patch.service.blocked import explain_blocked
from scheduler_patch.service.ledger import SWEEP_S
from scheduler_patch.service.news import LOOK_S, News
from scheduler_patch.service.remarks import say_mode
from scheduler_patch.service.sealing import Sealing

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LocalLedgerService(LedgerService):
    """A service whose loop is another thread's."""

    #: Many local workers share a file, and each child of theirs: nobody else is waited for.
    busy_s = 60.0

    loop: asyncio.AbstractEventLoop
    #: The process that runs the tasks sends their calls itself.
    relayed_vendors: frozenset[str] = frozenset()

    def _spawn(self, saving: Coroutine[Any, Any, None]) -> None:
        # Waited for: a child that Luigi forks meanwhile would take a lock of this process for its own, and
        # find the file locked for ever (https://sqlite.org/howtocorrupt.html, section 2.6).
        if _loop_here() is self.loop:
            super()._spawn(saving)  # Whoever asked this thread waits: see `LocalLedgerClient._do`.
        else:  # Also where another loop runs: a notebook's cell is called by one.
            _answer_of(self.loop, lambda: saving)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, whosever it is."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


#: Seconds for which Luigi's request for work waits, now and then, while the audit is sealed.
SEAL_S = 0.1
#: Seconds after which the ledger is taken to be locked, or slow.
LATE_S = 1.0


def _answer_of(
    loop: asyncio.AbstractEventLoop,
    act: Callable[[], Coroutine[Any, Any, T]],
    is_late: Callable[[], object] = lambda: None,
) -> T:
    """Do something in another thread's loop; return what it returns, raise what it raises.

    `is_late` is called once where that takes long.
    A signal's handler may raise meanwhile (a task's alarm): by a future's condition, that could leave the
    loop's thread waiting for ever.
    """
    answer = queue.SimpleQueue[Callable[[], T]]()

    async def answered() -> None:
        try:
            done = await act()
        except BaseException as error:
            answer.put(partial(_raise, error))
        else:
            answer.put(lambda: done)

    def begin() -> None:
        task = loop.create_task(answered())
        _under_way.add(task)
        task.add_done_callback(_under_way.discard)

    loop.call_soon_threadsafe(begin)
    try:
        done = answer.get(timeout=LATE_S)
    except queue.Empty:
        is_late()
        done = answer.get()
    return done()


def _raise(error: BaseException) -> NoReturn:
    raise error


#: Else nobody would hold them.
_under_way: set[asyncio.Task[None]] = set()

_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


at_fork(_after_fork)


class LocalLedgerClient(LedgerClient):
    """That of a worker with its own scheduler; made anew in children, forked or spawned."""

    #: There is no gateway here: the secret must be where the worker is.
    url = None
    address = None
    authorization = ""

    def __init__(self, scheduler: BudgetScheduler, settings: Settings, *, dispatches: bool = True) -> None:
        """`dispatches`: the scheduler's gate is to know what is in the ledger, and to go on hearing of it."""
        self._scheduler, self._settings = scheduler, settings
        self._spool = Spool(settings.ledger_name)
        self._outbox, self.under_way = Outbox(self._spool), CallsUnderWay()
        self._service: LocalLedgerService | None = None
        #: The journal's last entry that the gate knew of when the file was let go.
        self._seen = 0
        self._pid, self._home = 0, os.getpid()
        self._swept = self._looked = time.monotonic()
        self._news: News | None = None
        self._sealing: Sealing | None = None
        self._unheard = ""
        if dispatches:
            scheduler.gate.state.local = True
            scheduler.refresh = self._refresh
            self._do(LedgerService.sweep)

    def __reduce__(self) -> Any:
        # A spawned child has a copy of the scheduler, as a forked one has: what it claims was dispatched.
        return (_in_child, (self._scheduler, self._settings))

    def _do(self, act: Callable[[LocalLedgerService], Coroutine[Any, Any, T]]) -> T:
        """Do something in the service of this process, which is opened when it is not."""
        with _lock:
            service = self._service if self._pid == os.getpid() else None
            service = service or self._open()
        return _answer_of(service.loop, lambda: self._act(service, act), self._outbox.keep_now)

    def _ask(self, act: Callable[[LocalLedgerService], Coroutine[Any, Any, T]]) -> T:
        """Do what a worker asks for; what the books refuse is a denial, as it is over luigid's RPCs."""
        try:
            return self._do(act)
        except (NotFound, Conflict, BadAmount, BadMessage) as error:
            raise denial("scope", f"the ledger refused it: {error}") from None

    async def _act(
        self, service: LocalLedgerService, act: Callable[[LocalLedgerService], Coroutine[Any, Any, T]]
    ) -> T:
        done = await act(service)
        while service.saving:
            await asyncio.wait(service.saving)
        return done

    def _open(self) -> LocalLedgerService:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(loop,), name="spendguard-local", daemon=True)
        self._thread.start()
        # A child dispatches nothing: its copy of the gate need not be told all that the ledger knows.
        begin = not self._pid and self._scheduler.refresh is not None
        self._service = LocalLedgerService(self._settings, self._scheduler, begin=begin)
        self._service.seen = max(self._service.seen, self._seen)
        self._service.loop, self._pid = loop, os.getpid()
        if begin:
            self._news = News(self._service, self._is_mine)
        elif self._news is not None:
            self._news.take(self._service)
        # A forked child does nothing by the clock, and its parent's ledger is not open there.
        by_clock = self._news is not None and os.getpid() == self._home
        self._sealing = Sealing(self._service, guest=True) if by_clock else None
        return self._service

    def for_child(self) -> _Sent:
        # Without the scheduler: a child of an attempt's claims no task.
        return _Sent(self._settings, self.under_way)

    def close(self) -> None:
        with _lock:
            service, self._service = self._service, None
            if service is None or self._pid != os.getpid():
                return
            self._seen = service.seen
            if self._news is not None:
                self._news.finish()
            if self._sealing is not None:
                self._sealing.finish()
            service.close()
            service.loop.call_soon_threadsafe(service.loop.stop)
            self._thread.join()

    def _refresh(self) -> None:
        """Let the gate know what children, and other processes, have done to the ledger.

        From time to time also do what luigid does by its clock. (Here, not in a thread of its own: Luigi
        forks neither while it asks for work nor while it pings.)
        """
        if self._pid != os.getpid() or self._service is None or not self._service.has_ledger:
            return
        try:
            if time.monotonic() - self._swept < SWEEP_S:
                self._do(LedgerService.refresh)
            else:
                self._do(LedgerService.sweep)
                if self._sealing is not None:
                    self._sealing.seal(SEAL_S)
                self._swept = time.monotonic()
            if self._news is not None and time.monotonic() - self._looked >= LOOK_S:
                news, self._looked = self._news, time.monotonic()
                self._do(lambda service: news.tell())
        except LedgerUnavailable as error:  # Luigi asks: its plain tasks go on, and vendor tasks are refused.
            if str(error) != self._unheard:
                logger.error("%s", error)
            self._unheard = str(error)

    def _is_mine(self, row: Row) -> bool:
        """Return whether something is about a run of this worker's: the ledger may have many others'."""
        state = self._scheduler.gate.state
        mine = {name for names in state.runs_of.values() for name in names}
        return row["run_id"] in mine or any(state.names.get(name) == row["run_id"] for name in mine)

    # What a worker asks for.

    def open_run(self, request: OpenRunRequest) -> OpenRunReply:
        return self._ask(lambda service: service.open_run(request))

    def claim(self, request: ClaimRequest) -> ClaimReply:
        return self._ask(lambda service: service.claim(request))

    def finish(self, request: FinishRequest, key: str = "") -> None:
        what = f"the end of claim {request.claim_id}"
        kept = partial(Kept.of, what, rpcs.FINISH, request)
        self._outbox.tell(what, lambda: self._do(lambda service: service.finish(request)), kept)

    def close_run(self, request: CloseRunRequest, *, is_plain: bool = False) -> None:
        what = f"the end of run {request.name}"
        kept = partial(Kept.of, what, rpcs.CLOSE_RUN, request)

        def say() -> None:
            say_in_doubt(self._do(lambda service: service.close_run(request)))

        self._outbox.tell(what, say, kept)

    def take_over(self, *, at_once: bool = False) -> None:
        if self._spool.is_empty:
            return
        try:
            self._do(spooled.take_over)
        except Exception as error:
            logger.warning("What waits in %s is not booked yet: %s", self._spool.folder, error)

    def blocked(self, request: BlockedRequest) -> BlockedReply:
        return self._ask(lambda service: explain_blocked(service, request))

    def acknowledge(self, request: AcknowledgeRequest) -> None:
        self._ask(lambda service: service.acknowledge(request))

    def due_prices(self, request: DuePricesRequest) -> DuePricesReply:
        return self._ask(lambda service: service.due_prices(request))

    def correct(self, request: CorrectRequest) -> CorrectReply:
        return self._ask(lambda service: service.correct(request))

    def reserve(self, key: str, request: ReserveRequest) -> ReserveReply:
        for end in left_ends(self.under_way):
            self._tell_end(key, end)
        with asking(request, self.under_way) as request:
            self._outbox.deliver(GIVE_UP_S)
            answer = self._ask(lambda service: service.reserve(key, request))
            note(request, answer, self.under_way)
        return answer

    def end(self, key: str, request: EndRequest) -> None:
        if request.kind == "void":
            self.under_way.give_up(request)
        self._tell_end(key, request)
        if request.kind != "void":
            self.under_way.end(request.call_id)

    def _tell_end(self, key: str, end: EndRequest) -> None:
        what = f"the end of call {end.call_id}"
        kept = partial(Kept.ended, key, (end,))
        say = saying((end,), self.under_way, lambda: self._do(lambda service: service.end(key, end)))
        self._outbox.tell(what, say, kept)

    @contextmanager
    def gathering(self, words: LastWords | None = None) -> Iterator[None]:
        with self._outbox.attempt(), self.under_way.attempt():  # There is no message that could be spared.
            yield

    def hand_over(self) -> None:
        """Nothing: nothing is left to a worker."""

    def flush(self, timeout_s: float = FLUSH_S, kept_s: float | None = None) -> bool:
        return self._outbox.flush(timeout_s, kept_s)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then close what it has opened."""
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def client(scheduler: Any, settings: Settings) -> LocalLedgerClient:
    """Return the way to the ledger beside a scheduler in this process, which gets its gate now."""
    logging.getLogger("scheduler_patch").parent = logging.getLogger("luigi-interface")
    say_mode(settings)
    return LocalLedgerClient(adopt(scheduler), settings)


class _Sent:
    """Becomes a `LocalLedgerClient` of its own where it is unpickled."""

    def __init__(self, settings: Settings, under_way: CallsUnderWay) -> None:
        self._settings, self._under_way = settings, under_way

    def __reduce__(self) -> Any:
        return (_in_child, (None, self._settings, self._under_way))


def _in_child(
    scheduler: BudgetScheduler | None, settings: Settings, under_way: CallsUnderWay | None = None
) -> LocalLedgerClient:
    child = LocalLedgerClient(scheduler or BudgetScheduler(), settings, dispatches=False)
    child.under_way = under_way or child.under_way
    return child
