"""`BudgetScheduler`: Luigi's scheduler, dispatching a vendor task only if its run can pay for it.

What Luigi's own RPCs say is not authenticated; here it only tells the gate which tasks belong together.
"""

from __future__ import annotations

from typing import Any

import luigi.scheduler
from luigi.task_status import DONE, PENDING, RUNNING

from scheduler_patch.gate import Gate

#: The keys of a `get_work` reply that hand out a task (Luigi 3.8, `scheduler.py` get_work).
_HANDED_OUT = ("task_family", "task_module", "task_params", "batch_id", "batch_task_ids")


class BudgetScheduler(luigi.scheduler.Scheduler):
    """Luigi's scheduler with a dispatch gate. Without vendor tasks it behaves as the stock one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = Gate()

    def load(self) -> None:
        """Load Luigi's state, and with it which task belongs to which run."""
        super().load()
        for task in self._state.get_active_tasks():
            run_id = getattr(task, "spendguard_run", None)
            if isinstance(run_id, str):
                self.gate.join(task.id, run_id)

    def add_task(self, *args: Any, **kwargs: Any) -> Any:
        """Add or change a task; takes `spendguard` and `spendguard_blocked` from guarded workers."""
        ours = kwargs.pop("spendguard", None)
        blocked = kwargs.pop("spendguard_blocked", False)
        answer = super().add_task(*args, **kwargs)
        task_id = kwargs.get("task_id")
        if isinstance(ours, dict) and isinstance(ours.get("run_id"), str) and task_id is not None:
            task = self._state.get_task(task_id)
            if task is not None:
                # A text on Luigi's own object: a stock luigid can load the pickled state.
                task.spendguard_run = ours["run_id"]
                self.gate.join(task_id, ours["run_id"])
        if blocked and task_id is not None:
            self._take_back(task_id, kwargs.get("worker"))
        elif kwargs.get("status") == DONE and self.gate.run_of:
            self.gate.done(task_id or "")
        return answer

    def _take_back(self, task_id: str, worker: str | None) -> None:
        """Let a task that its worker reports as blocked be pending again, undispatched."""
        task = self._state.get_task(task_id)
        if task is None or task.status != RUNNING or task.worker_running != worker:
            return
        self.gate.hold_as_reported(task_id)
        ghost = task.batch_id is not None and not task.batchable
        members = [t.id for t in self._state.get_batch_running_tasks(task.batch_id)] if ghost else []
        self._state.set_status(task, PENDING, self._config)
        task.worker_running = None
        if ghost:  # The combined task of a batch would run after its members did.
            self._state.inactivate_tasks([task_id])
            self.gate.pass_on(task_id, members)

    def _schedulable(self, task: Any) -> bool:
        return bool(super()._schedulable(task)) and self.gate.allows(task.id)

    def get_work(self, *args: Any, **kwargs: Any) -> Any:
        """Hand out work; a task of a revoked run that was running (its reply was lost) is taken back."""
        reply = super().get_work(*args, **kwargs)
        task_id = reply.get("task_id")
        if task_id is not None and self.gate.run_of and self.gate.is_revoked(task_id):
            self._state.set_status(self._state.get_task(task_id), PENDING, self._config)
            for name in _HANDED_OUT:
                reply.pop(name, None)
            reply["task_id"] = None
        return reply

    def _upstream_status(self, task_id: str, upstream_status_table: dict[str, str]) -> Any:
        # Blocked tasks, and all that waits for them, must leave `count_pending`: else a keep-alive
        # worker stays for ever (Luigi 3.8, `Worker._keep_alive`).
        if self.gate.run_of and not upstream_status_table:
            upstream_status_table[""] = ""
            for task in self._state.get_active_tasks_by_status(PENDING):
                if task.id in self.gate.run_of and not self.gate.allows(task.id):
                    upstream_status_table[task.id] = luigi.scheduler.UPSTREAM_DISABLED
        return super()._upstream_status(task_id, upstream_status_table)

    def prune(self) -> None:
        """Prune as Luigi does, and forget membership of what is gone."""
        super().prune()
        if self.gate.run_of:
            self.gate.forget([t for t in self.gate.run_of if not self._state.has_task(t)])

    def blocked(self, worker: str) -> list[str]:
        """Return the ids of a worker's tasks that are ready but blocked."""
        if not self.gate.run_of:
            return []
        stock: Any = super()
        tasks = self._state.get_worker(worker).get_tasks(self._state, PENDING)
        return [task.id for task in tasks if not self.gate.allows(task.id) and stock._schedulable(task)]

    def is_running(self, task_id: str, worker: str) -> bool:
        """Return whether the task was dispatched to that worker."""
        task = self._state.get_task(task_id)
        return task is not None and task.status == RUNNING and task.worker_running == worker
