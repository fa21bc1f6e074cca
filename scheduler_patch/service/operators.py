"""What operators do to runs, and what blocked workers wait for."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger import corrections, queries, runs, snapshot
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.money import Micros, format_usd, parse_usd
from luigi_spendguard.protocol import GRANT_SECONDS
from luigi_spendguard.protocol.rpcs import BlockedReply, BlockedRequest, BlockedTasks
from scheduler_patch.dispatch import feed
from scheduler_patch.dispatch.model import RunState
from scheduler_patch.dispatch.reasons import Reason, reason_of
from scheduler_patch.dispatch.state import DispatchState
from scheduler_patch.dispatch.verdicts import READY, WAIT, Verdict
from scheduler_patch.service.ledger import Booked
from scheduler_patch.service.workers import LedgerService

#: Seconds between two looks whether something was freed.
_LOOK_S = 0.1


async def revoke(service: LedgerService, run_id: str) -> dict[str, Any]:
    """Revoke a run; returns when no grant made before can still be used (P5)."""
    row = await service.commit(_revoke, run_id)
    return {**queries.show_run(row), "calls_under_way": await in_force(service, runs.pending_calls, run_id)}


async def in_force(service: LedgerService, pending: Callable[[Tx, str], int], name: str) -> int:
    """Wait until no grant made before can still be used; return how many calls were under way.

    By the clock that never steps: what was granted before now is too old after 2 s.
    """
    limit = time.monotonic() + GRANT_SECONDS
    under_way = left = await service.record(pending, name)
    while left and time.monotonic() < limit:
        await asyncio.sleep(0.05)
        left = await service.record(pending, name)
    return under_way


async def top_up(service: LedgerService, run_id: str, usd: str, request_id: str | None) -> dict[str, Any]:
    """Raise a run's cap. Raises BadAmount, NotFound, Conflict."""
    row = await service.commit(_top_up, run_id, parse_usd(usd), request_id or secrets.token_hex(16))
    return queries.show_run(row)


@dataclass(frozen=True)
class Approval:
    """What an operator lets pass: a run's forecast, or what one task may cost, as it was shown.

    Attributes:
        amount: in micro-dollars.
        task_id: the task; "": the forecast.
        unknown_tasks: how many tasks of unknown cost the forecast has besides.
        request_id: an approval that is asked for again under it is the same; None: it is another one.

    """

    run_id: str
    amount: Micros
    task_id: str = ""
    unknown_tasks: int = 0
    request_id: str | None = None


async def approve(service: LedgerService, approval: Approval) -> dict[str, Any]:
    """Let a forecast, or a task, cost that amount. Raises NotFound, Conflict (it is another one now)."""
    task = service.state.tasks.get(approval.task_id)
    if task is not None and task.cost is not None and task.cost != approval.amount:
        raise Conflict(
            f"task {task.task_id} may cost {format_usd(task.cost)} now, not {format_usd(approval.amount)}: "
            "look at it again, then approve that"
        )
    named = [service.state.run(name) for name in task.runs] if task is not None else []
    is_scheduled = any(run is not None and run.run_id == approval.run_id for run in named)
    return queries.show_run(await service.commit(_approve, approval, is_scheduled=is_scheduled))


async def resolve(
    service: LedgerService, call_id: str, resolution: Resolution, request_id: str | None
) -> dict[str, Any]:
    """End an in-doubt call by the operator's word, or correct it. Raises NotFound, Conflict."""
    row, run_state = await service.commit(_resolve, call_id, resolution, request_id or secrets.token_hex(16))
    return {**queries.show_call(row), "run_state": run_state}


