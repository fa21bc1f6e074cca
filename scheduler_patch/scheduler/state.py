"""`WatchedTasks`: Luigi's task state, telling the gate of every change of a task's status.

Workers, operators, pruning and retries all change it here (Luigi 3.8, `SimpleTaskState.set_status`).
The state object itself is not pickled, only its tasks and workers are, which stay Luigi's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from luigi.scheduler import SimpleTaskState
from luigi.task_status import BATCH_RUNNING, DONE, RUNNING

from luigi_spendguard.luigi_api import combined
from scheduler_patch.dispatch.gate import Gate
from scheduler_patch.scheduler.look import Look

_DISPATCHED = (RUNNING, BATCH_RUNNING)


class WatchedTasks(SimpleTaskState):
    """Luigi's state with a gate; made of the stock one by `watched`."""

    gate: Gate
    #: The `get_work` that is under way, if one is.
    look: Look | None = None

    def set_status(self, task: Any, new_status: str, config: Any = None) -> None:
        """Change a task's status as Luigi does; count it while it is dispatched."""
        before = task.status
        super().set_status(task, new_status, config)
        after = task.status
        if before == after or task.id not in self.gate.state.tasks:
            return
        if after in _DISPATCHED and before not in _DISPATCHED:
            look = self.look
            if look is None:
                self.gate.started(task.id, None)
            else:
                self.gate.started(task.id, look.run_id, look.worker)
        elif after == DONE:
            self.gate.state.done(task.id)
        elif after not in _DISPATCHED:
            self.gate.state.stopped(task.id)

    def inactivate_tasks(self, delete_tasks: Iterable[str]) -> None:
        """Drop tasks as Luigi does, and with them what was counted for them."""
        gone = list(delete_tasks)
        super().inactivate_tasks(gone)
        self.gate.state.forget(task_id for task_id in gone if task_id in self.gate.state.tasks)

    def inactivate_workers(self, delete_workers: Iterable[str]) -> None:
        """Forget workers as Luigi does, and what they were still scheduling."""
        gone = list(delete_workers)
        super().inactivate_workers(gone)
        self.gate.state.lose_workers(gone)

    def get_batcher(self, worker_id: str, family: str) -> Any:
        """Return how a family is batched, as Luigi does."""
        if self.look is not None:
            self.look.choose()
        return super().get_batcher(worker_id, family)


def watched(state: Any, gate: Gate) -> Any:
    """Return Luigi's state, or a subclass of it, as `WatchedTasks` with the same tasks and workers.

    A new object: one whose class was changed is slower in every access to its attributes (Python 3.11).
    """
    stock = type(state)
    kind: Any = WatchedTasks if stock is SimpleTaskState else combined(WatchedTasks, stock)
    made = kind.__new__(kind)
    for name, value in vars(state).items():
        setattr(made, name, value)
    made.gate = gate
    return made
