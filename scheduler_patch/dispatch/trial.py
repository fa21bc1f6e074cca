"""`Trial`: the gate as it would be after a top-up, to say what that frees. Amounts are micro-dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler_patch.dispatch import Gate
from scheduler_patch.dispatch.budgets import BudgetState
from scheduler_patch.dispatch.model import RunState, TaskState
from scheduler_patch.dispatch.needs import asks


@dataclass(frozen=True)
class Target:
    """The budget that a top-up raises: `run`, `family` or `vendor` with its name, or `day`."""

    scope: str = "run"
    part: str = ""


class Trial:
    """The gate as it would be after a top-up of a run, and after the dispatch of what that lets through.

    It decides by the gate's own code, on budgets of its own: nothing of the real ones changes.
    """

    def __init__(self, gate: Gate, run: RunState, target: Target, amount: int) -> None:
        state = gate.state
        self._run = run.copy()
        self._gate = Gate()
        self._gate.state = trial = state.apart()
        trial.runs = {**state.runs, run.run_id: self._run}
        if amount and target.scope == "run":
            self._run.own_budget.raise_by(amount)
            if self._run.state == "frozen":
                self._run.state = "active"
        elif amount:
            scope, part = ("beyond_day", "") if target.scope == "day" else (target.scope, target.part)
            budget = self._run.budget(scope, part)
            if scope == "beyond_day" and budget.window != trial.today.window:
                self._run.budgets[scope, part] = budget = BudgetState(scope, part)
                budget.window = trial.today.window
            elif not budget.cap and (cap := state.rules.cap(scope, part)) is not None:
                budget.refill(cap)
            budget.raise_by(amount)

    def admits(self, task: TaskState) -> bool:
        """Return whether a task could be dispatched beside those that were admitted before."""
        if task.counted_in:
            return True  # It has been dispatched meanwhile.
        if self._gate.obstacle(self._run, task) is not None:
            return False
        needs = [(budget, amount) for budget, amount, _ in asks(self._gate, self._run, task)]
        if not self._gate.state.rules.shadow and any(amount > budget.room for budget, amount in needs):
            return False
        for budget, amount in needs:
            budget.counted += amount
        return True

    def frees(self, task: TaskState) -> bool:
        """Return whether a task, looked at by itself, would not be blocked any more."""
        verdict = self._gate.obstacle(self._run, task)
        return bool(task.counted_in) or verdict is None or not verdict.is_blocked


def unblocked(freed: Mapping[str, TaskState], tasks: Mapping[str, TaskState]) -> int:
    """Return how many tasks are freed; of a batch that comes back together all, or none."""
    return sum(
        all(mate in freed or mate not in tasks for mate in task.batch) if task.batch else True
        for task in freed.values()
    )
