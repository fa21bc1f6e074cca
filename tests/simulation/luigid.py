"""luigid, killed and started again at will: the product's service, gate and operators' word, by virtual time.

Of Luigi's own scheduler it has what dispatches: which tasks are pending, running and done, and the gate.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.guard.effects import Send
from luigi_spendguard.http.relay import ClientCall
from luigi_spendguard.ledger import corrections, snapshot
from luigi_spendguard.ledger.keys import Terms
from luigi_spendguard.ledger.top_ups import TopUp
from luigi_spendguard.money import parse_usd
from luigi_spendguard.protocol import EndReply, EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.protocol.operators import ResolveRequest
from luigi_spendguard.protocol.rpcs import (
    AttemptReply,
    AttemptRequest,
    CorrectRequest,
    DuePricesRequest,
    EndedCall,
    FinishReply,
    FinishRequest,
)
from luigi_spendguard.vendors import Reply
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api import keys
from scheduler_patch.dispatch import Gate, Verdict, endings, feed, workers
from scheduler_patch.dispatch.model import Announcement
from scheduler_patch.service import LedgerService, operators
from scheduler_patch.service.callers import ADMIN
from scheduler_patch.service.four_eyes import Rights
from scheduler_patch.service.known_keys import KnownKeys
from scheduler_patch.service.shares import TurnQueue
from tests.simulation.clients import Gateway
from tests.simulation.disk import Ledger
from tests.simulation.world import Pending, Process

#: How often a task that has failed is tried again, and after how many seconds.
RETRIES, RETRY_S = 3, 0.7
#: How often it asks for prices; after how long it takes it that a worker is gone that it has not heard of.
PRICES_S, GONE_S = 3.0, 15.0


@dataclass
class Task:
    """A task as Luigi's scheduler knows it."""

    state: str = "pending"
    worker: str = ""
    failures: int = 0
    since: float = 0.0
    workers: set[str] = field(default_factory=set)


class Scheduler:
    """What the service needs of Luigi's scheduler."""

    fast_dispatch = True

    def __init__(self) -> None:
        self.gate, self.tasks = Gate(), dict[str, Task]()

    def is_running(self, task_id: str, worker: str) -> bool:
        task = self.tasks.get(task_id)
        return task is not None and task.state == "running" and task.worker == worker

    def done_and_unknown(self, tasks: list[str]) -> tuple[list[str], list[str]]:
        done = [one for one in tasks if one in self.tasks and self.tasks[one].state == "done"]
        return done, [one for one in tasks if one not in self.tasks]


class _Passing:
    expect = staticmethod(lambda pending: pending)
    expect_within = staticmethod(lambda seconds, pending: pending)
    within = staticmethod(lambda seconds, pending, late: pending)


class _NoSpool:
    """This machine's own is nothing of a history's."""

    is_empty = True


class Service(LedgerService):
    """The product's, with a ledger that is committed in virtual time; what it answers is judged."""

    def __init__(self, luigid: Any) -> None:
        super().__init__(luigid.site.settings, Scheduler())  # type: ignore[arg-type]
        clock = luigid.site.world.clock
        self.process, self._deliveries, self._ledger = luigid.process, _Passing(), luigid.ledger
        self._turns, self.known_keys = TurnQueue(clock), KnownKeys(clock)
        self.judge, self.spool = luigid.site.judge, _NoSpool()  # type: ignore[assignment]
        start = luigid.ledger.at_once(snapshot.start, self.settings.caps)
        feed.begin(self.state, start)
        self.seen = start.seen

    async def _ended(self) -> None:
        if self._ending is not None and not self._ending.done():
            either = Pending(self.process.world)
            self._ending.then(either.set_result)
            await either

    async def reserve(self, key: str, ask: ReserveRequest, *, relayed: bool = False) -> ReserveReply:
        answer = await super().reserve(key, ask, relayed=relayed)
        self.judge.answered(ask, answer)
        return answer

    async def end(self, key: str, end: EndRequest, *, relayed: bool = False) -> EndReply:
        reply = await super().end(key, end, relayed=relayed)
        self.judge.ended(end)
        return EndReply.from_json(reply.to_json())

    async def attempt(self, key: str, request: AttemptRequest) -> AttemptReply:
        reply = await super().attempt(key, request)
        self._told_of(request.ends, reply.ends)
        if request.ask is not None and reply.answer is not None:
            self.judge.answered(request.ask, reply.answer)
        return reply

    async def finish(self, request: FinishRequest) -> FinishReply:
        reply = await super().finish(request)
        self._told_of(request.ends, reply.ends)
        return reply

    def _told_of(self, ends: tuple[EndRequest, ...], replies: tuple[EndedCall, ...]) -> None:
        for end, reply in zip(ends, replies, strict=True):
            if not reply.refused:
                self.judge.ended(end)

    def _spawn(self, saving: Coroutine[Any, Any, None]) -> None:
        self.process.background(saving)


