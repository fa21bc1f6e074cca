"""Batches: a combined task stands for its members while it runs; amounts are micro-dollars."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler_patch.dispatch import endings
from scheduler_patch.dispatch.model import TaskState
from scheduler_patch.dispatch.state import DispatchState


def combine(state: DispatchState, task_id: str, members: list[str]) -> None:
    """Let a batch's combined task stand for its members: their run pays, their counts are its own.

    It may be one of them (`batch_method=max`), and then is their batch only while it runs.
    """
    tasks = [state.tasks[member] for member in members if member in state.tasks]
    before = state.tasks.get(task_id)
    one_of_them = before is not None and task_id in members
    if not tasks or (before is not None and before.counted_in and (before.members or not one_of_them)):
        return  # A plain batch, or said twice.
    first = tasks[0]
    if before is not None and one_of_them:
        combined = before
    else:
        combined = TaskState(task_id, first.family, list(first.runs), pinned=first.pinned)
        combined.paid = (before or state.remembered.pop(task_id, combined)).paid
        combined.cost = _cost_together(tasks)
        combined.vendors = tuple(dict.fromkeys(v for task in tasks for v in task.vendors))
    combined.members = tuple(members)
    state.put(combined)
    counted, run = sum(task.counted for task in tasks), state.run(first.pinned)
    for task in tasks:
        state.release(task)
    state.count(run or state.nobody, combined, counted)
    attempt(state, members)


def attempt(state: DispatchState, members: Iterable[str]) -> None:
    """Take it that a batch is attempted: its members come back together, in this order."""
    batch = tuple(members)
    for member in batch:
        state.task(member).batch = batch


def cost_of_batch(state: DispatchState, task_id: str) -> int | None:
    """Return what the members of a running batch say together; None: they do not, or it is none."""
    task = state.tasks.get(task_id)
    if task is None or not task.members:
        return None
    if task_id not in task.members:
        return task.cost
    return _cost_together([state.tasks[each] for each in task.members if each in state.tasks])


def split(state: DispatchState, task_id: str, members: Iterable[str]) -> None:
    """Let the members of a batch be held as their combined task was, which is no more."""
    combined = state.tasks.get(task_id)
    for member in members:
        if combined is not None and member in state.tasks:
            state.tasks[member].hold = combined.hold
            if combined.hold is not None and combined.hold.beside:
                state.beside.setdefault(combined.hold.beside, set()).add(member)
            state.tasks[member].denied = combined.denied
    endings.forget(state, [task_id])


def _cost_together(tasks: list[TaskState]) -> int | None:
    """Return what tasks say that they may cost together, None when one of them does not say."""
    known = [task.cost for task in tasks if task.cost is not None]
    return sum(known) if len(known) == len(tasks) else None
