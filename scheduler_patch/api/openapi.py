"""The OpenAPI description of our routes, made of their table and of the messages that they take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from luigi_spendguard import __version__
from luigi_spendguard.errors import DENIAL_STATUS
from luigi_spendguard.ledger.overview import SORTS
from luigi_spendguard.ledger.reports import GROUPS
from luigi_spendguard.ledger.reports.days import SPLITS
from luigi_spendguard.ledger.reports.focus import PAGE
from luigi_spendguard.ledger.reports.period import MOST
from luigi_spendguard.protocol import (
    ACTIONS,
    CALL_STATES,
    RUN_STATUSES,
    TOP_UP_STATES,
    VERDICTS,
    ReserveReply,
    messages,
)
from luigi_spendguard.protocol.operators import ResolveRequest, TopUpRequest
from luigi_spendguard.protocol.rpcs import IssueKeyRequest
from luigi_spendguard.settings.operators import ROLES
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api.authentication import NEEDED
from scheduler_patch.api.handler import Endpoint, limit_of

#: What vendors are called with.
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")

TEXT: messages.Schema = messages.text().schema
COUNT: messages.Schema = {"type": "integer", "minimum": 0}
_MOMENT: messages.Schema = {"type": "string", "format": "date-time"}
_ROWS: messages.Schema = {"type": "integer", "minimum": 1, "maximum": MOST}
#: Of when, and of which run, a report is.
_PERIOD: dict[str, messages.Schema] = {"since": _MOMENT, "until": _MOMENT, "run": TEXT}
_PAGE: messages.Schema = {"type": "integer", "minimum": 1, "maximum": 1000}
#: Who may, as names of `components.securitySchemes`; none: anybody whom Luigi's own page serves.
_WHO: Mapping[str, list[dict[str, list[str]]]] = {
    "public": [],
    "read": [{}, {"worker": []}, {"list": []}],
    "worker": [{"worker": []}, {"admin": []}],
    "list": [{"list": []}],
    "operate": [{"operate": []}],
    "admin": [{"admin": []}],
    "key": [{"vault_key": []}],
    "holder": [{"vault_key": []}, {"operate": []}],
}


#: Of those, operators'.
_OF_OPERATORS = ("list", "operate", "admin")


def _operators(needed: str) -> str:
    """Return what operators of a role, or of one that may do more, have to show."""
    enough = " or ".join(ROLES[ROLES.index(needed) :])
    return f"A token of [spendguard_operators] whose role is {enough}, or [spendguard] admin_token"


_ANSWERED: Mapping[str, Any] = {
    "X-Spendguard-Answered": {
        "description": "On every answer of luigid's: a proxy's own lacks it.",
        "schema": {"type": "string"},
    }
}

_QUERIES: Mapping[str, dict[str, messages.Schema]] = {
    "GET /vault/keys": {"run": TEXT, "limit": _PAGE, "before": TEXT},
    "GET /calls": {"run": TEXT},
    "GET /runs": {
        "search": TEXT,
        "prefix": TEXT,
        "status": {"type": "string", "enum": list(RUN_STATUSES)},
        "since": _MOMENT,
        "until": _MOMENT,
        "before": TEXT,
        "sort": {"type": "string", "enum": [f"{mark}{name}" for name in SORTS for mark in ("", "-")]},
        "limit": _PAGE,
        "offset": COUNT,
    },
    "GET /runs/{run_id}/top_up": {
        "usd": TEXT,
        "family": TEXT,
        "vendor": TEXT,
        "day": {"type": "string", "enum": ["true"]},
    },
    "GET /actions": {
        "run": TEXT,
        "kind": {"type": "string", "enum": list(ACTIONS)},
        "since": _MOMENT,
        "until": _MOMENT,
        "limit": {"type": "integer", "minimum": 1, "maximum": 10_000},
        "before": COUNT,
    },
    "GET /reports/cost": {
        "by": {"type": "string", "pattern": f"^({'|'.join(GROUPS)}|tag:[a-z0-9_]+)$"},
        "compare": {"type": "string", "enum": ["true", "false"]},
        **_PERIOD,
        "limit": _ROWS,
    },
    "GET /reports/denied": _PERIOD,
    "GET /reports/forecast": {**_PERIOD, "limit": _ROWS},
    "GET /reports/focus": {
        **_PERIOD,
        "limit": {"type": "integer", "minimum": 1, "maximum": PAGE},
        "after": COUNT,
    },
    "GET /reports/days": {"split": {"type": "string", "enum": list(SPLITS)}, **_PERIOD},
    "GET /top_ups": {
        "run": TEXT,
        "state": {"type": "string", "enum": list(TOP_UP_STATES)},
        "limit": _PAGE,
        "before": TEXT,
    },
    "GET /reconciliations": {
        "vendor": {"type": "string", "enum": sorted(VENDORS)},
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    },
    "GET /totals": {"since": _MOMENT, "until": _MOMENT},
    "GET /runs/{run_id}/spending": {"by": {"type": "string", "enum": ["vendor", "family"]}},
}
_OF_CALLS: dict[str, messages.Schema] = {
    "task": TEXT,
    "vendor": {"type": "string", "enum": sorted(VENDORS)},
    "since": _MOMENT,
    "until": _MOMENT,
    "verdict": {"type": "string", "enum": list(VERDICTS)},
    "state": {"type": "string", "enum": list(CALL_STATES)},
    "customer": TEXT,
    "prefix": TEXT,
    "limit": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "before": COUNT,
    "total": {"type": "string", "enum": ["true", "false"]},
}


def _parameters(method: str, path: str) -> list[dict[str, Any]]:
    named = [
        {"name": name, "in": "path", "required": True, "schema": TEXT}
        for name in ("run_id", "id", "path")
        if f"{{{name}}}" in path
    ]
    queries = dict(_QUERIES.get(f"{method} {path}", {}))
    if method == "GET" and path.endswith("/calls"):
        queries |= _OF_CALLS
    return named + [{"name": name, "in": "query", "schema": schema} for name, schema in queries.items()]


def _body(endpoint: Endpoint[Any], path: str) -> dict[str, Any] | None:
    """Return what a body is; None where the path says all that the endpoint takes."""
    named = [*endpoint.known, *re.findall(r"{(\w+)}", path)]
    body = messages.schema(endpoint.request, *named)
    if endpoint.request is ResolveRequest:
        return {"oneOf": [_part(body, "spent_usd", "not_sent"), _part(body, "not_sent", *_OF_SPENT)]}
    if endpoint.request is IssueKeyRequest:
        body["properties"]["vendor"] = {"type": "string", "enum": sorted(VENDORS)}
    return body if body["properties"] or path.startswith("/api/") else None


#: What a call that was not sent has not.
_OF_SPENT = ("spent_usd", "object_id")


def _part(body: dict[str, Any], required: str, *without: str) -> dict[str, Any]:
    """Return a body that has the `required` field, and not those of its alternative."""
    fields = {name: field for name, field in body["properties"].items() if name not in without}
    if required == "not_sent":
        fields[required] = {**fields[required], "enum": [True]}
    return {**body, "properties": fields, "required": [required]}


def _operation(method: str, path: str, endpoint: Endpoint[Any]) -> dict[str, Any]:
    name = path.removeprefix("/api/")
    done = "201" if endpoint.request is IssueKeyRequest else "200"
    described: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *re.findall(r"[a-z_]+", name)]),
        "security": _WHO[endpoint.who],
        "responses": {
            done: {
                "description": "Done.",
                "headers": _ANSWERED,
                "content": {"application/json": {"schema": {}}},
            },
            "default": {
                "description": "Refused, and why.",
                "headers": _ANSWERED,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if endpoint.request is TopUpRequest:
        described["responses"]["202"] = described["responses"][done] | {
            "description": "Nothing was raised yet: it waits for a second operator."
        }
    if parameters := _parameters(method, path):
        described["parameters"] = parameters
    if (body := _body(endpoint, path)) is not None:
        most = limit_of(endpoint.who)
        described["requestBody"] = {
            "description": f"In UTF-8, at most {most} bytes in all: more is refused with 413.",
            "required": bool(body.get("required") or body.get("oneOf")),
            "content": {"application/json": {"schema": body}},
        }
    return described


def _relayed(name: str, method: str) -> dict[str, Any]:
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


def document(served: Mapping[str, Mapping[str, Endpoint[Any]]]) -> dict[str, Any]:
    """Return the description of the routes `served`: by path with `{names}`, what each method does."""
    paths: dict[str, Any] = {
        path: {method.lower(): _operation(method, path, one) for method, one in endpoints.items()}
        for path, endpoints in served.items()
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
                **{who: {**bearer, "description": _operators(NEEDED[who])} for who in _OF_OPERATORS},
                "worker": {
                    **bearer,
                    "description": "[spendguard] worker_token; none: from luigid's own machine",
                },
                "vault_key": bearer,
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
                    "additionalProperties": False,
                    "required": ["error", "message"],
                },
                "Reservation": messages.schema(ReserveReply),
                "Denial": {"type": "string", "enum": sorted(DENIAL_STATUS)},
            },
        },
    }
