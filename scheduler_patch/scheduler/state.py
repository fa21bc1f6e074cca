"""Luigi's tasks as the gate sees them: one `get_work`, each change of a status, a batch that comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from luigi.scheduler import SimpleTaskState
from luigi.task_status import BATCH_RUNNING, DISABLED, DONE, PENDING, RUNNING

from luigi_spendguard.luigi_api import combined
from scheduler_patch.dispatch import READY, Gate, Verdict, endings, workers
from scheduler_patch.scheduler.choice import AskingWorker, Choice

_DISPATCHED = (RUNNING, BATCH_RUNNING)


class Look:
    """The verdicts by which a `get_work` chooses a task, and what the batch of that task has set aside.

    Luigi 3.8 asks whether it may hand out one task after the other until it has chosen; then it asks how the
    family of that task is batched, and of others of it whether they may join.

    Attributes:
        worker: who asks for work.
        run_id: the run that pays for the chosen task; None: none is chosen yet, or nobody knows which.

    """

    def __init__(
        self,
        gate: Gate,
        worker: str | None,
        scan: Callable[[str | None], dict[str, Verdict]],
        asking: AskingWorker | None = None,
    ) -> None:
        self.worker = worker
        self.run_id: str | None = None
        #: Who is shown few tasks, each of them judged when it is considered; None: Luigi reads all.
        self._asking = asking
        self._gate, self._scan = gate, scan
        self._verdicts: dict[str, Verdict] | None = None
        self._considered, self._is_chosen = "", False
        #: What the members of the batch may still cost, in micro-dollars.
        self._set_aside = 0

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on each pending vendor task, as all stood when Luigi considered the first."""
        if self._verdicts is None:
            self._verdicts = self._scan(self.worker)
        return self._verdicts

    def admits(self, task_id: str) -> bool:
        """Return whether a pending task may be handed out: alone, or with those that were chosen before."""
        if not self._is_chosen:
            self._considered = task_id
            if self._asking is not None:
                return self._asking.verdict(task_id) is READY
            return self.verdicts.get(task_id, READY) is READY
        if not self._gate.joins(self._considered, self.run_id, self._set_aside, task_id):
            return False
        self._set_aside += self._needed_by(task_id)
        return True

    def choose(self) -> None:
        """Take it that Luigi hands out the task that it has considered last."""
        if not self._is_chosen:
            self._is_chosen = True
            self.run_id = self._gate.paying_run(self._considered, self.worker)
            self._set_aside = self._needed_by(self._considered)

    def _needed_by(self, task_id: str) -> int:
        state = self._gate.state
        task = state.tasks.get(task_id)
        return state.due(state.run(self.run_id) or state.nobody, task) if task is not None else 0


class WatchedTasks(SimpleTaskState):
    """Luigi's state with a gate, which hears of every change of a task's status; made by `watched`.

    Workers, operators, pruning and retries all change it here (Luigi 3.8, `SimpleTaskState.set_status`).
    The state object itself is not pickled, only its tasks and workers are, which stay Luigi's own.
    """

    gate: Gate
    #: The `get_work` that is under way, if one is.
    look: Look | None = None
    #: What is ready, and how many tasks are pending; None: every look reads all of them, as stock Luigi's.
    choice: Choice | None = None
    #: Who asks for work, or for counts, and is shown no more than matters.
    asking: AskingWorker | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("choice", "asking")}

    def set_state(self, state: Any) -> None:
        """Take over loaded tasks and workers as Luigi does."""
        super().set_state(state)
        self.choice = None

    def get_worker(self, worker_id: str) -> Any:
        asking = self.asking
        return asking if asking is not None and asking.id == worker_id else super().get_worker(worker_id)

    def get_active_tasks_by_status(self, *statuses: str) -> Any:
        if self.asking is not None and statuses == (PENDING, RUNNING):
            return self.asking.candidates(own=False)
        return super().get_active_tasks_by_status(*statuses)

    def _remove_workers_from_tasks(self, workers: Any, remove_stakeholders: bool = True) -> None:
        gone = set(workers) if self.choice is not None else ()
        mine = [task for task in self.get_active_tasks() if any(each in task.workers for each in gone)]
        super()._remove_workers_from_tasks(workers, remove_stakeholders)
        if self.choice is not None:
            self.choice.lose(gone, mine)

    def set_status(self, task: Any, new_status: str, config: Any = None) -> None:
        """Change a task's status as Luigi does; count it while it is dispatched."""
        before = task.status
        super().set_status(task, new_status, config)
        after = task.status
        if before == after:
            return
        if self.choice is not None:
            self.choice.refresh(task)
        if task.id not in self.gate.state.tasks:
            return
        if after in _DISPATCHED and before not in _DISPATCHED:
            look = self.look
            if look is None:
                self.gate.started(task.id, None)
            else:
                self.gate.started(task.id, look.run_id, look.worker)
        elif after == DONE:
            endings.done(self.gate.state, task.id)
        elif after not in _DISPATCHED:
            endings.stopped(self.gate.state, task.id)

    def inactivate_tasks(self, delete_tasks: Iterable[str]) -> None:
        """Drop tasks as Luigi does, and with them what was counted for them."""
        gone = list(delete_tasks)
        if self.choice is not None:
            self.choice.drop(gone)
        super().inactivate_tasks(gone)
        endings.forget(self.gate.state, [task_id for task_id in gone if task_id in self.gate.state.tasks])

    def inactivate_workers(self, delete_workers: Iterable[str]) -> None:
        """Forget workers as Luigi does, and what they were still scheduling."""
        gone = list(delete_workers)
        super().inactivate_workers(gone)
        workers.lose_workers(self.gate.state, gone)

    def get_batcher(self, worker_id: str, family: str) -> Any:
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


def is_due(scheduler: Any, task_id: str, worker: str | None, *, schedulable: bool) -> bool | None:
    """Return whether a batch's member may come back now, at that worker (None: any); None: it cannot.

    `schedulable`: what a stock scheduler says of it.
    """
    task, announcing = scheduler._state.get_task(task_id), bool(scheduler.gate.state.announcing)
    if task is None:  # Lost with luigid's state, and perhaps about to be submitted again.
        return False if announcing else None
    if task.status in (DONE, DISABLED):
        return None
    own = worker is None or worker in task.workers
    if schedulable and (own or scheduler._state.get_worker(worker).assistant):
        return True
    # It waits for a retry or a dependency, or another worker alone may run it.
    waits = schedulable or own
    return False if announcing or (waits and task.workers) else None


def hand_out_as_before(scheduler: Any, reply: dict[str, Any]) -> None:
    """Hand out an attempted batch in the order it had.

    Its task_id, and so the identity of its calls, depends on that (Luigi 3.8, `get_work` and `load_task`).
    """
    now = reply["batch_task_ids"]
    member = scheduler.gate.state.tasks.get(now[0])
    before = member.batch if member is not None else ()
    if list(before) == now or set(before) != set(now):
        return
    order = [now.index(member) for member in before]
    running = scheduler._state.get_batch_running_tasks(reply["batch_id"])
    worker = next(task.worker_running for task in running)
    names, _ = scheduler._state.get_batcher(worker, reply["task_family"])
    for name in names:
        reply["task_params"][name] = [reply["task_params"][name][place] for place in order]
    reply["batch_task_ids"] = list(before)
