"""How attempts, tasks and runs end, and what is remembered of them then."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler_patch.dispatch import holds
from scheduler_patch.dispatch.model import ENDED, TaskState
from scheduler_patch.dispatch.state import DispatchState


def stopped(state: DispatchState, task_id: str) -> None:
    """Release what was counted for a task: it runs no more."""
    task = state.tasks.get(task_id)
    if task is not None:
        state.release(task)
        task.claimed_by = None
        if task_id in task.members:  # It is a single task again, whose budget was its batch's.
            task.members, task.left, task.cap = (), None, None


def done(state: DispatchState, task_id: str) -> None:
    """Forget a task that is done."""
    task = state.tasks.get(task_id)
    if task is not None:
        batch, task.batch = task.batch, ()
        if state.local:  # A child has finished its claim, unheard here.
            completed(state, [task_id, *batch])
        for member in batch:
            state.task(member).batch = ()
            state.forget_blank(member)
        forget(state, [task_id])


def completed(
    state: DispatchState, tasks: Iterable[str], run_id: str | None = None, seq: int | None = None
) -> None:
    """Take it that tasks have completed, in a run: in any other they pay, should they run again.

    `seq`: the place among all of the claim that has; what a later one is known to have done stands.
    """
    run = state.runs.get(run_id or "")
    for task_id in tasks:
        for held in state.beside.pop(task_id, ()):
            holds.look_again(state, held)
        if run is not None:
            run.complete.add(task_id)
            state.changed.add(task_id)
        task = state.tasks.get(task_id) or state.remembered.get(task_id)
        if task is not None:
            task.paid = False
            if run is not None and task.held_in == run_id:
                state.own_budget(run, task, None, None)
                state.recount(task, 0)
            if seq is None or task.heard[0] <= seq:
                task.begin_anew()
            if task_id not in state.tasks:  # Who has it still to run here repeats it with its batch.
                task.batch = ()
            state.forget_blank(task_id)
    if run is not None:
        state.moved(run)


def forget(state: DispatchState, gone: Iterable[str]) -> None:
    """Drop tasks that the scheduler has dropped, but not that they have paid and with whom."""
    for task_id in list(gone):
        stopped(state, task_id)
        task = state.tasks.pop(task_id, None)
        if task is None:
            continue
        state.changed.add(task_id)
        for worker in task.workers:
            state.unplaced.get(worker, set()).discard(task_id)
        for run_id in task.runs:
            run = state.run(run_id)
            if run is not None:
                run.tasks.pop(task_id, None)
                if run.is_over:
                    state.forget_unused(run)
                elif not run.opened and not run.tasks:
                    state.runs.pop(run.run_id, None)
        if task.paid or task.batch:
            kept = TaskState(task_id, "", paid=task.paid, batch=task.batch, heard=task.heard)
            if task.paid:
                kept.pinned, kept.claimed_for = task.pinned, task.claimed_for
                kept.left, kept.cap, kept.seen = task.left, task.cap, task.seen
            state.remembered[task_id] = kept


def put_away(state: DispatchState, task_id: str) -> None:
    """Drop a task that the scheduler does not know; should it come back, its run is still known."""
    task = state.tasks.get(task_id)
    forget(state, [task_id])
    if task is not None and (task.pinned or task.claimed_for) is not None:
        task.runs, task.workers, task.announced = [], {}, False
        state.remembered[task_id] = task


def end_run(state: DispatchState, run_id: str) -> None:
    """Let a run that has ended be the run of those alone that have announced tasks of it.

    Who has announced it by its root's name has announced that run.
    """
    run = state.runs.get(run_id)
    for name in [name for name, current in state.names.items() if current == run_id]:
        del state.names[name]
        if name != run_id:
            _rename(state, name, run_id)
    if run is None:
        return
    run.state = ENDED
    state.changed.update(run.tasks)
    for task in [each for each in state.remembered.values() if run_id in (each.pinned, each.claimed_for)]:
        task.begin_anew()
        state.forget_blank(task.task_id)
    state.moved(run)
    state.forget_unused(run)


def _rename(state: DispatchState, name: str, run_id: str) -> None:
    """Let what was announced by a name be announced by that run's id."""
    for announced in (*state.runs_of.values(), *state.announcing.values()):
        if name in announced:
            announced.discard(name)
            announced.add(run_id)
    for task in state.tasks.values():
        if name in task.runs:
            task.runs = list(dict.fromkeys(run_id if each == name else each for each in task.runs))
            task.workers = {
                worker: {run_id if each == name else each: None for each in own}
                for worker, own in task.workers.items()
            }
