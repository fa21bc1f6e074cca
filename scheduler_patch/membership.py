"""Which run a task belongs to: told by guarded workers, inherited by yielded tasks, or found in the graph.

What is remembered on Luigi's own task objects is plain data, so that a stock luigid can load the pickle.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from luigi.task_status import BATCH_RUNNING, DONE, PENDING, RUNNING

from luigi_spendguard.money import BadAmount, parse_usd
from scheduler_patch.gate import Gate


def load(scheduler: Any) -> None:
    """Take membership over from loaded tasks, and count those that run."""
    gate = scheduler.gate
    for task in list(scheduler._state.get_active_tasks()):
        said = getattr(task, "spendguard", None)
        if not isinstance(said, dict) or task.status == DONE:
            continue
        for run_id in said["runs"]:
            gate.join(task.id, run_id, "", task.family, said["cost"], False)
        gate.entries[task.id].pinned = said.get("pinned")
        gate.entries[task.id].members = tuple(said.get("members", ()))


def remember(scheduler: Any) -> None:
    """Put membership on Luigi's task objects before they are pickled."""
    for task in scheduler._state.get_active_tasks():
        entry = scheduler.gate.entries.get(task.id)
        if entry is not None:
            task.spendguard = {
                "runs": list(entry.runs),
                "cost": entry.cost,
                "pinned": entry.pinned,
                "members": list(entry.members),
            }
        elif hasattr(task, "spendguard"):
            del task.spendguard


def announce(scheduler: Any, ours: Any, said: dict[str, Any]) -> None:
    """Let an added task belong to the runs that its worker names, or that it will be found to have."""
    gate: Gate = scheduler.gate
    task_id, worker = str(said.get("task_id")), said.get("worker")
    task = scheduler._state.get_task(task_id)
    if task is None or worker is None or task.status == DONE:
        return
    scheduling = "first_task" not in scheduler._state.get_worker(worker).info
    if isinstance(ours, dict):
        cost = _cost(ours.get("max_cost_usd"))
        runs = [ours.get("run_id")]
        scheduling = scheduling or "yielded_by" in ours
        parent = gate.entries.get(ours.get("yielded_by") or "")
        if parent is not None:
            runs = [parent.pinned] if parent.pinned else list(parent.runs)
        for run_id in runs:
            if isinstance(run_id, str):
                gate.join(task_id, run_id, worker, task.family, cost, scheduling)
    elif said.get("status", PENDING) == PENDING and matches(gate, task.family):
        # A stock worker: its roots are known when it has scheduled them all.
        entry = gate.entries.get(task_id)
        if entry is None or worker not in entry.workers:
            gate.join(task_id, "", worker, task.family, None, False)


def matches(gate: Gate, family: str) -> bool:
    """Return whether a family is one of `[spendguard] vendor_tasks`."""
    return any(fnmatchcase(family, pattern) for pattern in gate.rules.vendor_tasks)


def _cost(text: Any) -> int | None:
    try:
        return parse_usd(text) if isinstance(text, str) else None
    except BadAmount:
        return None


def inherit(scheduler: Any, task_id: str | None, new_deps: Iterable[str]) -> None:
    """Let tasks that a running one has yielded belong to its run, where their worker did not say so."""
    gate = scheduler.gate
    parent = gate.entries.get(task_id or "")
    if parent is None:
        return
    for dep in new_deps:
        task = scheduler._state.get_task(dep)
        if task is None or task.status == DONE:
            continue
        entry = gate.entries.get(dep)
        if (entry is None and matches(gate, task.family)) or (entry is not None and entry.runs in ([], [""])):
            for run_id in [parent.pinned] if parent.pinned else parent.runs:
                gate.join(dep, run_id, "", task.family, None, False)
            gate.entries[dep].runs = [run_id for run_id in gate.entries[dep].runs if run_id]


def find_roots(scheduler: Any, worker: str) -> None:
    """Give a stock worker's vendor tasks the runs of the roots that lead to them."""
    gate, state = scheduler.gate, scheduler._state
    lost = {t for t, e in gate.entries.items() if worker in e.workers and e.workers[worker] == {"": None}}
    if not lost:
        return
    mine = [task for task in state.get_active_tasks() if worker in task.stakeholders]
    below = {dep for task in mine for dep in task.deps}
    for root in mine:
        if root.id in below:
            continue
        name = root.params.get("run_id") or root.id
        seen, stack = {root.id}, [root.id]
        while stack:
            task = state.get_task(stack.pop())
            if task is None:
                continue
            if task.id in lost:
                gate.join(task.id, name, worker, task.family, None, True)
            stack += [dep for dep in task.deps if dep not in seen]
            seen.update(task.deps)
    for task_id in lost:
        entry = gate.entries[task_id]
        entry.runs = [run_id for run_id in entry.runs if run_id]
        entry.workers[worker].pop("", None)


def hold_as_said(gate: Gate, task_id: str, said: dict[str, Any]) -> None:
    """Hold a task for what its worker heard when it was denied, if nothing is known of it yet."""
    entry = gate.entries.get(task_id)
    if said.get("reason") == "revoked" and not gate.is_stopped(task_id):
        gate.hold(task_id, "key", 0)  # Not its run, so its own key.
        return
    asked = _cost(said.get("asked_usd"))
    if entry is None or entry.hold is not None or asked is None or said.get("reason") != "cap":
        return
    scope, part = str(said.get("budget", "run")), str(said.get("part", ""))
    gate.hold(task_id, scope, asked, "" if scope == "day" else part)


def forget_the_lost(scheduler: Any) -> None:
    """Drop counts that only the ledger remembers once their worker has not been heard of for long enough."""
    state, gate = scheduler._state, scheduler.gate
    known = set(state.get_worker_ids())
    settled = time.time() - scheduler.begun > scheduler._config.worker_disconnect_delay
    for task_id, entry in list(gate.entries.items()):
        task = state.get_task(task_id)
        if task is not None and task.status in (RUNNING, BATCH_RUNNING):
            continue
        alive = entry.claimed_by in known or not settled
        if entry.counted_in and not alive:
            gate.stopped(task_id)
        if task is None and not entry.counted_in:
            gate.forget([task_id])
