"""`DispatchState`: what luigid knows of tasks, runs and budgets, and nothing that it decides by it.

Workers say which tasks belong to which runs; what the ledger says is taken over in `feed.py`. Amounts are
micro-dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any

from scheduler_patch.dispatch.budgets import BudgetState, Rules, Today
from scheduler_patch.dispatch.model import (
    ENDED,
    UNOPENED,
    Announcement,
    Forecast,
    Hold,
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

    def _named(self, name: str) -> RunState:
        """Return a run by its run_id or name; one that nobody has opened yet is made here."""
        run = self.run(name)
        if run is None:
            run = self.runs[name] = RunState(name, UNOPENED)
        return run

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
        if task.hold is not None and task.hold.scope in ("family", "vendor"):
            keys.append(task.hold.key)
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

    # Batches.

    def combine(self, task_id: str, members: list[str]) -> None:
        """Let a batch's combined task stand for its members: their run pays, their counts are its own.

        It may be one of them (`batch_method=max`), and then is their batch only while it runs.
        """
        tasks = [self.tasks[member] for member in members if member in self.tasks]
        before = self.tasks.get(task_id)
        one_of_them = before is not None and task_id in members
        if not tasks or (before is not None and before.counted_in and (before.members or not one_of_them)):
            return  # A plain batch, or said twice.
        first = tasks[0]
        if before is not None and one_of_them:
            combined = before
        else:
            combined = TaskState(task_id, first.family, list(first.runs), pinned=first.pinned)
            combined.paid = (before or self.remembered.pop(task_id, combined)).paid
            combined.cost = _cost_together(tasks)
            combined.vendors = tuple(dict.fromkeys(v for task in tasks for v in task.vendors))
        combined.members = tuple(members)
        self.put(combined)
        counted, run = sum(task.counted for task in tasks), self.run(first.pinned)
        for task in tasks:
            self.release(task)
        self.count(run or self.nobody, combined, counted)
        self.attempt(members)

    def attempt(self, members: Iterable[str]) -> None:
        """Take it that a batch is attempted: its members come back together, in this order."""
        batch = tuple(members)
        for member in batch:
            self.task(member).batch = batch

    def cost_of_batch(self, task_id: str) -> int | None:
        """Return what the members of a running batch say together; None: they do not, or it is none."""
        task = self.tasks.get(task_id)
        if task is None or not task.members:
            return None
        if task_id not in task.members:
            return task.cost
        return _cost_together([self.tasks[each] for each in task.members if each in self.tasks])

    def split(self, task_id: str, members: Iterable[str]) -> None:
        """Let the members of a batch be held as their combined task was, which is no more."""
        combined = self.tasks.get(task_id)
        for member in members:
            if combined is not None and member in self.tasks:
                self.tasks[member].hold = combined.hold
                if combined.hold is not None and combined.hold.beside:
                    self.beside.setdefault(combined.hold.beside, set()).add(member)
                self.tasks[member].denied = combined.denied
        self.forget([task_id])

    # What workers say.

    def join(
        self,
        task_id: str,
        run_id: str | None,
        worker: str,
        announced: Announcement,
        *,
        is_id: bool | None = None,
    ) -> None:
        """Let a task belong to a run, as its worker says; None: which one is not known yet.

        `is_id`: whether a run is meant, or a root's name; None: whoever has a run of that id means it.
        """
        if run_id is not None and not is_id:
            run_id = self._meant(run_id, worker if is_id is None else "")
        task = self.tasks.get(task_id)
        if task is None:
            task = self.put(self.remembered.pop(task_id, TaskState(task_id, announced.family)))
            if task.claimed_for is not None and self.run(task.claimed_for) is None:
                self._begin_anew(task)  # That run has ended.
        task.announced = True
        task.family = announced.family or task.family
        task.vendors = announced.vendors or task.vendors
        own = task.workers.setdefault(worker, {})
        if announced.cost is not None:
            if task.left is not None and task.cap is not None:
                task.left, task.cap = max(0, task.left + announced.cost - task.cap), announced.cost
            task.cost = announced.cost
        elif announced.scheduling and self.rules.single is None and task.held_by("task"):
            task.cost = task.left = task.cap = task.hold = (
                None  # It has no budget any more; else its claim will say.
            )
        if announced.scheduling:
            self.announcing.setdefault(worker, set())
            task.refused.pop(worker, None)  # It was submitted again.
            if task.held_by("duplicate"):
                task.hold = None  # Its next attempt looks whether it still is one.
        if run_id is None:
            if not own:
                self.unplaced.setdefault(worker, set()).add(task_id)
            return
        self.unplaced.get(worker, set()).discard(task_id)
        if run_id not in task.runs:
            task.runs = [*task.runs, run_id]
            if run_id != (task.claimed_for or task.pinned or run_id):
                self.on_shared(task)  # It was dispatched before it was known to be this run's too.
        own[run_id] = None
        if is_id is not False and run_id in self.runs_of.get(worker, ()) and run_id not in self.names:
            self.load_run(run_id)  # It was forgotten with its last task.
        self.runs_of.setdefault(worker, set()).add(run_id)
        run = self._named(run_id)
        run.tasks[task_id] = None
        if announced.scheduling:
            self.announcing[worker].add(run_id)
            run.announcing.add(worker)

    def _meant(self, name: str, worker: str) -> str:
        """Return which run a name means: that of a run that has ended does for those alone that had it."""
        run = self.runs.get(name)
        if run is None or not run.is_over or name in self.runs_of.get(worker, ()):
            return name
        if name not in self.names:
            self.forget_run(run)  # The next run of that root is waited for by its name.
        return self.names.get(name, name)

    def scheduled(self, worker: str) -> list[RunState]:
        """Take it that a worker has announced all it will for now; return its runs, with their forecasts."""
        complete = []
        for run_id in self.announcing.pop(worker, ()):
            run = self.run(run_id)
            if run is not None:
                run.announcing.discard(worker)
                run.scheduled = True
                tasks = (self.tasks[task_id] for task_id in run.tasks if task_id in self.tasks)
                run.forecast = Forecast.of(run, tasks, self.averages)
                complete.append(run)
        self.moved()
        return complete

    def lose_workers(self, workers: Iterable[str]) -> None:
        """Forget workers: what they were still scheduling will not be completed by them."""
        gone = set(workers)
        if gone:
            self.vanished |= gone & {task.claimed_by for task in self.tasks.values() if task.claimed_by}
            for task in self.tasks.values():
                if gone & task.workers.keys() or gone & task.refused.keys():
                    task.workers = {name: runs for name, runs in task.workers.items() if name not in gone}
                    task.refused = {name: then for name, then in task.refused.items() if name not in gone}
        for worker in gone:
            self.stopping.pop(worker, None)
            self.runs_of.pop(worker, None)
            self.unplaced.pop(worker, None)
            for run_id in self.announcing.pop(worker, ()):
                run = self.run(run_id)
                if run is not None:
                    run.announcing.discard(worker)
        if gone:
            for run in [each for each in self.runs.values() if each.is_over]:
                self._forget_unused(run)

    def to_stop(self, worker: str) -> dict[str, list[str]]:
        """Return the revoked runs that a worker has not acknowledged, with its tasks of each."""
        runs = self.stopping.get(worker)
        if not runs:
            return {}
        mine = [task for task in self.tasks.values() if task.claimed_by == worker]
        tasks_of = {run_id: [task.task_id for task in mine if task.claimed_for == run_id] for run_id in runs}
        self.stopping[worker] = {run_id for run_id, tasks in tasks_of.items() if tasks}
        return {run_id: tasks for run_id, tasks in tasks_of.items() if tasks}

    def acknowledged(self, worker: str, run_id: str) -> None:
        """Take it that a worker knows of a revoked run."""
        self.stopping.get(worker, set()).discard(run_id)

    def stop(self, run_id: str) -> None:
        """Let the workers that run tasks of a run be told to end them."""
        for task in self.tasks.values():
            if self.rules.kill and task.claimed_for == run_id and task.claimed_by is not None:
                self.stopping.setdefault(task.claimed_by, set()).add(run_id)

    # What becomes of runs and tasks.

    def load_run(self, run_id: str) -> None:
        """Take it that tasks are known of a run, which has ended as far as is known."""
        if run_id not in self.runs:
            self.runs[run_id] = RunState(run_id, ENDED)

    def wait_for(self, run: RunState) -> None:
        """Take it that nobody has opened a run yet."""
        run.state = UNOPENED
        self.changed.update(run.tasks)
        self.moved()

    def end_run(self, run_id: str) -> None:
        """Let a run that has ended be the run of those alone that have announced tasks of it.

        Who has announced it by its root's name has announced that run.
        """
        run = self.runs.get(run_id)
        for name in [name for name, current in self.names.items() if current == run_id]:
            del self.names[name]
            if name != run_id:
                self._rename(name, run_id)
        if run is None:
            return
        run.state = ENDED
        self.changed.update(run.tasks)
        for task in [each for each in self.remembered.values() if run_id in (each.pinned, each.claimed_for)]:
            self._begin_anew(task)
            self._forget_blank(task.task_id)
        self.moved(run)
        self._forget_unused(run)

    def _rename(self, name: str, run_id: str) -> None:
        """Let what was announced by a name be announced by that run's id."""
        for announced in (*self.runs_of.values(), *self.announcing.values()):
            if name in announced:
                announced.discard(name)
                announced.add(run_id)
        for task in self.tasks.values():
            if name in task.runs:
                task.runs = list(dict.fromkeys(run_id if each == name else each for each in task.runs))
                task.workers = {
                    worker: {run_id if each == name else each: None for each in own}
                    for worker, own in task.workers.items()
                }

    def _forget_unused(self, run: RunState) -> None:
        """Forget a run that has ended once no task is left in it that a worker has announced."""
        if not run.tasks or not any(run.run_id in announced for announced in self.runs_of.values()):
            self.forget_run(run)

    def forget_run(self, run: RunState) -> None:
        """Forget a run that has ended: its tasks that somebody still has to run wait for the next one."""
        del self.runs[run.run_id]
        self.changed.update(run.tasks)

    def stopped(self, task_id: str) -> None:
        """Release what was counted for a task: it runs no more."""
        task = self.tasks.get(task_id)
        if task is not None:
            self.release(task)
            task.claimed_by = None
            if task_id in task.members:  # It is a single task again, whose budget was its batch's.
                task.members, task.left, task.cap = (), None, None

    def hold(self, task_id: str, scope: str, asked: int, part: str = "", beside: str = "") -> None:
        """Block a task until `asked` fits what remains of that budget; of a day's, whichever it is then.

        `beside`: see `Hold`.
        """
        task = self.tasks.get(task_id)
        if task is not None:
            task.hold, task.denied = Hold(scope, "" if scope == "day" else part, asked, beside), True
            if beside:
                self.beside.setdefault(beside, set()).add(task_id)

    def look_again(self, task_id: str) -> None:
        """Let a task that waits beside another one's call try again, with its batch."""
        task = self.tasks.get(task_id) or self.remembered.get(task_id)
        for each in () if task is None else dict.fromkeys((task_id, *task.batch)):
            mate = self.tasks.get(each) or self.remembered.get(each)
            if mate is not None and mate.held_by("duplicate"):
                mate.hold = None
                mate.refused.clear()
        self.moved()

    def free(self, task_id: str) -> None:
        """Block a task no more for what it was denied."""
        task = self.tasks.get(task_id)
        if task is not None:
            task.hold = None

    def declare(self, task_id: str, cost: int) -> None:
        """Take it that a task may cost so much, each member of a batch its share."""
        task = self.tasks.get(task_id)
        if task is None:
            return
        for each in task.members or (task_id,):
            if each in self.tasks:
                share = -(-cost // (len(task.members) or 1))
                self.tasks[each].cost = max(self.tasks[each].cost or 0, share)
        task.cost, task.denied = task.cost if task_id in task.members else cost, True

    def done(self, task_id: str) -> None:
        """Forget a task that is done."""
        task = self.tasks.get(task_id)
        if task is not None:
            batch, task.batch = task.batch, ()
            if self.local:  # A child has finished its claim, unheard here.
                self.completed([task_id, *batch])
            for member in batch:
                self.task(member).batch = ()
                self._forget_blank(member)
            self.forget([task_id])

    def completed(self, tasks: Iterable[str], run_id: str | None = None, seq: int | None = None) -> None:
        """Take it that tasks have completed, in a run: in any other they pay, should they run again.

        `seq`: the place among all of the claim that has; what a later one is known to have done stands.
        """
        run = self.runs.get(run_id or "")
        for task_id in tasks:
            for held in self.beside.pop(task_id, ()):
                self.look_again(held)
            if run is not None:
                run.complete.add(task_id)
                self.changed.add(task_id)
            task = self.tasks.get(task_id) or self.remembered.get(task_id)
            if task is not None:
                task.paid = False
                if run is not None and task.held_in == run_id:
                    self.own_budget(run, task, None, None)
                    self.recount(task, 0)
                if seq is None or task.heard[0] <= seq:
                    self._begin_anew(task)
                if task_id not in self.tasks:  # Who has it still to run here repeats it with its batch.
                    task.batch = ()
                self._forget_blank(task_id)
        if run is not None:
            self.moved(run)

    def _begin_anew(self, task: TaskState) -> None:
        """Let nothing that a task was claimed for before matter, if nobody runs it by now."""
        if task.claimed_by is None and not task.counted_in:
            task.pinned = task.claimed_for = task.left = task.cap = task.hold = None
            task.refused = {}

    def forget(self, gone: Iterable[str]) -> None:
        """Drop tasks that the scheduler has dropped, but not that they have paid and with whom."""
        for task_id in list(gone):
            self.stopped(task_id)
            task = self.tasks.pop(task_id, None)
            if task is None:
                continue
            self.changed.add(task_id)
            for worker in task.workers:
                self.unplaced.get(worker, set()).discard(task_id)
            for run_id in task.runs:
                run = self.run(run_id)
                if run is not None:
                    run.tasks.pop(task_id, None)
                    if run.is_over:
                        self._forget_unused(run)
                    elif not run.opened and not run.tasks:
                        self.runs.pop(run.run_id, None)
            if task.paid or task.batch:
                kept = TaskState(task_id, "", paid=task.paid, batch=task.batch, heard=task.heard)
                if task.paid:
                    kept.pinned, kept.claimed_for = task.pinned, task.claimed_for
                    kept.left, kept.cap, kept.seen = task.left, task.cap, task.seen
                self.remembered[task_id] = kept

    def _forget_blank(self, task_id: str) -> None:
        """Remember nothing of a task of which there is nothing to say any more."""
        task = self.remembered.get(task_id)
        if task is not None and not (task.paid or task.batch or task.pinned or task.claimed_for):
            del self.remembered[task_id]

    def put_away(self, task_id: str) -> None:
        """Drop a task that the scheduler does not know; should it come back, its run is still known."""
        task = self.tasks.get(task_id)
        self.forget([task_id])
        if task is not None and (task.pinned or task.claimed_for) is not None:
            task.runs, task.workers, task.announced = [], {}, False
            self.remembered[task_id] = task


def _cost_together(tasks: list[TaskState]) -> int | None:
    """Return what tasks say that they may cost together, None when one of them does not say."""
    known = [task.cost for task in tasks if task.cost is not None]
    return sum(known) if len(known) == len(tasks) else None
