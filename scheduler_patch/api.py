"""HTTP routes and RPCs: who may call them, what they take, and one JSON shape for errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from tornado.web import HTTPError, RequestHandler

from luigi_spendguard.config import ConfigError
from luigi_spendguard.errors import LedgerError, SpendDenied
from luigi_spendguard.ledger import reading, runs
from luigi_spendguard.messages import Ask, BadMessage, End
from luigi_spendguard.money import BadAmount, parse_usd
from scheduler_patch.auth import Refused, check
from scheduler_patch.office import Office

logger = logging.getLogger(__name__)

#: The largest body that our routes read, in bytes.
MAX_REQUEST = 4 << 20

Fields = dict[str, Any]


class Handler(RequestHandler):
    """Authenticates, decodes, calls one function and encodes its answer or its error."""

    def initialize(self, office: Office, who: str, act: Any, method: str, wrap: bool) -> None:
        """Take the route's settings."""
        self._office, self._who, self._act = office, who, act
        self._method, self._wrap = method, wrap

    async def _serve(self, *path: str) -> None:
        try:
            if self.request.method != self._method:
                self.set_header("Allow", self._method)
                raise Refused(405, "method_not_allowed", f"use {self._method} here")
            key = check(self.request, self._who, self._office)
            fields = self._fields()
            answer = await self._act(self._office, Call(self, key, fields, path))
            self._answer(200, {"response": answer} if self._wrap else answer)
        except Refused as error:
            self._error(error.status, error.code, error.message)
        except SpendDenied as error:
            self._error(403 if error.reason == "scope" else error.denial_status, error.reason,
                        error.message)  # fmt: skip
        except LedgerError as error:
            if error.status >= 500:
                logger.error("%s", error)
            self._error(error.status, error.code, str(error))
        except (BadMessage, BadAmount, ConfigError) as error:
            self._error(400, "bad_request", str(error))

    get = post = delete = put = patch = head = options = _serve

    def _fields(self) -> Fields:
        if len(self.request.body) > MAX_REQUEST:
            raise Refused(413, "too_large", f"a body has at most {MAX_REQUEST} bytes")
        if not self.request.body:
            return {}
        kind = self.request.headers.get("Content-Type", "").split(";")[0].strip()
        if kind != "application/json":
            raise Refused(415, "unsupported_media_type", "send application/json")
        try:
            fields = json.loads(self.request.body)
        except ValueError:
            raise Refused(400, "bad_request", "the body is not JSON") from None
        if not isinstance(fields, dict):
            raise Refused(400, "bad_request", "the body must be a JSON object")
        return fields

    def _error(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"error": code, "message": message})

    def _answer(self, status: int, body: Any) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body, ensure_ascii=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an unexpected error in the same shape, without its text."""
        self._answer(status_code, {"error": "internal", "message": "see luigid's log"})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log unexpected errors; a client that went away is none."""
        if not isinstance(value, HTTPError):
            logger.error("%s %s failed", self.request.method, self.request.path,
                         exc_info=(typ, value, tb))  # fmt: skip


class Call:
    """What a route's function is given: its decoded fields, path parts, vault key and query."""

    def __init__(self, handler: Handler, key: str, fields: Fields, path: tuple[str, ...]) -> None:
        self.handler, self.key, self.fields, self.path = handler, key, fields, path

    def text(self, name: str, default: str | None = None, limit: int = 1000) -> str:
        """Return a text field. Raises BadMessage."""
        value = self.fields.get(name, default)
        if not isinstance(value, str) or len(value) > limit or (not value and default is None):
            raise BadMessage(f"{name!r} must be a text of 1 to {limit} characters")
        return value

    def optional(self, name: str) -> str | None:
        """Return a text field, None when it is missing or null. Raises BadMessage."""
        return None if self.fields.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        """Return a boolean field. Raises BadMessage."""
        value = self.fields.get(name)
        if not isinstance(value, bool):
            raise BadMessage(f"{name!r} must be true or false")
        return value

    def only(self, *names: str) -> None:
        """Refuse fields that the route does not know. Raises BadMessage."""
        if unknown := sorted(set(self.fields) - set(names)):
            raise BadMessage(f"unknown field {unknown[0]!r}: this route takes {', '.join(names)}")

    def query(self, name: str) -> str | None:
        """Return a query argument as it was sent; tornado's own way strips it. Raises BadMessage."""
        values = self.handler.request.query_arguments.get(name)
        try:
            return values[-1].decode("utf-8") if values else None
        except UnicodeDecodeError:
            raise BadMessage(f"{name!r} must be UTF-8") from None


async def _open_run(office: Office, call: Call) -> Any:
    call.only("name", "by_task_id", "root_family", "root_task_id", "budget_usd")
    return await office.open_run(
        call.text("name", limit=255),
        call.flag("by_task_id"),
        call.text("root_family", limit=255),
        call.text("root_task_id"),
        call.optional("budget_usd"),
    )


async def _claim(office: Office, call: Call) -> Any:
    call.only("claim_id", "run_id", "task_id", "family", "params", "worker")
    params = call.fields.get("params") or {}
    if not isinstance(params, dict) or not all(isinstance(v, str) for v in params.values()):
        raise BadMessage("'params' must map texts to texts")
    return await office.claim(
        runs.ClaimRequest(
            call.text("claim_id", limit=64),
            call.text("run_id"),
            call.text("task_id"),
            call.text("family", limit=255),
            params,
            call.text("worker"),
        )
    )


