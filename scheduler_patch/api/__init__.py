"""The table of routes: HTTP routes and RPCs, who may call them, what they take, and what answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from luigi_spendguard.protocol import rpcs
from luigi_spendguard.protocol.messages import Message, NoFields
from luigi_spendguard.protocol.operators import (
    ApproveRequest,
    AuditPruneRequest,
    ConfirmRequest,
    ForgetRequest,
    ListKeysRequest,
    OneKey,
    OneRun,
    OneTopUp,
    PruneRequest,
    ResolveRequest,
    TaskCostsRequest,
    TopUpRequest,
)
from luigi_spendguard.protocol.rpcs import Rpc
from scheduler_patch.api import keys, openapi, queries, reports, runs
from scheduler_patch.api.handler import Accepted, ApiCall, ApiHandler, Endpoint, Lost
from scheduler_patch.service import LedgerService, operators
from scheduler_patch.service.audit_pruning import prune_audit
from scheduler_patch.service.blocked import explain_blocked

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class Route(NamedTuple):
    """An address, with `{names}` for its parts, and what each of its methods does."""

    path: str
    endpoints: dict[str, Endpoint[Any]]


def _rpc(name: str, endpoint: Endpoint[Any]) -> Route:
    return Route(f"/api/{name}", {"POST": endpoint})


def _worker(rpc: Rpc[Q, R], answer: Callable[[LedgerService, Q], Awaitable[R]]) -> Route:
    """Return the route of an RPC under a worker's token."""

    async def act(service: LedgerService, call: ApiCall, request: Q) -> Any:
        return (await answer(service, request)).to_json()

    return _rpc(rpc.name, Endpoint("worker", rpc.request, act))


def _attempt(rpc: Rpc[Q, R], answer: Callable[[LedgerService, str, Q], Awaitable[R]], **known: str) -> Route:
    """Return the route of an RPC under an attempt's vault key."""

    async def act(service: LedgerService, call: ApiCall, request: Q) -> Any:
        return (await answer(service, call.key, request)).to_json()

    return _rpc(rpc.name, Endpoint("key", rpc.request, act, known))


async def _openapi(service: LedgerService, call: ApiCall, request: NoFields) -> Any:
    return openapi.document(dict(ROUTES))


async def _revoke(service: LedgerService, call: ApiCall, request: OneRun) -> Any:
    under_way = await operators.revoke(service, request.run_id)
    return await runs.changed_run(service, request.run_id) | {"calls_under_way": under_way}


async def _top_up(service: LedgerService, call: ApiCall, request: TopUpRequest) -> Any:
    freed = await operators.top_up(service, request, call.caller)
    repeated = freed.pop("repeated")
    if "waiting" in freed:
        answer = await runs.changed_run(service, request.run_id) | freed | {"repeated": repeated}
        return Accepted(answer) if freed["waiting"]["state"] == "waiting" else answer
    return await runs.changed_run(service, request.run_id) | {"top_up": freed, "repeated": repeated}


async def _confirm(service: LedgerService, call: ApiCall, request: ConfirmRequest) -> Any:
    done = await operators.confirm(service, request, call.caller)
    return await runs.changed_run(service, done["confirmed"]["run_id"]) | done


async def _withdraw(service: LedgerService, call: ApiCall, request: OneTopUp) -> Any:
    return await operators.withdraw(service, request.id)


async def _approve(service: LedgerService, call: ApiCall, request: ApproveRequest) -> Any:
    repeated = await operators.approve(service, request)
    return await runs.changed_run(service, request.run_id) | {"repeated": repeated}


async def _resolve(service: LedgerService, call: ApiCall, request: ResolveRequest) -> Any:
    return await operators.resolve(service, request)


async def _forget(service: LedgerService, call: ApiCall, request: ForgetRequest) -> Any:
    return await operators.forget(service, request.customer)


async def _prune(service: LedgerService, call: ApiCall, request: PruneRequest) -> Any:
    return await operators.prune(service, request)


async def _prune_audit(service: LedgerService, call: ApiCall, request: AuditPruneRequest) -> Any:
    return await prune_audit(service, request)


_REVOKE = Endpoint("operate", OneRun, _revoke)
_TOP_UP = Endpoint("operate", TopUpRequest, _top_up)
_APPROVE = Endpoint("operate", ApproveRequest, _approve)
_RUN = Endpoint("read", OneRun, runs.run)
_ISSUE = Endpoint("worker", rpcs.ISSUE_KEY.request, keys.issue)
_REVOKE_KEY = Endpoint("holder", OneKey, keys.revoke)

