"""The real scheduler and a real ledger under random DAGs, workers, failures, revokes, top-ups and restarts.

The vendor's books are the judge: what was sent under which key, and for which run.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from luigi_spendguard.errors import Conflict, SpendDenied
from luigi_spendguard.ledger import queries
from luigi_spendguard.ledger.audit.rights import wrongs
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.money import Micros, parse_usd
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from luigi_spendguard.protocol.operators import ApproveRequest, TopUpRequest
from luigi_spendguard.protocol.rpcs import ClaimRequest, FinishRequest, OpenRunRequest
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.dispatch.trial import Target
from scheduler_patch.local import LocalLedgerService
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import operators, top_ups
from tests.support.machines import steps_of
from tests.support.postgres import settings_of
from tests.support.twins import ask_both

USD = 1_000_000
DAY, FAMILY = 8 * USD, 4 * USD
RUNS, WORKERS, TASKS = ("r1", "r2"), ("w1", "w2"), tuple(f"T{n}" for n in range(6))


@dataclass
class Running:
    """A dispatched task as its worker knows it."""

    worker: str
    task_id: str
    claim_id: str = ""
    key: str = ""
    run_id: str = ""
    denied: SpendDenied | None = None
    #: It has made its one call, with success.
    called: bool = False


@dataclass
class Vendor:
    """The vendor's own books: one movement for each key."""

    moved: dict[str, tuple[str, str, int]] = field(default_factory=dict)

    def send(self, wire_key: str, run_id: str, task_id: str, amount: int) -> None:
        self.moved.setdefault(wire_key, (run_id, task_id, amount))

    def of_run(self, run_id: str) -> int:
        return sum(amount for run, _, amount in self.moved.values() if run == run_id)


