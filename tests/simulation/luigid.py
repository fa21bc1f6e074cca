"""luigid, killed and started again at will: the product's service, gate and operators' word, by virtual time.

Of Luigi's own scheduler it has what dispatches: which tasks are pending, running and done, and the gate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.guard.effects import Send
from luigi_spendguard.ledger import corrections
from luigi_spendguard.ledger.keys import Terms
from luigi_spendguard.money import parse_usd
from luigi_spendguard.protocol.operators import ResolveRequest, TopUpRequest
from luigi_spendguard.protocol.rpcs import CorrectRequest, DuePricesRequest
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api import keys
from scheduler_patch.dispatch import Gate, Verdict
from scheduler_patch.dispatch.model import Announcement
from scheduler_patch.service import operators
from tests.simulation.disk import Ledger
from tests.simulation.gateway import Gateway
from tests.simulation.service import Service, Task
from tests.simulation.world import Process

#: How often a task that has failed is tried again, and after how many seconds.
RETRIES, RETRY_S = 4, 0.7
#: How often it asks for prices; after how long it takes it that a worker is gone that it has not heard of.
PRICES_S, GONE_S = 2.0, 15.0


class Luigid:
    """One luigid, which is its own gateway for who holds a vault key of a person's."""

    def __init__(self, site: Any, name: str) -> None:
        self.site, self.name, self._lives = site, name, 0
        self.start()

    def start(self) -> None:
        """Begin with what is in the ledger, and nothing else."""
        world = self.site.world
        self._lives += 1
        self.process = Process(world, f"{self.name}#{self._lives}")
        self.ledger = Ledger(world, self.site.disk, self.process, self.site.committed)
        self.service = Service(self)
        self.tasks: dict[str, Task] = self.service.scheduler.tasks
        self.gate: Gate = self.service.scheduler.gate
        self.gateway = Gateway(self.site, self.service)
        self._begun_s = world.now
        self.process.background(self._look_after())
        process = self.process
        self.process.gone.then(lambda: world.later(1 + 2 * world.chance(process.name, "back"), self.start))

    async def _look_after(self) -> None:
        """Sweep, ask for late prices, and take what workers that are gone have run."""
        world, tick = self.site.world, 0
        while self.site.goes_on():
            await world.sleep(PRICES_S)
            tick += 1
            pending, due = self.site.open_calls()
            if due:
                await self._ask_for_prices()
            if tick % 3:
                continue
            for task_id, task in self.tasks.items():
                if task.state == "running" and not self.site.is_alive(task.worker):
                    self._ended(task_id, task, "failed")
            if world.now > self._begun_s + GONE_S:
                self._forget_lost_workers()
            last = self.site.look("SELECT max(id) FROM journal") or 0
            if pending or last > self.service.seen:  # Else it would find nothing.
                await self.service.sweep()

    def _forget_lost_workers(self) -> None:
        """Count nothing more for those whom only the ledger remembers, as `forget_lost_workers` does."""
        state = self.service.state
        heard = {
            worker for task in self.tasks.values() for worker in task.workers if self.site.is_alive(worker)
        }
        for task_id, known in list(state.tasks.items()):
            worker, task = known.claimed_by, self.tasks.get(task_id)
            if (task is not None and task.state == "running") or worker in heard:
                continue
            if worker is not None:
                state.lose_workers([worker])
            if known.counted_in or worker is not None:
                state.stopped(task_id)

    def presume_dead(self, worker: str) -> None:
        """Take a worker for dead that may live: Luigi does, where its pings are late."""
        for task_id, task in self.tasks.items():
            if task.state == "running" and task.worker.startswith(worker):
                self._ended(task_id, task, "failed")

    async def _ask_for_prices(self) -> None:
        try:
            if not self.ledger.read(corrections.waits).result():
                return
            asked = DuePricesRequest(("twilio",))
            for due in (await self.service.due_prices(asked, relayed_too=True)).due:
                vendor, own = VENDORS[due.vendor], self.site.settings.vendor(due.vendor)
                request = vendor.follow_up(due.account, due.object_id, own)
                try:
                    wire = vendor.wire(request, own, self.site.secret, "")
                    reply = await self.site.send(
                        self.process, due.vendor, Send(wire, self.site.world.now + 2), ""
                    )
                except OSError:
                    continue
                said = vendor.followed(reply, own, {})
                await self.service.correct(
                    CorrectRequest(
                        due.call_id, said.final, said.total_micros, said.note, said.whole, said.problem
                    ),
                    relayed_too=True,
                )
        except LedgerUnavailable:
            pass

    # What is asked of it.

    async def serve(self, method: str, *args: Any) -> Any:
        served: Callable[..., Awaitable[Any]] | None = getattr(self, f"_serve_{method}", None)
        if served is not None:
            return await served(*args)
        owner = self.gateway if method == "relay" else self.service
        return await getattr(owner, method)(*args)

    async def _serve_announce(self, worker: str, tasks: dict[str, Any], run_id: str, again: bool) -> None:
        """Take what Luigi's own RPCs say of tasks."""
        for task_id, said in tasks.items():
            task = self.tasks.setdefault(task_id, Task())
            task.workers.add(worker)
            if again and task.state == "failed":
                task.state, task.failures = "pending", 0
            announced = Announcement("Charge", said["cost"], tuple(said["vendors"]), scheduling=True)
            self.service.state.join(task_id, run_id, worker, announced)
        self.service.forecast(self.service.state.scheduled(worker))

    async def _serve_get_work(self, worker: str) -> tuple[str | None, int]:
        """Return a task to run, and how many may still be: Luigi's part, with the gate's verdict."""
        due = 0
        for task_id, task in self.tasks.items():
            if worker not in task.workers:
                continue
            if task.state == "running" and task.worker == worker:
                return task_id, 1  # Its answer was lost.
            if task.state == "running":
                due += 1
            if task.state == "pending":
                verdict = self.gate.verdict(task_id, worker)
                due += not verdict.is_blocked
                if verdict is Verdict.READY and task.since <= self.site.world.now:
                    self.gate.started(task_id, None, worker)
                    task.state, task.worker = "running", worker
                    return task_id, due
        return None, due

    async def _serve_status(self, worker: str, task_id: str, what: str) -> None:
        """Take how a task has ended at a worker."""
        task = self.tasks.get(task_id)
        if task is None or not (what == "done" or (task.state == "running" and task.worker == worker)):
            return
        self._ended(task_id, task, what)

    def _ended(self, task_id: str, task: Task, what: str) -> None:
        worker, task.worker = task.worker, ""
        if what == "done":
            task.state = "done"
            self.service.state.done(task_id)
            return
        if what == "blocked":
            self.gate.hold_as_reported(task_id)
            self.gate.came_back(task_id, worker)
            task.state = "pending"
        else:
            task.failures += 1
            task.since = self.site.world.now + RETRY_S
            task.state = "pending" if task.failures <= RETRIES else "failed"
        self.service.state.stopped(task_id)

    # Operators.

    async def _serve_revoke(self, run_id: str) -> int:
        under_way = await operators.revoke(self.service, run_id)
        self.site.revoked(run_id)
        return under_way

    async def _serve_top_up(self, run_id: str, usd: str, request_id: str) -> Any:
        # Without its forecast of what it frees, for which Luigi's own scheduler is needed.
        request = TopUpRequest(run_id, usd, request_id=request_id)
        return await self.service.commit(operators._top_up, request, parse_usd(usd), None)

    async def _serve_resolve(self, request: ResolveRequest) -> Any:
        return await operators.resolve(self.service, request)

    async def _serve_issue(self, label: str, ttl_ms: int, cap: int | None) -> tuple[dict[str, Any], str]:
        terms = Terms("stripe", label, run_cap=cap, ttl_ms=ttl_ms)
        return await self.service.commit(keys._issue, terms, self.service.settings.caps)

    async def _serve_revoke_key(self, key_id: str) -> None:
        await self.service.commit(keys._revoke, key_id, "")
        self.service.known_keys.forget_all()
        await operators.in_force(self.service, keys.keys.pending_calls, key_id)
        self.site.revoked(key_id)
