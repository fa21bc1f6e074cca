"""Runs as people and pages read them: lists, and one with why it is held.

The ledger says what was spent; which of a run's tasks are blocked or held, and why, luigid's gate knows. A
run may have many thousand tasks: Luigi's RPCs have their turn while they are looked through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from luigi_spendguard.http.relay import Refused
from luigi_spendguard.ledger import denials, overview, queries
from luigi_spendguard.ledger.overview import SORTS, Page
from luigi_spendguard.ledger.runs import check_can_be_topped_up
from luigi_spendguard.money import parse_usd, plain_usd
from luigi_spendguard.protocol import RUN_STATUSES, command, commands
from luigi_spendguard.protocol.messages import BadMessage, NoFields
from luigi_spendguard.protocol.operators import OneRun, TopUpRequest
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors.registry import flows
from scheduler_patch.api.handler import ApiCall
from scheduler_patch.dispatch import Verdict
from scheduler_patch.dispatch.model import Growth, TaskState
from scheduler_patch.dispatch.reasons import Group, Reason, Reasons
from scheduler_patch.dispatch.words import charges_too, growth_of
from scheduler_patch.scheduler.standing import CLEAR, Standing, standing_of
from scheduler_patch.service import LedgerService, operators
from scheduler_patch.service.denials import Denied, grouped, of_known
from scheduler_patch.service.reasons import gather
from scheduler_patch.service.top_ups import weigh

#: What runs may be filtered by.
_FILTERS = ("search", "prefix", "status", "since", "until", "sort", "limit", "offset", "before")
#: The most tasks that are listed one by one, and the most of one reason.
LISTED, LISTED_OF_REASON = 1000, 100
#: What the ledger calls runs of which the gate may know better.
REFINED = ("active", "denied")


async def runs(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return a page of runs; `X-Total-Count` says how many there are on all pages.

    `X-Next-Before` is what the next page of the newest first is asked for by, where there is one.
    """
    call.query_only(*_FILTERS)
    sort = call.query("sort") or "-opened_at"
    if sort.removeprefix("-") not in SORTS:
        raise BadMessage(f"'sort' must be one of {', '.join(SORTS)}, with a - before it for descending")
    limit, offset = call.number("limit", 1000, 1, 1000), call.number("offset", 0, 0, 10**9)
    before = call.query("before")
    if before is not None and (sort != "-opened_at" or offset):
        raise BadMessage("'before' goes with the newest first: neither with another 'sort' nor with 'offset'")
    known = await service.lately.standings(service.scheduler)
    statuses, among, without = _with_status(call.choice("status", RUN_STATUSES), known)
    page = Page(
        search=call.query("search") or "",
        prefix=call.query("prefix") or "",
        statuses=statuses,
        among=among,
        without=without,
        since=call.moment("since"),
        until=call.moment("until"),
        before=before,
        sort=sort.removeprefix("-"),
        descending=sort.startswith("-"),
        limit=limit + 1,
        offset=offset,
    )
    rows, total = await service.browse(overview.runs, page) or ([], 0)
    call.handler.set_header("X-Total-Count", str(total))
    cursor = "run_id" if sort == "-opened_at" else None
    return [row | _of_row(row, _standing(service, row, known)) for row in call.page(rows, limit, cursor)]


def _standing(service: LedgerService, row: Mapping[str, Any], known: Mapping[str, Standing]) -> Standing:
    """Return how a run stands; what waits by the name of one that has ended waits for the next one."""
    run = service.state.runs.get(row["run_id"])
    is_next = row["state"] == "ended" and (run is None or not run.opened)
    return CLEAR if is_next else known.get(row["run_id"], CLEAR)


def _with_status(
    status: str | None, known: Mapping[str, Standing]
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[str, ...]]:
    """Return which of the ledger's statuses a status means, which runs alone have it, and which have not."""
    if status is None or status not in ("held", "blocked", *REFINED):
        return ((status,) if status else ()), None, ()
    if status in REFINED:
        return (status,), None, tuple(known)
    return REFINED, tuple(run_id for run_id, one in known.items() if _refined(one) == status), ()


