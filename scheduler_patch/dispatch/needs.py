"""What a run's tasks that are still to pay need of its budgets, added up. Amounts are micro-dollars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from luigi_spendguard.protocol.commands import CENT
from scheduler_patch.dispatch import Gate
from scheduler_patch.dispatch.budgets import BudgetState
from scheduler_patch.dispatch.model import RunState, TaskState

#: A budget, as a denial by it is remembered: scope and part.
BudgetKey = tuple[str, str]
#: What denies a task an amount, which its next attempt will ask of every budget on its way.
ASKING = ("run", "day", "family", "vendor", "task", "duplicate")


@dataclass(frozen=True)
class Shortfall:
    """What is needed of a budget, what there is for it, and what is to be added so that it suffices."""

    needed: int = 0
    available: int = 0
    missing: int = 0


@dataclass
class Need:
    """What tasks need of a budget.

    Attributes:
        amounts: of each task that needs something.
        due, behind: how many of them are blocked, and would run now, or later.
        unsaid: how many do not say what they may cost.
        likely: how many do not say it, and count for what others of their family have cost.

    """

    budget: BudgetState
    amounts: list[int] = field(default_factory=list)
    due: int = 0
    behind: int = 0
    unsaid: int = 0
    likely: int = 0

    @property
    def blocks(self) -> bool:
        """Whether a blocked task needs something of the budget."""
        return bool(self.due or self.behind)


def asks(gate: Gate, run: RunState, task: TaskState) -> Iterator[tuple[BudgetState, int, bool]]:
    """Yield each budget that a task needs something of, how much, and whether that is guessed.

    As the gate says it, and beyond that: what it was denied by one budget it will ask of the others, too;
    one that says neither its cost nor its vendors is like others of its family.
    """
    hold, state = task.hold_in(run), gate.state
    repeats = state.repeats(run, task)
    asked = hold.asked if hold is not None and hold.scope in ASKING else 0
    for budget, need in [*gate.needs(run, task), *_of_vendors(gate, run, task)]:
        amount = need
        if asked and (task.cost is None or repeats) and _takes(task, budget):
            amount = max(need, asked)
        guessed = task.need is None and not repeats and amount <= 1
        if guessed:
            amount = state.cost_so_far(task.family) or amount
        if amount:
            yield budget, amount, guessed


def _takes(task: TaskState, budget: BudgetState) -> bool:
    """Return whether the call that a task was denied takes from a budget, too, as far as that is known."""
    if budget.scope != "vendor":
        return True
    return task.hold is not None and (
        task.hold.key == budget.key if task.hold.scope == "vendor" else len(task.vendors) <= 1
    )


def _of_vendors(gate: Gate, run: RunState, task: TaskState) -> Iterator[tuple[BudgetState, int]]:
    """Yield the budgets of vendors that others of a task's family have called, where it does not say."""
    state = gate.state
    vendors = state.called.get(task.family, ()) if run.run_id and not task.vendors else ()
    for vendor in vendors:
        budget = state.inside(run, "vendor", vendor)
        if budget is None or ((hold := task.hold_in(run)) is not None and hold.key == budget.key):
            continue
        need = 1 if task.need is None or len(vendors) > 1 else task.need
        yield budget, 0 if state.repeats(run, task) else need


class Needs:
    """Adds up what tasks of one run need: those that are blocked, and those that may take from it first."""

    def __init__(self, gate: Gate, run: RunState) -> None:
        self._gate, self._run = gate, run
        self._needs: dict[BudgetKey, Need] = {}
        self._counted: set[str] = set()

    def add(self, task: TaskState, due: int = 0, behind: int = 0) -> tuple[BudgetKey, ...]:
        """Take in a task, once; `due` or `behind` is 1 of a blocked one. Return the budgets that it needs."""
        again, keys = task.task_id in self._counted, []
        self._counted.add(task.task_id)
        for budget, amount, guessed in asks(self._gate, self._run, task):
            own = budget if budget.scope != "beyond_day" else self._gate.state.day or budget
            key = budget.held_as
            keys.append(key)
            needed = self._needs.setdefault(key, Need(own))
            needed.due, needed.behind = needed.due + due, needed.behind + behind
            if not again:
                needed.amounts.append(amount)
                needed.unsaid += guessed and amount <= 1
                needed.likely += guessed and amount > 1
        return tuple(keys)

    def __iter__(self) -> Iterator[tuple[BudgetKey, Need]]:
        return iter(self._needs.items())

    def of(self, key: BudgetKey) -> Need | None:
        """Return what is needed of a budget, None for nothing."""
        return self._needs.get(key)

    def budget(self, key: BudgetKey) -> BudgetState | None:
        """Return a budget of the run, or the day's, as it is now; None where it is not known."""
        return self._gate.state.day if key[0] == "day" else self._run.budgets.get(key)

    def short(self, key: BudgetKey) -> Shortfall:
        """Return what is missing in a budget; a deficit is missing, too.

        Of the run's own it is also what lets its forecast pass, and of a frozen one at least what thaws it.
        """
        budget, need, run = self.budget(key), self.of(key), self._run
        amounts = need.amounts if need is not None else []
        needed, room = sum(amounts), budget.room if budget is not None else 0
        if key[0] == "day":
            return self._short_of_day(amounts, room)
        missing = max(0, needed - room)
        if key[0] == "run" and run.opened:
            if self._gate.is_held(run) and run.forecast is not None:
                missing = max(missing, run.forecast.known - run.own_budget.cap)
                needed = max(needed, room + missing)
            if run.state == "frozen":
                missing = max(missing, CENT)
        return Shortfall(needed, max(0, room), missing)

    def expected(self) -> int:
        """Return what the run comes to as it looks now: what is gone, and what its tasks still need."""
        own, need = self._run.own_budget, self.of(("run", ""))
        return own.cap - own.room + (sum(need.amounts) - need.unsaid if need is not None else 0)

    def _short_of_day(self, amounts: list[int], room: int) -> Shortfall:
        """Return what is missing of the day's, and of what the run may spend beyond it: it is added there."""
        beyond = self._run.budgets.get(("beyond_day", ""))
        is_today = beyond is not None and beyond.window == self._gate.state.today.window
        extra = beyond.room if beyond is not None and is_today else 0
        over = _beyond(amounts, max(0, room))
        return Shortfall(sum(amounts), max(0, room) + max(0, extra), max(0, over - extra))


def _beyond(amounts: Iterable[int], room: int) -> int:
    """Return how much of some amounts goes beyond a room at the most, whoever comes first.

    Each goes into it or beyond it as a whole, so that some of the room may be left. What is left is less than
    the least amount beyond; all that are smaller are in it, and it is filled by their common measure.
    """
    ordered = sorted(amounts)
    total, below, left, measure = sum(ordered), 0, 0, math.gcd(*ordered)
    if total <= room:
        return 0
    for amount in ordered:
        most = amount - 1 - (amount - 1 - room) % measure
        left = max(left, min(most, room - below))
        below += amount
    return total - room + left
