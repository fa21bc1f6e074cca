"""Which run a task belongs to: told by guarded workers, inherited by yielded tasks, or found in the graph.

What is remembered on Luigi's own task objects is plain data, so that a stock luigid can load the pickle.

In Luigi's graph a root is a task that a worker has added and that nothing of the same worker requires.
Assistants have no say: what they add was yielded by tasks of others.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from luigi.task_status import BATCH_RUNNING, DONE, PENDING, RUNNING, UNKNOWN

from luigi_spendguard.money import BadAmount, parse_usd
from luigi_spendguard.tags import BadTags, tags_in
from scheduler_patch.dispatch import Gate, endings, holds, workers
from scheduler_patch.dispatch.budgets import Rules
from scheduler_patch.dispatch.model import Announcement
from scheduler_patch.dispatch.state import DispatchState
from scheduler_patch.scheduler.fields import text

#: A task calls no more vendors than this.
MAX_VENDORS = 8


@dataclass(frozen=True)
class Root:
    """A root task as luigid knows it: what its run is called, and what it asks for ("0": unreadable)."""

    name: str
    by_task_id: bool
    family: str
    task_id: str
    budget_usd: str | None
    tags: Mapping[str, str] | None = None


def runs_above(scheduler: Any, task_id: str) -> list[str]:
    """Return the runs that a plain task works for: of the vendor tasks that led to it, else of its roots."""
    above, parents = _above(scheduler, task_id, to_vendor_tasks=True)
    runs: dict[str, None] = {}
    for task in above:
        vendor_task = scheduler.gate.state.tasks.get(task.id)
        if vendor_task is not None and task.id != task_id:
            runs.update(dict.fromkeys(scheduler.gate.state.paid_by(vendor_task)))
    if runs:
        return list(runs)
    return [root_of(task).name for task in _roots(scheduler, above, parents)]


def root_named(scheduler: Any, task_id: str, name: str) -> Root | None:
    """Return the root of that name which leads to a task, None when there is none."""
    above, parents = _above(scheduler, task_id)
    return next((r for r in map(root_of, _roots(scheduler, above, parents)) if r.name == name), None)


def roots_of_worker(scheduler: Any, worker: str) -> list[Any]:
    """Return the tasks that a worker has added for their own sake."""
    mine = [task for task in scheduler._state.get_active_tasks() if worker in task.stakeholders]
    below = {dep for task in mine for dep in task.deps}
    return [task for task in mine if task.id not in below]


def root_of(task: Any) -> Root:
    """Return what is known of a root's run: what its guarded worker said, else what its parameters say."""
    root = getattr(task, "spendguard_root", None)
    if not isinstance(root, dict):
        root = {"name": task.params.get("run_id"), "budget_usd": task.params.get("budget_usd")}
    name = root.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > 255 or not name.isprintable():
        name = str(task.id).encode(errors="replace").decode()
    name = name.strip()
    asked = _budget(root.get("budget_usd"))
    return Root(name, name == task.id, text(task.family), str(task.id), asked, tags_of(root.get("tags")))


def tags_of(said: Any) -> Mapping[str, str] | None:
    """Return what a root has said of tags; nothing where it is none, as anybody may say so."""
    try:
        return None if said is None else tags_in(said) or None
    except BadTags:
        return None


def _budget(usd: Any) -> str | None:
    if usd in (None, ""):
        return None
    try:
        parse_usd(text(usd))
    except BadAmount:
        return "0"  # It wanted a limit, nobody knows which.
    return str(usd)


def _above(
    scheduler: Any, task_id: str, *, to_vendor_tasks: bool = False
) -> tuple[list[Any], dict[str, list[Any]]]:
    """Return a task and all that leads to it, and the parents of each; upwards to the next vendor tasks."""
    state = scheduler._state
    parents: dict[str, list[Any]] = {}
    for task in state.get_active_tasks():
        for dep in task.deps:
            parents.setdefault(dep, []).append(task)
    first = state.get_task(task_id)
    above, stack = {task_id: first} if first is not None else {}, [task_id]
    while stack:
        current = stack.pop()
        if to_vendor_tasks and current != task_id and current in scheduler.gate.state.tasks:
            continue
        for parent in parents.get(current, ()):
            if parent.id not in above:
                above[parent.id] = parent
                stack.append(parent.id)
    return list(above.values()), parents


