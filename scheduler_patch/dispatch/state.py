"""`DispatchState`: what luigid knows of tasks, runs and budgets, and nothing that it decides by it.

What workers say is taken over in `workers.py`, what the ledger says in `feed.py`; what batches, denials and
ends change in `batches.py`, `holds.py` and `endings.py`. Amounts are micro-dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from scheduler_patch.dispatch.budgets import BudgetState, Rules, Today
from scheduler_patch.dispatch.model import (
    ENDED,
    UNOPENED,
    Lack,
    Parts,
    RunState,
    TaskState,
)


def _nobody_listens(task: TaskState) -> None:
    """Nobody wants to hear of shared tasks."""


class DispatchState:
    """Tasks, runs and budgets as luigid remembers them."""

    #: Told of a task that another run needs, too, after it was dispatched for one.
    on_shared: Callable[[TaskState], None] = staticmethod(_nobody_listens)

    def __init__(self) -> None:
        self.rules = Rules()
        #: The scheduler is the worker's own: tasks are claimed in children, unheard here.
        self.local = False
        #: The vendor tasks that somebody has announced.
        self.tasks: dict[str, TaskState] = {}
        #: Those of them of which something has changed that a verdict may depend on, for whoever keeps that.
        self.changed: set[str] = set()
        #: What the ledger knows of tasks that nobody has announced, since luigid began or any more.
        self.remembered: dict[str, TaskState] = {}
        self.runs: dict[str, RunState] = {}
        #: The run_id of each run's name.
        self.names: dict[str, str] = {}
        #: Stands for the run of tasks of which nobody has said where they belong.
        self.nobody = RunState("", UNOPENED)
        self.today = Today()
        #: The latest claims that were made here.
        self.own: dict[str, None] = {}
        #: The budgets that were found too small, and for what.
        self.short: dict[BudgetState, Lack] = {}
        #: What a task of a family that declares nothing has cost on average.
        self.averages: dict[str, int] = {}
        #: The same, with the tasks of runs that go on: for what is said, not for what is decided.
        self.costs: dict[str, int] = {}
        #: Which vendors tasks of a family have called: for what is said, too.
        self.called: dict[str, tuple[str, ...]] = {}
        #: Which tasks wait beside a call of another one, by that one.
        self.beside: dict[str, set[str]] = {}
        #: Workers that are gone, their tasks' ends unheard: the ledger has to be told.
        self.vanished: set[str] = set()
        #: Workers to be told that a run is revoked: each worker's runs.
        self.stopping: dict[str, set[str]] = {}
        #: Workers that are still scheduling, and the runs they have announced tasks of.
        self.announcing: dict[str, set[str]] = {}
        #: The tasks that each worker has announced without saying where they belong.
        self.unplaced: dict[str, set[str]] = {}
        #: The runs that each worker has announced tasks of.
        self.runs_of: dict[str, set[str]] = {}
        #: Counts up whenever a blocked task of any run may have become free; each run has its own as well.
        self.version = 0

    def __getstate__(self) -> dict[str, Any]:
        # Luigi sends a local scheduler to its children; who listens holds locks of this process.
        return {name: value for name, value in vars(self).items() if name != "on_shared"}

    def run(self, name: str | None) -> RunState | None:
        """Return a run by its run_id, or by the name of its root."""
        if name is None:
            return None
        return self.runs.get(name) or self.runs.get(self.names.get(name, ""))

    def current_run(self, name: str) -> RunState | None:
        """Return the run that a root of that name has now; the last one that has ended where that goes on."""
        return self.runs.get(self.names.get(name, name))

    def task(self, task_id: str) -> TaskState:
        """Return the record of a task; of one that nobody has announced, what is remembered of it."""
        task = self.tasks.get(task_id) or self.remembered.get(task_id)
        if task is None:
            task = self.remembered[task_id] = TaskState(task_id, "")
        return task

    def known(self, task_id: str) -> TaskState | None:
        """Return what is known of a task, None for nothing."""
        return self.tasks.get(task_id) or self.remembered.get(task_id)

    def put(self, task: TaskState) -> TaskState:
        """Keep a task that somebody has announced; return it."""
        task.changed = self.changed
        self.changed.add(task.task_id)
        self.tasks[task.task_id] = task
        return task

    def load_run(self, run_id: str) -> None:
        """Take it that tasks are known of a run, which has ended as far as is known."""
        if run_id not in self.runs:
            self.runs[run_id] = RunState(run_id, ENDED)

    def wait_for(self, run: RunState) -> None:
        """Take it that nobody has opened a run yet."""
        run.state = UNOPENED
        self.changed.update(run.tasks)
        self.moved()

    def forget_unused(self, run: RunState) -> None:
        """Forget a run that has ended once no task is left in it that a worker has announced."""
        if not run.tasks or not any(run.run_id in announced for announced in self.runs_of.values()):
            self.forget_run(run)

    def forget_run(self, run: RunState) -> None:
        """Forget a run that has ended: its tasks that somebody still has to run wait for the next one."""
        del self.runs[run.run_id]
        self.changed.update(run.tasks)

    def forget_blank(self, task_id: str) -> None:
        """Remember nothing of a task of which there is nothing to say any more."""
        task = self.remembered.get(task_id)
        if task is not None and not (task.paid or task.batch or task.pinned or task.claimed_for):
            del self.remembered[task_id]

    def moved(self, run: RunState | None = None) -> None:
        """Take it that blocked tasks of a run may have become free; None: of any run."""
        if run is None:
            self.version += 1
        else:
            run.version += 1

    def versions(self, worker: str) -> tuple[int | None, ...]:
        """Return what becomes different whenever a blocked task of a worker may have become free."""
        # What luigid was loaded with is of no worker.
        names = self.runs_of.get(worker, set()) | self.runs_of.get("", set()) or self.runs.keys()
        runs = map(self.run, sorted(names))
        return (self.version, *(None if run is None else run.version for run in runs))

    # Budgets.

    @property
    def day(self) -> BudgetState | None:
        """Today's budget of all runs, None where no cap is set."""
        return self.today.budget(self.rules.day)

    def budgets_of(self, run: RunState, task: TaskState) -> Iterator[BudgetState]:
        """Return the budgets that a task's calls take from if this run pays: those that luigi.cfg names now.

        The ledger takes from the same ones (`reservations.py`); it may have others of before.
        """
        if run.opened:
            yield run.budgets["run", ""]
        if (day := self.day) is not None:
            yield self._day_of(run, task, day) if ("beyond_day", "") in run.budgets else day
        if not run.run_id:
            return  # Nobody knows which run it is.
        keys = [("family", task.family), *(("vendor", vendor) for vendor in task.vendors)]
        if (hold := task.hold_in(run)) is not None and hold.scope in ("family", "vendor"):
            keys.append(hold.key)
        for key in dict.fromkeys(keys):
            if (budget := self.inside(run, *key)) is not None:
                yield budget

    def inside(self, run: RunState, scope: str, part: str) -> BudgetState | None:
        """Return the budget of a family or a vendor inside a run; None: luigi.cfg names none."""
        cap = self.rules.cap(scope, part)
        if cap is None:
            return None
        if (scope, part) not in run.budgets:  # The ledger makes it with its first reservation.
            run.budgets[scope, part] = BudgetState(scope, part, cap=cap, remaining=cap)
        return run.budgets[scope, part]

    def _day_of(self, run: RunState, task: TaskState, day: BudgetState) -> BudgetState:
        """Return which budget a task's calls of today take from: the day's, or the run's own beyond it.

        As in the ledger, the day's where that has room.
        """
        beyond = run.budgets["beyond_day", ""]
        if beyond.window != self.today.window:
            return day
        need = max(task.need or 1, task.hold.asked if task.hold is not None and task.held_by("day") else 0)
        for budget in (day, beyond):
            if need <= budget.remaining - budget.counted:
                return budget
        return max(day, beyond, key=lambda budget: budget.attainable)

    def apart(self) -> DispatchState:
        """Return a state to try something on: its day changes alone; its runs may be replaced."""
        other = copy(self)
        other.today = self.today.copy()
        return other

    def cost_so_far(self, family: str) -> int | None:
        """Return what a completed task of a family has cost on average, None where none has."""
        return self.costs.get(family) or self.averages.get(family)

    def parts(self, run: RunState) -> Parts:
        """Return what a run's forecast would be made of now."""
        tasks = (self.tasks[task_id] for task_id in run.tasks if task_id in self.tasks)
        return Parts.of(run, tasks, self.averages)

    def announced(self, task: TaskState, worker: str | None) -> list[RunState]:
        """Return the runs that a worker has announced a task for, and behind them those of others that have.

        Where all of those are gone it is whatever it belongs to.
        """
        own = task.workers.get(worker, ()) if worker is not None else ()
        all_of_them = [name for each in task.workers.values() for name in each]
        found = (self.run(name) for name in [*own, *(all_of_them or task.runs)])
        return list(dict.fromkeys(run for run in found if run is not None))

    def paid_by(self, task: TaskState) -> tuple[str, ...]:
        """Return the run that a task runs for, or ran; while that is not known, all that it belongs to."""
        run_id = task.claimed_for if task.claimed_by is not None else task.pinned
        return (run_id,) if run_id else tuple(task.runs)

    def due(self, run: RunState, task: TaskState) -> int:
        """Return what is set aside for a task when it runs for this run, as far as it is known."""
        return 0 if task.task_id in run.complete else task.need or 0

    def repeats(self, run: RunState, task: TaskState) -> bool:
        """Return whether a task has paid what it asks a run for: what it does again costs nothing there."""
        return task.paid or task.task_id in run.complete

    def count(self, run: RunState, task: TaskState, amount: int) -> None:
        """Set aside what a dispatched task may cost, in every budget it may take it from."""
        self.release(task)
        task.counted, task.counted_in = amount, list(self.budgets_of(run, task))
        for budget in task.counted_in:
            budget.counted += amount
            budget.running += 1

    def recount(self, task: TaskState, most: int) -> None:
        """Set no more aside for a running task than it may still cost."""
        over = task.counted - most
        if task.counted_in and over > 0:
            task.counted = most
            for budget in task.counted_in:
                budget.counted -= over

    def own_budget(self, run: RunState, task: TaskState, left: int | None, cap: int | None) -> None:
        """Take over what a task's own budget in a run has left; where it has completed that is no matter."""
        is_over = task.task_id in run.complete
        task.left, task.cap = (None, None) if is_over else (left, cap)

    def release(self, task: TaskState) -> None:
        """Set nothing aside for a task any more."""
        if not task.counted_in:
            return
        runs = (self.run(task.pinned), self.run(task.claimed_for))
        run = next((one for one in runs if one is not None and one.own_budget in task.counted_in), None)
        is_own = run is not None
        for budget in task.counted_in:
            is_own = is_own and budget is not self.day
            budget.counted -= task.counted
            budget.running -= 1
        self.moved(run if is_own else None)
        task.counted, task.counted_in = 0, []