async def _finish(office: Office, call: Call) -> Any:
    call.only("claim_id", "outcome")
    outcome = call.text("outcome")
    if outcome not in runs.OUTCOMES:
        raise BadMessage(f"'outcome' must be one of {', '.join(runs.OUTCOMES)}")
    return await office.finish(call.text("claim_id", limit=64), outcome)


async def _close_run(office: Office, call: Call) -> Any:
    call.only("name")
    return await office.close_run(call.text("name", limit=255))


async def _blocked(office: Office, call: Call) -> Any:
    call.only("worker")
    return await office.blocked(call.text("worker"))


async def _reserve(office: Office, call: Call) -> Any:
    return (await office.reserve(call.key, Ask.from_json(call.fields))).to_json()


def _end(kind: str) -> Callable[[Office, Call], Awaitable[Any]]:
    async def act(office: Office, call: Call) -> Any:
        return await office.end(call.key, End.from_json({**call.fields, "kind": kind}))

    return act


async def _runs(office: Office, call: Call) -> Any:
    return await office.read(reading.runs) or []


async def _list_runs(office: Office, call: Call) -> Any:
    return {"runs": await _runs(office, call)}


async def _run(office: Office, call: Call) -> Any:
    run_id = call.path[0] if call.path else call.text("run_id")
    row = await office.read(reading.run, run_id)
    if row is None:
        raise Refused(404, "not_found", f"there is no run {run_id}: no run was ever opened here")
    return row


async def _calls(office: Office, call: Call) -> Any:
    run_id = call.path[0] if call.path else call.query("run")
    limit, before = call.query("limit") or "1000", call.query("before")
    if not (limit.isdecimal() and 0 < int(limit) <= 10_000):
        raise BadMessage("'limit' must be a number from 1 to 10000")
    if before is not None and not (before.isdecimal() and len(before) < 16):
        raise BadMessage("'before' must be the `seq` of a call")
    rows = await office.read(
        reading.calls,
        run_id,
        call.query("task"),
        call.query("verdict"),
        int(limit),
        None if before is None else int(before),
    )
    return rows or []


async def _revoke(office: Office, call: Call) -> Any:
    return await office.revoke(call.path[0] if call.path else call.text("run_id"))


async def _top_up(office: Office, call: Call) -> Any:
    call.only("usd", "request_id", *(() if call.path else ("run_id",)))
    run_id = call.path[0] if call.path else call.text("run_id")
    usd = call.fields.get("usd")
    if not isinstance(usd, str):
        raise BadMessage('\'usd\' must be a text such as "50" or "12.50"')
    return await office.top_up(run_id, usd, call.optional("request_id"))


async def _resolve(office: Office, call: Call) -> Any:
    call.only("spent_usd", "not_sent", "request_id")
    said = [name for name in ("spent_usd", "not_sent") if call.fields.get(name) not in (None, False)]
    if len(said) != 1:
        raise BadMessage('say either {"spent_usd": "2"} or {"not_sent": true}')
    spent = parse_usd(call.text("spent_usd")) if said == ["spent_usd"] else None
    if spent is None:
        call.flag("not_sent")
    return await office.resolve(call.path[0], spent, call.optional("request_id"))


def routes(office: Office) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return our routes; they go ahead of Luigi's own and fall through to them."""

    def rpc(name: str, who: str, act: Any) -> tuple[str, type[Handler], dict[str, Any]]:
        settings = {"office": office, "who": who, "act": act, "method": "POST", "wrap": True}
        return rf"/api/{name}", Handler, settings

    def rest(method: str, path: str, who: str, act: Any) -> tuple[str, type[Handler], dict[str, Any]]:
        settings = {"office": office, "who": who, "act": act, "method": method, "wrap": False}
        return path, Handler, settings

    return [
        rpc("spend_open_run", "worker", _open_run),
        rpc("spend_claim", "worker", _claim),
        rpc("spend_finish", "worker", _finish),
        rpc("spend_close_run", "worker", _close_run),
        rpc("spend_blocked", "worker", _blocked),
        rpc("spend_reserve", "key", _reserve),
        rpc("spend_settle", "key", _end("settle")),
        rpc("spend_void", "key", _end("void")),
        rpc("spend_doubt", "key", _end("doubt")),
        rpc("list_runs", "read", _list_runs),
        rpc("run_budget", "read", _run),
        rpc("revoke_run", "admin", _revoke),
        rpc("top_up_run", "admin", _top_up),
        rest("GET", r"/runs", "read", _runs),
        ByMethod.route(office, r"/runs/([^/]+)", {"GET": ("read", _run), "DELETE": ("admin", _revoke)}),
        rest("GET", r"/runs/([^/]+)/calls", "read", _calls),
        rest("POST", r"/runs/([^/]+)/top_up", "admin", _top_up),
        rest("GET", r"/calls", "read", _calls),
        rest("POST", r"/calls/([^/]+)/resolve", "admin", _resolve),
    ]


class ByMethod(Handler):
    """A path whose methods differ in who may call them."""

    @classmethod
    def route(
        cls, office: Office, path: str, methods: dict[str, tuple[str, Any]]
    ) -> tuple[str, type[Handler], dict[str, Any]]:
        """Return the route for tornado."""
        return path, cls, {"office": office, "methods": methods}

    def initialize(self, office: Office, methods: dict[str, tuple[str, Any]]) -> None:  # type: ignore[override]
        """Choose by the request's method."""
        method = self.request.method or ""
        known = method if method in methods else next(iter(methods))
        who, act = methods[known]
        super().initialize(office, who, act, known, False)