class SchedulerMachine(RuleBasedStateMachine):
    """Each rule is what a worker, an operator, a crash or the clock does."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spendguard-test-"))
        self.now = 1_700_000_000.0
        self.clock = mock.patch("luigi.scheduler.time.time", self.time)
        self.clock.start()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.vendor = Vendor()
        self.cap = dict.fromkeys(RUNS, 5 * USD)
        self.family = dict.fromkeys(RUNS, FAMILY)
        self.beyond = dict.fromkeys(RUNS, 0)
        self.revoked: set[str] = set()
        self.completions: Counter[str] = Counter()
        self.running: list[Running] = []
        self.costs: dict[str, str | None] = {}

    def time(self) -> float:
        self.now += 0.001  # No two tasks are equally old: Luigi would choose by chance.
        return self.now

    @initialize(
        forecast=st.sampled_from(["warn", "hold"]),
        single=st.sampled_from([None, 3 * USD]),
        shared=st.integers(0, 2),
    )
    def start(self, forecast: str, single: int | None, shared: int) -> None:
        caps = Caps(
            default=Micros(5 * USD),
            limit=Micros(5 * USD),
            day=Micros(DAY),
            task_families={"V": Micros(FAMILY)},
            single=None if single is None else Micros(single),
        )
        self.settings = settings_of(self.folder / "books.db", caps, forecast=forecast)
        self.luigid()
        self.submit_all(shared)

    def submit_all(self, shared: int) -> None:
        """Both workers submit a root of each run; `shared` of the tasks belong to both."""
        for worker, run_id, first in (("w1", "r1", 0), ("w2", "r2", 3 - shared)):
            self.submit(worker, run_id, list(TASKS[first : first + 3 + shared]), 0, "1", True)

    def luigid(self, *, load: bool = False) -> None:
        """Start luigid, with or without its pickle."""
        self.scheduler = BudgetScheduler(
            state_path=str(self.folder / "state"),
            retry_delay=0,
            remove_delay=600,
            stable_done_cooldown_secs=0,
        )
        if load:
            self.scheduler.load()
        self.service = LocalLedgerService(self.settings, self.scheduler)
        self.service.loop = self.loop
        self.gate = self.scheduler.gate
        for run_id in RUNS:
            self.do(self.service.open_run(OpenRunRequest(run_id, False, "Root", run_id)))

    def do(self, act: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(act, self.loop).result(20)

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.service.close()
        self.clock.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        shutil.rmtree(self.folder)

    # Workers.

    @rule(
        worker=st.sampled_from(WORKERS),
        run_id=st.sampled_from(RUNS),
        chosen=st.lists(st.sampled_from(TASKS), min_size=1, max_size=4, unique=True),
        edges=st.integers(0, 255),
        cost=st.sampled_from(["1", "2", "4", None]),
        whole=st.booleans(),
    )
    def submit(
        self, worker: str, run_id: str, chosen: list[str], edges: int, cost: str | None, whole: bool
    ) -> None:
        """Add a root over some tasks; a worker that dies meanwhile never says that it was all."""
        root = f"Root_{run_id}_{worker}"
        known = {"worker": worker, "runnable": True}
        self.scheduler.add_task(task_id=root, family="Root", deps=chosen, **known)
        for place, task_id in enumerate(chosen):
            deps = [other for n, other in enumerate(chosen[place + 1 :]) if edges >> n & 1]
            self.costs.setdefault(task_id, cost)
            said = {"run_id": run_id, "announcing": True}
            said |= {"max_cost_usd": self.costs[task_id]} if self.costs[task_id] else {}
            self.scheduler.add_task(task_id=task_id, family="V", deps=deps, spendguard=said, **known)
        if whole:
            self.scheduler.add_worker(worker, [("first_task", root)])

    @rule(worker=st.sampled_from(WORKERS))
    def get_work(self, worker: str) -> None:
        mine = [each.task_id for each in self.running if each.worker == worker]
        reply = ask_both(self.scheduler, "get_work", worker=worker, host="h", current_tasks=mine)
        task_id = reply["task_id"]
        if task_id is None or task_id in mine:
            return
        if task_id.startswith("Root"):
            self.scheduler.add_task(task_id=task_id, worker=worker, status="DONE")
            return
        self.running = [each for each in self.running if each.task_id != task_id]
        entry = self.gate.state.tasks[task_id]
        assert entry.pinned not in self.revoked
        claim_id = str(uuid.uuid4())
        cost = self.costs[task_id]
        request = ClaimRequest(claim_id, task_id, "V", worker, max_cost_usd=cost)
        claimed = self.do(self.service.claim(request))
        self.running.append(Running(worker, task_id, claim_id, claimed.vault_key, claimed.run_id))

    @rule(
        worker=st.sampled_from(WORKERS),
        times=st.integers(1, 4),
        how=st.sampled_from(["settle", "settle", "doubt", "void"]),
        outcome=st.sampled_from(["completed", "completed", "failed", "yielded"]),
        dep=st.sampled_from(TASKS),
    )
    def work(self, worker: str, times: int, how: str, outcome: str, dep: str) -> None:
        """A worker's loop; the smaller rules interleave its parts with those of others."""
        for _ in range(times):
            before = len(self.running)
            self.get_work(worker)
            if len(self.running) > before:
                self.call(before, how)
                self.end_task(before, outcome, dep)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["settle", "settle", "doubt", "void"]))
    def call(self, which: int, how: str) -> None:
        """Make the task's one call, for $1; how it ends is the vendor's and the network's affair."""
        it = self.running[which % len(self.running)]
        if it.called:
            return  # A second good call would be another one.
        ask = ReserveRequest(
            str(uuid.uuid4()),
            "stripe",
            "a",
            "o",
            "POST",
            "/",
            target=it.task_id,
            fingerprint="1",
            total_micros=USD,
        )
        answer = self.do(self.service.reserve(it.key, ask))
        it.called = answer.verdict == "replayed" or (answer.verdict == "allowed" and how == "settle")
        if answer.verdict != "allowed":
            if answer.verdict == "denied":
                it.denied = SpendDenied(answer.reason, answer.message, answer.facts)
            return
        assert it.run_id not in self.revoked, "P5"
        if how != "void":
            self.vendor.send(answer.wire_key, self.run_of(answer.call_id), it.task_id, USD)
        end = EndRequest(
            how,
            answer.call_id,
            answer.ask,
            total_micros=USD if how == "settle" else 0,
            status=200,
            answer_body="{}" if how == "settle" else "",
        )
        self.do(self.service.end(it.key, end))

    def run_of(self, call_id: str) -> str:
        rows = self.do(self.service.read(queries.calls))
        return next(row["run_id"] for row in rows if row["id"] == call_id)

    @precondition(lambda self: self.running)
    @rule(
        which=st.integers(0, 99),
        how=st.sampled_from(["completed", "failed", "yielded"]),
        dep=st.sampled_from(TASKS),
    )
    def end_task(self, which: int, how: str, dep: str) -> None:
        it = self.running.pop(which % len(self.running))
        if it.denied is not None and it.denied.reason in ("cap", "revoked"):
            self.do(self.service.finish(FinishRequest(it.claim_id, "blocked")))
            said = {**it.denied.facts, "reason": it.denied.reason}
            self.scheduler.add_task(task_id=it.task_id, worker=it.worker, spendguard_blocked=said)
            return
        if it.denied is not None or (how == "completed" and not self.has_paid(it.task_id)):
            how = "failed"
        current = self.scheduler.is_running(it.task_id, it.worker)
        self.do(self.service.finish(FinishRequest(it.claim_id, how)))
        said = {"run_id": it.run_id}
        report: dict[str, Any] = {"task_id": it.task_id, "worker": it.worker, "family": "V"}
        if how == "completed":
            self.completions[it.task_id] += 1
            self.scheduler.add_task(**report, status="DONE")
        elif how == "yielded" and current and dep != it.task_id:
            self.costs.setdefault(dep, "1")
            self.scheduler.add_task(
                task_id=dep,
                worker=it.worker,
                family="V",
                spendguard={"yielded_by": it.task_id, "max_cost_usd": "1"},
            )
            self.scheduler.add_task(**report, status="PENDING", new_deps=[dep], spendguard=said)
        else:
            self.scheduler.add_task(**report, status="FAILED", expl="died", spendguard=said)

    def has_paid(self, task_id: str) -> bool:
        return any(task == task_id for _, task, _ in self.vendor.moved.values())

    @rule(worker=st.sampled_from(WORKERS), killed=st.booleans())
    def lose_worker(self, worker: str, killed: bool) -> None:
        """A worker is presumed dead; sometimes it lives on, and its attempt overlaps with the next."""
        others = [other for other in WORKERS if other != worker]
        self.now += 61
        for other in others:
            self.scheduler.ping(worker=other)
        self.scheduler.prune()
        if killed:
            self.running = [each for each in self.running if each.worker != worker]

    @rule(worker=st.sampled_from(WORKERS))
    def ping(self, worker: str) -> None:
        told = self.scheduler.ping(worker=worker)["rpc_messages"]
        for message in told:
            assert message["kwargs"]["run_id"] in self.revoked

    @rule(task_id=st.sampled_from(TASKS), door=st.sampled_from(["re_enable_task", "forgive_failures"]))
    def old_door(self, task_id: str, door: str) -> None:
        getattr(self.scheduler, door)(task_id=task_id)

    @rule(task_id=st.sampled_from(TASKS))
    def mark_as_done(self, task_id: str) -> None:
        self.scheduler.mark_as_done(task_id=task_id)

    # Operators and crashes.

    @rule(run_id=st.sampled_from(RUNS), really=st.integers(0, 9))
    def revoke(self, run_id: str, really: int) -> None:
        if not really:
            self.do(operators.revoke(self.service, run_id))
            self.revoked.add(run_id)

    @rule(run_id=st.sampled_from(RUNS), usd=st.integers(1, 3))
    def top_up(self, run_id: str, usd: int) -> None:
        try:
            self.do(operators.top_up(self.service, TopUpRequest(run_id, str(usd))))
        except Conflict:
            assert run_id in self.revoked
        else:
            self.cap[run_id] += usd * USD

    @rule(run_id=st.sampled_from(RUNS), usd=st.integers(1, 3), of_day=st.booleans())
    def top_up_inside(self, run_id: str, usd: int, of_day: bool) -> None:
        """Neither raises the run's cap, nor what the other run may spend."""
        which: dict[str, Any] = {"day": True} if of_day else {"family": "V"}
        try:
            said = self.do(operators.top_up(self.service, TopUpRequest(run_id, str(usd), **which)))
        except Conflict:
            assert run_id in self.revoked
            return
        assert 0 <= said["frees"] <= said["blocked"]
        raised = self.beyond if of_day else self.family
        raised[run_id] += usd * USD

    @rule(run_id=st.sampled_from(RUNS), usd=st.integers(0, 3))
    def weigh(self, run_id: str, usd: int) -> None:
        """What is missing frees all that lacks nothing else; looking changes nothing."""
        gate = self.gate
        before = {each: gate.verdict(each) for each in gate.state.tasks}
        weighed = self.do(top_ups.weigh(self.service, run_id, Target(), usd * USD or None))
        assert {each: gate.verdict(each) for each in gate.state.tasks} == before
        due = weighed.standing.due
        if not usd and due and set(due.values()) <= {"cap"} and not weighed.standing.later:
            run = gate.state.run(run_id)
            codes = {one for task in due for one, _ in gate.obstacles(run, gate.state.tasks[task])}
            others = [gate.state.day, *(b for b in run.budgets.values() if b is not run.own_budget)]
            if codes == {"cap"} and all(b is None or b.room >= weighed.needed for b in others):
                assert (weighed.freed.paid, weighed.freed.blocked) == (len(due), 0)

    @rule(run_id=st.sampled_from(RUNS), ceiling=st.integers(0, 9))
    def approve(self, run_id: str, ceiling: int) -> None:
        self.do(self.service.record(lambda tx: None))  # After the forecast that is being kept.
        run = self.do(self.service.read(queries.run, run_id))
        if run["forecast_usd"] is not None and run_id not in self.revoked:
            amount = str(ceiling) if ceiling else run["forecast_usd"]
            asked = ApproveRequest(run_id, amount, run["unknown_tasks"], up_to=bool(ceiling))
            known = self.gate.state.runs[run_id]
            may_pass = not ceiling or parse_usd(run["forecast_usd"]) <= ceiling * USD
            holds = self.settings.forecast == "hold" and (self.gate.is_held(known) or bool(ceiling))
            try:
                self.do(operators.approve(self.service, asked))
            except Conflict:
                assert not (may_pass and holds)
            else:
                assert may_pass
                assert holds
                assert not self.gate.is_held(known)

    @rule(clean=st.booleans(), shared=st.integers(0, 2))
    def restart_luigid(self, clean: bool, shared: int) -> None:
        if clean:
            self.scheduler.dump()
        self.service.close()
        self.luigid(load=clean)
        if not clean:
            self.submit_all(shared)

    # The promises.

    @invariant()
    def no_run_moves_more_than_its_cap(self) -> None:
        for run_id in RUNS:
            moved = self.vendor.of_run(run_id)
            assert moved <= min(self.cap[run_id], self.family[run_id]), "P1"
            others = sum(self.vendor.of_run(other) for other in RUNS if other != run_id)
            assert moved + others <= DAY + sum(self.beyond.values()), "P1"
            if not self.beyond[run_id]:
                assert moved <= DAY, "P1"

    @invariant()
    def the_books_add_up(self) -> None:
        if hasattr(self, "service"):
            assert self.do(self.service.read(discrepancies)) in ([], None), "P3"
            assert self.do(self.service.read(lambda tx: [*wrongs(tx)])) in ([], None), "P8"

    @invariant()
    def nobody_pays_twice(self) -> None:
        paid = Counter(task_id for _, task_id, _ in self.vendor.moved.values())
        for task_id, times in paid.items():
            assert times <= 1 + self.completions[task_id], "P4"

    @invariant()
    def nothing_is_counted_that_does_not_run(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for run in self.gate.state.runs.values():
            entries = [
                e
                for e in self.gate.state.tasks.values()
                if any(p in e.counted_in for p in run.budgets.values())
            ]
            assert run.own_budget.counted == sum(e.counted for e in entries) >= 0
        state = self.scheduler._state
        # After a restart only the ledger knows who has claimed what: his time to be heard of is not over.
        waiting = self.now - self.scheduler.begun <= 60
        alive = set(state.get_worker_ids())
        for entry in self.gate.state.tasks.values():
            task = state.get_task(entry.task_id)
            if entry.counted_in and (task is None or task.status != "RUNNING"):
                assert entry.claimed_by is not None
                assert entry.claimed_by in alive or waiting

    @invariant()
    def blocked_tasks_hold_no_worker_up(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        state = self.scheduler._state
        for worker in WORKERS:
            pending = ask_both(self.scheduler, "count_pending", worker=worker)["n_pending_tasks"]
            tasks = list(state.get_worker(worker).get_tasks(state, "PENDING", "FAILED"))
            blocked = [t for t in tasks if self.gate.verdict(t.id).is_blocked and t.status == "PENDING"]
            assert pending <= len(tasks) - len(blocked), "P7"


def test_the_scheduler_keeps_its_promises(engine: str) -> None:
    run_state_machine_as_test(SchedulerMachine, settings=steps_of(engine))
