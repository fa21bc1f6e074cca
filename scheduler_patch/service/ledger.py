"""`Books`: the ledger as luigid's routes reach it, opened when first needed; `commit` tells the gate.

Nothing here waits for the ledger in tornado's thread: operations are awaited, so Luigi's own RPCs go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from luigi_spendguard import redaction
from luigi_spendguard.config import Settings
from luigi_spendguard.errors import LedgerFailed, LedgerUnavailable, LedgerUnreached
from luigi_spendguard.http.relay import Refused
from luigi_spendguard.ledger import Ledger, claims, following, history, replays, settlement, snapshot
from luigi_spendguard.ledger.database import LOCK_SECONDS, Tx
from luigi_spendguard.ledger.database.unreached import silent
from luigi_spendguard.ledger.snapshot import Figures
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.policy import moment
from scheduler_patch.dispatch import feed
from scheduler_patch.dispatch.budgets import Rules
from scheduler_patch.dispatch.state import DispatchState
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service.day_cap import DayCap
from scheduler_patch.service.deliveries import Deliveries
from scheduler_patch.service.known_keys import KnownKeys
from scheduler_patch.service.shares import Throttle

logger = logging.getLogger(__name__)
T = TypeVar("T")
P = ParamSpec("P")

#: Seconds between two looks for pending calls whose sender must be gone.
SWEEP_S = 5.0
#: Seconds between two looks for what other luigids have written, where the ledger is at a server: what they
#: do not tell, and all where nobody can listen.
HEAR_S = 0.5
#: Reads of pages that wait for each other at the most.
MOST_BROWSING = 64
#: Seconds for which a read waits for ends of calls that are being written.
ENDED_S = 1.0
#: Seconds for which a read waits for its answer, whoever is before it, and for which a write does beyond
#: `busy_s`: with them it takes less than a worker waits for luigid (`ledger_client.GIVE_UP_S`).
READ_S, WRITE_S = 3.5, 1.0
#: Seconds after which a server that has not answered a page yet is asked whether it answers at all.
ATTEND_S = 0.5
#: Who has asked for what is written now, such as `an operator at 127.0.0.1`; "": nobody in person.
ACTOR: ContextVar[str] = ContextVar("actor", default="")


def _nothing(state: DispatchState) -> None:
    """Tell the gate nothing more."""


@dataclass(frozen=True)
class Booked(Generic[T]):
    """What an operation has written to the books: its answer, and what the gate must hear of it.

    Attributes:
        answer: what whoever commits it gets.
        figures: the run that it has changed; None: no budget and no state of one.
        tell: tells the gate the rest, once it has the figures.

    """

    answer: T
    figures: Figures | None
    tell: Callable[[DispatchState], None] = _nothing

    def hear(self, state: DispatchState) -> None:
        """Let the gate hear of it."""
        if self.figures is not None:
            feed.feed(state, self.figures)
        self.tell(state)


class Books:
    """Opens the ledger when it is first needed (a luigid without vendor tasks never has one).

    Attributes:
        busy_s: seconds for which a write waits for its turn among other processes: a worker hears why.

    """

    busy_s: float = LOCK_SECONDS

    def __init__(self, settings: Settings, scheduler: BudgetScheduler, *, begin: bool = True) -> None:
        """`begin`: whether the gate has to be told what is in the ledger already."""
        self._begin = begin
        self.scheduler = scheduler
        #: What the gate decides by.
        self.state = scheduler.gate.state
        self._take(settings)
        #: Since when, and why, luigi.cfg is not what is in force; None: it was taken over at the last reload.
        self.not_reloaded: dict[str, str] | None = None
        #: Why the audit is not sealed; "": it is, as far as is known.
        self.audit_stopped = ""
        self.throttle = Throttle()
        self.known_keys = KnownKeys()
        self._deliveries = Deliveries()
        #: What each worker that waits was told last: see `blocked.py`.
        self.told: dict[str, Any] = {}
        #: The latest end of a call that is being written, and that a read is to see.
        self._ending: asyncio.Future[Any] | None = None
        #: Another process has told of a change, and the gate is being told.
        self._is_told = False
        self._hearing: asyncio.Task[None] | None = None
        #: The journal's last entry that the gate knows of.
        self.seen = 0
        self._day_cap = DayCap()
        #: Where the books ended when they were opened; None: they are not, or nobody here logs what is new.
        self.began: history.Position | None = None
        self._ledger: Ledger | None = None
        self._opening = threading.Lock()
        self._browsing = 0
        if settings.has_ledger:
            self._open()

    def _take(self, settings: Settings) -> None:
        """Let everything that is asked from now on be answered by `settings`."""
        caps = settings.caps
        self.settings = settings
        self.state.rules = Rules(
            forecast=settings.forecast,
            growth=settings.forecast_growth,
            single=caps.single,
            shadow=caps.shadow,
            vendor_tasks=settings.vendor_tasks,
            kill=settings.kill_on_revoke,
            day=caps.day,
            families=caps.task_families,
            vendors=caps.vendors,
        )
        self.scheduler.fast_dispatch = settings.fast_dispatch
        self._admin_token = settings.admin_token

    async def reload(self, settings: Settings) -> None:
        """Go on with other settings; runs keep the caps that they were opened with, keys stay valid.

        Budgets that follow the file (of task families, vendors and the day) get their caps of now. Raises
        LedgerUnavailable.
        """
        self._take(settings)
        self.not_reloaded = None
        self.state.moved()
        if self._ledger is None:
            return
        if self._admin_token is None:
            self._admin_token = await asyncio.to_thread(kept_token, settings.token_file)
        await self.record(following.follow, settings.caps)
        self._day_cap = DayCap()
        await self.refresh()

    def reload_refused(self, why: str) -> None:
        """Keep it for those who ask that luigi.cfg could not be taken over, since when, and why not now."""
        since = self.not_reloaded["since"] if self.not_reloaded else moment(int(time.time() * 1000)) or ""
        self.not_reloaded = {"since": since, "why": why}

    def _open(self) -> Ledger:
        with self._opening:
            if self._ledger is None:
                ledger = Ledger(self.settings.ledger, self.busy_s)
                if self._begin:
                    before = ledger.read(snapshot.today).result()
                    # What is loaded from Luigi's state may be of runs that have ended.
                    start = ledger.write(snapshot.start, self.settings.caps, list(self.state.runs)).result()
                    self._day_cap.begin(before, start.day, self.settings.caps.day)
                    feed.begin(self.state, start)
                    self.state.averages, self.seen = ledger.browse(snapshot.averages).result(), start.seen
                    self.began = ledger.write(history.position).result()  # Nobody else is in the midst of it.
                if self._admin_token is None:
                    self._admin_token = kept_token(self.settings.token_file)
                self._ledger = ledger
                logger.info("The ledger is %s", self.settings.ledger_name)
            return self._ledger

    @property
    def admin_token(self) -> str | None:
        """The admin token of luigi.cfg, else of the file beside the ledger; None while there is no ledger."""
        path = self.settings.token_file
        if self._admin_token is None and path.exists():  # Made by a worker with a local scheduler.
            self._admin_token = kept_token(path)
        return self._admin_token

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger file: none is made for questions."""
        return self._ledger is not None or self.settings.has_ledger

    @property
    def relayed_vendors(self) -> frozenset[str]:
        """The vendors whose calls a gateway sends: it has the secret, and a worker's proxy only forwards."""
        return self.settings.vendors_with_secret

    async def ledger(self) -> Ledger:
        """Return the ledger, opened now if need be. Raises LedgerUnavailable."""
        return await asyncio.to_thread(self._open) if self._ledger is None else self._ledger

    async def commit(
        self, operation: Callable[Concatenate[Tx, P], Booked[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write to the books in a durable transaction, then tell the gate what was written."""
        return self._told(await self._write(operation, *args, **kwargs))

    async def commit_end(
        self, operation: Callable[Concatenate[Tx, P], Booked[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do what `commit_soon` does for whom nobody waits: who reads afterwards sees it all the same."""
        writing = self._queue(await self.ledger(), operation, *args, **kwargs)
        self._ending = writing
        return self._told(await self._soon(writing))

    async def commit_soon(
        self, operation: Callable[Concatenate[Tx, P], Booked[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do what `commit` does for a worker or a gateway's client, which hears why where it takes too long.

        It may be written all the same: each is asked or said again by its own id. Raises LedgerUnavailable.
        """
        return self._told(await self._soon(self._queue(await self.ledger(), operation, *args, **kwargs)))

    async def _soon(self, writing: asyncio.Future[Booked[T]]) -> Booked[T]:
        seconds = self.busy_s + WRITE_S
        try:
            return await self._deliveries.within(seconds, writing, self._told_late)
        except asyncio.TimeoutError:
            raise self._still(seconds) from None

    def _told_late(self, writing: asyncio.Future[Booked[Any]]) -> None:
        """Let the gate hear of what was written when nobody waited for it any more."""
        if not writing.cancelled() and writing.exception() is None:
            self._told(writing.result())

    def _still(self, seconds: float) -> LedgerUnavailable:
        """Return why the ledger has not answered for so long."""
        if (away := self.away) is not None:
            return away
        if self.settings.ledger_server is not None:
            return LedgerUnreached(silent(seconds))
        return LedgerUnavailable(f"the ledger has not answered for {seconds:g} s: does its disk stand still?")

    def _told(self, booked: Booked[T]) -> T:
        booked.hear(self.state)
        return booked.answer

    async def record(
        self, operation: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write durably what the gate decides nothing by, or look when all else is written."""
        answer = await self._write(operation, *args, **kwargs)
        if isinstance(answer, Booked):
            raise TypeError("the gate has to hear of this: commit it")
        return answer

    async def _write(
        self, operation: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._queue(await self.ledger(), operation, *args, **kwargs)

    def _queue(
        self,
        ledger: Ledger,
        operation: Callable[Concatenate[Tx, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> asyncio.Future[T]:
        actor = ACTOR.get()

        @functools.wraps(operation)  # What it touches, too.
        def act(tx: Tx, *args: P.args, **kwargs: P.kwargs) -> T:
            tx.actor = actor
            try:
                return operation(tx, *args, **kwargs)
            finally:
                tx.actor = ""

        return self._deliveries.expect(ledger.write(act, *args, **kwargs))

    @property
    def away(self) -> LedgerUnreached | None:
        """Why the ledger's server is away: whatever is asked fails at once; None: it is there, if opened."""
        return None if self._ledger is None else self._ledger.away

    @property
    def opened(self) -> Ledger | None:
        """The ledger if it is open."""
        return self._ledger

    async def read(self, operation: Callable[..., T], *args: Any) -> T | None:
        """Run a reading operation that takes no time; None while there is no ledger file.

        Raises LedgerUnavailable where it has no answer within seconds: a call may wait for it.
        """
        if not self.has_ledger:
            return None
        await self._ended()
        try:
            return await self._deliveries.expect_within(READ_S, (await self.ledger()).read(operation, *args))
        except asyncio.TimeoutError:
            raise self._still(READ_S) from None

    async def _ended(self) -> None:
        """Wait for the ends of calls whose answers have been handed on already, but not for a locked disk."""
        if self.away is not None:
            return
        if (ending := self._ending) is not None and not ending.done():
            await asyncio.wait([ending], timeout=ENDED_S)

    async def browse(self, operation: Callable[..., T], *args: Any) -> T | None:
        """Run what a page asks for; nothing else waits behind it. None while there is no ledger file.

        Raises Refused when too many wait already: whoever looks does not slow down who pays.
        """
        if not self.has_ledger:
            return None
        if self._browsing >= MOST_BROWSING:
            raise Refused(503, "busy", "too many pages are being read: try again in some seconds")
        self._browsing += 1
        try:
            await self._ended()
            ledger = await self.ledger()
            looking = self._deliveries.expect(ledger.browse(operation, *args))
            if self.settings.ledger_server is not None:
                await self._attend(ledger, looking)
            return await looking
        finally:
            self._browsing -= 1

    async def _attend(self, ledger: Ledger, looking: asyncio.Future[Any]) -> None:
        """Wait for what a page asks for, however long that takes its server, unless that stands still.

        Raises LedgerUnavailable where the server does not answer what takes it no time either.
        """
        try:
            while not looking.done():
                await asyncio.wait([looking], timeout=ATTEND_S)
                if not looking.done():
                    await self._deliveries.expect_within(READ_S - ATTEND_S, ledger.read(Tx.now))
        except (asyncio.TimeoutError, LedgerUnavailable) as error:
            if looking.done():
                return
            looking.cancel()  # Nobody waits for it any more.
            if isinstance(error, LedgerUnavailable):
                raise
            raise self._still(READ_S) from None

    def look_last(self, operation: Callable[..., T], seconds: float, *args: Any) -> T:
        """Run a reading operation behind all that is queued, as the program ends: readers are gone then."""
        return self._open().write(operation, *args).result(seconds)

    def close(self) -> None:
        """Commit what is queued and close the file."""
        if self._ledger is not None:
            self._ledger.close()

    async def sweep(self) -> None:
        """Look for senders that are gone, forget old answers, and refresh the gate."""
        if self._ledger is None:
            return
        try:
            await self.record(settlement.sweep)
            await self.record(replays.forget, self.settings.replay_days)
            if gone := sorted(self.state.vanished):
                await self.commit(_lose, gone)
                self.known_keys.forget_all()
            await self.refresh()
        except LedgerUnavailable as error:
            logger.error("%s", error, exc_info=error if isinstance(error, LedgerFailed) else None)

    async def listen(self) -> None:
        """Hear from now on at once of what other processes have changed, where the ledger is at a server."""
        loop = asyncio.get_running_loop()
        (await self.ledger()).listen(lambda: loop.call_soon_threadsafe(self._tell_gate))

    def _tell_gate(self) -> None:
        """Refresh the gate; what is told meanwhile is looked for once more."""
        self._is_told = True
        if self._hearing is None or self._hearing.done():
            self._hearing = asyncio.get_running_loop().create_task(self._hear_told())

    async def _hear_told(self) -> None:
        while self._is_told:
            self._is_told = False
            self.known_keys.forget_all()  # One of them may be revoked.
            await self.hear()

    async def hear(self) -> None:
        """Refresh the gate soon after another luigid has written; what keeps it from that, `sweep` says."""
        if self._ledger is not None:
            with contextlib.suppress(LedgerUnavailable):
                await self.refresh()

    async def recall(self, run_id: str) -> bool:
        """Take over what the ledger says of a run; return whether it knows it. Raises LedgerUnavailable."""
        figures = await self.read(snapshot.of_known, run_id)
        if figures is not None:
            feed.feed(self.state, figures)
        return figures is not None

    async def refresh(self) -> None:
        """Take over what other processes have done to the ledger."""
        changes = await self.read(snapshot.changes, self.seen)
        if changes is not None:
            feed.feed_changes(self.state, changes)
            self.seen = max(self.seen, changes.seen)
            if any(row["outcome"] == "completed" for row in changes.ended):
                self.costs_changed()
            if self._day_cap.is_passed(changes.day, cap := self.settings.caps.day) and cap is not None:
                await self.record(following.day_budget, cap)

    def costs_changed(self) -> None:
        """Take it that tasks have completed: others of their family may cost something else on average."""


def _lose(tx: Tx, workers: list[str]) -> Booked[None]:
    claims.lose(tx, workers)
    return Booked(None, None, lambda state: state.vanished.difference_update(workers))


def kept_token(path: Path) -> str:
    """Return the admin token of that file beside the ledger, made when the ledger is, mode 0600."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # A ledger at a server has no folder.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _learnt(path.read_text("utf-8").strip())
    except OSError as error:
        raise LedgerUnavailable(f"the admin token {path} cannot be written: {error.strerror}") from None
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token + "\n")
    return _learnt(token)


def _learnt(token: str) -> Secret:
    redaction.learn(token)
    return Secret(token)
