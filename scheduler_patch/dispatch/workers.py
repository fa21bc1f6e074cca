"""What workers say: which tasks belong to which runs; and which revoked runs they have yet to be told of."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler_patch.dispatch.model import UNOPENED, Announcement, Forecast, RunState, TaskState
from scheduler_patch.dispatch.state import DispatchState


def join(
    state: DispatchState,
    task_id: str,
    run_id: str | None,
    worker: str,
    announced: Announcement,
    *,
    is_id: bool | None = None,
) -> None:
    """Let a task belong to a run, as its worker says; None: which one is not known yet.

    `is_id`: whether a run is meant, or a root's name; None: whoever has a run of that id means it.
    """
    if run_id is not None and not is_id:
        run_id = _meant(state, run_id, worker if is_id is None else "")
    task = state.tasks.get(task_id)
    if task is None:
        task = state.put(state.remembered.pop(task_id, TaskState(task_id, announced.family)))
        if task.claimed_for is not None and state.run(task.claimed_for) is None:
            task.begin_anew()  # That run has ended.
    task.announced = True
    task.family = announced.family or task.family
    task.vendors = announced.vendors or task.vendors
    own = task.workers.setdefault(worker, {})
    if announced.cost is not None:
        if task.left is not None and task.cap is not None:
            task.left, task.cap = max(0, task.left + announced.cost - task.cap), announced.cost
        task.cost = announced.cost
    elif announced.scheduling and state.rules.single is None and task.held_by("task"):
        task.cost = task.left = task.cap = task.hold = (
            None  # It has no budget any more; else its claim will say.
        )
    if announced.scheduling:
        state.announcing.setdefault(worker, set())
        task.refused.pop(worker, None)  # It was submitted again.
        if task.held_by("duplicate"):
            task.hold = None  # Its next attempt looks whether it still is one.
    if run_id is None:
        if not own:
            state.unplaced.setdefault(worker, set()).add(task_id)
        return
    state.unplaced.get(worker, set()).discard(task_id)
    if run_id not in task.runs:
        task.runs = [*task.runs, run_id]
        if run_id != (task.claimed_for or task.pinned or run_id):
            state.on_shared(task)  # It was dispatched before it was known to be this run's too.
    own[run_id] = None
    if is_id is not False and run_id in state.runs_of.get(worker, ()) and run_id not in state.names:
        state.load_run(run_id)  # It was forgotten with its last task.
    state.runs_of.setdefault(worker, set()).add(run_id)
    run = _named(state, run_id)
    run.tasks[task_id] = None
    if announced.scheduling:
        state.announcing[worker].add(run_id)
        run.announcing.add(worker)


def _named(state: DispatchState, name: str) -> RunState:
    """Return a run by its run_id or name; one that nobody has opened yet is made here."""
    run = state.run(name)
    if run is None:
        run = state.runs[name] = RunState(name, UNOPENED)
    return run


def _meant(state: DispatchState, name: str, worker: str) -> str:
    """Return which run a name means: that of a run that has ended does for those alone that had it."""
    run = state.runs.get(name)
    if run is None or not run.is_over or name in state.runs_of.get(worker, ()):
        return name
    if name not in state.names:
        state.forget_run(run)  # The next run of that root is waited for by its name.
    return state.names.get(name, name)


def scheduled(state: DispatchState, worker: str) -> list[RunState]:
    """Take it that a worker has announced all it will for now; return its runs, with their forecasts."""
    complete = []
    for run_id in state.announcing.pop(worker, ()):
        run = state.run(run_id)
        if run is not None:
            run.announcing.discard(worker)
            run.scheduled = True
            tasks = (state.tasks[task_id] for task_id in run.tasks if task_id in state.tasks)
            run.forecast = Forecast.of(run, tasks, state.averages)
            complete.append(run)
    state.moved()
    return complete


def lose_workers(state: DispatchState, workers: Iterable[str]) -> None:
    """Forget workers: what they were still scheduling will not be completed by them."""
    gone = set(workers)
    if gone:
        state.vanished |= gone & {task.claimed_by for task in state.tasks.values() if task.claimed_by}
        for task in state.tasks.values():
            if gone & task.workers.keys() or gone & task.refused.keys():
                task.workers = {name: runs for name, runs in task.workers.items() if name not in gone}
                task.refused = {name: then for name, then in task.refused.items() if name not in gone}
    for worker in gone:
        state.stopping.pop(worker, None)
        state.runs_of.pop(worker, None)
        state.unplaced.pop(worker, None)
        for run_id in state.announcing.pop(worker, ()):
            run = state.run(run_id)
            if run is not None:
                run.announcing.discard(worker)
    if gone:
        for run in [each for each in state.runs.values() if each.is_over]:
            state.forget_unused(run)


def to_stop(state: DispatchState, worker: str) -> dict[str, list[str]]:
    """Return the revoked runs that a worker has not acknowledged, with its tasks of each."""
    runs = state.stopping.get(worker)
    if not runs:
        return {}
    mine = [task for task in state.tasks.values() if task.claimed_by == worker]
    tasks_of = {run_id: [task.task_id for task in mine if task.claimed_for == run_id] for run_id in runs}
    state.stopping[worker] = {run_id for run_id, tasks in tasks_of.items() if tasks}
    return {run_id: tasks for run_id, tasks in tasks_of.items() if tasks}


def acknowledged(state: DispatchState, worker: str, run_id: str) -> None:
    """Take it that a worker knows of a revoked run."""
    state.stopping.get(worker, set()).discard(run_id)


def stop_run(state: DispatchState, run_id: str) -> None:
    """Let the workers that run tasks of a run be told to end them."""
    for task in state.tasks.values():
        if state.rules.kill and task.claimed_for == run_id and task.claimed_by is not None:
            state.stopping.setdefault(task.claimed_by, set()).add(run_id)
