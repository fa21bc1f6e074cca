"""`BudgetState`: Luigi's task state, telling the gate of every change of a task's status.

Workers, operators, pruning and retries all change it here (Luigi 3.8, `SimpleTaskState.set_status`).
The state object itself is not pickled, only its tasks and workers are, which stay Luigi's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from luigi.scheduler import SimpleTaskState
from luigi.task_status import BATCH_RUNNING, DONE, RUNNING

from luigi_spendguard.luigi_api import combined
from scheduler_patch.dispatch.gate import Gate

_DISPATCHED = (RUNNING, BATCH_RUNNING)


class BudgetState(SimpleTaskState):
    """Luigi's state with a gate; made of the stock one by `watched`."""

    gate: Gate
    #: Called when Luigi has chosen a task and asks how it is batched.
    chosen: Callable[[], None]
    #: Returns the run and the worker of the dispatch that is under way, if one is.
    dispatching: Callable[[], tuple[str | None, str | None]]

    def set_status(self, task: Any, new_status: str, config: Any = None) -> None:
        """Change a task's status as Luigi does; count it while it is dispatched."""
        before = task.status
        super().set_status(task, new_status, config)
        after = task.status
        if before == after or task.id not in self.gate.entries:
            return
        if after in _DISPATCHED and before not in _DISPATCHED:
            run_id, worker = self.dispatching()
            self.gate.started(task.id, run_id, worker)
        elif after == DONE:
            self.gate.done(task.id)
        elif after not in _DISPATCHED:
            self.gate.stopped(task.id)

    def inactivate_tasks(self, delete_tasks: Iterable[str]) -> None:
        """Drop tasks as Luigi does, and with them what was counted for them."""
        gone = list(delete_tasks)
        super().inactivate_tasks(gone)
        self.gate.forget(task_id for task_id in gone if task_id in self.gate.entries)

    def inactivate_workers(self, delete_workers: Iterable[str]) -> None:
        """Forget workers as Luigi does, and what they were still scheduling."""
        gone = list(delete_workers)
        super().inactivate_workers(gone)
        self.gate.gone(gone)

    def get_batcher(self, worker_id: str, family: str) -> Any:
        """Return how a family is batched, as Luigi does."""
        self.chosen()
        return super().get_batcher(worker_id, family)


def watched(
    state: Any,
    gate: Gate,
    chosen: Callable[[], None],
    dispatching: Callable[[], tuple[str | None, str | None]],
) -> Any:
    """Return Luigi's state, or a subclass of it, as a `BudgetState` with the same tasks and workers.

    A new object: one whose class was changed is slower in every access to its attributes (Python 3.11).
    """
    stock = type(state)
    kind: Any = BudgetState if stock is SimpleTaskState else combined(BudgetState, stock)
    made = kind.__new__(kind)
    for name, value in vars(state).items():
        setattr(made, name, value)
    made.gate, made.chosen, made.dispatching = gate, chosen, dispatching
    return made