def _roots(scheduler: Any, above: list[Any], parents: dict[str, list[Any]]) -> list[Any]:
    """Return the roots among tasks; where the workers that added them are gone, what nothing requires."""
    assistants = {worker.id for worker in scheduler._state.get_assistants()}

    def is_root(task: Any, worker: str) -> bool:
        return not any(worker in parent.stakeholders for parent in parents.get(task.id, ()))

    roots = [t for t in above if any(is_root(t, worker) for worker in t.stakeholders - assistants)]
    return roots or [task for task in above if not parents.get(task.id)]


def load(scheduler: Any) -> None:
    """Take membership over from loaded tasks, and count those that run."""
    state: DispatchState = scheduler.gate.state
    for task in list(scheduler._state.get_active_tasks()):
        saved = getattr(task, "spendguard", None)
        if not isinstance(saved, dict) or task.status == DONE:
            continue
        announcement = Announcement(text(task.family), saved["cost"], tuple(saved.get("vendors", ())))
        opened = saved.get("opened", ())
        for run_id in opened:
            state.load_run(run_id)
        for run_id in saved["runs"] or [None]:
            workers.join(state, task.id, run_id, "", announcement, is_id=run_id in opened)
        state.tasks[task.id].pinned = saved.get("pinned")
        state.tasks[task.id].members = tuple(saved.get("members", ()))


def remember(scheduler: Any) -> None:
    """Put membership on Luigi's task objects before they are pickled."""
    for task in scheduler._state.get_active_tasks():
        vendor_task = scheduler.gate.state.tasks.get(task.id)
        if vendor_task is not None:
            runs = {name: scheduler.gate.state.run(name) for name in vendor_task.runs}
            opened = {name: run.run_id for name, run in runs.items() if run is not None and run.opened}
            task.spendguard = {
                "runs": list(dict.fromkeys(opened.get(name, name) for name in runs)),
                "opened": list(dict.fromkeys(opened.values())),
                "cost": vendor_task.cost,
                "pinned": vendor_task.pinned,
                "members": list(vendor_task.members),
                "vendors": list(vendor_task.vendors),
            }
        elif hasattr(task, "spendguard"):
            del task.spendguard


def announce(scheduler: Any, ours: Any, added: dict[str, Any]) -> None:
    """Let an added task belong to the runs that its worker names, or that it will be found to have.

    `ours`: what a guarded worker says of it, False that it runs no code; `added`: what Luigi's own `add_task`
    was told.
    """
    state: DispatchState = scheduler.gate.state
    task_id, worker = str(added.get("task_id")), added.get("worker")
    task = scheduler._state.get_task(task_id)
    if task is None or worker is None or task.status == DONE:
        return
    known = state.tasks.get(task_id)
    reports = added.get("status", PENDING) not in (PENDING, UNKNOWN) or bool(added.get("new_deps"))
    if isinstance(ours, dict):
        task.family = text(task.family) or added.get("family") or ""  # Others may have named it before.
        run_id = ours.get("run_id")
        if reports:
            # How a task ended says nothing of where it belongs, unless luigid has lost that.
            if isinstance(run_id, str) and (known is None or not known.runs):
                workers.join(state, task_id, run_id, worker, Announcement(task.family))
            return
        runs = [run_id if isinstance(run_id, str) else None]
        parent, is_id = state.tasks.get(str(ours.get("yielded_by"))), None
        if parent is not None:
            runs, is_id = list(state.paid_by(parent)), True
        announcement = Announcement(
            task.family,
            _cost(ours.get("max_cost_usd")),
            _vendors(ours.get("vendors")),
            scheduling=ours.get("announcing") is True,
        )
        for each in runs or [None]:
            workers.join(state, task_id, each, worker, announcement, is_id=is_id)
    elif (
        ours is None
        and not reports
        and _matches(state.rules, task.family)
        and (known is None or worker not in known.workers)
    ):
        # A stock worker: its roots are known when it has scheduled them all.
        workers.join(state, task_id, None, worker, Announcement(text(task.family), scheduling=True))


def is_vendor_task(scheduler: Any, task_id: Any, family: Any) -> bool:
    """Return whether a task is known to be one, or its family is one of `[spendguard] vendor_tasks`."""
    state: DispatchState = scheduler.gate.state
    return (isinstance(task_id, str) and task_id in state.tasks) or _matches(state.rules, family)


