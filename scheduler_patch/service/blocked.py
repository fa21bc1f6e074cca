"""What of a worker's tasks is blocked and why, and what it waits for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from luigi_spendguard.ledger import denials, queries
from luigi_spendguard.money import format_usd, plain_usd
from luigi_spendguard.protocol.rpcs import BlockedReply, BlockedRequest, BlockedTasks, RunStanding
from scheduler_patch.dispatch import READY, WAIT, Verdict
from scheduler_patch.dispatch.model import RunState
from scheduler_patch.dispatch.reasons import Group, Reasons
from scheduler_patch.scheduler.slices import in_slices
from scheduler_patch.scheduler.standing import CLEAR, Standing, standings
from scheduler_patch.service import LedgerService
from scheduler_patch.service.denials import grouped, of_known

#: Seconds between two looks whether something was freed.
_LOOK_S = 0.1
#: Of more workers it is not remembered what they were told.
_MOST_TOLD = 1000


class Told(NamedTuple):
    """What a waiting worker was told last, and of what that is true."""

    of: tuple[object, ...]
    why: tuple[BlockedTasks, ...]


async def explain_blocked(service: LedgerService, request: BlockedRequest) -> BlockedReply:
    """Return why a worker's tasks are blocked; with `wait_s`, after one of them was freed or that time.

    Where nothing is blocked or waiting there is nothing to wait for.
    """
    scheduler, worker = service.scheduler, request.worker
    verdicts = await _settled(service, request)
    known = {} if request.wait_s else await standings(scheduler)
    if request.wait_s:
        why, runs = await _still(service, worker, verdicts), set[str]()
    else:
        service.told.pop(worker, None)
        if any(one.is_blocked for one in verdicts.values()):
            await service.learn_costs()
        groups = await _groups(service, worker, verdicts, known)
        why = tuple(_told_of(group, group.tasks) for group in groups)
        runs = {group.reason.run_id for group in groups}
    counts = Counter(verdicts.values())
    paused = scheduler.is_paused()["paused"]
    return BlockedReply(
        blocked=sum(number for verdict, number in counts.items() if _may_be_freed(verdict)),
        # A paused scheduler hands nothing out, and no operator of ours ends that: nobody stays for it.
        ready=0 if paused else counts[READY],
        waiting=counts[WAIT],
        why=why,
        paused=paused,
        unknown=sum(not scheduler.knows(task_id) for task_id in request.task_ids),
        shadow=() if request.wait_s else tuple(await _shadow(service, worker, runs)),
        runs=() if request.wait_s else await _standing(service, worker, known),
    )


async def _settled(service: LedgerService, request: BlockedRequest) -> dict[str, Verdict]:
    """Return the verdicts on a worker's tasks: for `wait_s` after a change that frees one is waited."""
    scheduler, state, worker = service.scheduler, service.state, request.worker
    verdicts = scheduler.verdicts_of(worker)
    limit = time.monotonic() + request.wait_s
    while time.monotonic() < limit and _waits(verdicts):
        seen = state.versions(worker)
        while state.versions(worker) == seen and time.monotonic() < limit:
            await asyncio.sleep(_LOOK_S)
        verdicts = scheduler.verdicts_of(worker)
    return verdicts


async def _still(
    service: LedgerService, worker: str, verdicts: Mapping[str, Verdict]
) -> tuple[BlockedTasks, ...]:
    """Return why a waiting worker's tasks are blocked; where nothing has changed, as it was told before."""
    day = service.state.day
    left = () if day is None else (day.cap, day.spent, day.reserved, day.room)
    of = (*service.state.versions(worker), *left, Counter(verdicts.values()))
    told = service.told.get(worker)
    if told is None or told.of != of:
        if len(service.told) >= _MOST_TOLD:
            service.told.clear()
        groups = await _groups(service, worker, verdicts, {})
        told = service.told[worker] = Told(of, tuple(_told_of(group) for group in groups))
    return told.why


async def _groups(
    service: LedgerService, worker: str, verdicts: Mapping[str, Verdict], known: Mapping[str, Standing]
) -> list[Group]:
    """Return why a worker's tasks are blocked, with what else is known of their runs' tasks."""
    tasks, reasons = service.state.tasks, Reasons(service.scheduler.gate, worker)
    async for task_id, verdict in in_slices(verdicts.items()):
        if task_id in tasks:
            reasons.add(task_id, verdict)
    same = [known[run_id] for run_id in reasons.runs if run_id in known]
    async for task_id in in_slices([task_id for one in same for task_id in (*one.verdicts, *one.others)]):
        if task_id in tasks:
            reasons.count(task_id)
    return reasons.of_tasks()


def _told_of(group: Group, task_ids: Iterable[str] = ()) -> BlockedTasks:
    reason = group.reason
    return BlockedTasks(
        reason.run_id, reason.code, reason.text, reason.advice, len(group.tasks), tuple(task_ids)
    )


def _runs_of(service: LedgerService, worker: str) -> list[str]:
    """Return a worker's runs by their ids: one that has ended with its root is in the gate no more."""
    state = service.state
    return sorted({state.names.get(name, name) for name in state.runs_of.get(worker, ())})


async def _standing(
    service: LedgerService, worker: str, known: Mapping[str, Standing]
) -> tuple[RunStanding, ...]:
    """Return how those of a worker's runs stand of which something is blocked, in doubt or denied."""
    named = _runs_of(service, worker)
    denied: dict[str, list[str]] = {}
    unsolved = of_known(await service.read(denials.unsolved, named) or [], service.scheduler.knows)
    for one in grouped(unsolved):
        denied.setdefault(one.run_id, []).append(f"{one.text}. {one.shows} shows it")
    doubts = {row["run_id"]: row for row in await service.read(queries.in_doubt, named) or []}
    return tuple(
        RunStanding(
            run_id,
            len(standing.due),
            standing.behind,
            doubt["calls"] if doubt else 0,
            plain_usd(doubt["micros"] if doubt else 0),
            tuple(denied.get(run_id, ())),
        )
        for run_id in named
        for standing, doubt in [(known.get(run_id, CLEAR), doubts.get(run_id))]
        if doubt or standing.due or standing.behind or run_id in denied
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
    runs_of = _runs_of(service, worker)
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
