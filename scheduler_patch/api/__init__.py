"""HTTP routes and RPCs: who may call them, and what they take."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from luigi_spendguard.ledger import claims
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import MAX_MICROS, parse_usd
from luigi_spendguard.protocol import MAX_NOTE, BadMessage, EndRequest, ReserveRequest
from luigi_spendguard.redaction import redact_url
from luigi_spendguard.vendors import FollowedUp
from scheduler_patch.api import keys, openapi, queries
from scheduler_patch.api.handler import Call, Handler, Lost, limit_of
from scheduler_patch.service import operators
from scheduler_patch.service.workers import LedgerService


async def _open_run(service: LedgerService, call: Call) -> Any:
    call.only("name", "by_task_id", "root_family", "root_task_id", "budget_usd")
    name = call.run_name("name")
    if name in (".", ".."):
        raise BadMessage("'name' must not be . or ..: no address could lead to such a run")
    return await service.open_run(
        name,
        call.flag("by_task_id"),
        call.text("root_family", limit=255),
        call.text("root_task_id"),
        call.optional("budget_usd"),
    )


async def _claim(service: LedgerService, call: Call) -> Any:
    call.only("claim_id", "run_id", "task_id", "family", "params", "worker", "max_cost_usd")
    params = {} if call.fields.get("params") is None else call.fields["params"]
    if not isinstance(params, dict) or not all(isinstance(v, str) for v in params.values()):
        raise BadMessage("'params' must map texts to texts")
    max_cost = call.optional("max_cost_usd")
    return await service.claim(
        call.text("claim_id", limit=64),
        call.optional("run_id"),
        call.text("task_id"),
        call.text("family", limit=255),
        params,
        call.text("worker"),
        None if max_cost is None else parse_usd(max_cost),
    )


async def _finish(service: LedgerService, call: Call) -> Any:
    call.only("claim_id", "outcome")
    outcome = call.text("outcome")
    if outcome not in claims.OUTCOMES:
        raise BadMessage(f"'outcome' must be one of {', '.join(claims.OUTCOMES)}")
    return await service.finish(call.text("claim_id", limit=64), outcome)


async def _close_run(service: LedgerService, call: Call) -> Any:
    call.only("name", "run_id", "request_id")
    return await service.close_run(
        call.run_name("name"), call.optional("run_id"), call.optional("request_id")
    )


async def _blocked(service: LedgerService, call: Call) -> Any:
    call.only("worker", "wait_s", "task_ids")
    wait_s = call.fields.get("wait_s", 0)
    if not isinstance(wait_s, int) or isinstance(wait_s, bool) or not 0 <= wait_s <= 60:
        raise BadMessage("'wait_s' must be a whole number of seconds from 0 to 60")
    task_ids = call.texts("task_ids", 500) if "task_ids" in call.fields else []
    return await operators.blocked(service, call.text("worker"), wait_s, task_ids)


async def _acknowledge(service: LedgerService, call: Call) -> Any:
    call.only("worker", "run_id")
    return await service.acknowledge(call.text("worker"), call.text("run_id"))


async def _due_prices(service: LedgerService, call: Call) -> Any:
    call.only("vendors")
    return {"due": await service.due_prices(call.texts("vendors", 100), relayed_too=False)}


async def _correct(service: LedgerService, call: Call) -> Any:
    call.only("call_id", "total_micros", "note", "final", "whole", "problem")
    total = call.fields.get("total_micros")
    if total is not None and (not isinstance(total, int) or isinstance(total, bool) or total < 0):
        raise BadMessage("'total_micros' must be a whole number of micro-dollars, or null")
    if total is not None and total > MAX_MICROS:
        raise BadMessage("'total_micros' is out of range")
    note, problem = (redact_url(call.text(name, "", limit=MAX_NOTE)) for name in ("note", "problem"))
    whole = "whole" in call.fields and call.flag("whole")
    found = FollowedUp(total, call.flag("final"), note, whole, problem)
    return await service.correct(call.text("call_id", limit=64), found, relayed_too=False)


async def _reserve(service: LedgerService, call: Call) -> Any:
    return (await service.reserve(call.key, ReserveRequest.from_json(call.fields))).to_json()


def _end(kind: str) -> Callable[[LedgerService, Call], Awaitable[Any]]:
    async def act(service: LedgerService, call: Call) -> Any:
        if call.fields.get("kind", kind) != kind:
            raise BadMessage(f"'kind' must be {kind!r} here, as the RPC's name says")
        return await service.end(call.key, EndRequest.from_json({**call.fields, "kind": kind}))

    return act


async def _revoke(service: LedgerService, call: Call) -> Any:
    run_id = call.run_id()
    said = await operators.revoke(service, run_id)
    return await queries.whole(service, run_id) | {"calls_under_way": said["calls_under_way"]}


async def _top_up(service: LedgerService, call: Call) -> Any:
    run_id = call.run_id("usd", "request_id")
    usd = call.fields.get("usd")
    if not isinstance(usd, str):
        raise BadMessage('\'usd\' must be a text such as "50" or "12.50"')
    await operators.top_up(service, run_id, usd, call.optional("request_id"))
    return await queries.whole(service, run_id)


async def _approve(service: LedgerService, call: Call) -> Any:
    run_id = call.run_id("usd", "unknown_tasks", "task_id", "request_id")
    usd = call.fields.get("usd")
    if not isinstance(usd, str):
        raise BadMessage(
            "'usd' must be the amount that was shown, as a text: the run's `forecast_usd`, or what the task "
            "named by 'task_id' may cost"
        )
    task_id, unknown = call.optional("task_id"), call.fields.get("unknown_tasks", 0)
    if not isinstance(unknown, int) or isinstance(unknown, bool) or not 0 <= unknown < 10**9:
        raise BadMessage("'unknown_tasks' must be the run's `unknown_tasks` that was shown: a whole number")
    if task_id is not None and unknown:
        raise BadMessage("'unknown_tasks' belongs to a forecast, not to a single task")
    await operators.approve(service, run_id, usd, task_id, call.optional("request_id"), unknown)
    return await queries.whole(service, run_id)


async def _resolve(service: LedgerService, call: Call) -> Any:
    call.only("spent_usd", "not_sent", "object_id", "overrun", "correct", "request_id")
    said = {name: name in call.fields and call.flag(name) for name in ("not_sent", "overrun", "correct")}
    spent = call.optional("spent_usd")
    if (spent is None) is not said["not_sent"]:
        raise BadMessage('say either {"spent_usd": "2"} or {"not_sent": true}')
    object_id = call.optional("object_id")
    if said["not_sent"] and (object_id or said["overrun"]):
        raise BadMessage("'object_id' and 'overrun' go with 'spent_usd'")
    amount = None if spent is None else parse_usd(spent)
    resolution = Resolution(amount, object_id, said["overrun"], said["correct"])
    return await operators.resolve(service, call.path[0], resolution, call.optional("request_id"))


def routes(service: LedgerService) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return our routes; they go ahead of Luigi's own and fall through to them."""

    def rpc(name: str, who: str, act: Any) -> tuple[str, type[Handler], dict[str, Any]]:
        return rf"/api/{name}", Handler, {"service": service, "methods": {"POST": (who, act)}, "wrap": True}

    def rest(path: str, **methods: tuple[str, Any]) -> tuple[str, type[Handler], dict[str, Any]]:
        return path, Handler, {"service": service, "methods": methods, "wrap": False}

    served = [
        rpc("spend_open_run", "worker", _open_run),
        rpc("spend_claim", "worker", _claim),
        rpc("spend_finish", "worker", _finish),
        rpc("spend_close_run", "worker", _close_run),
        rpc("spend_blocked", "worker", _blocked),
        rpc("spend_acknowledge", "worker", _acknowledge),
        rpc("spend_due_prices", "worker", _due_prices),
        rpc("spend_correct", "worker", _correct),
        rpc("spend_reserve", "key", _reserve),
        rpc("spend_settle", "key", _end("settle")),
        rpc("spend_void", "key", _end("void")),
        rpc("spend_doubt", "key", _end("doubt")),
        rpc("list_runs", "read", queries.list_runs),
        rpc("task_costs", "read", queries.task_costs),
        rpc("run_budget", "read", queries.run),
        rpc("revoke_run", "admin", _revoke),
        rpc("top_up_run", "admin", _top_up),
        rpc("approve_run", "admin", _approve),
        rpc("issue_vault_key", "worker", keys.issue),
        rpc("list_vault_keys", "admin", keys.listed_rpc),
        rpc("revoke_vault_key", "holder", keys.revoke),
        rest(r"/vault/keys", POST=("worker", keys.issue), GET=("admin", keys.listed)),
        rest(r"/vault/keys/([^/]+)", DELETE=("holder", keys.revoke)),
        rest(r"/runs", GET=("read", queries.runs)),
        rest(r"/runs/([^/]+)", GET=("read", queries.run), DELETE=("admin", _revoke)),
        rest(r"/runs/([^/]+)/calls", GET=("read", queries.calls)),
        rest(r"/runs/([^/]+)/spending", GET=("read", queries.spending)),
        rest(r"/runs/([^/]+)/top_up", POST=("admin", _top_up)),
        rest(r"/runs/([^/]+)/approve", POST=("admin", _approve)),
        rest(r"/status", GET=("read", queries.status)),
        rest(r"/day", GET=("read", queries.day)),
        rest(r"/calls", GET=("read", queries.calls)),
        rest(r"/calls/([^/]+)/resolve", POST=("admin", _resolve)),
    ]
    described = openapi.document(
        {template(path): _who(said["methods"]) for path, _, said in served}, limit_of
    )

    async def _openapi(service: LedgerService, call: Call) -> Any:
        return described

    return [*served, rest(r"/openapi.json", GET=("public", _openapi))]


def lost() -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return what answers addresses below ours that are no route; it comes after `routes`."""
    return [(r"/(?:runs|calls)/.*", Lost, {"service": None, "methods": {}, "wrap": False})]


def template(path: str) -> str:
    """Return a route's path as OpenAPI and the docs have it: `/runs/{run_id}`."""
    path = re.sub(r"^/(calls|vault/keys)/\(\[\^/\]\+\)", r"/\1/{id}", path)
    return path.replace("([^/]+)", "{run_id}")


def _who(methods: Mapping[str, tuple[str, Any]]) -> dict[str, str]:
    return {method: who for method, (who, _) in methods.items()}
