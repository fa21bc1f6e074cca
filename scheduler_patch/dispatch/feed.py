"""What the ledger says, taken over into a `DispatchState`: after each operation, and all of it at a start.

The ledger is the only truth; what was read earlier may arrive later, and then changes nothing.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace

from luigi_spendguard.ledger.database import Row
from luigi_spendguard.ledger.snapshot import Changes, Figures, Start
from scheduler_patch.dispatch import batches, endings, workers
from scheduler_patch.dispatch.model import Hold, RunState, TaskState
from scheduler_patch.dispatch.state import DispatchState

#: So many claims made here are remembered, the latest.
_MOST_OWN = 10_000


def feed(state: DispatchState, figures: Figures) -> None:
    """Take over a run's figures."""
    row, seen = figures.run, figures.seen
    run = state.runs.get(row["run_id"])
    if run is None or not run.opened:
        if "name" not in row or _has_ended(row):
            return  # An ended run's late answer; what waits by its name waits for another run.
        run = _opened(state, row)
    if "name" in row and not _has_ended(row):
        state.names[row["name"]] = row["run_id"]
    before, approvals = run.state, run.approvals
    run.update(figures)
    if run.approvals != approvals:
        state.changed.update(run.approvals.keys() | approvals.keys())
    if run.state == "revoked" and before != "revoked":
        workers.stop_run(state, run.run_id)
    state.moved(run)
    for budget in figures.budgets:
        if budget["scope"] == "day":
            feed_day(state, budget, seen)
        elif budget["scope"] == "beyond_day":
            _feed_beyond(run, budget, seen)
        elif budget["scope"] != "task":
            run.budget(budget["scope"], budget["part"]).update(budget, seen)
        elif (task := state.known(budget["part"])) is not None and task.held_in == run.run_id:
            cap = budget["cap_micros"] - budget["shadow_micros"]
            draw(state, task.task_id, budget["remaining_micros"], cap, seen)
    if run.state == "ended":
        endings.end_run(state, run.run_id)


def _has_ended(row: Row) -> bool:
    """Return whether a run's root has completed, so that its name stands for another run by now."""
    return row["state"] == "ended" or bool(row.get("was_closed"))


def _opened(state: DispatchState, row: Row) -> RunState:
    """Return the run of a row that is new here: the one that tasks have waited for, if they have."""
    run = RunState(row["run_id"])
    for key in () if _has_ended(row) else (row["name"], row["run_id"]):
        waiting = state.runs.get(key)
        if waiting is not None and not waiting.opened:
            del state.runs[key]
            waiting.run_id, run = run.run_id, waiting
    state.runs[run.run_id] = run
    return run


def _feed_beyond(run: RunState, row: Row, seen: int) -> None:
    """Take over what a run may spend on a UTC day beyond the day's cap; of a day before, nothing."""
    beyond = run.budget("beyond_day", "")
    if row["part"] > beyond.window:
        beyond.window, beyond.seen = row["part"], 0
    if row["part"] == beyond.window:
        beyond.update(row, seen)


def feed_day(state: DispatchState, row: Row | None, seen: int = 0, *, is_today: bool = False) -> None:
    """Take over the day's budget of all runs; `seen` and `is_today` as `Today.update`."""
    before = state.day and replace(state.day)
    state.today.update(row, seen, state.rules.day, is_today=is_today)
    day = state.day
    if day is not None and (before is None or day.has_more_than(before)):
        state.moved()


def draw(
    state: DispatchState, task_id: str, left: int, cap: int | None = None, seen: int | None = None
) -> None:
    """Take over what a task's own budget has left; what its calls have taken is counted no more.

    `cap`: of how much; None: of what the task says that it may cost. `seen`: the journal's last entry when
    that was read; None: just now.
    """
    task = state.known(task_id)
    if task is None or (seen is not None and seen < task.seen):
        return
    task.seen = task.seen if seen is None else seen
    run = state.run(task.held_in)
    state.own_budget(run or state.nobody, task, left, task.cost if cap is None else cap)
    state.moved(run)
    state.recount(task, left)


def claimed(
    state: DispatchState,
    task_id: str,
    run_id: str,
    worker: str,
    family: str,
    own: tuple[int, int] | None,
) -> None:
    """Take it that a worker runs a task for a run; `own`: what its own budget has left, and its cap."""
    task = state.tasks.get(task_id)
    if task is None:
        task = state.put(TaskState(task_id, family, [run_id]))
        task.paid = state.remembered.pop(task_id, task).paid
    task.pinned = task.claimed_for = run_id
    task.claimed_by, task.resumed = worker, ""
    run = state.run(run_id)
    if own is not None:
        state.own_budget(run or state.nobody, task, *own)
    if run is not None:
        # What it declares may be known only now, and so may be its run.
        state.count(run, task, state.due(run, task))


def own(state: DispatchState, task_id: str, row: Row) -> None:
    """Take it that this claim was made here: how it goes on is heard at once, and not followed."""
    state.own[row["id"]] = None
    if len(state.own) > _MOST_OWN:
        del state.own[next(iter(state.own))]
    if (task := state.known(task_id)) is not None:
        task.heard = (row["seq"], True)


