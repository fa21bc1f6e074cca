"""A batch that was attempted comes back as it was: with the same members, in the same order.

Its task_id, and so the identity of its calls, depends on both (Luigi 3.8, `get_work` and `load_task`).
"""

from __future__ import annotations

from typing import Any

from luigi.task_status import DISABLED, DONE


def is_due(scheduler: Any, task_id: str, worker: str | None, *, schedulable: bool) -> bool | None:
    """Return whether a member may come back now, at that worker (None: at any); None: it cannot come back.

    `schedulable`: what a stock scheduler says of it.
    """
    task, announcing = scheduler._state.get_task(task_id), bool(scheduler.gate.state.announcing)
    if task is None:  # Lost with luigid's state, and perhaps about to be submitted again.
        return False if announcing else None
    if task.status in (DONE, DISABLED):
        return None
    own = worker is None or worker in task.workers
    if schedulable and (own or scheduler._state.get_worker(worker).assistant):
        return True
    # It waits for a retry or a dependency, or another worker alone may run it.
    waits = schedulable or own
    return False if announcing or (waits and task.workers) else None


def hand_out_as_before(scheduler: Any, reply: dict[str, Any]) -> None:
    """Hand out an attempted batch in the order it had."""
    now = reply["batch_task_ids"]
    member = scheduler.gate.state.tasks.get(now[0])
    before = member.batch if member is not None else ()
    if list(before) == now or set(before) != set(now):
        return
    order = [now.index(member) for member in before]
    running = scheduler._state.get_batch_running_tasks(reply["batch_id"])
    worker = next(task.worker_running for task in running)
    names, _ = scheduler._state.get_batcher(worker, reply["task_family"])
    for name in names:
        reply["task_params"][name] = [reply["task_params"][name][place] for place in order]
    reply["batch_task_ids"] = list(before)
