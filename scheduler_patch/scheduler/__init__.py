"""`BudgetScheduler`: Luigi's scheduler, dispatching a vendor task only if its run can pay for it.

What Luigi's own RPCs say is not authenticated; here it only tells the gate which tasks belong together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import luigi.scheduler
from luigi.task_status import DONE, FAILED, PENDING, RUNNING, UNKNOWN

from luigi_spendguard.luigi_api import combined
from luigi_spendguard.redaction import redacted
from scheduler_patch.dispatch import READY, Gate, Verdict, batches, blocked, workers
from scheduler_patch.dispatch.model import RunState
from scheduler_patch.dispatch.reasons import Reason, reason_of
from scheduler_patch.scheduler import runs
from scheduler_patch.scheduler.choice import AskingWorker, Choice
from scheduler_patch.scheduler.fields import check_ours, check_task, check_text
from scheduler_patch.scheduler.state import Look, WatchedTasks, hand_out_as_before, is_due, watched

#: The keys of a `get_work` reply that hand out a task (Luigi 3.8, `scheduler.py` get_work).
_HANDED_OUT = ("task_family", "task_module", "task_params", "batch_id", "batch_task_ids")
#: What guarded workers say in `add_task`.
_OURS = ("spendguard", "spendguard_blocked", "spendguard_root")
#: What `add_task` is told for people.
_SHOWN = ("expl", "tracking_url")
#: What chooses a task in Luigi: where somebody else has overridden it, every pending task is shown to it.
_CHOOSING = (
    *("_has_resources", "_rank", "_schedulable", "_upstream_status", "_used_resources"),
    *("count_pending", "get_work"),
)
#: Blocked tasks without a worker are kept for so long, in seconds, before Luigi may drop them.
KEEP_BLOCKED_S = 7 * 86_400
#: What belongs to the process that a scheduler is in.
_OF_THE_PROCESS = ("on_scheduled", "refresh", "_upstream_status")


def _nobody_listens(scheduled: list[RunState]) -> None:
    """Nobody wants to hear of runs that have been scheduled."""


class BudgetScheduler(luigi.scheduler.Scheduler):
    """Luigi's scheduler with a dispatch gate. Without vendor tasks it behaves as the stock one."""

    gate: Gate
    begun: float
    #: Whether work is found without a look at each pending task; the choices are the same.
    fast_dispatch = True
    _state: Any
    #: Told of every run that has just been scheduled completely.
    on_scheduled: Callable[[list[RunState]], None]
    #: Takes over what other processes have done to the ledger, where nobody else does (local scheduler).
    refresh: Callable[[], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.equip()

    def equip(self) -> None:
        """Give a scheduler (of Luigi's own making, perhaps, and loaded) its gate."""
        self.gate, self.begun = Gate(), time.time()
        self.gate.due, self.gate.within = self._due, self._within
        self.on_scheduled = _nobody_listens
        self._state = watched(self._state, self.gate)
        runs.load(self)
        self._see_blocked()

    def __getstate__(self) -> dict[str, Any]:
        # Luigi sends a local scheduler to its children (Luigi 3.8, `worker.SchedulerMessage`): what holds
        # locks of this process stays here.
        return {name: value for name, value in vars(self).items() if name not in _OF_THE_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.on_scheduled = _nobody_listens
        self._see_blocked()

    def load(self) -> None:
        """Load Luigi's state, and with it which task belongs to which run."""
        super().load()
        runs.load(self)
        self._see_blocked()

    def dump(self) -> None:
        """Save Luigi's state, and with it which task belongs to which run."""
        runs.remember(self)
        super().dump()

    def add_task(self, *args: Any, **kwargs: Any) -> Any:
        """Add or change a task; takes what guarded workers say of it in `spendguard…`. Raises BadMessage."""
        for name in _OURS:
            check_ours(name, kwargs.get(name))
        ours = kwargs.pop("spendguard", None)
        blocked = kwargs.pop("spendguard_blocked", None)
        root = kwargs.pop("spendguard_root", None)
        task_id, worker = args[0] if args else kwargs.get("task_id"), kwargs.get("worker")
        if isinstance(ours, dict) or runs.is_vendor_task(self, task_id, kwargs.get("family")):
            check_task({**kwargs, "task_id": task_id})
        kwargs |= {name: redacted(kwargs[name]) for name in _SHOWN if kwargs.get(name)}
        if blocked and task_id is not None:
            self._take_back(task_id, worker, blocked)
            return None
        members = (
            self._members(kwargs["batch_id"]) if kwargs.get("batch_id") and self.gate.state.tasks else []
        )
        if members and kwargs.get("status") == RUNNING and task_id is not None:
            batches.combine(self.gate.state, task_id, members)
            before = self._state.get_task(task_id)
            if before is not None and before.status != RUNNING:
                # The same batch as before, failed and not pruned yet: Luigi would take its last worker for
                # the one that runs it.
                before.worker_running = None
        try:
            answer = super().add_task(*args, **kwargs)
        finally:  # What Luigi has changed before it fails is changed.
            self._refresh(self._state.get_task(task_id))
        if isinstance(root, dict) and self._state.has_task(task_id):
            said = {name: root.get(name) for name in ("name", "budget_usd")}
            said |= {"tags": tags} if (tags := runs.tags_of(root.get("tags"))) else {}
            self._state.get_task(task_id).spendguard_root = said
        if isinstance(ours, dict) or self.gate.state.rules.vendor_tasks:
            runs.announce(self, ours, kwargs)
            self._see_blocked()
        if kwargs.get("new_deps") and self.gate.state.tasks:
            runs.inherit(self, str(task_id), kwargs["new_deps"], str(worker))
            self._scheduled(worker)
        return answer

    def _members(self, batch_id: str) -> list[str]:
        return [task.id for task in self._state.get_batch_running_tasks(batch_id)]

    def _take_back(self, task_id: str, worker: str | None, denial: Any) -> None:
        """Let a task that its worker reports as blocked be pending again, undispatched."""
        task = self._state.get_task(task_id)
        if task is None or task.status != RUNNING or task.worker_running != worker:
            return  # Another worker has it by now, or it is over.
        if isinstance(denial, dict):
            if denial.get("reason") not in ("cap", "revoked"):  # Of an older worker: no budget's denial.
                why = json.dumps(str(denial.get("message", "")))
                super().add_task(task_id=task_id, worker=worker, status=FAILED, expl=why)
                return
            runs.hold_as_denied(self.gate, task_id, denial)
        self.gate.hold_as_reported(task_id)
        for each in self._undispatch(task) or [task_id]:
            self.gate.came_back(each, worker)

    def _undispatch(self, task: Any) -> list[str]:
        """Let a running task be pending; a batch's members then are, and its combined task is gone.

        Returns those members.
        """
        ghost = task.batch_id is not None and not task.batchable
        members = self._members(task.batch_id) if ghost else []
        self._update_task_history(task, PENDING)
        self._state.set_status(task, PENDING, self._config)
        task.worker_running = None
        if ghost:  # The combined task of a batch would run after its members did.
            batches.split(self.gate.state, task.id, members)
            for worker in task.workers:  # Luigi goes on to hand out, and count, what they hold.
                self._state.get_worker(worker).tasks.discard(task)
            self._state.inactivate_tasks([task.id])
        return members

    # Dispatch.

    def _schedulable(self, task: Any) -> bool:
        if not super()._schedulable(task):
            return False
        look = self._state.look
        if look is not None:
            return bool(look.admits(task.id))
        return not self.gate.state.tasks or self.gate.verdict(task.id) is READY

    def _due(self, task_id: str, worker: str | None) -> bool | None:
        task = self._state.get_task(task_id)
        schedulable = task is not None and bool(super()._schedulable(task))
        return is_due(self, task_id, worker, schedulable=schedulable)

    def _within(self, worker: str) -> tuple[str, ...]:
        above = self._state.get_worker(worker).info.get("spendguard_within")
        return tuple(each for each in above if isinstance(each, str)) if isinstance(above, list) else ()

    def _scan(self, worker: str | None) -> dict[str, Verdict]:
        """Return the verdict on each pending vendor task: one look at all of them."""
        pending = self._state.get_active_tasks_by_status(PENDING)
        return self.gate.verdicts((task.id for task in pending), worker)

    def _update_priority(self, task: Any, prio: Any, worker: Any) -> None:
        try:
            super()._update_priority(task, prio, worker)
        finally:
            self._refresh(task)

    def _refresh(self, task: Any) -> None:
        """Have a task where it belongs now that Luigi has changed it."""
        if task is not None and self._state.choice is not None:
            self._state.choice.refresh(task)

    @property
    def _is_fast(self) -> bool:
        """Whether work may be found in the index: nobody has overridden how Luigi chooses, or from what."""
        known = (BudgetScheduler, luigi.scheduler.Scheduler)
        others = [kind for kind in type(self).__mro__ if kind not in known]
        overridden = any(name in vars(kind) for kind in others for name in _CHOOSING)
        return self.fast_dispatch and not overridden and type(self._state) is WatchedTasks

    def _asking(self, worker: str, who: str | None, *, assists: bool = False) -> AskingWorker | None:
        """Return a worker that asks, to be shown what matters; None: it is shown all, as by stock Luigi.

        `who`: for whom the gate looks at tasks.
        """
        state, gate = self._state, self.gate
        if not self._is_fast:
            state.choice = None
            gate.state.changed.clear()
            return None
        if state.choice is None:
            state.choice = Choice(state, gate)
        choice = state.choice
        if worker in choice.stale or choice.index.odd or (gate.state.tasks and self._within(worker)):
            return None
        return AskingWorker.of(state.get_worker(worker), choice, who, assists=assists)

    def count_pending(self, worker: str) -> Any:
        """Count as Luigi does what a worker has to do; see `Choice`."""
        state, within = self._state, self._state.asking
        # Within a `get_work` it sees what that sees.
        asking = state.asking = within or (None if state.look else self._asking(worker, None))
        try:
            reply = super().count_pending(worker)
            return reply if asking is None else {**reply, **asking.counts()}
        finally:
            state.asking = within

    def get_work(self, *args: Any, **kwargs: Any) -> Any:
        """Hand out work; a task of a revoked run that was running (its reply was lost) is taken back.

        Raises BadMessage for a worker without a name where there are vendor tasks.
        """
        state, worker = self._state, kwargs.get("worker")
        if self.gate.state.tasks and worker is not None:
            check_text("worker", worker)
        if self.gate.state.tasks and self.refresh is not None:
            self.refresh()
        if worker is not None and not args and not self._config.prune_on_get_work:
            state.asking = self._asking(worker, worker, assists=bool(kwargs.get("assistant")))
        if self.gate.state.tasks:
            state.look = Look(self.gate, worker, self._scan, state.asking)
        try:
            reply = super().get_work(*args, **kwargs)
        finally:
            state.look = state.asking = None
        if not self.gate.state.tasks:
            return self._with_roots(reply)
        task_id = reply.get("task_id")
        if task_id is not None and self.gate.is_stopped(task_id):
            self._undispatch(self._state.get_task(task_id))
            for name in _HANDED_OUT:
                reply.pop(name, None)
            reply["task_id"] = None
        elif reply.get("batch_task_ids"):
            hand_out_as_before(self, reply)
        return self._with_roots(reply)

    def _with_roots(self, reply: Any) -> Any:
        """Name, in a `get_work` reply, the roots that it hands out, and the run that ends with each.

        They may be other workers': who completes a root ends its run. (None: nobody has opened it yet.)
        """
        state = self.gate.state
        if state.runs:
            handed_out = reply.get("batch_task_ids") or [reply.get("task_id")]
            current = {task_id: state.current_run(task_id) for task_id in handed_out}
            roots = {task_id: run for task_id, run in current.items() if run is not None}
            if roots:
                reply["spendguard_roots"] = {
                    task_id: run.run_id if run.opened else None for task_id, run in roots.items()
                }
        return reply

    def add_worker(self, worker: str, info: Any, **kwargs: Any) -> Any:
        """Take what a worker says of itself; with its first task it has scheduled what it was given."""
        answer = super().add_worker(worker, info, **kwargs)
        if self.gate.state.tasks and "first_task" in dict(info):
            runs.find_roots(self, worker)
            self._scheduled(worker)
        return answer

    def _scheduled(self, worker: str | None) -> None:
        scheduled = workers.scheduled(self.gate.state, worker or "")
        if scheduled:
            self.on_scheduled(scheduled)

    def ping(self, **kwargs: Any) -> Any:
        """Answer a ping as Luigi does; a worker is told of revoked runs until it has acknowledged them."""
        reply = super().ping(**kwargs)
        if self.refresh is not None:
            self.refresh()
        if self.gate.state.stopping:
            for run_id, tasks in workers.to_stop(self.gate.state, kwargs["worker"]).items():
                revoked = {"run_id": run_id, "task_ids": tasks}
                reply["rpc_messages"].append({"name": "spendguard_revoke", "kwargs": revoked})
        return reply

    # What a worker says for people: one without the plugin has taken no vault key out of it.

    def set_task_status_message(self, task_id: str, status_message: Any) -> None:
        super().set_task_status_message(task_id, redacted(status_message))

    def add_scheduler_message_response(self, task_id: str, message_id: str, response: Any) -> None:
        super().add_scheduler_message_response(task_id, message_id, redacted(response))

    def announce_scheduling_failure(
        self, task_name: Any, family: Any, params: Any, expl: Any, owners: Any, **kwargs: Any
    ) -> None:
        super().announce_scheduling_failure(task_name, family, params, redacted(expl), owners, **kwargs)

    # What Luigi's page and its workers are told.

    def _see_blocked(self) -> None:
        """Let blocked tasks, and all that waits for them, leave `count_pending`.

        Else a keep-alive worker stays for ever (Luigi 3.8, `Worker._keep_alive`). Only once there are
        vendor tasks: Luigi asks for every pending task, and a plain `get_work` would be 15 % slower.
        """
        if self.gate.state.tasks:
            self.__dict__["_upstream_status"] = self._seeded_upstream_status

    def _seeded_upstream_status(self, task_id: str, upstream_status_table: dict[str, str]) -> Any:
        asking = self._state.asking
        if asking is not None and not upstream_status_table:
            upstream_status_table.update(_seed(asking.blocked()))
        elif not upstream_status_table:
            # Within one `get_work` nothing changes between its choice and its counts.
            look = self._state.look
            verdicts = self._scan(None) if look is None else look.verdicts
            upstream_status_table.update(_seed(blocked(verdicts)))
        return super()._upstream_status(task_id, upstream_status_table)

    def _serialize_task(self, task_id: str, include_deps: bool = True, deps: Any = None) -> Any:
        shown = super()._serialize_task(task_id, include_deps=include_deps, deps=deps)
        reason = self.why(task_id) if shown["status"] == PENDING else None
        if reason is not None:
            shown["status_message"] = f"Blocked: {reason.text} (run {reason.run_id})"
        return shown

    def fetch_error(self, task_id: str, **kwargs: Any) -> Any:
        """Return why a task failed, as Luigi does; of a blocked one, why it is blocked."""
        answer = super().fetch_error(task_id, **kwargs)
        task = self._state.get_task(task_id)
        reason = self.why(task_id) if task is not None and task.status == PENDING else None
        if reason is not None:
            # Luigi's page decodes it, as it does a failed task's traceback.
            answer["error"] = json.dumps(f"Blocked: {reason.text} (run {reason.run_id}): {reason.advice}")
        return answer

    def why(self, task_id: str, worker: str | None = None) -> Reason | None:
        """Return why a task is blocked (at a worker), None when it is not."""
        return reason_of(self.gate, task_id, self.gate.verdict(task_id, worker), worker)

    # Old age.

    def _prune_tasks(self) -> None:
        """Prune as Luigi does, but keep what is blocked, and what waits for it, until it is topped up."""
        if self.gate.state.tasks:
            limit = time.time() - KEEP_BLOCKED_S
            pending = list(self._state.get_active_tasks_by_status(PENDING))
            going = [task for task in pending if task.remove is not None and task.updated >= limit]
            verdicts = self._scan(None) if going else {}
            kept = _with_those_behind(blocked(verdicts), pending) if going else set()
            for task in going:
                if task.id in kept and not verdicts.get(task.id, READY).is_final:
                    task.remove = None
        super()._prune_tasks()

    def prune(self) -> None:
        """Prune as Luigi does, and forget what the ledger alone remembered of workers that are gone."""
        super().prune()
        if self.gate.state.tasks:
            runs.forget_lost_workers(self)

    def verdicts_of(self, worker: str) -> dict[str, Verdict]:
        """Return the verdict on each of a worker's vendor tasks that only the gate may keep from running."""
        if not self.gate.state.tasks:
            return {}
        if (asking := self._asking(worker, worker)) is not None:
            return asking.verdicts()
        stock: Any = super()
        tasks = self._state.get_worker(worker).get_tasks(self._state, PENDING)
        known = self.gate.state.tasks
        ready = (task.id for task in tasks if task.id in known and stock._schedulable(task))
        return self.gate.verdicts(ready, worker)

    def is_ready(self, task: Any) -> bool:
        """Return whether a task would run if it were not for the gate: all that it requires is there."""
        return bool(super()._schedulable(task))

    def is_kept_waiting(self, task_id: str) -> bool:
        """Return whether a worker that was heard of since luigid began waits for a task that is blocked."""
        task, vendor_task = self._state.get_task(task_id), self.gate.state.tasks.get(task_id)
        if task is None or vendor_task is None or task.status != PENDING:
            return False
        heard = {each.id for each in self._state.get_active_workers() if each.last_active >= self.begun}
        return not heard.isdisjoint(vendor_task.workers) and self.gate.verdict(task_id).is_blocked

    def knows(self, task_id: str) -> bool:
        """Return whether anybody has scheduled a task; one that others only named as needed is UNKNOWN."""
        task = self._state.get_task(task_id)
        return task is not None and task.status != UNKNOWN

    def is_running(self, task_id: str, worker: str) -> bool:
        """Return whether the task was dispatched to that worker."""
        task = self._state.get_task(task_id)
        return task is not None and task.status == RUNNING and task.worker_running == worker

    def done_and_unknown(self, tasks: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return which of some tasks are DONE here, and which are not known here."""
        known = {task_id: self._state.get_task(task_id) for task_id in tasks}
        done = [task_id for task_id, task in known.items() if task is not None and task.status == DONE]
        return done, [task_id for task_id, task in known.items() if task is None]


def _seed(blocked_tasks: Iterable[str]) -> dict[str, str]:
    """Return an upstream status table in which what is blocked is disabled; never empty."""
    return {"": "", **dict.fromkeys(blocked_tasks, luigi.scheduler.UPSTREAM_DISABLED)}


def _with_those_behind(tasks: Iterable[str], pending: Iterable[Any]) -> set[str]:
    """Return tasks with the pending ones that wait for one of them, directly or not."""
    above: dict[str, list[str]] = {}
    for task in pending:
        for dep in task.deps:
            above.setdefault(dep, []).append(task.id)
    found, stack = set(tasks), list(tasks)
    while stack:
        more = [each for each in above.get(stack.pop(), ()) if each not in found]
        found.update(more)
        stack += more
    return found


def adopt(scheduler: Any) -> BudgetScheduler:
    """Turn a scheduler of Luigi's own making, loaded perhaps, into a `BudgetScheduler`.

    The very object: Luigi prunes and saves the one that it has made (3.8, `server.run`), and workers ask it.
    """
    if isinstance(scheduler, BudgetScheduler):
        return scheduler
    stock = type(scheduler)
    plain = stock is luigi.scheduler.Scheduler
    scheduler.__class__ = BudgetScheduler if plain else combined(BudgetScheduler, stock)
    adopted: BudgetScheduler = scheduler
    adopted.equip()
    return adopted