def approve(
    state: DispatchState, run_id: str, task_id: str, amount: int, own: tuple[int, int] | None
) -> None:
    """Let a task of a run cost up to `amount`; its own budget then has so much left, of its cap."""
    run, task = state.run(run_id), state.tasks.get(task_id)
    if run is not None:
        run.approvals[task_id] = amount
        state.changed.add(task_id)
    if task is not None and run is not None and own is not None and task.claimed_for in (None, run_id):
        state.own_budget(run, task, *own)
    state.moved(run)


def pay(state: DispatchState, task_id: str) -> None:
    """Take it that a task, or every member of a batch, has paid."""
    task = state.task(task_id)
    for each in (task_id, *task.members):
        state.task(each).paid = True


def end_run(state: DispatchState, run_id: str, done: list[str], seen: int = 0) -> None:
    """Take it that a run has ended, with those of its tasks that have completed; `seen`: as `Figures`."""
    endings.completed(state, done, run_id)
    if (run := state.runs.get(run_id)) is not None:
        run.seen = max(run.seen, seen)
    endings.end_run(state, run_id)


def feed_changes(state: DispatchState, changes: Changes) -> None:
    """Take over what was done to the ledger since the last look, by other processes perhaps."""
    for figures in changes.runs:
        feed(state, figures)
    if isinstance(changes, Start):
        for run_id, tasks in changes.complete.items():
            endings.completed(state, tasks, run_id)
    feed_day(state, changes.day, changes.seen, is_today=True)
    for members in changes.batches:
        batches.attempt(state, members)
    for row in changes.ended:
        _end(state, row)
    for row in changes.claims:
        _follow(state, row)
    for task_id in changes.paid:
        state.task(task_id).paid = True


def _end(state: DispatchState, row: Row) -> None:
    """Take over how an attempt has ended, another luigid's perhaps."""
    task = state.tasks.get(row["task_id"])
    if task is not None and task.resumed == row["id"]:
        endings.stopped(state, task.task_id)
        if not task.announced:
            endings.put_away(state, task.task_id)
    if row["outcome"] == "completed":
        endings.completed(state, _tasks_of(row), row["run_id"], row["seq"])


def _follow(state: DispatchState, row: Row) -> None:
    """Take over an attempt that somebody else has claimed, as at a start; of its own luigid hears at once."""
    tasks = [task for each in _tasks_of(row) if (task := state.known(each)) is not None]
    if row["id"] in state.own or any(task.counted_in and not task.resumed for task in tasks):
        return
    if state.local and any(row["worker"] in task.workers for task in tasks):
        return
    if all(task.heard < (row["seq"], row["ended_at"] is not None) for task in tasks):
        _recall(state, row)
        if row["ended_at"] is None:
            state.task(row["task_id"]).resumed_at = time.time()


def _tasks_of(row: Row) -> tuple[str, ...]:
    return (row["task_id"], *json.loads(row["members"]))


def begin(state: DispatchState, start: Start) -> None:
    """Rebuild everything from the ledger."""
    feed_changes(state, start)
    told = {figures.run["run_id"] for figures in start.runs}
    for run in [each for each in state.runs.values() if each.is_over and each.run_id not in told]:
        state.forget_run(run)  # Another ledger's.
    for task in state.tasks.values():
        task.resumed_at = 0.0
    for run in state.runs.values():
        run.tasks.update(dict.fromkeys(t for t, task in state.tasks.items() if run.run_id in task.runs))


def _recall(state: DispatchState, row: Row) -> None:
    """Take over the latest claim of a task: which run it stays with, why it is held, and whether it runs."""
    members: tuple[str, ...] = tuple(json.loads(row["members"]))
    for each in _tasks_of(row):
        task = state.task(each)
        task.heard = (row["seq"], row["ended_at"] is not None)
        task.claimed_for, task.hold = row["run_id"], _hold(state, row)
        if task.hold is not None and task.hold.beside:
            state.beside.setdefault(task.hold.beside, set()).add(each)
        if row["held_scope"] == "approval":
            task.cost = max(task.cost or 0, row["held_micros"])
    task = state.task(row["task_id"])
    if row["ended_at"] is None or row["task_id"] not in members:
        run = state.runs.get(row["run_id"], state.nobody)
        state.own_budget(run, task, row["left_micros"], row["of_micros"])
        task.members = members
    if row["ended_at"] is None:
        _resume(state, task, row)
    elif task.resumed:
        endings.stopped(state, task.task_id)


def _hold(state: DispatchState, row: Row) -> Hold | None:
    if row["held_scope"] in ("", "approval") or state.rules.shadow:
        return None
    if row["held_scope"] == "duplicate":
        beside = row["beside_task"]  # None: it has completed since.
        return beside and Hold("duplicate", row["held_part"], row["held_micros"], beside)
    if row["held_scope"] == "day":
        return Hold("day", "", row["held_micros"])
    return Hold(row["held_scope"], row["held_part"], row["held_micros"], runs=(row["run_id"],))


def _resume(state: DispatchState, task: TaskState, row: Row) -> None:
    """Take it that a task may be running: its end was not heard."""
    if state.remembered.pop(task.task_id, None) is not None:
        state.put(task)
        task.runs, task.family = [row["run_id"]], row["family"]
    task.claimed_by, task.resumed = row["worker"], row["id"]
    run = state.runs.get(row["run_id"])
    if run is not None and row["run_id"] in task.runs:
        run.tasks[task.task_id] = None
    if run is not None and row["state"] == "open":
        state.count(run, task, state.due(run, task))
    elif run is not None and run.state == "revoked":
        workers.stop_run(state, run.run_id)
