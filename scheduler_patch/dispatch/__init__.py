"""`Gate`: decides in O(1) whether a vendor task may be dispatched now.

No SQL and no logging here: `verdict` is asked for every candidate task of every `get_work`. Which run pays is
decided once, when a task is dispatched. A task that came back blocked is not dispatched to the same worker
again before something has changed that may change the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from enum import Enum

from scheduler_patch.dispatch import holds
from scheduler_patch.dispatch.budgets import BudgetState
from scheduler_patch.dispatch.model import Forecast, Lack, Outlook, RunState, TaskState
from scheduler_patch.dispatch.state import DispatchState


class Verdict(str, Enum):
    """What the gate says of a task. Its values go over the wire, and `reasons.py` has texts for them."""

    #: It may run now.
    READY = ""
    #: It may once others have ended.
    WAIT = "wait"
    # All others: it is blocked.
    REVOKED = "revoked"
    KEY = "key"
    FORECAST = "forecast"
    APPROVAL = "approval"
    DUPLICATE = "duplicate"
    FROZEN = "frozen"
    CAP = "cap"
    DAY = "day"
    FAMILY = "family"
    VENDOR = "vendor"
    TASK = "task"
    BATCH = "batch"
    WITHIN = "within"
    REFUSED = "refused"

    __str__ = str.__str__
    __hash__ = str.__hash__

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)

    @property
    def is_blocked(self) -> bool:
        """Whether only an operator, or money that comes back, lets the task run."""
        return self is not READY and self is not WAIT

    @property
    def is_final(self) -> bool:
        """Whether nothing frees the task of it: its run, or its own vault key, is revoked."""
        return self is Verdict.REVOKED or self is Verdict.KEY

    @property
    def is_held(self) -> bool:
        """Whether an approval alone ends it."""
        return self is Verdict.FORECAST or self is Verdict.APPROVAL or self is Verdict.DUPLICATE


#: Looked up once: every candidate of every `get_work` is compared with them.
READY, WAIT = Verdict.READY, Verdict.WAIT
#: Nothing keeps a task from running.
_NONE: tuple[Verdict, BudgetState | None] = (READY, None)
#: The verdict on a task when a budget of that scope cannot pay for it.
LACKING = {
    "run": Verdict.CAP,
    "day": Verdict.DAY,
    "beyond_day": Verdict.DAY,
    "family": Verdict.FAMILY,
    "vendor": Verdict.VENDOR,
}


def blocked(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return which tasks are blocked."""
    return [task_id for task_id, one in verdicts.items() if one is not READY and one is not WAIT]


class Excess(Enum):
    """Why a forecast is too much."""

    CAP = "cap"
    GROWTH = "growth"


def _nobody(worker: str) -> tuple[str, ...]:
    """Return that a worker runs within no task."""
    return ()


def _always_due(task_id: str, worker: str | None) -> bool | None:
    """Return that a batch's member is due: nobody knows better."""
    return True


