"""What people and pages read of calls, days, what operators did, and luigid itself: it changes nothing."""

from __future__ import annotations

import logging
from typing import Any

from luigi_spendguard import __version__
from luigi_spendguard.ledger import actions as done
from luigi_spendguard.ledger import overview, queries
from luigi_spendguard.ledger import reconciliations as nightly
from luigi_spendguard.ledger import totals as sums
from luigi_spendguard.ledger.top_ups import RequestFilter
from luigi_spendguard.money import plain_usd
from luigi_spendguard.protocol import ACTIONS, CALL_STATES, TOP_UP_STATES, VERDICTS
from luigi_spendguard.protocol.messages import BadMessage, NoFields
from luigi_spendguard.protocol.operators import OneRun, TaskCostsRequest
from luigi_spendguard.settings.operators import ROLES
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api.handler import ApiCall
from scheduler_patch.service import LedgerService, operators

logger = logging.getLogger(__name__)

#: What calls may be filtered by.
_FILTERS = (
    *(
        "task",
        "vendor",
        "verdict",
        "state",
        "customer",
        "prefix",
        "since",
        "until",
        "limit",
        "before",
        "total",
    ),
)
#: The most task families that are named.
_FAMILIES = 1000


async def task_costs(service: LedgerService, call: ApiCall, request: TaskCostsRequest) -> Any:
    """Return which runs tasks belong to, what they have cost in each, and those runs."""
    asked = list(request.task_ids)
    rows = await service.browse(overview.costs, asked) or []
    paid = {(row["task_id"], row["run_id"]) for row in rows}
    for task_id in dict.fromkeys(asked):
        task = service.state.tasks.get(task_id)
        for name in task.runs if task is not None else ():
            run = service.state.run(name)
            if run is not None and run.opened and (task_id, run.run_id) not in paid:
                rows.append(
                    {
                        "task_id": task_id,
                        "run_id": run.run_id,
                        "calls": 0,
                        "spent_usd": "0.00",
                        "reserved_usd": "0.00",
                    }
                )
    named = sorted({row["run_id"] for row in rows})
    return {"tasks": rows, "runs": await service.browse(overview.named, named) or []}


async def day(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what all runs have spent today."""
    call.query_only()
    cap = service.settings.caps.day
    return await service.read(queries.day, cap) or {
        "day": None,
        "cap_usd": None if cap is None else plain_usd(cap),
    }


async def calls(service: LedgerService, call: ApiCall, request: OneRun | NoFields) -> Any:
    """Return a page of calls, newest first.

    `X-Next-Before` is what the next page is asked for by, where there is one; `X-Total-Count`, where `total`
    asks for it, how many there are on all pages.
    """
    if isinstance(request, OneRun):
        call.query_only(*_FILTERS)
        run_id: str | None = request.run_id
    else:
        call.query_only(*_FILTERS, "run")
        run_id = call.run()
    limit, before = call.number("limit", 1000, 1, 10_000), _seq(call, "call")
    which = queries.CallFilter(
        run_id=run_id,
        task_id=call.query("task"),
        verdict=call.choice("verdict", VERDICTS),
        state=call.choice("state", CALL_STATES),
        vendor=call.choice("vendor", sorted(VENDORS)),
        customer=call.query("customer"),
        prefix=call.query("prefix"),
        since=call.moment("since"),
        until=call.moment("until"),
        before=before,
        limit=limit + 1,  # One more says whether that is all.
    )
    if call.choice("total", ("true", "false")) == "true":
        total = await service.browse(queries.count_calls, which)
        call.handler.set_header("X-Total-Count", str(total or 0))
    rows = await service.browse(queries.calls, which) or []
    return [row | {"object_url": _object_url(row)} for row in call.page(rows, limit, "seq")]


def _seq(call: ApiCall, what: str) -> int | None:
    """Return by what row the next page is asked for. Raises BadMessage."""
    before = call.query("before")
    if before is not None and not (before.isascii() and before.isdecimal() and len(before) < 16):
        raise BadMessage(f"'before' must be the `seq` of {'an' if what[0] in 'aeiou' else 'a'} {what}")
    return None if before is None else int(before)


async def actions(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return a page of what operators did, newest first; `X-Next-Before` as of `calls`."""
    call.query_only("run", "kind", "since", "until", "limit", "before")
    limit = call.number("limit", 1000, 1, 10_000)
    which = done.ActionFilter(
        run_id=call.run(),
        kind=call.choice("kind", ACTIONS),
        since=call.moment("since"),
        until=call.moment("until"),
        before=_seq(call, "action"),
        limit=limit + 1,
    )
    return call.page(await service.browse(done.actions, which) or [], limit, "seq")


async def top_ups(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return a page of top-ups that wait, or have waited, for a second operator, newest first."""
    call.query_only("run", "state", "limit", "before")
    limit = call.number("limit", 1000, 1, 1000)
    state, before = call.choice("state", TOP_UP_STATES), call.query("before")
    which = RequestFilter(call.run(), state, before, limit + 1)
    return call.page(await operators.waiting(service, which), limit, "id")


async def reconciliations(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what the comparisons with the vendors' own books have found, the latest first."""
    call.query_only("vendor", "limit")
    vendor, limit = call.choice("vendor", sorted(VENDORS)), call.number("limit", 100, 1, 1000)
    return await service.browse(nightly.listed, vendor, limit) or []


async def totals(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what the calls of all runs have come to, in a range of time."""
    call.query_only("since", "until")
    since, until = call.moment("since"), call.moment("until")
    return await service.browse(sums.totals, since, until) or sums.nothing(since, until)


def _object_url(row: dict[str, Any]) -> str | None:
    """Return where the vendor's own pages show what a call has opened."""
    vendor = VENDORS.get(row["vendor"])
    if vendor is None or not row["object_id"]:
        return None
    try:
        return vendor.object_url(row["account"], row["object_id"])
    except Exception:  # It is anybody's vendor, and what only shows stops nothing.
        logger.exception("The vendor %s failed to name the page of an object", vendor.name)
        return None


async def settings(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what luigid goes by where it decides about money, and the task families that it has seen."""
    call.query_only()
    seen = {task.family for task in service.state.tasks.values() if task.family}
    seen.update(await service.browse(overview.families, _FAMILIES) or [])
    return service.settings.in_force() | {
        "version": __version__,
        "gateway": sorted(service.relayed_vendors),
        "families": sorted(seen)[:_FAMILIES],
        "not_reloaded": service.not_reloaded,
        "audit_stopped": service.audit_stopped,
    }


async def whoami(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return which operator asks, and what that one may do."""
    call.query_only()
    caller, limit = call.caller, service.settings.operator_top_up_usd
    alone = service.settings.two_operators_above_usd
    return {
        "name": caller.name or None,
        "shown": caller.shown,
        "role": caller.role,
        "may": [role for role in ROLES if caller.may(role)],
        "alone_usd": None if alone is None else plain_usd(alone),
        "top_up_usd": None if limit is None or caller.may("admin") else plain_usd(limit),
        "without_token": [one.name for one in service.settings.operators.values() if one.token is None],
    }


async def status(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    """Return what luigid is, and whether it has a ledger."""
    call.query_only()
    return {
        "version": __version__,
        "gateway": sorted(service.relayed_vendors),
        "ledger": service.has_ledger,
        "failed_attempts": service.throttle.failed,
        "audit_stopped": service.audit_stopped,
    }
