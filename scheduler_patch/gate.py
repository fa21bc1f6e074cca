"""What the dispatch gate counts: memory, fed by the ledger's answers and rebuilt from it.

No SQL and no logging here: `allows` is asked for every candidate task of every `get_work`.
Amounts are micro-dollars.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class RunFigures:
    """What the gate knows of a run."""

    state: str
    remaining: int


@dataclass(frozen=True)
class Hold:
    """A task was denied: it stays blocked while `asked` exceeds what remains of that budget."""

    scope: str
    asked: int


class Gate:
    """Decides in O(1) whether a vendor task may be dispatched now."""

    def __init__(self) -> None:
        self.run_of: dict[str, str] = {}
        self.runs: dict[str, RunFigures] = {}
        self.holds: dict[str, Hold] = {}
        self.paid: set[str] = set()
        self.day_remaining: int | None = None

    def allows(self, task_id: str) -> bool:
        """Return whether the task's run can pay for it (or has paid for it already)."""
        run = self.runs.get(self.run_of.get(task_id, ""))
        if run is None:
            return True  # A plain task, or a run that only its claim can tell more about.
        if run.state == "revoked":
            return False
        hold = self.holds.get(task_id)
        if hold is not None and hold.asked > self._remaining(hold.scope, run):
            return False
        if task_id in self.paid:
            return True
        return run.state != "frozen" and run.remaining > 0 and self.day_remaining != 0

    def _remaining(self, scope: str, run: RunFigures) -> int:
        if scope == "day":
            return run.remaining if self.day_remaining is None else self.day_remaining
        return run.remaining

    def is_revoked(self, task_id: str) -> bool:
        """Return whether the task's run is revoked."""
        run = self.runs.get(self.run_of.get(task_id, ""))
        return run is not None and run.state == "revoked"

    def figures(self, run_id: str, state: str, remaining: int) -> None:
        """Take over a run's figures from the ledger."""
        self.runs[run_id] = RunFigures(state, remaining)

    def join(self, task_id: str, run_id: str) -> None:
        """Let a task belong to a run."""
        self.run_of[task_id] = run_id

    def hold(self, task_id: str, scope: str, asked: int) -> None:
        """Block a task until `asked` fits what remains of its budget."""
        self.holds[task_id] = Hold(scope, asked)

    def hold_as_reported(self, task_id: str) -> None:
        """Block a task that its worker calls blocked; until its budget grows, if nothing better is known."""
        run = self.runs.get(self.run_of.get(task_id, ""))
        if run is not None and self.allows(task_id):
            self.hold(task_id, "run", run.remaining + 1)

    def pass_on(self, task_id: str, members: Iterable[str]) -> None:
        """Let the members of a batch be held as their combined task was, which is no more."""
        hold = self.holds.get(task_id)
        if hold is not None:
            self.holds.update(dict.fromkeys(members, hold))
        self.forget([task_id])

    def done(self, task_id: str) -> None:
        """Forget what was held against a task: it has completed. (What it has paid stays paid.)"""
        self.holds.pop(task_id, None)

    def forget(self, gone: Iterable[str]) -> None:
        """Drop tasks that the scheduler has dropped."""
        for task_id in gone:
            self.run_of.pop(task_id, None)
            self.holds.pop(task_id, None)
