"""What operators do to runs and calls."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from luigi_spendguard.errors import Conflict, NotFound
from luigi_spendguard.ledger import corrections, duplicates, pruning, queries, runs, snapshot, top_ups
from luigi_spendguard.ledger.budgets import is_known, last_entry, runs_since
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.top_ups import TopUp
from luigi_spendguard.money import Micros, format_usd, parse_usd, plain_usd
from luigi_spendguard.protocol import GRANT_SECONDS, command
from luigi_spendguard.protocol.operators import (
    ApproveRequest,
    ConfirmRequest,
    PruneRequest,
    ResolveRequest,
    TopUpRequest,
)
from scheduler_patch.dispatch import feed, holds
from scheduler_patch.dispatch.state import DispatchState
from scheduler_patch.dispatch.trial import Target
from scheduler_patch.service import LedgerService
from scheduler_patch.service.callers import ADMIN, Caller
from scheduler_patch.service.four_eyes import Rights
from scheduler_patch.service.ledger import Booked
from scheduler_patch.service.top_ups import outcome, weigh

T = TypeVar("T")


async def revoke(service: LedgerService, run_id: str) -> int:
    """Revoke a run; return how many calls were under way, once no grant made before can be used (P5).

    Raises NotFound, Conflict.
    """
    await service.commit(_revoke, run_id)
    service.known_keys.forget_all()
    return await in_force(service, runs.pending_calls, run_id)


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


async def top_up(service: LedgerService, request: TopUpRequest, caller: Caller = ADMIN) -> dict[str, Any]:
    """Raise a run's cap, or one inside it; return what it frees, or what waits for a second operator.

    Raises BadAmount, NotFound, Conflict, NotAllowed (it is more than the caller may).
    """
    amount, target = parse_usd(request.usd), target_of(request)
    before = await weigh(service, request.run_id, target, amount)
    asked = TopUp(request.run_id, _inside(service, target), amount, _id_of(request))
    waits, repeated = await service.commit(_top_up, asked, Rights(caller, service.settings))
    if waits is not None:
        return {"waiting": _shown(service, waits), "repeated": repeated}
    return await outcome(service, replace(before, amount=0) if repeated else before) | {"repeated": repeated}


async def confirm(service: LedgerService, request: ConfirmRequest, caller: Caller) -> dict[str, Any]:
    """Make a top-up that waits for a second operator, who asks for that; return what it frees.

    Raises NotFound, Conflict (it waits no more, or cannot be made any more), NotAllowed (who asks is not
    another operator, or may not top up so much).
    """
    row = await service.read(top_ups.request_row, request.id)
    if row is None:
        raise NotFound("there is no such top-up: nothing waits here")
    target = Target(row["scope"], row["part"])
    before = await weigh(service, row["run_id"], target, row["amount_micros"])
    request_id = request.request_id or secrets.token_hex(16)
    asked = TopUp(row["run_id"], _inside(service, target), Micros(row["amount_micros"]), request_id)
    done, repeated = await service.commit(_confirm, request.id, asked, Rights(caller, service.settings))
    freed = await outcome(service, replace(before, amount=0) if repeated else before)
    return {"top_up": freed, "confirmed": _shown(service, done), "repeated": repeated}


async def withdraw(service: LedgerService, name: str) -> dict[str, Any]:
    """Let a top-up wait no more; it raises nothing then. Raises NotFound, Conflict."""
    row, repeated = await service.record(top_ups.withdraw, name)
    return _shown(service, row) | {"repeated": repeated}


async def waiting(service: LedgerService, which: top_ups.RequestFilter) -> list[dict[str, Any]]:
    """Return what waits and has waited for a second operator, newest first. Raises NotFound."""
    return [_shown(service, row) for row in await service.browse(top_ups.requests, which) or []]


def _shown(service: LedgerService, row: Row) -> dict[str, Any]:
    """Return a top-up that waits for people, with who may confirm it."""
    waits = row["shown_state"] == "waiting"
    seconds = Rights(ADMIN, service.settings).seconds(row["asked_by"]) if waits else []
    return top_ups.show(row) | {"confirmers": seconds}


def target_of(request: TopUpRequest) -> Target:
    """Return the budget that a top-up raises."""
    if request.family is not None:
        return Target("family", request.family)
    if request.vendor is not None:
        return Target("vendor", request.vendor)
    return Target("day") if request.day else Target()


async def check_inside(service: LedgerService, request: TopUpRequest) -> None:
    """Raise Conflict where luigi.cfg has no budget that such a top-up could raise."""
    inside = _inside(service, target_of(request))
    if inside is not None:
        runs.check_inside(request.run_id, inside)


def _inside(service: LedgerService, target: Target) -> runs.Inside | None:
    """Return a budget inside a run, as luigi.cfg has it; None for the run's own."""
    caps = service.settings.caps
    if target.scope == "run":
        return None
    if target.scope == "day":
        return runs.Inside("day", "", caps.day)
    known = caps.task_families if target.scope == "family" else caps.vendors
    return runs.Inside(target.scope, target.part, known.get(target.part), tuple(known))