async def blocked(service: LedgerService, request: BlockedRequest) -> BlockedReply:
    """Return why a worker's tasks are blocked; with `wait_s`, after one of them was freed or that time.

    Where nothing is blocked or waiting there is nothing to wait for.
    """
    scheduler, state = service.scheduler, service.state
    worker, wait_s = request.worker, request.wait_s
    verdicts = scheduler.verdicts_of(worker)
    limit = time.monotonic() + wait_s
    while time.monotonic() < limit and _waits(verdicts):
        seen = state.version
        while state.version == seen and time.monotonic() < limit:
            await asyncio.sleep(_LOOK_S)
        verdicts = scheduler.verdicts_of(worker)
    groups: dict[Reason, list[str]] = {}
    for task_id, verdict in verdicts.items():
        if (reason := reason_of(scheduler.gate, task_id, verdict, worker)) is not None:
            groups.setdefault(reason, []).append(task_id)
    counts = Counter(verdicts.values())
    paused = scheduler.is_paused()["paused"]
    return BlockedReply(
        blocked=sum(number for verdict, number in counts.items() if _may_be_freed(verdict)),
        # A paused scheduler hands nothing out, and no operator of ours ends that: nobody stays for it.
        ready=0 if paused else counts[READY],
        waiting=counts[WAIT],
        why=tuple(
            BlockedTasks(**vars(reason), tasks=len(tasks), task_ids=() if wait_s else tuple(tasks))
            for reason, tasks in groups.items()
        ),
        paused=paused,
        unknown=sum(not scheduler.knows(task_id) for task_id in request.task_ids),
        shadow=() if wait_s else tuple(await _shadow(service, worker, {one.run_id for one in groups})),
    )


def _waits(verdicts: Mapping[str, Verdict]) -> bool:
    """Return whether some task may be freed, and none can run now."""
    different = set(verdicts.values())
    return READY not in different and any(one is WAIT or _may_be_freed(one) for one in different)


def _may_be_freed(verdict: Verdict) -> bool:
    """Return whether a task is blocked, but not for good."""
    return verdict.is_blocked and not verdict.is_final


#: Whose cap was short, in shadow mode.
_WHOSE = {
    "run": "",
    "day": " for all runs of {part}",
    "family": " for {part}",
    "vendor": " at {part}",
    "task": " for task {part}",
}


async def _shadow(service: LedgerService, worker: str, blocked: set[str]) -> list[str]:
    """Return, in shadow mode, which caps would have sufficed for each of a worker's runs.

    Of one that is frozen, revoked or held, of which tasks are `blocked`, nobody knows.
    """
    state = service.state
    if not state.rules.shadow:
        return []
    # By name: one that has ended with its root is in the gate no more.
    runs_of = sorted({state.names.get(name, name) for name in state.runs_of.get(worker, ())})
    short = await service.read(queries.lent, runs_of) or []
    enough = set(runs_of) - {row["run_id"] for row in short}
    return [
        f"run {row['run_id']}: a cap of {format_usd(row['cap_micros'])}"
        f"{_WHOSE[row['scope']].format(part=row['part'])} would have sufficed; it has "
        f"{format_usd(row['own_micros'])}"
        for row in short
    ] + [f"run {run_id}: {_so_far(state.runs.get(run_id), run_id in blocked)}" for run_id in sorted(enough)]


def _so_far(run: RunState | None, blocked: bool) -> str:
    """Say of a run that lacked no room whether that is the whole truth; None: it has ended with its root."""
    if run is not None and run.state != "active":
        return f"no call lacked room, but it is {run.state}: enforced, nothing more would be spent"
    return "no call has lacked room so far, but tasks are blocked" if blocked else "its caps sufficed"


def _revoke(tx: Tx, run_id: str) -> Booked[Row]:
    row = runs.revoke(tx, run_id)
    return Booked(row, snapshot.of_run(tx, run_id))


def _top_up(tx: Tx, run_id: str, amount: Micros, request_id: str) -> Booked[Row]:
    row = runs.top_up(tx, run_id, amount, request_id)
    return Booked(row, snapshot.of_run(tx, run_id))


def _approve(tx: Tx, approval: Approval, is_scheduled: bool) -> Booked[Row]:
    """Approve; a task that was not scheduled for the run must be known to the ledger as the run's."""
    run_id, task_id, amount = approval.run_id, approval.task_id, approval.amount
    if task_id and not is_scheduled:
        runs.check_known(tx, run_id, task_id)
    request_id = approval.request_id or secrets.token_hex(16)
    row = runs.approve(tx, run_id, task_id, amount, request_id, approval.unknown_tasks)
    left = snapshot.task_left(tx, run_id, task_id)

    def tell(state: DispatchState) -> None:
        if task_id:
            feed.approve(state, run_id, task_id, amount, left)

    return Booked(row, snapshot.of_run(tx, run_id), tell)


def _resolve(tx: Tx, call_id: str, resolution: Resolution, request_id: str) -> Booked[tuple[Row, str]]:
    """End or correct a call; it comes with the state of its run."""
    row = corrections.resolve(tx, call_id, resolution, request_id)
    figures = snapshot.of_call(tx, row["run_id"], call_id)
    return Booked((row, figures.run["state"]), figures)
