"""Vendor tasks that the gate judges together: alike in all that a verdict depends on, but for what they need.

Who needs less is never worse off: of a kind, the verdict on a few tells that on all. What may be judged
otherwise than its like is asked for alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from sortedcontainers import SortedDict

from scheduler_patch.dispatch import READY, Verdict
from scheduler_patch.dispatch.model import Hold, TaskState
from scheduler_patch.dispatch.state import DispatchState


class TaskKind(NamedTuple):
    """What the verdict on a task depends on, besides what it needs."""

    runs: tuple[str, ...]
    pinned: str | None
    paid: bool
    family: str
    vendors: tuple[str, ...]
    hold: Hold | None


#: The kind of those that are judged alone.
ALONE = "alone"


def kind_of(task: TaskState, state: DispatchState) -> TaskKind | str:
    """Return the kind of a task, `ALONE` where its verdict is a matter of itself or of its worker."""
    single = state.rules.single
    if (
        len(task.runs) != 1  # Which of several pays depends on the worker,
        or state.run(task.runs[0]) is None  # and of none, whether one is still to be named.
        or task.batch
        or task.refused
        or task.counted_in
        or task.held_by("task")  # It needs more of its own budget the less it needs.
        or (single is not None and (task.cost or 0) > single)  # An approval is of one task.
    ):
        return ALONE
    return TaskKind(tuple(task.runs), task.pinned, task.paid, task.family, task.vendors, task.hold)


def _need(task: TaskState) -> int:
    """Return what a task needs, in micro-dollars; of unknown cost, the least that is any (`Gate._need`)."""
    return 1 if task.need is None else task.need


class Peers:
    """The pending tasks of a kind, by what they need.

    Attributes:
        affordable: the most that one may need and be READY, in micro-dollars.
        free: the most that one may need and not be blocked, as of the last look.
        verdict: the verdict on all of them; None: it depends on what each needs.

    """

    def __init__(self) -> None:
        self.by_need: SortedDict[float, dict[str, None]] = SortedDict()
        self.affordable: float = inf
        self.free: float = inf
        self.verdict: Verdict | None = None

    def judge(self, verdict: Callable[[str], Verdict]) -> list[str]:
        """Look by a few of its tasks what all may do now; return those that are blocked, or free, anew."""
        needs, before = self.by_need.keys(), self.free

        def at(place: int) -> Verdict:
            return verdict(next(iter(self.by_need[needs[place]])))

        last = len(needs) - 1
        cheapest, dearest = at(0), at(last)
        self.affordable = self.free = inf
        # From READY on it is less and less with what one needs: where both ends are alike, all are.
        self.verdict = cheapest if cheapest is dearest else None
        if cheapest is dearest and dearest is not READY:
            self.affordable, self.free = -1, -1 if dearest.is_blocked else inf
        elif dearest is not READY:
            ready = _first(last, lambda place: at(place) is not READY)
            self.affordable = needs[ready - 1] if ready else -1
            if dearest.is_blocked:
                free = _first(last, lambda place: at(place).is_blocked, ready)
                self.free = needs[free - 1] if free else -1
        low, high = sorted((before, self.free))
        changed = () if low == high else self.by_need.irange(low, high, inclusive=(False, True))
        return [task_id for need in changed for task_id in self.by_need[need]]


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
        kind, need = kind_of(task, state), _need(task)
        if self._places.get(task.task_id) != (kind, need):
            self.take(task.task_id)
            self._places[task.task_id] = kind, need
            if isinstance(kind, TaskKind):
                by_need = self.groups.setdefault(kind, Peers()).by_need
                by_need.setdefault(need, {})[task.task_id] = None
            else:
                self.alone[task.task_id] = None
        return kind

    def take(self, task_id: str) -> None:
        """Have a task nowhere: it is not pending, or no vendor task."""
        kind, need = self._places.pop(task_id, (None, 0))
        if isinstance(kind, TaskKind):
            group = self.groups[kind]
            del group.by_need[need][task_id]
            if not group.by_need[need]:
                del group.by_need[need]
            if not group.by_need:
                del self.groups[kind]
        elif kind is not None:
            del self.alone[task_id]

    def need(self, task_id: str) -> int:
        """Return what a pending task needs, in micro-dollars: its verdict depends on that and its kind."""
        return self._places[task_id][1]

    def is_free(self, task_id: str) -> bool:
        """Return whether a task was not blocked when its like was last looked at."""
        kind, need = self._places[task_id]
        return not isinstance(kind, TaskKind) or need <= self.groups[kind].free

    def is_affordable(self, task_id: str) -> bool:
        """Return whether a task may be READY, as its like was when that was last looked at."""
        kind, need = self._places[task_id]
        return not isinstance(kind, TaskKind) or need <= self.groups[kind].affordable


def _first(end: int, holds: Callable[[int], bool], start: int = 0) -> int:
    """Return the first place from `start` on where something holds, as it does from there on to `end`."""
    while start < end:
        middle = (start + end) // 2
        if holds(middle):
            end = middle
        else:
            start = middle + 1
    return start