class Luigid:
    """One luigid, which is its own gateway for who holds a vault key of a person's."""

    def __init__(self, site: Any, name: str) -> None:
        self.site, self.name, self._lives = site, name, 0
        self.start()

    def start(self) -> None:
        """Begin with what is in the ledger, and nothing else."""
        world = self.site.world
        self._lives += 1
        self.process = process = Process(world, f"{self.name}#{self._lives}")
        self.ledger = Ledger(self.site.disk, process, self.site.committed)
        self.service = Service(self)
        self.tasks: dict[str, Task] = self.service.scheduler.tasks
        self.gate: Gate = self.service.scheduler.gate
        self.gateway = Gateway(self.site, self.service)
        self._begun_s = world.now
        #: The journal's last entry when a worker was last given nothing to do.
        self.seen = 0
        process.background(self._look_after())
        process.gone.then(lambda: world.later(1 + 2 * world.chance(process.name, "back"), self.start))

    async def _look_after(self) -> None:
        """Sweep, ask for late prices, and take what workers that are gone have run."""
        world, tick = self.site.world, 0
        while self.site.goes_on():
            await world.sleep(PRICES_S if world.actors else 3 * PRICES_S)
            tick += 1
            pending, due = self.site.open_calls()
            if due:
                await self._ask_for_prices()
            if tick % 2:
                continue
            self._fail(lambda worker: not self.site.is_alive(worker))
            if world.now > self._begun_s + GONE_S:
                self._forget_lost_workers()
            last = self.site.look("SELECT max(id) FROM journal") or 0
            if pending or last > self.service.seen:  # Else it would find nothing.
                await self.service.sweep()

    def _forget_lost_workers(self) -> None:
        """Count nothing more for those whom only the ledger remembers, as `forget_lost_workers` does."""
        state = self.service.state
        named = {worker for task in self.tasks.values() for worker in task.workers}
        heard = {worker for worker in named if self.site.is_alive(worker)}
        for task_id, known in list(state.tasks.items()):
            worker, task = known.claimed_by, self.tasks.get(task_id)
            if (task is not None and task.state == "running") or worker in heard:
                continue
            if worker is not None:
                workers.lose_workers(state, [worker])
            if known.counted_in or worker is not None:
                endings.stopped(state, task_id)

    def presume_dead(self, worker: str) -> None:
        """Take a worker for dead that may live: Luigi does, where its pings are late."""
        self._fail(lambda one: one.startswith(worker))

    def _fail(self, is_gone: Any) -> None:
        for task_id, task in self.tasks.items():
            if task.state == "running" and is_gone(task.worker):
                self._ended(task_id, task, "failed")

    async def _ask_for_prices(self) -> None:
        try:
            if not self.ledger.read(corrections.waits).result():
                return
            asked = DuePricesRequest(("twilio",))
            for due in (await self.service.due_prices(asked, relayed_too=True)).due:
                vendor, own = VENDORS[due.vendor], self.site.settings.vendor(due.vendor)
                request = vendor.follow_up(due.account, due.object_id, own)
                send = Send(vendor.wire(request, own, self.site.secret, ""), self.site.world.now + 2)
                try:
                    reply = await self.site.send(self.process, due.vendor, send, "")
                except OSError:
                    continue
                said = vendor.followed(reply, own, {})
                price = (said.final, said.total_micros, said.note, said.whole, said.problem)
                await self.service.correct(CorrectRequest(due.call_id, *price), relayed_too=True)
        except LedgerUnavailable:
            pass

    # What is asked of it.

    async def serve(self, method: str, *args: Any) -> Any:
        served = getattr(self, f"_serve_{method}", None)
        return await (served or getattr(self.service, method))(*args)

    async def _serve_relay(self, key: str, asked: ClientCall) -> Reply:
        return await self.gateway.relayed(key, asked)

    async def _serve_announce(self, worker: str, tasks: dict[str, Any], run_id: str, again: bool) -> None:
        """Take what Luigi's own RPCs say of tasks."""
        for task_id, said in tasks.items():
            task = self.tasks.setdefault(task_id, Task())
            task.workers.add(worker)
            if again and task.state == "failed":
                task.state, task.failures = "pending", 0
            announced = Announcement("Charge", said["cost"], tuple(said["vendors"]), scheduling=True)
            workers.join(self.service.state, task_id, run_id, worker, announced)
        self.service.forecast(workers.scheduled(self.service.state, worker))

    async def _serve_get_work(self, worker: str) -> tuple[str | None, int]:
        """Return a task to run, and how many may still be: Luigi's part, with the gate's verdict."""
        due = 0
        for task_id, task in self.tasks.items():
            if worker not in task.workers:
                continue
            if task.state == "running" and task.worker == worker:
                return task_id, 1  # Its answer was lost.
            due += task.state == "running"
            if task.state == "pending":
                verdict = self.gate.verdict(task_id, worker)
                due += not verdict.is_blocked
                if verdict is Verdict.READY and task.since <= self.site.world.now:
                    self.gate.started(task_id, None, worker)
                    task.state, task.worker = "running", worker
                    return task_id, due
        # What another one's gateway has written its gate hears of when it looks next.
        self.seen = self.last_entry() if len(self.site.luigids) == 1 else self.service.seen
        return None, due

    def last_entry(self) -> int:
        """Return the journal's last entry."""
        return int(self.site.tx().value("SELECT coalesce(max(id), 0) FROM journal"))

    async def _serve_status(self, worker: str, task_id: str, what: str) -> None:
        """Take how a task has ended at a worker."""
        task = self.tasks.get(task_id)
        if task is not None and (what == "done" or (task.state == "running" and task.worker == worker)):
            self._ended(task_id, task, what)

    def _ended(self, task_id: str, task: Task, what: str) -> None:
        worker, task.worker = task.worker, ""
        if what == "done":
            task.state = "done"
            endings.done(self.service.state, task_id)
            return
        if what == "blocked":
            self.gate.hold_as_reported(task_id)
            self.gate.came_back(task_id, worker)
            task.state = "pending"
        else:
            task.failures += 1
            task.since = self.site.world.now + RETRY_S
            task.state = "pending" if task.failures <= RETRIES else "failed"
        endings.stopped(self.service.state, task_id)

    # Operators.

    async def _serve_revoke(self, run_id: str) -> int:
        under_way = await operators.revoke(self.service, run_id)
        self.site.judge.revoked[run_id] = self.site.world.now
        return under_way

    async def _serve_top_up(self, run_id: str, usd: str, request_id: str) -> Any:
        # Without its forecast of what it frees, for which Luigi's own scheduler is needed.
        asked = TopUp(run_id, None, parse_usd(usd), request_id)
        return await self.service.commit(operators._top_up, asked, Rights(ADMIN, self.service.settings))

    async def _serve_resolve(self, request: ResolveRequest) -> Any:
        return await operators.resolve(self.service, request)

    async def _serve_issue(self, label: str, ttl_ms: int, cap: int | None) -> tuple[dict[str, Any], str]:
        terms = Terms("stripe", label, run_cap=cap, ttl_ms=ttl_ms)
        return await self.service.commit(keys._issue, terms, self.service.settings.caps, {})

    async def _serve_revoke_key(self, key_id: str) -> None:
        await self.service.commit(keys._revoke, key_id, "")
        self.service.known_keys.forget_all()
        await operators.in_force(self.service, keys.keys.pending_calls, key_id)
        self.site.judge.revoked[key_id] = self.site.world.now
