"""What a guarded worker tells the scheduler of a vendor task: where it belongs, and what it may cost.

A worker speaks only of what it has scheduled itself. What it runs for others (an assistant, a batch's
combined task) it says nothing of: luigid knows whose it is.
"""

from __future__ import annotations

from typing import Any

from luigi_spendguard.membership import GuardState
from luigi_spendguard.roots import Root, vendors_of


def new_root(guard: GuardState, task: Any) -> Root | None:
    """Take a task as a root; what it says of its run is read when a vendor task needs it."""
    if not hasattr(task, "task_id"):
        return None  # Luigi's own error says what is wrong with it.
    root = guard.roots[task.task_id] = Root(task)
    return root


def root_for(worker: Any, task: Any) -> Root | None:
    """Return the root for which this worker itself has scheduled a task, None where others have."""
    guard: GuardState = worker._guard
    root = guard.root_of_task.get(task.task_id)
    if root is None and guard.late and worker._first_task in worker._scheduled_tasks:
        # Scheduled before it was guarded, so nobody has seen for which root: the first stands for all.
        first = worker._scheduled_tasks[worker._first_task]
        root = guard.roots.get(first.task_id) or new_root(guard, first)
    return root


def announced(worker: Any, task: Any, last_result: str | None) -> dict[str, Any]:
    """Return what the scheduler is told of a vendor task, in `spendguard`.

    Its run (or the name of one that could not be opened), or who yielded it. When it is scheduled, that is
    `announcing`, and what it may cost and where is said, too; a status report announces nothing.
    """
    guard: GuardState = worker._guard
    root = guard.adding[-1] if guard.adding else root_for(worker, task)
    run_id = (guard.open_run(root) or root.name) if root is not None else None
    said: dict[str, Any] = {"run_id": run_id} if run_id is not None else {}
    if not guard.adding:
        return said
    said["announcing"] = True
    if guard.handling and not guard.reported and task.task_id != last_result:
        said["yielded_by"] = last_result
    vendors, cost = vendors_of(task), guard.max_cost(task)
    return said | ({"vendors": vendors} if vendors else {}) | ({"max_cost_usd": cost} if cost else {})


def announced_root(root: Root) -> dict[str, Any]:
    """Return what the scheduler is told of a root, in `spendguard_root`: what its task_id does not say.

    Who runs it for this worker, and sees it yield a vendor task, opens its run by that.
    """
    if root.problem or (root.by_task_id and root.budget_usd is None):
        return {}
    return {"spendguard_root": {"name": root.name, "budget_usd": root.budget_usd}}