async def list_runs(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what `runs` does, as an RPC: an object."""
    return {"runs": await runs(service, call, request)}


async def run(service: LedgerService, call: ApiCall, request: OneRun) -> Any:
    """Return one run."""
    call.query_only("tasks")
    everything = call.choice("tasks", ("all",)) is not None
    row = await service.browse(queries.run, request.run_id, _inside(service, request.run_id), flows())
    return await _shown(service, request.run_id, row, None if everything else LISTED_OF_REASON)


async def changed_run(service: LedgerService, run_id: str) -> dict[str, Any]:
    """Return a run after a change of it: behind no page's reads. Raises NotFound, Refused."""
    row = await service.read(queries.run, run_id, _inside(service, run_id), flows())
    return await _shown(service, run_id, row)


def _inside(service: LedgerService, run_id: str) -> Caps:
    """Return the caps of luigi.cfg that hold inside a run: of task families, only what it has tasks of."""
    caps, run = service.settings.caps, service.state.runs.get(run_id)
    if not caps.task_families:
        return caps
    tasks = [service.state.tasks.get(task_id) for task_id in run.tasks] if run is not None else []
    families = {task.family for task in tasks if task is not None}
    return replace(
        caps, task_families={one: cap for one, cap in caps.task_families.items() if one in families}
    )


async def top_up(service: LedgerService, call: ApiCall, request: OneRun) -> Any:
    """Return what a top-up is needed for and what it would free; nothing is changed. Raises BadAmount."""
    call.query_only("usd", "family", "vendor", "day")
    usd = call.query("usd")
    day = call.choice("day", ("true",)) is not None
    wanted = TopUpRequest(request.run_id, usd or "1", call.query("family"), call.query("vendor"), day)
    if await service.browse(queries.has_run, request.run_id) is None:
        raise _no_run(request.run_id)
    await service.browse(check_can_be_topped_up, request.run_id)
    await operators.check_inside(service, wanted)
    amount = None if usd is None else parse_usd(usd)
    return (await weigh(service, request.run_id, operators.target_of(wanted), amount)).to_json()


async def _shown(
    service: LedgerService, run_id: str, row: dict[str, Any] | None, listed: int | None = LISTED_OF_REASON
) -> dict[str, Any]:
    """Return one run as every answer has it that is a single run; `listed`: None for all blocked tasks."""
    if row is None:
        raise _no_run(run_id)
    standing = _standing(service, row, {run_id: await standing_of(service.scheduler, run_id)})
    unsolved = await service.browse(denials.unsolved, [run_id]) if row["denied_calls"] else []
    shown = row | _of_run(service, row, standing, await gather(service, standing), listed)
    denied = grouped(of_known(unsolved or [], service.scheduler.knows))
    shown["reasons"] += _doubt(row) + [_denied(one) for one in denied]
    return shown


def _no_run(run_id: str) -> Refused:
    return Refused(404, "not_found", f"there is no run {run_id}: no run was ever opened here")


async def spending(service: LedgerService, call: ApiCall, request: OneRun) -> Any:
    """Return what a run has spent over time, by vendor or by task family."""
    call.query_only("by")
    by = call.choice("by", ("vendor", "family")) or "vendor"
    spent = await service.browse(overview.spending, request.run_id, by)
    if spent is None:
        raise _no_run(request.run_id)
    return spent


def _refined(standing: Standing) -> str:
    """Return what a run is of which tasks are blocked: `held` when an approval would free some."""
    return "held" if any(verdict.is_held for verdict in standing.verdicts.values()) else "blocked"


def _status(row: Mapping[str, Any], standing: Standing) -> str:
    return _refined(standing) if row["status"] in REFINED and standing.verdicts else str(row["status"])


def _counts(standing: Standing) -> dict[str, Any]:
    """Return how many tasks of a run are blocked: those that are due by reason, and what is behind them."""
    return {
        "blocked_tasks": dict(Counter(standing.due.values())),
        "behind_tasks": standing.behind,
    }


def _of_row(row: Mapping[str, Any], standing: Standing) -> dict[str, Any]:
    """Return what lists of runs show beside what the ledger knows: how many tasks are blocked, by reason."""
    return _counts(standing) | {"status": _status(row, standing)}


def _of_run(
    service: LedgerService,
    row: Mapping[str, Any],
    standing: Standing,
    reasons: Reasons,
    listed: int | None,
) -> dict[str, Any]:
    """Return what the API shows of a single run beside what the ledger knows."""
    gate, single = service.scheduler.gate, list[dict[str, str]]()
    for task_id, verdict in standing.verdicts.items():
        task = service.state.tasks.get(task_id)
        if task is not None and (verdict is Verdict.APPROVAL or verdict is Verdict.DUPLICATE):
            single.append(_awaiting(task, verdict))
    run = service.state.runs.get(row["run_id"])
    known = run if run is not None and run.opened else None
    growth = growth_of(gate, run) if run is not None and gate.is_held(run) else []
    return _of_row(row, standing) | {
        "reasons": [_reason(why) for why in (reasons.of_run(known) if known else [])],
        "to_come": [_reason(why) for why in (reasons.to_come(known) if known else [])],
        "grown": [_growth(one) for one in growth],
        "expected_usd": plain_usd(reasons.expected(known)) if known else None,
        "blocked": [_group(one, standing, listed) for one in reasons.of_tasks()],
        "awaiting_approval": single[: None if listed is None else LISTED],
    }


def _group(group: Group, standing: Standing, listed: int | None) -> dict[str, Any]:
    """Return what is shown of blocked tasks that have the same reasons."""
    due = sum(task_id in standing.due for task_id in group.tasks)
    return {
        "tasks": due,
        "behind": len(group.tasks) - due,
        "code": group.reason.code,
        "text": group.reason.text,
        "advice": group.reason.advice,
        "reasons": [{"code": one.code, "scope": one.scope, "part": one.part} for one in group.reasons],
        "task_ids": group.tasks[:listed],
    }


def _reason(why: Reason) -> dict[str, Any]:
    """Return what is shown of a reason that holds a run."""
    amounts = {"needed_usd": why.needed, "available_usd": why.available, "missing_usd": why.missing}
    return {
        "code": why.code,
        "scope": why.scope,
        "part": why.part,
        "tasks": why.due,
        "behind": why.behind,
        "text": why.text,
        "advice": why.advice,
        "commands": [each.strip("`") for each in why.commands],
    } | {name: None if one is None else plain_usd(one) for name, one in amounts.items()}


def _doubt(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is shown of calls in doubt: what they may have cost counts until they are resolved."""
    if not row["in_doubt_calls"]:
        return []
    calls = "1 call is" if row["in_doubt_calls"] == 1 else f"{row['in_doubt_calls']} calls are"
    listed = command("calls", "--run", row["run_id"], "--state", "in_doubt")
    ends = [
        each
        for call in row["in_doubt"]
        for each in commands.resolve(call["id"], parse_usd(call["usd"]), call["object_id"])
    ]
    is_unknown = any(call["object_id"] is None for call in row["in_doubt"])
    opened = commands.WHAT_IT_OPENED if is_unknown else ""
    return [
        _without_tasks(
            "in_doubt",
            f"{calls} in doubt: ${row['in_doubt_usd']} may have been spent, and counts",
            f"look at the vendor's books; {listed} shows them, and a resolve ends each{opened}",
            (listed, *ends),
        )
    ]


def _denied(one: Denied) -> dict[str, Any]:
    """Return what is shown of calls that were denied, and of which no approval lets any pass."""
    advice = f"mend what it says, then submit the root again; {one.shows} shows it"
    return _without_tasks("denied", one.text, advice, (one.shows,))


def _without_tasks(code: str, text: str, advice: str, clear: Iterable[str]) -> dict[str, Any]:
    """Return what is shown of a reason that calls have, and no task that is blocked."""
    return {
        "code": code,
        "scope": "",
        "part": "",
        "tasks": 0,
        "behind": 0,
        "text": text,
        "advice": advice,
        "commands": [each.strip("`") for each in clear],
        "needed_usd": None,
        "available_usd": None,
        "missing_usd": None,
    }


def _growth(one: Growth) -> dict[str, Any]:
    """Return what is shown of a family's part of a forecast that has grown since it was approved."""
    return {
        "family": one.family,
        "usd": plain_usd(max(0, one.cost)),
        "unknown_tasks": max(0, one.unknown),
        "tasks": one.number,
        "task_ids": list(one.tasks[:LISTED_OF_REASON]),
    }


def _awaiting(task: TaskState, verdict: Verdict) -> dict[str, str]:
    """Return what is shown of a task that waits for an approval: that is what is approved."""
    if verdict is Verdict.DUPLICATE and task.hold is not None:
        hold = task.hold
        return {
            "task_id": task.task_id,
            "cost_usd": plain_usd(hold.asked),
            "duplicate_of": hold.part,
            "duplicate_task_id": hold.beside,
            "warning": charges_too(hold.beside),
        }
    return {"task_id": task.task_id, "cost_usd": plain_usd(task.cost or 0)}