async def approve(service: LedgerService, request: ApproveRequest) -> bool:
    """Let a run's forecast pass, or one task's cost; return whether that was done before by this request.

    Raises BadAmount, NotFound, Conflict (it is another amount now).
    """
    amount, task_id = parse_usd(request.usd), request.task_id
    if request.duplicate_of is not None:
        return await service.commit(_approve_duplicate, request, amount)
    task = service.state.tasks.get(task_id) if task_id is not None else None
    if task is not None and task.cost is not None and task.cost != amount:
        raise Conflict(
            f"task {task.task_id} may cost {format_usd(task.cost)} now, not {format_usd(amount)}: "
            "look at it again, then approve that"
        )
    named = [service.state.run(name) for name in task.runs] if task is not None else []
    is_scheduled = any(run is not None and run.run_id == request.run_id for run in named)
    return await service.commit(_approve, request, amount, is_scheduled, _approved(service, request))


def _approved(service: LedgerService, request: ApproveRequest) -> runs.Approved:
    """Return what is approved of a forecast beside the amount, and whether anything of it has to be."""
    if request.task_id is not None:
        return runs.Approved(request.unknown_tasks)
    run, gate = service.state.runs.get(request.run_id), service.scheduler.gate
    parts, needless = "", ""
    if run is not None:
        parts = service.state.parts(run).to_json()
        if service.state.rules.forecast != "hold":
            needless = f"luigi.cfg has forecast = {service.state.rules.forecast}, which holds no run"
        elif not gate.is_held(run) and not request.up_to:
            needless = (
                "it is approved already" if run.approved is not None else "its forecast is not too much"
            )
    if needless:
        needless = (
            f"nothing of the forecast of run {request.run_id} has to be approved: {needless}; "
            f"{command('run', request.run_id)} says what else it waits for"
        )
    return runs.Approved(request.unknown_tasks, request.up_to, parts, needless)


async def resolve(service: LedgerService, request: ResolveRequest) -> dict[str, Any]:
    """End an in-doubt call by the operator's word, or correct it. Raises BadAmount, NotFound, Conflict."""
    amount = None if request.spent_usd is None else parse_usd(request.spent_usd)
    flags = request.overrun, request.correct, request.by_books
    resolution = Resolution(amount, request.object_id, *flags, request.as_of)
    row, run_state, as_of = await service.commit(_resolve, request.id, resolution, _id_of(request))
    return {**queries.show_call(row), "run_state": run_state, "as_of": as_of}


async def prune(service: LedgerService, request: PruneRequest) -> dict[str, Any]:
    """Prune some of what is over, or say what would be. Raises Conflict where that is too young."""
    if not service.has_ledger:
        return _pruned(pruning.Pruned(), {}, None)
    if not await service.read(pruning.check_age, request.before):
        raise Conflict("what is younger than two days is not pruned: name a day before that")
    if request.dry_run:
        found = await service.browse(pruning.look, request.before, request.after) or pruning.Pruned()
    else:
        found = await service.record(pruning.prune, request.before, request.after)
    kept = await service.browse(pruning.kept_runs, request.before) if found.next is None else None
    return _pruned(found, kept or {}, await service.browse(pruning.oldest_open_run, request.before))


async def forget(service: LedgerService, customer: str) -> dict[str, int]:
    """Delete what was sent and answered in a customer's calls."""
    if not service.has_ledger:
        return {"calls": 0, "open_calls": 0}
    found = await service.browse(pruning.calls_of, customer) or []
    gone = kept = 0
    for first in range(0, len(found), pruning.MOST_CALLS):
        some = await service.record(pruning.forget_calls, found[first : first + pruning.MOST_CALLS])
        gone, kept = gone + some[0], kept + some[1]
    return {"calls": gone, "open_calls": kept}


