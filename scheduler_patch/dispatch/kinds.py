"""Vendor tasks that the gate judges together: alike in all that a verdict depends on, but for one amount.

Who needs less, or was denied less, is never worse off: of a kind, the verdict on a few tells that on all.
What may be judged otherwise than its like is asked for alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from sortedcontainers import SortedDict

from scheduler_patch.dispatch import READY, Verdict
from scheduler_patch.dispatch.model import Hold, RunState, TaskState
from scheduler_patch.dispatch.state import DispatchState


class TaskKind(NamedTuple):
    """What the verdict on a task depends on, besides how much it needs.

    Attributes:
        held: scope and part of what has denied it, for a vault key with the run it is of, and the runs it
            binds; None for nothing.
        approved: the runs that let it cost what it may; None: that needs no approval.
        refused: it came back from workers, and each of them may have it only once something has changed.
        needs: what its own budget has left, and what it says that it costs, where it was denied an amount.
        announced: the runs that each worker has announced, where that tells which of them pays.
        complete: those of its runs in which it has completed.

    """

    runs: tuple[str, ...]
    pinned: str | None
    paid: bool
    family: str
    vendors: tuple[str, ...]
    held: tuple[str, str | None, tuple[str, ...]] | None
    approved: tuple[str, ...] | None
    refused: bool
    needs: tuple[int | None, int | None] | None
    announced: tuple[tuple[str, tuple[str, ...]], ...]
    complete: tuple[str, ...]


#: The kind of those that are judged alone.
ALONE = "alone"


def kind_of(task: TaskState, state: DispatchState) -> TaskKind | str:
    """Return the kind of a task, `ALONE` where its verdict is a matter of itself."""
    if task.batch or task.counted_in:
        return ALONE
    run = state.run(task.runs[0]) if len(task.runs) == 1 else None
    hold = task.hold
    return TaskKind(
        tuple(task.runs),
        task.pinned,
        task.paid,
        task.family,
        task.vendors,
        None if hold is None else (hold.scope, _part(task, hold), hold.runs),
        _approved(task, state),
        bool(task.refused),
        None if hold is None else (task.left, task.cost),
        # Of several runs which one pays depends on the worker; of none, whether one is still to be named.
        () if run is not None else tuple((name, tuple(runs)) for name, runs in task.workers.items()),
        tuple(each.run_id for each in _runs(task, state) if task.task_id in each.complete),
    )


def _part(task: TaskState, hold: Hold) -> str | None:
    if hold.scope == "key":
        return task.held_in
    return "" if hold.scope == "duplicate" else hold.part


def _approved(task: TaskState, state: DispatchState) -> tuple[str, ...] | None:
    cost, single = task.cost or 0, state.rules.single
    if single is None or cost <= single:
        return None
    runs = _runs(task, state)
    return tuple(run.run_id for run in runs if run.approvals.get(task.task_id, 0) >= cost)


def _runs(task: TaskState, state: DispatchState) -> list[RunState]:
    """Return the runs that may pay for a task."""
    runs = (state.run(name) for name in dict.fromkeys((task.pinned, *task.runs)))
    return [run for run in runs if run is not None]


def _need(task: TaskState) -> int:
    """Return what a task needs, in micro-dollars; of unknown cost, the least that is any (`Gate._need`)."""
    return 1 if task.need is None else task.need


def _amount(task: TaskState) -> int:
    """Return by what a task is less well off than its like: what it was denied, else what it needs."""
    return _need(task) if task.hold is None else task.hold.asked


class Peers:
    """The pending tasks of a kind, by their amounts.

    Attributes:
        affordable: the amount up to which they are READY, in micro-dollars.
        free: the amount up to which they are not blocked, as of the last look.
        verdict: the verdict on all of them; None: it depends on the amount.

    """

    def __init__(self) -> None:
        self.by_amount: SortedDict[float, dict[str, None]] = SortedDict()
        self.affordable: float = -1
        self.free: float = inf
        self.verdict: Verdict | None = None

    def judge(self, verdict: Callable[[str], Verdict]) -> list[str]:
        """Look by a few of its tasks what all may do now; return those that are blocked, or free, anew."""
        amounts, before = self.by_amount.keys(), self.free

        def at(place: int) -> Verdict:
            return verdict(next(iter(self.by_amount[amounts[place]])))

        last = len(amounts) - 1
        cheapest, dearest = at(0), at(last)
        self.affordable = self.free = inf
        # With the amount it goes from READY to the worst: where both ends are alike, all are.
        self.verdict = cheapest if cheapest is dearest else None
        if cheapest is dearest and dearest is not READY:
            self.affordable, self.free = -1, -1 if dearest.is_blocked else inf
        elif dearest is not READY:
            ready = _first(last, lambda place: at(place) is not READY)
            self.affordable = amounts[ready - 1] if ready else -1
            if dearest.is_blocked:
                free = _first(last, lambda place: at(place).is_blocked, ready)
                self.free = amounts[free - 1] if free else -1
        low, high = sorted((before, self.free))
        changed = () if low == high else self.by_amount.irange(low, high, inclusive=(False, True))
        return [task_id for amount in changed for task_id in self.by_amount[amount]]

    def up_to(self, most: float) -> list[str]:
        """Return the tasks of that amount or less."""
        amounts = self.by_amount.irange(None, most)
        return [task_id for amount in amounts for task_id in self.by_amount[amount]]


class TaskKinds:
    """The pending vendor tasks, by their kinds.

    Attributes:
        groups: of each kind its tasks; those that are `ALONE` are apart.
        alone: tasks that are judged one by one.

    """

    def __init__(self) -> None:
        self.groups: dict[TaskKind, Peers] = {}
        self.alone: dict[str, None] = {}
        self._places: dict[str, tuple[TaskKind | str, int]] = {}

    def put(self, task: TaskState, state: DispatchState) -> TaskKind | str:
        """Have a pending task among its like; return its kind."""
        kind, amount = kind_of(task, state), _amount(task)
        if self._places.get(task.task_id) != (kind, amount):
            self.take(task.task_id)
            self._places[task.task_id] = kind, amount
            if isinstance(kind, TaskKind):
                by_amount = self.groups.setdefault(kind, Peers()).by_amount
                by_amount.setdefault(amount, {})[task.task_id] = None
            else:
                self.alone[task.task_id] = None
        return kind

    def take(self, task_id: str) -> None:
        """Have a task nowhere: it is not pending, or no vendor task."""
        kind, amount = self._places.pop(task_id, (None, 0))
        if isinstance(kind, TaskKind):
            group = self.groups[kind]
            del group.by_amount[amount][task_id]
            if not group.by_amount[amount]:
                del group.by_amount[amount]
            if not group.by_amount:
                del self.groups[kind]
        elif kind is not None:
            del self.alone[task_id]

    def amount(self, task_id: str) -> int:
        """Return a pending task's amount, in micro-dollars: its verdict depends on that and its kind."""
        return self._places[task_id][1]

    def is_free(self, task_id: str) -> bool:
        """Return whether a task was not blocked when its like was last looked at."""
        kind, amount = self._places[task_id]
        return not isinstance(kind, TaskKind) or amount <= self.groups[kind].free

    def is_affordable(self, task_id: str) -> bool:
        """Return whether a task may be READY, as its like was when that was last looked at."""
        kind, amount = self._places[task_id]
        return not isinstance(kind, TaskKind) or amount <= self.groups[kind].affordable


def _first(end: int, holds: Callable[[int], bool], start: int = 0) -> int:
    """Return the first place from `start` on where something holds, as it does from there on to `end`."""
    while start < end:
        middle = (start + end) // 2
        if holds(middle):
            end = middle
        else:
            start = middle + 1
    return start
