"""What has denied a task is remembered until it may be tried again; amounts are micro-dollars."""

from __future__ import annotations

from scheduler_patch.dispatch.model import Hold, TaskState
from scheduler_patch.dispatch.state import DispatchState

#: Budgets that each run has its own of.
_INSIDE = ("run", "family", "vendor", "task")


def hold(
    state: DispatchState, task_id: str, scope: str, asked: int, part: str = "", beside: str = ""
) -> None:
    """Block a task until `asked` fits what remains of that budget; of a day's, whichever it is then.

    `beside`: see `Hold`.
    """
    task = state.tasks.get(task_id)
    if task is not None:
        runs = _runs(state, task) if scope in _INSIDE else ()
        task.hold, task.denied = Hold(scope, "" if scope == "day" else part, asked, beside, runs), True
        if beside:
            state.beside.setdefault(beside, set()).add(task_id)


def _runs(state: DispatchState, task: TaskState) -> tuple[str, ...]:
    """Return the ids of the runs that a task belongs to, first that of its last call."""
    named = [name for name in (task.held_in, *task.runs) if name is not None]
    runs = {name: state.run(name) for name in named}
    return tuple(dict.fromkeys(run.run_id if run is not None else name for name, run in runs.items()))


def look_again(state: DispatchState, task_id: str) -> None:
    """Let a task that waits beside another one's call try again, with its batch."""
    task = state.tasks.get(task_id) or state.remembered.get(task_id)
    for each in () if task is None else dict.fromkeys((task_id, *task.batch)):
        mate = state.tasks.get(each) or state.remembered.get(each)
        if mate is not None and mate.held_by("duplicate"):
            mate.hold = None
            mate.refused.clear()
    state.moved()


def free(state: DispatchState, task_id: str) -> None:
    """Block a task no more for what it was denied."""
    task = state.tasks.get(task_id)
    if task is not None:
        task.hold = None


def declare(state: DispatchState, task_id: str, cost: int) -> None:
    """Take it that a task may cost so much, each member of a batch its share."""
    task = state.tasks.get(task_id)
    if task is None:
        return
    for each in task.members or (task_id,):
        if each in state.tasks:
            share = -(-cost // (len(task.members) or 1))
            state.tasks[each].cost = max(state.tasks[each].cost or 0, share)
    task.cost, task.denied = task.cost if task_id in task.members else cost, True
