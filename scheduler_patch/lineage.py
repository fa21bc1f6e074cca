"""Which roots lead to a task, by Luigi's own graph: for tasks of which no worker has said it.

A root is a task that a worker has added and that nothing of the same worker requires. Assistants have no
say: what they add was yielded by tasks of others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luigi_spendguard.money import BadAmount, parse_usd


@dataclass(frozen=True)
class Root:
    """A root task as luigid knows it: what its run is called, and what it asks for ("0": unreadable)."""

    name: str
    by_task_id: bool
    family: str
    task_id: str
    budget_usd: str | None


def runs_above(scheduler: Any, task_id: str) -> list[str]:
    """Return the runs that a plain task works for: of the vendor tasks that led to it, else of its roots."""
    above, parents = _above(scheduler, task_id, to_vendor_tasks=True)
    runs: dict[str, None] = {}
    for task in above:
        entry = scheduler.gate.entries.get(task.id)
        if entry is not None and task.id != task_id:
            runs.update(dict.fromkeys([entry.pinned] if entry.pinned else entry.runs))
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
    said = getattr(task, "spendguard_root", None)
    if not isinstance(said, dict):
        said = {"name": task.params.get("run_id"), "budget_usd": task.params.get("budget_usd")}
    name = said.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > 255 or not name.isprintable():
        name = task.id
    name = name.strip()
    return Root(name, name == task.id, task.family, task.id, _budget(said.get("budget_usd")))


def _budget(text: Any) -> str | None:
    if text in (None, ""):
        return None
    try:
        parse_usd(text if isinstance(text, str) else "")
    except BadAmount:
        return "0"  # It wanted a limit, nobody knows which.
    return str(text)


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
        if to_vendor_tasks and current != task_id and current in scheduler.gate.entries:
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

    found = [t for t in above if any(is_root(t, worker) for worker in t.stakeholders - assistants)]
    return found or [task for task in above if not parents.get(task.id)]
