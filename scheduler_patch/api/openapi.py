"""The OpenAPI description of our routes, as `GET /openapi.json` serves it.

A test holds it to the routes that there are; fields of calls and ends follow `luigi_spendguard.protocol`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from luigi_spendguard import __version__
from luigi_spendguard.errors import DENIAL_STATUS
from luigi_spendguard.ledger.claims import OUTCOMES
from luigi_spendguard.ledger.overview import SORTS
from luigi_spendguard.protocol import (
    MAX_NOTE,
    RUN_STATUSES,
    VERDICTS,
    EndRequest,
    ReserveReply,
    ReserveRequest,
)
from luigi_spendguard.vendors.registry import VENDORS

Schema = dict[str, Any]

#: What vendors are called with.
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")

TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 1000}
USD: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,6})?$", "description": "USD, as a decimal."}
MAYBE_USD: Schema = {**USD, "nullable": True}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
NOTE: Schema = {"type": "string", "maxLength": MAX_NOTE}
REQUEST_ID: Schema = {**TEXT, "description": "Repeating a change with the same id changes nothing twice."}
#: Who may, as names of `components.securitySchemes`; none: anybody whom Luigi's own page serves.
_WHO: Mapping[str, list[dict[str, list[str]]]] = {
    "public": [],
    "read": [{}, {"worker": []}, {"admin": []}],
    "worker": [{"worker": []}, {"admin": []}],
    "admin": [{"admin": []}],
    "key": [{"vault_key": []}],
    "holder": [{"vault_key": []}, {"admin": []}],
}


def shape(required: str = "", **fields: Schema) -> Schema:
    """Return the schema of an object without other fields; `required` names some of them."""
    found: Schema = {"type": "object", "properties": fields, "additionalProperties": False}
    return found | ({"required": required.split()} if required else {})


def _message(cls: type[Any], *without: str) -> Schema:
    kinds = {"str": "string", "int": "integer", "bool": "boolean", "dict": "object"}
    properties: dict[str, Schema] = {}
    required = []
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        base, _, rest = str(field.type).partition(" | ")
        properties[field.name] = {"type": kinds[base.split("[")[0]]} | ({"nullable": True} if rest else {})
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
    return shape(" ".join(required), **properties)


TERMS = shape(
    "vendor",
    vendor={"type": "string", "enum": sorted(VENDORS)},
    agent_run_label={"type": "string", "maxLength": 255, "description": "luigi/<run_id>"},
    run_usd_cap={"oneOf": [USD, {"type": "number", "minimum": 0}]},
    daily_usd_cap={"oneOf": [USD, {"type": "number", "minimum": 0}]},
    allowed_endpoints={"type": "array", "items": TEXT, "minItems": 1, "maxItems": 100},
    allowed_customers={"type": "array", "items": TEXT, "minItems": 1, "maxItems": 100},
    allowed_accounts={"type": "array", "items": TEXT, "minItems": 1, "maxItems": 100},
    expires_in={"type": "string", "pattern": "^[0-9]{1,9}[smhd]$"},
    expires_at={"type": "string", "format": "date-time"},
)
_TOP_UP = {"usd": USD, "request_id": REQUEST_ID}
_APPROVE = {"usd": USD, "unknown_tasks": COUNT, "task_id": TEXT, "request_id": REQUEST_ID}
_RUN_ID = {"run_id": TEXT}
#: Bodies by RPC or by (method, path): what the handlers of `__init__.py` and `keys.py` take.
BODIES: Mapping[str, Schema] = {
    "spend_open_run": shape(
        "name by_task_id root_family root_task_id",
        name={**TEXT, "maxLength": 255},
        by_task_id=FLAG,
        root_family={**TEXT, "maxLength": 255},
        root_task_id=TEXT,
        budget_usd=MAYBE_USD,
    ),
    "spend_claim": shape(
        "claim_id task_id family worker",
        claim_id={**TEXT, "maxLength": 64},
        run_id={**TEXT, "nullable": True},
        task_id=TEXT,
        family={**TEXT, "maxLength": 255},
        worker=TEXT,
        max_cost_usd=MAYBE_USD,
        params={"type": "object", "additionalProperties": {"type": "string"}, "nullable": True},
    ),
    "spend_finish": shape(
        "claim_id outcome",
        claim_id={**TEXT, "maxLength": 64},
        outcome={"type": "string", "enum": list(OUTCOMES)},
    ),
    "spend_close_run": shape(
        "name",
        name={**TEXT, "maxLength": 255},
        run_id={**TEXT, "nullable": True},
        request_id={**TEXT, "nullable": True},
    ),
    "spend_blocked": shape(
        "worker",
        worker=TEXT,
        wait_s={"type": "integer", "minimum": 0, "maximum": 60},
        task_ids={"type": "array", "items": TEXT, "maxItems": 500},
    ),
    "spend_acknowledge": shape("worker run_id", worker=TEXT, run_id=TEXT),
    "spend_due_prices": shape("vendors", vendors={"type": "array", "items": TEXT, "maxItems": 100}),
    "spend_correct": shape(
        "call_id final",
        call_id={**TEXT, "maxLength": 64},
        total_micros={**COUNT, "nullable": True},
        note=NOTE,
        final=FLAG,
        whole=FLAG,
        problem=NOTE,
    ),
    "spend_reserve": _message(ReserveRequest),
    "spend_settle": _message(EndRequest, "kind"),
    "spend_void": _message(EndRequest, "kind"),
    "spend_doubt": _message(EndRequest, "kind"),
    "list_runs": shape(),
    "task_costs": shape("task_ids", task_ids={"type": "array", "items": TEXT, "maxItems": 500}),
    "run_budget": shape("run_id", **_RUN_ID),
    "revoke_run": shape("run_id", **_RUN_ID),
    "top_up_run": shape("run_id usd", **_RUN_ID, **_TOP_UP),
    "approve_run": shape("run_id usd", **_RUN_ID, **_APPROVE),
    "issue_vault_key": TERMS,
    "list_vault_keys": shape(run_id={**TEXT, "nullable": True}),
    "revoke_vault_key": shape("id", id=TEXT),
    "POST /vault/keys": TERMS,
    "POST /runs/{run_id}/top_up": shape("usd", **_TOP_UP),
    "POST /runs/{run_id}/approve": shape("usd", **_APPROVE),
    "POST /calls/{id}/resolve": {
        "oneOf": [
            shape(
                "spent_usd",
                spent_usd=USD,
                object_id=TEXT,
                overrun=FLAG,
                correct=FLAG,
                request_id=REQUEST_ID,
            ),
            shape(
                "not_sent",
                not_sent={"type": "boolean", "enum": [True]},
                correct=FLAG,
                request_id=REQUEST_ID,
            ),
        ]
    },
}
_QUERIES: Mapping[str, dict[str, Schema]] = {
    "GET /vault/keys": {"run": TEXT},
    "GET /calls": {"run": TEXT},
    "GET /runs": {
        "search": TEXT,
        "status": {"type": "string", "enum": list(RUN_STATUSES)},
        "sort": {"type": "string", "enum": [f"{mark}{name}" for name in SORTS for mark in ("", "-")]},
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
        "offset": COUNT,
    },
    "GET /runs/{run_id}/spending": {"by": {"type": "string", "enum": ["vendor", "family"]}},
}
_OF_CALLS: dict[str, Schema] = {
    "task": TEXT,
    "vendor": {"type": "string", "enum": sorted(VENDORS)},
    "since": {"type": "string", "format": "date-time"},
    "verdict": {"type": "string", "enum": list(VERDICTS)},
    "limit": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "before": COUNT,
}


def _parameters(method: str, path: str) -> list[Schema]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": TEXT}
        for name in ("run_id", "id", "path")
        if f"{{{name}}}" in path
    ]
    queries = dict(_QUERIES.get(f"{method} {path}", {}))
    if method == "GET" and path.endswith("/calls"):
        queries |= _OF_CALLS
    return found + [{"name": name, "in": "query", "schema": schema} for name, schema in queries.items()]


def _operation(method: str, path: str, who: str, most: int) -> Schema:
    name = path.removeprefix("/api/")
    done = "201" if name == "issue_vault_key" or (method, path) == ("POST", "/vault/keys") else "200"
    found: Schema = {
        "operationId": "_".join([method.lower(), *re.findall(r"[a-z_]+", name)]),
        "security": _WHO[who],
        "responses": {
            done: {"description": "Done.", "content": {"application/json": {"schema": {}}}},
            "default": {
                "description": "Refused, and why.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if parameters := _parameters(method, path):
        found["parameters"] = parameters
    body = BODIES.get(name if path.startswith("/api/") else f"{method} {path}")
    if body is not None:
        needed = bool(body.get("required") or body.get("oneOf"))
        found["requestBody"] = {
            "description": f"In UTF-8, at most {most} bytes in all: more is refused with 413.",
            "required": needed,
            "content": {"application/json": {"schema": body}},
        }
    return found


def _relayed(name: str, method: str) -> Schema:
    return {
        "operationId": f"{method.lower()}_{name}",
        "summary": f"Relays a call to {name}, guarded. Denials are in the vendor's own error format.",
        "security": _WHO["key"],
        "parameters": _parameters(method, "/{path}"),
        "responses": {
            "default": {
                "description": "The vendor's answer, or a denial.",
                "headers": {
                    "X-Spendguard-Denial": {
                        "description": "Why it was denied: reason, message and facts, as JSON.",
                        "schema": {"type": "string"},
                    },
                    "X-Spendguard-Relayed": {
                        "description": "On every answer of the gateway's: a proxy's own lacks it.",
                        "schema": {"type": "string"},
                    },
                    "X-Spendguard-Replayed": {
                        "description": "When it was answered first, in milliseconds since the epoch.",
                        "schema": {"type": "integer"},
                    },
                },
            }
        },
    }


def document(served: Mapping[str, Mapping[str, str]], limit_of: Callable[[str], int]) -> Schema:
    """Return the description of the routes `served`: by path with `{names}`, who may use which method.

    `limit_of` says how many bytes a body may have where such a one may ask.
    """
    paths: dict[str, Schema] = {
        path: {
            method.lower(): _operation(method, path, who, limit_of(who)) for method, who in methods.items()
        }
        for path, methods in served.items()
    }
    for name in VENDORS:
        paths[f"/{name}/{{path}}"] = {m.lower(): _relayed(name, m) for m in _METHODS}
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.0.3",
        "info": {"title": "luigi_spendguard", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "admin": {**bearer, "description": "[spendguard] admin_token"},
                "worker": {
                    **bearer,
                    "description": "[spendguard] worker_token; none: from luigid's own machine",
                },
                "vault_key": bearer,
            },
            "schemas": {
                "Error": shape("error message", error={"type": "string"}, message={"type": "string"}),
                "Reservation": _message(ReserveReply),
                "Denial": {"type": "string", "enum": sorted(DENIAL_STATUS)},
            },
        },
    }