def _matches(rules: Rules, family: Any) -> bool:
    """Return whether a family is one of `[spendguard] vendor_tasks`."""
    return isinstance(family, str) and any(fnmatchcase(family, pattern) for pattern in rules.vendor_tasks)


def _cost(usd: Any) -> int | None:
    try:
        return parse_usd(usd) if isinstance(usd, str) else None
    except BadAmount:
        return None


def _vendors(names: Any) -> tuple[str, ...]:
    """Return the vendors that a task says it calls; what is no name of one is nothing."""
    names = names[:MAX_VENDORS] if isinstance(names, list) else []
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name.isidentifier()))


def inherit(scheduler: Any, task_id: str, new_deps: Iterable[str], worker: str) -> None:
    """Let what a running task has yielded, and all that is below it, belong to its run."""
    state: DispatchState = scheduler.gate.state
    unplaced = state.unplaced.get(worker)
    if not unplaced:
        return
    parent = state.tasks.get(task_id)
    runs, is_id = list(state.paid_by(parent)) if parent is not None else [], parent is not None
    stack = list(new_deps)
    seen = set(stack)
    while stack:
        task = scheduler._state.get_task(stack.pop())
        if task is None or task.status == DONE:
            continue
        if task.id in unplaced:
            runs = runs or runs_above(scheduler, task_id)
            for run_id in runs:
                announcement = Announcement(text(task.family), scheduling=True)
                workers.join(state, task.id, run_id, worker, announcement, is_id=is_id)
        stack += [dep for dep in task.deps if dep not in seen]
        seen.update(task.deps)


def find_roots(scheduler: Any, worker: str) -> None:
    """Give a stock worker's vendor tasks the runs of the roots that lead to them."""
    state: DispatchState = scheduler.gate.state
    unplaced = set(state.unplaced.get(worker, ()))
    if not unplaced:
        return
    for root in roots_of_worker(scheduler, worker):
        name = root_of(root).name
        seen, stack = {root.id}, [root.id]
        while stack:
            task = scheduler._state.get_task(stack.pop())
            if task is None:
                continue
            if task.id in unplaced:
                announcement = Announcement(text(task.family), scheduling=True)
                workers.join(state, task.id, name, worker, announcement, is_id=False)
            stack += [dep for dep in task.deps if dep not in seen]
            seen.update(task.deps)


def hold_as_denied(gate: Gate, task_id: str, denial: dict[str, Any]) -> None:
    """Hold a task for what its worker heard when it was denied, if the ledger has not said it here."""
    state = gate.state
    if denial.get("reason") == "revoked" and not gate.is_stopped(task_id):
        holds.hold(state, task_id, "key", 0)  # Not its run, so its own key.
        return
    task, asked, remaining = (
        state.tasks.get(task_id),
        _cost(denial.get("asked_usd")),
        _cost(denial.get("remaining_usd")),
    )
    if task is None or task.denied or asked is None or denial.get("reason") != "cap":
        return
    scope, part = str(denial.get("budget", "run")), str(denial.get("part", ""))
    if scope == "approval":
        holds.declare(state, task_id, asked)
        return
    if scope == "task":
        if remaining is None:
            return
        task.left = remaining
    holds.hold(state, task_id, scope, asked, part, str(denial.get("of_task", "")))


def forget_lost_workers(scheduler: Any) -> None:
    """Drop counts that only the ledger remembers once their worker has not been heard of for long enough."""
    state: DispatchState = scheduler.gate.state
    alive = set(scheduler._state.get_worker_ids())
    now, patience = time.time(), scheduler._config.worker_disconnect_delay
    for task_id, vendor_task in list(state.tasks.items()):
        task, worker = scheduler._state.get_task(task_id), vendor_task.claimed_by
        if task is not None and task.status in (RUNNING, BATCH_RUNNING):
            continue
        heard = max(scheduler.begun, vendor_task.resumed_at)
        is_lost = now - heard > patience and worker not in alive
        if is_lost and worker is not None and not vendor_task.resumed_at:
            workers.lose_workers(state, [worker])
        if is_lost and (vendor_task.counted_in or worker is not None):
            endings.stopped(state, task_id)
        if task is None and not vendor_task.counted_in:
            endings.put_away(state, task_id)
