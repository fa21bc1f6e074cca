"""`LedgerService`: what workers do with the ledger through luigid."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import (
    BudgetExceeded,
    LedgerUnavailable,
    SpendDenied,
    denial,
)
from luigi_spendguard.http.spool import Spool
from luigi_spendguard.ledger import (
    calls,
    claims,
    corrections,
    queries,
    runs,
    snapshot,
)
from luigi_spendguard.money import Micros, format_usd, parse_usd, plain_usd
from luigi_spendguard.protocol import EndReply, EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.protocol.commands import approve_forecast
from luigi_spendguard.protocol.messages import BadMessage, NoFields
from luigi_spendguard.protocol.rpcs import (
    AcknowledgeRequest,
    AttemptReply,
    AttemptRequest,
    ClaimReply,
    ClaimRequest,
    CloseRunReply,
    CloseRunRequest,
    CorrectReply,
    CorrectRequest,
    DuePricesReply,
    DuePricesRequest,
    EndedReply,
    EndedRequest,
    FinishReply,
    FinishRequest,
    OpenRunReply,
    OpenRunRequest,
)
from scheduler_patch.dispatch import Excess, batches, holds, workers
from scheduler_patch.dispatch.model import RunState, TaskState
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.scheduler.runs import root_named
from scheduler_patch.scheduler.standing import Lately
from scheduler_patch.service import bookings, spooled
from scheduler_patch.service.ledger import Books
from scheduler_patch.service.shares import BYTES, BYTES_OF_A_KEY, Shares, TurnQueue

logger = logging.getLogger(__name__)


class LedgerService(Books):
    """Opens runs, lets tasks be claimed, and decides about calls, for authenticated workers."""

    def __init__(self, settings: Settings, scheduler: BudgetScheduler, *, begin: bool = True) -> None:
        super().__init__(settings, scheduler, begin=begin)
        self._averages_due = False
        #: Whether tasks have completed since it was looked what they cost.
        self._costs_due = True
        self._turns = TurnQueue()
        #: How runs stand, for lists of them.
        self.lately = Lately()
        #: What vault keys hold of requests' bodies, in bytes.
        self.bodies = Shares(BYTES_OF_A_KEY, BYTES)
        self.saving: set[asyncio.Task[None]] = set()
        #: What could not be told to this ledger.
        self.spool = Spool(settings.ledger_name)
        scheduler.on_scheduled = self.forecast
        scheduler.gate.state.on_shared = self.share

    async def sweep(self) -> None:
        await super().sweep()
        if self.opened is not None:
            await spooled.take_over(self)

    # Runs and claims.

    async def open_run(self, request: OpenRunRequest) -> OpenRunReply:
        """Open or find a run. Raises BadAmount, Conflict, LedgerUnavailable."""
        asked = None if request.budget_usd is None else parse_usd(request.budget_usd)
        cap, note = self.settings.caps.grant(request.root_family, asked)
        root = (request.name, request.by_task_id, request.root_family, request.root_task_id)
        tags = self.settings.tags_of(request.root_family) | (request.tags or {})
        opened = runs.RunRequest(*root, cap, asked, note, looked_ms=request.looked_ms, tags=tags)
        row = await self.commit_soon(bookings.open_run, opened, time.monotonic())
        if self._averages_due:
            self._averages_due = False
            self.state.averages = await self.browse(snapshot.averages) or {}
        run = self.state.runs.get(row["run_id"])
        if run is not None and run.scheduled and row["forecast_micros"] is None:
            self.forecast([run])  # It was scheduled before it could be opened.
        if row["note"] and not self.state.local:  # There the worker says it.
            logger.warning("Run %s: %s", row["run_id"], row["note"])
        return OpenRunReply.from_json(queries.show_run(row))

    async def claim(self, request: ClaimRequest) -> ClaimReply:
        """Claim a task that was dispatched to its worker, for the run it was dispatched for.

        luigid knows better than the worker which one that is, when several runs share the task. Raises
        SpendDenied (`cap`: it needs an approval first), BadAmount, Conflict, NotFound.
        """
        task_id, worker = request.task_id, request.worker
        if not self.scheduler.is_running(task_id, worker):
            raise denial("scope", f"task {task_id} is not dispatched to {worker}")
        task = self.state.tasks.get(task_id)
        pays = await self._paying(task_id, worker, request.run_id)
        also = tuple(sorted({run_id for run_id in task.runs if run_id != pays})) if task else ()
        # One budget for a batch: what its members say together.
        together = batches.cost_of_batch(self.state, task_id)
        declared = None if request.max_cost_usd is None else parse_usd(request.max_cost_usd)
        if together is not None:
            declared = Micros(together)
        attempt = claims.NewClaim(
            request.claim_id,
            pays,
            task_id,
            request.family,
            request.params,
            worker,
            task.members if task is not None else (),
            also,
            declared,
            self.settings.caps.single,
            request.payment_keys,
        )
        if request.run_id is not None and request.run_id not in self.state.runs:
            await self.read(runs.run_row, request.run_id)  # NotFound, whoever pays.
        with self.known_keys.looking() as learn:
            try:
                row, key = await self.commit_soon(bookings.claim, attempt)
            except BudgetExceeded as error:
                holds.declare(self.state, task_id, parse_usd(error.facts["asked_usd"]))
                raise
            learn(key, row["id"])
        return ClaimReply(row["run_id"], key, row["id"], tuple(sorted(self.relayed_vendors)), together=True)

    async def _paying(self, task_id: str, worker: str, named: str | None) -> str:
        """Return the run that pays for a task: the one that it was dispatched for.

        Opened here when its worker cannot know whose task it is. What Luigi's own RPCs say of a root's budget
        may lower the cap that it is granted, and no more.
        """
        gate = self.scheduler.gate
        run = gate.pinned_run(task_id) or self.state.run(gate.paying_run(task_id, worker))
        if run is not None and run.opened and not (run.is_over and named is not None):
            return run.run_id
        if named is not None:
            return named
        root = root_named(self.scheduler, task_id, run.run_id) if run is not None else None
        if root is None:
            raise denial("scope", f"task {task_id} belongs to no run: no worker has said which root needs it")
        least = root.budget_usd
        if least is not None:
            least = plain_usd(min(parse_usd(least), self.settings.caps.grant(root.family, None)[0]))
        about = (root.name, root.by_task_id, root.family, root.task_id, least)
        tags = None if root.tags is None else dict(root.tags)
        opening = OpenRunRequest(*about, tags=tags)
        return (await self.open_run(opening)).run_id

    async def finish(self, request: FinishRequest) -> FinishReply:
        """End a claim, behind the calls of it that have ended; an end that is refused holds nothing up."""
        reply = await self.commit_soon(bookings.finish, request)
        self.known_keys.forget(request.claim_id)
        if reply.known and request.outcome == "completed":
            self.costs_changed()
        return reply

    def costs_changed(self) -> None:
        self._averages_due = self._costs_due = True

    async def close_run(self, request: CloseRunRequest) -> CloseRunReply:
        """End the run of a root that has completed; those of its tasks that are DONE here have, too.

        Raises LedgerUnavailable where there may be one: the end of a plain root needs no ledger.
        """
        if not self.has_ledger:
            return CloseRunReply(False)
        try:
            return await self._close_run(request)
        except LedgerUnavailable:
            # What goes on was heard of, here and at other luigids, as long as the ledger was there.
            if self.opened is None or request.run_id is not None or self.state.current_run(request.name):
                raise
            return CloseRunReply(False)

    async def _close_run(self, request: CloseRunRequest) -> CloseRunReply:
        open_tasks = await self.read(claims.unfinished, request.name, request.run_id) or []
        done, unknown = self.scheduler.done_and_unknown(open_tasks)
        reply = await self.commit_soon(bookings.close_run, request, done, unknown)
        self.known_keys.forget_all()
        self._averages_due = self._averages_due or reply.closed
        self._costs_due = self._costs_due or reply.closed
        return reply

    async def ended(self, request: EndedRequest, *, relayed: bool = False) -> EndedReply:
        """Take how calls of a vault key's have ended; of those that a gateway sends only with `relayed`."""
        return await self.commit_end(bookings.ended, request, relayed)

    async def learn_costs(self) -> None:
        """Look what tasks have cost, and whom they paid: for what is said of those that do not say it."""
        if self._costs_due and self.has_ledger:
            self._costs_due = False
            self.state.costs = await self.browse(snapshot.averages) or {}
            self.state.called = await self.browse(snapshot.vendors_called) or {}

    async def acknowledge(self, request: AcknowledgeRequest) -> NoFields:
        """Take it that a worker has heard of a revoked run, and ends its tasks."""
        workers.acknowledged(self.state, request.worker, request.run_id)
        return NoFields()

    def share(self, task: TaskState) -> None:
        """Remember that a task that was claimed for one run belongs to others, too."""
        if self.has_ledger:
            self._spawn(self._save(claims.share, task.task_id, list(task.runs)))

    # Forecasts.

    def forecast(self, scheduled: list[RunState]) -> None:
        """Say and remember what runs that have been scheduled completely may cost."""
        for run in scheduled:
            if run.is_over and not run.figures_seen:
                self._spawn(self._recall(run))
            if run.forecast is None or not run.opened or self.state.rules.forecast == "off":
                continue
            if run.state == "revoked":  # It costs nothing more, and nobody is to act on what it would.
                continue
            excess = self.scheduler.gate.excess(run)
            level = logging.WARNING if excess else logging.INFO
            logger.log(level, "Run %s may cost %s%s", run.run_id, run.forecast, self._compared(run, excess))
            known = run.forecast
            self._spawn(
                self._save(runs.set_forecast, run.run_id, known.known, known.estimated, known.unknown)
            )

    def _spawn(self, saving: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(saving)
        self.saving.add(task)
        task.add_done_callback(self.saving.discard)

    async def _recall(self, run: RunState) -> None:
        """Let the gate hear of a run that it has forgotten, as it has ended; of one that never was, that."""
        try:
            is_known = await self.recall(run.run_id)
        except LedgerUnavailable as error:
            logger.error("Tasks of run %s wait: %s", run.run_id, error)
            return
        if not is_known:
            self.state.wait_for(run)

    def _compared(self, run: RunState, excess: Excess | None) -> str:
        if excess is None:
            return ""
        what = f"its cap is {format_usd(run.own_budget.cap)}"
        if excess is Excess.GROWTH:
            what = f"the last run of {run.root_family} came to {format_usd(run.last or 0)}"
        if not self.scheduler.gate.is_held(run) or run.forecast is None:
            return f"; {what}"
        approve = approve_forecast(run.run_id, run.forecast.known, run.forecast.unknown)
        return f"; {what}. It is held: {approve} lets it pass"

    async def _save(self, operation: Callable[..., object], *args: Any) -> None:
        """Keep what is only shown: where that cannot be, nothing else fails."""
        try:
            await self.record(operation, *args)
        except LedgerUnavailable as error:
            logger.error("What is shown of %s is not kept: %s", args[0], error)

    # Calls.

    async def check_key(self, key: str) -> SpendDenied | None:
        """Return why a key is worth nothing any more, None while it is, or was a moment ago.

        Raises SpendDenied (`unknown_key`) for one that the ledger does not know, LedgerUnavailable.
        """
        if self.known_keys.believes(key):
            return None
        with self.known_keys.looking() as learn:
            known = await self.read(bookings.known_key, key)
            if known is None:
                raise calls.unknown_key()
            claim_id, ended = known
            if ended is None:
                learn(key, claim_id)
        return ended

    async def reserve(self, key: str, ask: ReserveRequest, *, relayed: bool = False) -> ReserveReply:
        """Decide about a call; `relayed`: a gateway sends it.

        Raises SpendDenied (`unknown_key`; `scope` where a gateway has to send it), LedgerUnavailable.
        """
        if relayed:
            _check_bounds(ask)
        else:
            self._check_is_workers(ask)
        ahead = self._turns.ahead(ask, relayed=relayed)
        caps = self.settings.caps
        answer, run_id = await self.commit_soon(bookings.reserve, key, ask, caps, relayed, ahead)
        self._turns.told(ask, answer, run_id, relayed=relayed)
        return answer

    def _check_is_workers(self, ask: ReserveRequest) -> None:
        """Raise SpendDenied (`scope`) for a call that a gateway has to send."""
        if ask.vendor in self.relayed_vendors and ask.denied is None:  # A denial is only put on record.
            raise denial("scope", f"calls to {ask.vendor} go through the gateway here: it has the secret")

    async def attempt(self, key: str, request: AttemptRequest) -> AttemptReply:
        """Take what an attempt says at once: ends, then a call that is decided about.

        One transaction: where what it asks for cannot be answered, its ends are not taken either. An end
        that is refused holds nothing up. Raises as `reserve`.
        """
        ask, ahead = request.ask, ""
        if ask is not None:
            self._check_is_workers(ask)
            ahead = self._turns.ahead(ask, relayed=False)
        # Nobody waits for what asks for nothing.
        commit = self.commit_end if ask is None else self.commit_soon
        reply, run_id = await commit(bookings.attempt, key, request, self.settings.caps, ahead)
        if ask is not None and reply.answer is not None:
            self._turns.told(ask, reply.answer, run_id, relayed=False)
        return reply

    async def end(self, key: str, end: EndRequest, *, relayed: bool = False) -> EndReply:
        """Apply the end of a call; of one that a gateway sends only with `relayed`."""
        return bookings.end_reply(end, await self.commit_end(bookings.end, key, end, relayed))

    # Prices that come late.

    async def due_prices(self, request: DuePricesRequest, *, relayed_too: bool = False) -> DuePricesReply:
        """Return calls whose price is to be asked for now; none without a ledger."""
        if not await self.read(corrections.waits):
            return DuePricesReply(())
        return DuePricesReply(await self.record(bookings.due, request.vendors, relayed_too))

    async def correct(self, request: CorrectRequest, *, relayed_too: bool = False) -> CorrectReply:
        """Take what a vendor says that a call has cost."""
        call = await self.commit_soon(bookings.correct, request, relayed_too)
        return CorrectReply(call is not None)


def _check_bounds(ask: ReserveRequest) -> None:
    """Raise SpendDenied for what a client sent through the gateway with a text in it that is over-long."""
    try:
        ask.check()
    except BadMessage as error:
        raise denial("unpriced", f"the call cannot be kept in the ledger: {error}") from None