def _pruned(found: pruning.Pruned, kept: dict[str, int], oldest: Row | None) -> dict[str, Any]:
    return {
        "runs": found.runs,
        "calls": found.calls,
        "spent_usd": plain_usd(found.spent_micros),
        "attempts": found.attempts,
        "stay": found.stay,
        "runs_that_stay": kept,
        "oldest_open_run": None if oldest is None else oldest["run_id"],
        "next": found.next,
    }


def _id_of(request: TopUpRequest | ApproveRequest | ResolveRequest) -> str:
    return request.request_id or secrets.token_hex(16)


def _revoke(tx: Tx, run_id: str) -> Booked[None]:
    runs.revoke(tx, run_id)
    return Booked(None, snapshot.of_run(tx, run_id))


def _top_up(tx: Tx, asked: TopUp, rights: Rights) -> Booked[tuple[Row | None, bool]]:
    """Top up, or let it wait, which is the row it comes with; and with whether that was done before."""
    if (waits := top_ups.known(tx, asked)) is not None:
        return Booked((waits, True), None)
    repeated = is_known(tx, asked.request_id)
    if not repeated:
        rights.check(tx, asked.run_id, asked.amount)
        if rights.must_wait(tx, asked):
            return Booked((top_ups.ask(tx, asked, rights.caller.name), False), None)
    top_ups.make(tx, asked)
    return _raised(tx, asked.run_id, (None, repeated))


def _confirm(tx: Tx, name: str, asked: TopUp, rights: Rights) -> Booked[tuple[Row, bool]]:
    """Confirm what waits; it comes with whether that was done before."""
    row = top_ups.request_row(tx, name)
    if row["confirm_id"] != asked.request_id:
        rights.check_second(tx, name, asked.amount)
    return _raised(tx, asked.run_id, top_ups.confirm(tx, name, asked))


def _raised(tx: Tx, run_id: str, answer: T) -> Booked[T]:
    """Return what the gate hears of a run whose budgets were raised."""
    day, seen = snapshot.today(tx), last_entry(tx)

    def tell(state: DispatchState) -> None:
        if day is not None:
            feed.feed_day(state, day, seen)

    return Booked(answer, snapshot.of_run(tx, run_id), tell)


def _approve(
    tx: Tx, request: ApproveRequest, amount: Micros, is_scheduled: bool, approved: runs.Approved
) -> Booked[bool]:
    """Approve; a task that was not scheduled for the run must be known to the ledger as the run's."""
    run_id, task_id, request_id = request.run_id, request.task_id or "", _id_of(request)
    repeated = is_known(tx, request_id)
    if task_id and not is_scheduled:
        runs.check_known(tx, run_id, task_id)
    runs.approve(tx, run_id, task_id, amount, request_id, approved)
    own = snapshot.task_left(tx, run_id, task_id)

    def tell(state: DispatchState) -> None:
        if task_id:
            feed.approve(state, run_id, task_id, amount, own)

    return Booked(repeated, snapshot.of_run(tx, run_id), tell)


def _approve_duplicate(tx: Tx, request: ApproveRequest, amount: Micros) -> Booked[bool]:
    run_id, task_id, request_id = request.run_id, request.task_id or "", _id_of(request)
    repeated = is_known(tx, request_id)
    duplicates.approve_duplicate(tx, run_id, task_id, request.duplicate_of or "", amount, request_id)
    return Booked(repeated, snapshot.of_run(tx, run_id), lambda state: holds.look_again(state, task_id))


def _resolve(tx: Tx, call_id: str, resolution: Resolution, request_id: str) -> Booked[tuple[Row, str, int]]:
    """End or correct a call; it comes with the state of its run, and the journal's entry that says so."""
    seen = last_entry(tx)
    row = corrections.resolve(tx, call_id, resolution, request_id)
    figures = snapshot.of_call(tx, row["run_id"], call_id)
    # Calls of other runs may have taken over what it has let go.
    runs_concerned = [run_id for run_id in runs_since(tx, seen) if run_id != row["run_id"]]
    others = [Booked(None, snapshot.of_run(tx, run_id)) for run_id in runs_concerned]

    def tell(state: DispatchState) -> None:
        for one in others:
            one.hear(state)

    said = int(tx.value("SELECT id FROM journal WHERE request_id = ?", request_id) or 0)
    return Booked((row, figures.run["state"], said), figures, tell)