class Gate:
    """Decides by what luigid remembers.

    Attributes:
        state: what it decides by.

    """

    def __init__(self) -> None:
        self.state = DispatchState()
        #: Whether nothing but the gate keeps a task from a worker; None: it cannot come back.
        self.due: Callable[[str, str | None], bool | None] = _always_due
        #: The tasks within which a worker runs: they wait for it.
        self.within: Callable[[str], tuple[str, ...]] = _nobody

    def verdicts(self, task_ids: Iterable[str], worker: str | None = None) -> dict[str, Verdict]:
        """Return the verdict on each vendor task among these, for one look at all of them."""
        return {task_id: self.verdict(task_id, worker) for task_id in task_ids if task_id in self.state.tasks}

    def verdict(self, task_id: str, worker: str | None = None) -> Verdict:
        """Return whether a task may be dispatched (to a worker) now; a plain task always may."""
        verdict = self.verdict_anew(task_id, worker)
        task = self.state.tasks.get(task_id) if verdict is READY else None
        if task is not None and task.refused and self._was_refused(task, worker):
            return Verdict.REFUSED
        return verdict

    def verdict_anew(self, task_id: str, worker: str | None = None) -> Verdict:
        """Return what would be the verdict on a task that has not come back from any worker."""
        task = self.state.tasks.get(task_id)
        if task is None:
            return READY
        verdict = self._alone(task, worker)
        return self._together(task, worker) if verdict is READY and task.batch else verdict

    def _alone(self, task: TaskState, worker: str | None) -> Verdict:
        """Return the verdict on a task, whatever batch it was in."""
        verdict = READY
        for run in self._candidates(task, worker):
            here = self._in(run, task)
            if here is READY:
                return READY
            if here is WAIT and worker is not None and self._waits_for_itself(run, task, worker):
                here = Verdict.WITHIN
            if verdict is READY or here is WAIT:
                verdict = here
        return verdict

    def _together(self, member: TaskState, worker: str | None) -> Verdict:
        """Return the verdict on a task of an attempted batch, which comes back with the members it had.

        When one of them cannot come back, the others are free: their calls are refused where they may be
        repetitions.
        """
        verdict = READY
        for mate in member.batch:
            due = mate == member.task_id or self.due(mate, worker)
            if due is None:
                return READY
            task = self.state.tasks.get(mate)
            if not due or (task is not None and self._alone(task, worker) is not READY):
                verdict = Verdict.BATCH
        return verdict

    def is_stopped(self, task_id: str) -> bool:
        """Return whether the run that a running task was dispatched for is revoked."""
        task = self.state.tasks.get(task_id)
        run = self.state.run(task.pinned) if task is not None else None
        return run is not None and run.state == "revoked"

    def paying_run(self, task_id: str, worker: str | None = None) -> str | None:
        """Return the run that a task is (or would now be) dispatched for."""
        task = self.state.tasks.get(task_id)
        return None if task is None else self._payer(task, worker).run_id or None

    def _payer(self, task: TaskState, worker: str | None) -> RunState:
        candidates = self._candidates(task, worker)
        return next((run for run in candidates if self._in(run, task) is READY), candidates[0])

    def _candidates(self, task: TaskState, worker: str | None) -> list[RunState]:
        """Return the runs that may pay, best first: the pinned one, then the worker's own, else `nobody`.

        What has paid, or is running, stays with its run; a retry that has not may be another's if its own
        run cannot pay any more. Which run others have claimed it for does not matter. One in which it has
        completed is left alone while there is another: what only repeats would leave that one unpaid.
        A run that nobody has opened pays for nothing while one is known that is open, and never for a task
        that its worker has announced for other runs: its claim would not use it.
        """
        state = self.state
        pinned, own = state.run(task.pinned), task.workers.get(worker, ()) if worker is not None else ()
        if pinned is not None and not self._is_for(pinned, task, worker):
            pinned = None
        if pinned is not None and pinned.state != "revoked" and (task.paid or task.runs_here):
            return [pinned]
        mine, named = [state.run(name) for name in own], state.announced(task, worker)
        if pinned is not None:
            named = list(dict.fromkeys([pinned, *named]))
        runs = [run for run in named if self._is_for(run, task, worker)]
        if alive := [run for run in runs if run.opened and run.state != "revoked"]:
            return [run for run in alive if task.task_id not in run.complete] or alive
        may_open = [run for run in runs if not run.opened and run in (mine or runs)]
        return may_open or [run for run in runs if run.opened] or runs or [state.nobody]

    def _is_for(self, run: RunState, task: TaskState, worker: str | None) -> bool:
        """Return whether a run may pay for a task at a worker: one that has ended, if it was announced there.

        At a worker that has not announced the task itself (an assistant), if any other has.
        """
        if not run.is_over:
            return True
        own = task.workers.get(worker) if worker is not None else None
        return any(run.run_id in each for each in (task.workers.values() if own is None else (own,)))

    def pinned_run(self, task_id: str) -> RunState | None:
        """Return the run that a task was dispatched for, None where that is not known."""
        task = self.state.tasks.get(task_id)
        return None if task is None else self.state.run(task.pinned)

    # What came back blocked.

    def came_back(self, task_id: str, worker: str | None) -> None:
        """Take it that a task was blocked at a worker: there it waits until that answer may be another.

        Where another run would pay now, or may pay in place of the one that was to, it has yet to be asked.
        """
        task = self.state.tasks.get(task_id)
        if task is None or worker is None:
            return
        asked = self.state.run(task.pinned) or self._payer(task, worker)
        if asked in self._candidates(task, worker):
            before = task.refused.get(worker)
            runs = (before.asked if before is not None else frozenset()) | {asked.run_id}
            task.refused = {**task.refused, worker: replace(self._outlook(task, worker), asked=runs)}

    def _was_refused(self, task: TaskState, worker: str | None) -> bool:
        """Return whether nothing has changed since a task came back from a worker (None: from all of its)."""
        if worker is None:
            return all(self._was_refused(task, each) for each in task.workers or task.refused)
        before = task.refused.get(worker)
        if before is None:
            return False
        if not self._outlook(task, worker).better_than(before):
            return self._payer(task, worker).run_id in before.asked
        del task.refused[worker]
        return False

    def _outlook(self, task: TaskState, worker: str) -> Outlook:
        """Return what the answer to a task's next attempt depends on."""
        runs = self._candidates(task, worker)
        budgets = [(run.run_id, one) for run in runs for one in self.state.budgets_of(run, task)]
        return Outlook(
            self.state.rules,
            (*((run.run_id, run.state, run.approvals.get(task.task_id)) for run in runs), task.cost),
            {
                (run_id, *budget.key): (budget.window, budget.cap, budget.remaining)
                for run_id, budget in budgets
            },
            task.left,
        )

    def _in(self, run: RunState, task: TaskState) -> Verdict:
        """Return the verdict on a task if this run were to pay for it."""
        verdict, budget = next(self.obstacles(run, task), _NONE)
        if budget is not None:
            self.state.short[budget] = Lack(run, task, budget.cap)
        return verdict

    def obstacle(self, run: RunState, task: TaskState) -> Verdict | None:
        """Return what first keeps a task from running if this run were to pay, None for nothing."""
        return next((verdict for verdict, _ in self.obstacles(run, task)), None)

    def obstacles(self, run: RunState, task: TaskState) -> Iterator[tuple[Verdict, BudgetState | None]]:
        """Yield all that keeps a task from running if this run were to pay: first what is its verdict.

        With the budget that cannot pay for it, where it is one. Behind what is final nothing else matters.
        """
        rules = self.state.rules
        if run.state == "revoked":
            yield Verdict.REVOKED, None
            return
        if task.hold is not None and task.hold.scope == "key" and task.held_in == run.run_id:
            yield Verdict.KEY, None
            return
        if run is self.state.nobody and any(worker in self.state.announcing for worker in task.workers):
            yield WAIT, None  # Its worker is about to say, or what leads to it will.
        if rules.forecast == "hold":
            if run.announcing:
                yield WAIT, None
            elif not run.opened or not run.scheduled or self.is_held(run):
                yield Verdict.FORECAST, None
        single = rules.single
        if single is not None and (task.cost or 0) > max(single, run.approvals.get(task.task_id, 0)):
            yield Verdict.APPROVAL, None
        if task.held_by("duplicate"):
            yield Verdict.DUPLICATE, None
        if not rules.shadow:
            yield from self._unaffordable(run, task)

    def _unaffordable(self, run: RunState, task: TaskState) -> Iterator[tuple[Verdict, BudgetState | None]]:
        hold, is_lacking, waits = task.hold_in(run), False, False
        if hold is not None and hold.scope == "task" and task.left is not None and hold.asked > task.left:
            yield Verdict.TASK, None
        if run.state == "frozen" and not self.state.repeats(run, task):
            yield Verdict.FROZEN, None
        for budget, need in self.needs(run, task):
            if need > budget.attainable:
                is_lacking = True
                yield LACKING[budget.scope], budget
            elif need > budget.remaining - budget.counted:
                waits = True
        if waits and not is_lacking and not task.counted_in:
            yield WAIT, None

    def _waits_for_itself(self, run: RunState, task: TaskState, worker: str) -> bool:
        """Return whether what a task waits for is set aside for the tasks within which its worker runs."""
        tasks = self.state.tasks
        above = [tasks[task_id] for task_id in self.within(worker) if task_id in tasks]
        return bool(above) and any(
            need > budget.remaining - sum(each.counted for each in above if budget in each.counted_in)
            for budget, need in self.needs(run, task)
        )

    def needs(self, run: RunState, task: TaskState) -> Iterator[tuple[BudgetState, int]]:
        """Yield every budget of a task with what it needs of it; repeating what was paid costs nothing."""
        hold, repeats = task.hold_in(run), self.state.repeats(run, task)
        for budget in self.state.budgets_of(run, task):
            asked = hold.asked if hold is not None and hold.key == budget.held_as else 0
            yield budget, asked if repeats else max(asked, self._need(task, budget))

    def needed(self, run: RunState, task: TaskState, budget: BudgetState) -> int:
        """Return what a task needs of one budget."""
        return next((need for one, need in self.needs(run, task) if one is budget), 0)

    def _need(self, task: TaskState, budget: BudgetState) -> int:
        """Return what a task needs of a budget; of several vendors' it is not known which one gets it."""
        shared = budget.scope == "vendor" and len(task.vendors) > 1
        return 1 if task.need is None else min(task.need, 1) if shared else task.need

    def excess(self, run: RunState) -> Excess | None:
        """Return why a run's forecast is too much, None when it is not (or is not known)."""
        forecast = run.forecast
        if forecast is None or self._is_approved(run, forecast):
            return None
        if forecast.known > run.own_budget.cap:
            return Excess.CAP
        if run.last and forecast.known > self.state.rules.growth * run.last:
            return Excess.GROWTH
        return None

    def _is_approved(self, run: RunState, forecast: Forecast) -> bool:
        """Return whether an operator has let pass at least what the forecast says, in both its parts."""
        return (
            run.approved is not None
            and forecast.known <= run.approved
            and forecast.unknown <= run.approved_unknown
        )

    def is_held(self, run: RunState) -> bool:
        """Return whether a run waits for an approval of its forecast."""
        return self.state.rules.forecast == "hold" and self.excess(run) is not None

    def joins(self, first: str, run_id: str | None, taken: int, task_id: str) -> bool:
        """Return whether a task may be batched with `first`, for whose batch `taken` is set aside already.

        Members have one run, and what has paid comes back as it was: alone, or with the members it had.
        """
        task, leader = self.state.tasks.get(task_id), self.state.tasks.get(first)
        if task is None or leader is None:
            return task is leader
        run, repeats = self.state.run(run_id) or self.state.nobody, self.state.repeats
        if task.batch != leader.batch or (not task.batch and (repeats(run, task) or repeats(run, leader))):
            return False
        if run not in self._candidates(task, None) or self._in(run, task) is not READY:
            return False
        if repeats(run, task) or self.state.rules.shadow:
            return True
        return all(
            self._need(task, budget) <= budget.remaining - budget.counted - taken
            for budget in self.state.budgets_of(run, task)
        )

    def started(self, task_id: str, run_id: str | None, worker: str | None = None) -> None:
        """Pin a dispatched task to the run that pays for it, and count what it may cost."""
        task = self.state.tasks.get(task_id)
        if task is None or task.runs_here:
            return
        self.state.release(task)  # What was claimed elsewhere gives way to it.
        task.pinned = run_id or self.paying_run(task_id, worker) or task.pinned
        task.resumed = ""
        task.denied = False
        if self.state.local:
            task.claimed_by, task.claimed_for = worker, task.pinned
        run = self.state.run(task.pinned) or self.state.nobody
        self.state.count(run, task, self.state.due(run, task))

    def hold_as_reported(self, task_id: str) -> None:
        """Block a task that its worker calls blocked; until its budget grows, if nothing better is known."""
        task = self.state.tasks.get(task_id)
        run = self.state.run(task.pinned) if task is not None else None
        if task is None or task.denied or run is None or not run.opened:
            return
        if not self._in(run, task).is_blocked:
            holds.hold(self.state, task_id, "run", run.own_budget.remaining + 1)
