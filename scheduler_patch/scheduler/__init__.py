"""`BudgetScheduler`: Luigi's scheduler, dispatching a vendor task only if its run can pay for it.

What Luigi's own RPCs say is not authenticated; here it only tells the gate which tasks belong together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import luigi.scheduler
from luigi.task_status import DONE, FAILED, PENDING, RUNNING, UNKNOWN

from luigi_spendguard.luigi_api import combined
from scheduler_patch.dispatch.gate import READY, WAIT, Gate
from scheduler_patch.dispatch.model import RunFigures
from scheduler_patch.dispatch.reasons import Reason, reason_of
from scheduler_patch.scheduler import batches
from scheduler_patch.scheduler import runs as membership
from scheduler_patch.scheduler.state import watched

#: The keys of a `get_work` reply that hand out a task (Luigi 3.8, `scheduler.py` get_work).
_HANDED_OUT = ("task_family", "task_module", "task_params", "batch_id", "batch_task_ids")
#: Blocked tasks without a worker are kept for so long, in seconds, before Luigi may drop them.
KEEP_BLOCKED_S = 7 * 86_400


_OF_THE_PROCESS = ("on_scheduled", "refresh", "_dispatch", "_upstream_status")


def _nobody(runs: list[RunFigures]) -> None:
    """Nobody wants to hear of runs that have been scheduled."""


@dataclass
class _Dispatch:
    """What a `get_work` is about to hand out: the task chosen, and what its batch has set aside."""

    worker: str | None
    last: str = ""
    chosen: bool = False
    run_id: str | None = None
    taken: int = 0
    verdicts: dict[str, str] = field(default_factory=dict)


class BudgetScheduler(luigi.scheduler.Scheduler):
    """Luigi's scheduler with a dispatch gate. Without vendor tasks it behaves as the stock one."""

    gate: Gate
    begun: float
    _state: Any
    #: Told of every run that has just been scheduled completely.
    on_scheduled: Callable[[list[RunFigures]], None]
    #: Takes over what other processes have done to the ledger, where nobody else does (local scheduler).
    refresh: Callable[[], None] | None = None
    _dispatch: _Dispatch | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.equip()

    def equip(self) -> None:
        """Give a scheduler (of Luigi's own making, perhaps, and loaded) its gate."""
        self.gate, self.begun = Gate(), time.time()
        self.gate.due, self.gate.within = self._due, self._within
        self.on_scheduled = _nobody
        self._state = watched(self._state, self.gate, self._has_chosen, self._dispatching)
        membership.load(self)
        self._see_blocked()

    def __getstate__(self) -> dict[str, Any]:
        # Luigi sends a local scheduler to its children (Luigi 3.8, `worker.SchedulerMessage`): what holds
        # locks of this process stays here.
        return {name: value for name, value in vars(self).items() if name not in _OF_THE_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.on_scheduled = _nobody
        self._see_blocked()

    def load(self) -> None:
        """Load Luigi's state, and with it which task belongs to which run."""
        super().load()
        membership.load(self)
        self._see_blocked()

    def dump(self) -> None:
        """Save Luigi's state, and with it which task belongs to which run."""
        membership.remember(self)
        super().dump()

    def add_task(self, *args: Any, **kwargs: Any) -> Any:
        """Add or change a task; takes what guarded workers say of it in `spendguard…`."""
        ours = kwargs.pop("spendguard", None)
        blocked = kwargs.pop("spendguard_blocked", None)
        root = kwargs.pop("spendguard_root", None)
        task_id, worker = kwargs.get("task_id"), kwargs.get("worker")
        if blocked and task_id is not None:
            self._take_back(task_id, worker, blocked)
            return None
        members = self._members(kwargs) if kwargs.get("batch_id") and self.gate.entries else []
        if members and kwargs.get("status") == RUNNING and task_id is not None:
            self.gate.combine(task_id, members)
            before = self._state.get_task(task_id)
            if before is not None and before.status != RUNNING:
                # The same batch as before, failed and not pruned yet: Luigi would take its last worker for
                # the one that runs it.
                before.worker_running = None
        answer = super().add_task(*args, **kwargs)
        if isinstance(root, dict) and self._state.has_task(task_id):
            self._state.get_task(task_id).spendguard_root = root
        if isinstance(ours, dict) or self.gate.rules.vendor_tasks:
            membership.announce(self, ours, kwargs)
            self._see_blocked()
        if kwargs.get("new_deps") and self.gate.entries:
            membership.inherit(self, str(task_id), kwargs["new_deps"], str(worker))
            self._scheduled(worker)
        return answer

    def _members(self, said: dict[str, Any]) -> list[str]:
        return [task.id for task in self._state.get_batch_running_tasks(said["batch_id"])]

    def _take_back(self, task_id: str, worker: str | None, said: Any) -> None:
        """Let a task that its worker reports as blocked be pending again, undispatched."""
        task = self._state.get_task(task_id)
        if task is None or task.status != RUNNING or task.worker_running != worker:
            return  # Another worker has it by now, or it is over.
        if isinstance(said, dict):
            if said.get("reason") not in ("cap", "revoked"):  # Of an older worker: no budget's denial.
                why = json.dumps(str(said.get("message", "")))
                super().add_task(task_id=task_id, worker=worker, status=FAILED, expl=why)
                return
            membership.hold_as_said(self.gate, task_id, said)
        self.gate.hold_as_reported(task_id)
        for each in self._undispatch(task) or [task_id]:
            self.gate.came_back(each, worker)

    def _undispatch(self, task: Any) -> list[str]:
        """Let a running task be pending; a batch's members then are, and its combined task is gone.

        Returns those members.
        """
        ghost = task.batch_id is not None and not task.batchable
        members = [t.id for t in self._state.get_batch_running_tasks(task.batch_id)] if ghost else []
        self._state.set_status(task, PENDING, self._config)
        task.worker_running = None
        if ghost:  # The combined task of a batch would run after its members did.
            self.gate.pass_on(task.id, members)
            self._state.inactivate_tasks([task.id])
        return members

    # Dispatch.

    def _schedulable(self, task: Any) -> bool:
        if not super()._schedulable(task):
            return False
        dispatch = self._dispatch
        if dispatch is None:
            return not self.gate.entries or self.gate.allows(task.id)
        if not dispatch.chosen:
            dispatch.last = task.id
            verdict = dispatch.verdicts[task.id] = self.gate.verdict(task.id, dispatch.worker)
            return verdict == READY
        # From here on Luigi asks for members of the chosen task's batch, and takes each that may join.
        if not self.gate.joins(dispatch.last, dispatch.run_id, dispatch.taken, task.id):
            return False
        entry = self.gate.entries.get(task.id)
        dispatch.taken += (entry.need or 0) if entry is not None else 0
        return True

    def _due(self, task_id: str, worker: str | None) -> bool | None:
        task = self._state.get_task(task_id)
        schedulable = task is not None and bool(super()._schedulable(task))
        return batches.is_due(self, task_id, worker, schedulable=schedulable)

    def _within(self, worker: str) -> tuple[str, ...]:
        said = self._state.get_worker(worker).info.get("spendguard_within")
        return tuple(each for each in said if isinstance(each, str)) if isinstance(said, list) else ()

    def _has_chosen(self) -> None:
        dispatch = self._dispatch
        if dispatch is not None and not dispatch.chosen:
            dispatch.chosen = True
            dispatch.run_id = self.gate.paying_run(dispatch.last, dispatch.worker)
            entry = self.gate.entries.get(dispatch.last)
            dispatch.taken = (entry.need or 0) if entry is not None else 0

    def _dispatching(self) -> tuple[str | None, str | None]:
        dispatch = self._dispatch
        return (None, None) if dispatch is None else (dispatch.run_id, dispatch.worker)

    @contextmanager
    def _as_dispatch(self, worker: str | None) -> Iterator[None]:
        self._dispatch = _Dispatch(worker) if self.gate.entries else None
        try:
            yield
        finally:
            self._dispatch = None

    def get_work(self, *args: Any, **kwargs: Any) -> Any:
        """Hand out work; a task of a revoked run that was running (its reply was lost) is taken back."""
        if not self.gate.entries:
            return super().get_work(*args, **kwargs)
        if self.refresh is not None:
            self.refresh()
        with self._as_dispatch(kwargs.get("worker")):
            reply = super().get_work(*args, **kwargs)
        task_id = reply.get("task_id")
        if task_id is not None and self.gate.is_stopped(task_id):
            self._undispatch(self._state.get_task(task_id))
            for name in _HANDED_OUT:
                reply.pop(name, None)
            reply["task_id"] = None
        elif reply.get("batch_task_ids"):
            batches.hand_out_as_before(self, reply)
        return reply

    def add_worker(self, worker: str, info: Any, **kwargs: Any) -> Any:
        """Take what a worker says of itself; with its first task it has scheduled what it was given."""
        answer = super().add_worker(worker, info, **kwargs)
        if self.gate.entries and "first_task" in dict(info):
            membership.find_roots(self, worker)
            self._scheduled(worker)
        return answer

    def _scheduled(self, worker: str | None) -> None:
        runs = self.gate.scheduled(worker or "")
        if runs:
            self.on_scheduled(runs)

    def ping(self, **kwargs: Any) -> Any:
        """Answer a ping as Luigi does; a worker is told of revoked runs until it has acknowledged them."""
        reply = super().ping(**kwargs)
        if self.refresh is not None:
            self.refresh()
        if self.gate.stopping:
            for run_id, tasks in self.gate.to_stop(kwargs["worker"]).items():
                said = {"run_id": run_id, "task_ids": tasks}
                reply["rpc_messages"].append({"name": "spendguard_revoke", "kwargs": said})
        return reply

    # What Luigi's page and its workers are told.

    def _see_blocked(self) -> None:
        """Let blocked tasks, and all that waits for them, leave `count_pending`.

        Else a keep-alive worker stays for ever (Luigi 3.8, `Worker._keep_alive`). Only once there are
        vendor tasks: Luigi asks for every pending task, and a plain `get_work` would be 15 % slower.
        """
        if self.gate.entries:
            self.__dict__["_upstream_status"] = self._seeded_upstream_status

    def _seeded_upstream_status(self, task_id: str, upstream_status_table: dict[str, str]) -> Any:
        if not upstream_status_table:
            upstream_status_table[""] = ""
            # Within one `get_work` nothing changes between its choice and its counts.
            known = self._dispatch.verdicts if self._dispatch is not None else {}
            worker = self._dispatch.worker if self._dispatch is not None else None
            for task in self._state.get_active_tasks_by_status(PENDING):
                if task.id in self.gate.entries:
                    verdict = known.get(task.id)
                    if (self.gate.verdict(task.id, worker) if verdict is None else verdict) not in (
                        READY,
                        WAIT,
                    ):
                        upstream_status_table[task.id] = luigi.scheduler.UPSTREAM_DISABLED
        return super()._upstream_status(task_id, upstream_status_table)

    def _serialize_task(self, task_id: str, include_deps: bool = True, deps: Any = None) -> Any:
        shown = super()._serialize_task(task_id, include_deps=include_deps, deps=deps)
        reason = self.why(task_id) if shown["status"] == PENDING else None
        if reason is not None:
            shown["status_message"] = f"Blocked: {reason.text} (run {reason.run_id})"
        return shown

    def fetch_error(self, task_id: str, **kwargs: Any) -> Any:
        """Return why a task failed, as Luigi does; of a blocked one, why it is blocked."""
        said = super().fetch_error(task_id, **kwargs)
        task = self._state.get_task(task_id)
        reason = self.why(task_id) if task is not None and task.status == PENDING else None
        if reason is not None:
            # Luigi's page decodes it, as it does a failed task's traceback.
            said["error"] = json.dumps(f"Blocked: {reason.text} (run {reason.run_id}): {reason.advice}")
        return said

    def why(self, task_id: str, worker: str | None = None) -> Reason | None:
        """Return why a task is blocked (at a worker), None when it is not."""
        return reason_of(self.gate, task_id, worker) if task_id in self.gate.entries else None

    # Old age.

    def _prune_tasks(self) -> None:
        """Prune as Luigi does, but keep what is blocked, and what waits for it, until it is topped up."""
        if self.gate.entries:
            table: dict[str, str] = {}
            limit = time.time() - KEEP_BLOCKED_S
            for task in list(self._state.get_active_tasks_by_status(PENDING)):
                if task.remove is None or task.updated < limit:
                    continue
                self._upstream_status(task.id, table)
                if table.get(task.id) == luigi.scheduler.UPSTREAM_DISABLED and not self.gate.is_revoked(
                    task.id
                ):
                    task.remove = None
        super()._prune_tasks()

    def prune(self) -> None:
        """Prune as Luigi does, and forget what the ledger alone remembered of workers that are gone."""
        super().prune()
        if self.gate.entries:
            membership.forget_the_lost(self)

    def ready(self, worker: str) -> list[str]:
        """Return a worker's vendor tasks that nothing but the gate keeps from running."""
        if not self.gate.entries:
            return []
        stock: Any = super()
        tasks = self._state.get_worker(worker).get_tasks(self._state, PENDING)
        return [task.id for task in tasks if task.id in self.gate.entries and stock._schedulable(task)]

    def blocked(self, worker: str) -> dict[str, Reason]:
        """Return a worker's tasks that are ready but blocked, and why."""
        return {
            task_id: why for task_id in self.ready(worker) if (why := self.why(task_id, worker)) is not None
        }

    def knows(self, task_id: str) -> bool:
        """Return whether anybody has scheduled a task; one that others only named as needed is UNKNOWN."""
        task = self._state.get_task(task_id)
        return task is not None and task.status != UNKNOWN

    def is_running(self, task_id: str, worker: str) -> bool:
        """Return whether the task was dispatched to that worker."""
        task = self._state.get_task(task_id)
        return task is not None and task.status == RUNNING and task.worker_running == worker

    def told_apart(self, tasks: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return which of some tasks are DONE here, and which are not known here."""
        known = {task_id: self._state.get_task(task_id) for task_id in tasks}
        done = [task_id for task_id, task in known.items() if task is not None and task.status == DONE]
        return done, [task_id for task_id, task in known.items() if task is None]

    def members_of(self, task_id: str) -> tuple[str, ...]:
        """Return the members of a running batch, in its order; empty for a single task."""
        entry = self.gate.entries.get(task_id)
        return entry.members if entry is not None else ()


def adopt(scheduler: Any) -> BudgetScheduler:
    """Turn a scheduler of Luigi's own making, loaded perhaps, into a `BudgetScheduler`."""
    if isinstance(scheduler, BudgetScheduler):
        return scheduler
    stock = type(scheduler)
    plain = stock is luigi.scheduler.Scheduler
    scheduler.__class__ = BudgetScheduler if plain else combined(BudgetScheduler, stock)
    adopted: BudgetScheduler = scheduler
    adopted.equip()
    return adopted
