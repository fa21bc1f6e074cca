"""`Look`: one `get_work`, from the first task that Luigi considers to the batch that it hands out."""

from __future__ import annotations

from collections.abc import Callable

from scheduler_patch.dispatch.gate import Gate
from scheduler_patch.dispatch.verdicts import READY, Verdict


class Look:
    """The verdicts by which a `get_work` chooses a task, and what the batch of that task has set aside.

    Luigi 3.8 asks whether it may hand out one task after the other until it has chosen; then it asks how the
    family of that task is batched, and of others of it whether they may join.

    Attributes:
        worker: who asks for work.
        run_id: the run that pays for the chosen task; None: none is chosen yet, or nobody knows which.

    """

    def __init__(
        self, gate: Gate, worker: str | None, scan: Callable[[str | None], dict[str, Verdict]]
    ) -> None:
        self.worker = worker
        self.run_id: str | None = None
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
        task = self._gate.state.tasks.get(task_id)
        return (task.need or 0) if task is not None else 0