ROUTES = (
    _worker(rpcs.OPEN_RUN, LedgerService.open_run),
    _worker(rpcs.CLAIM, LedgerService.claim),
    _worker(rpcs.FINISH, LedgerService.finish),
    _worker(rpcs.CLOSE_RUN, LedgerService.close_run),
    _worker(rpcs.ENDED, LedgerService.ended),
    _worker(rpcs.BLOCKED, explain_blocked),
    _worker(rpcs.ACKNOWLEDGE, LedgerService.acknowledge),
    _worker(rpcs.DUE_PRICES, LedgerService.due_prices),
    _worker(rpcs.CORRECT, LedgerService.correct),
    _attempt(rpcs.RESERVE, LedgerService.reserve),
    _attempt(rpcs.ATTEMPT, LedgerService.attempt),
    *(_attempt(rpc, LedgerService.end, kind=kind) for kind, rpc in rpcs.ENDS.items()),
    _rpc("list_runs", Endpoint("read", NoFields, runs.list_runs)),
    _rpc("task_costs", Endpoint("read", TaskCostsRequest, queries.task_costs)),
    _rpc("run_budget", _RUN),
    _rpc("revoke_run", _REVOKE),
    _rpc("top_up_run", _TOP_UP),
    _rpc("approve_run", _APPROVE),
    _rpc(rpcs.ISSUE_KEY.name, _ISSUE),
    _rpc("list_vault_keys", Endpoint("list", ListKeysRequest, keys.listed_rpc)),
    _rpc("revoke_vault_key", _REVOKE_KEY),
    Route("/vault/keys", {"POST": _ISSUE, "GET": Endpoint("list", NoFields, keys.listed)}),
    Route("/vault/keys/{id}", {"DELETE": _REVOKE_KEY}),
    Route("/runs", {"GET": Endpoint("read", NoFields, runs.runs)}),
    Route("/runs/{run_id}", {"GET": _RUN, "DELETE": _REVOKE}),
    Route("/runs/{run_id}/calls", {"GET": Endpoint("read", OneRun, queries.calls)}),
    Route("/runs/{run_id}/spending", {"GET": Endpoint("read", OneRun, runs.spending)}),
    Route("/runs/{run_id}/top_up", {"GET": Endpoint("read", OneRun, runs.top_up), "POST": _TOP_UP}),
    Route("/runs/{run_id}/approve", {"POST": _APPROVE}),
    Route("/whoami", {"GET": Endpoint("list", NoFields, queries.whoami)}),
    Route("/top_ups", {"GET": Endpoint("read", NoFields, queries.top_ups)}),
    Route("/top_ups/{id}", {"DELETE": Endpoint("operate", OneTopUp, _withdraw)}),
    Route("/top_ups/{id}/confirm", {"POST": Endpoint("operate", ConfirmRequest, _confirm)}),
    Route("/settings", {"GET": Endpoint("read", NoFields, queries.settings)}),
    Route("/status", {"GET": Endpoint("read", NoFields, queries.status)}),
    Route("/day", {"GET": Endpoint("read", NoFields, queries.day)}),
    Route("/calls", {"GET": Endpoint("read", NoFields, queries.calls)}),
    Route("/calls/{id}/resolve", {"POST": Endpoint("operate", ResolveRequest, _resolve)}),
    Route("/forget", {"POST": Endpoint("admin", ForgetRequest, _forget)}),
    Route("/actions", {"GET": Endpoint("read", NoFields, queries.actions)}),
    *(Route(f"/reports/{name}", {"GET": Endpoint("read", NoFields, one)}) for name, one in reports.REPORTS),
    Route("/reconciliations", {"GET": Endpoint("read", NoFields, queries.reconciliations)}),
    Route("/totals", {"GET": Endpoint("read", NoFields, queries.totals)}),
    Route("/prune", {"POST": Endpoint("admin", PruneRequest, _prune)}),
    Route("/audit/prune", {"POST": Endpoint("admin", AuditPruneRequest, _prune_audit)}),
    Route("/openapi.json", {"GET": Endpoint("public", NoFields, _openapi)}),
)


def routes(service: LedgerService) -> list[tuple[str, type[ApiHandler], dict[str, Any]]]:
    """Return our routes; they go ahead of Luigi's own and fall through to them."""
    return [
        (
            re.sub(r"\{\w+\}", "([^/]+)", path),
            ApiHandler,
            {
                "service": service,
                "endpoints": endpoints,
                "names": tuple(re.findall(r"\{(\w+)\}", path)),
                "wrap": path.startswith("/api/"),
                "route": path,
            },
        )
        for path, endpoints in ROUTES
    ]


def lost() -> list[tuple[str, type[ApiHandler], dict[str, Any]]]:
    """Return what answers addresses below ours that are no route; it comes after `routes`."""
    nothing: dict[str, Any] = {"service": None, "endpoints": {}, "names": (), "wrap": False}
    return [(r"/(?:runs|calls|reports)/.*", Lost, nothing | {"route": "/{any}"})]
