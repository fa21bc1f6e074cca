"""A request and its answer: authenticated, decoded strictly, and one JSON shape for errors."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from tornado.web import HTTPError

from luigi_spendguard import redaction, strict_json
from luigi_spendguard.config import ConfigError
from luigi_spendguard.errors import LedgerError, LedgerFailed, SpendDenied
from luigi_spendguard.http.relay import Refused
from luigi_spendguard.money import BadAmount
from luigi_spendguard.protocol import ANSWERED
from luigi_spendguard.protocol.messages import BadMessage, Message
from luigi_spendguard.settings.policy import expiry_ms
from luigi_spendguard.vendors.bodies import media_type_in
from scheduler_patch.api.authentication import NEEDED, check, wrong
from scheduler_patch.service import LedgerService
from scheduler_patch.service.callers import Caller
from scheduler_patch.service.ledger import ACTOR
from scheduler_patch.service.shares import Bounded

logger = logging.getLogger(__name__)

#: The largest body that our routes read, in bytes: of who shows a token or key, and of anybody, who has
#: nothing long to say.
MAX_REQUEST = 4 << 20
MAX_ANYBODYS = 64 << 10
#: Values and names in a body at the most: our messages have few, and each takes more memory than its text.
MAX_TOKENS = 20_000

Q = TypeVar("Q", bound=Message)
#: What a list of the API has of one thing.
Row = dict[str, Any]


@dataclass(frozen=True)
class Endpoint(Generic[Q]):
    """What one method of a route does.

    Attributes:
        who: who may, as `authentication.check` has it.
        request: the message that its body is, without what the path says.
        known: fields that the address says; a body may say the same of those.

    """

    who: str
    request: type[Q]
    act: Callable[[LedgerService, ApiCall, Q], Awaitable[Any]]
    known: Mapping[str, str] = field(default_factory=dict)

    def read(self, fields: dict[str, Any], path: Mapping[str, str]) -> Q:
        """Return the message of a body. Raises BadMessage."""
        for name, value in self.known.items():
            if fields.pop(name, value) != value:
                raise BadMessage(f"{name!r} must be {value!r} here, as the RPC's name says")
        return self.request.from_json(fields, **self.known, **path)


def limit_of(who: str) -> int:
    """Return how many bytes a body may have on a route for `who`."""
    return MAX_ANYBODYS if who in ("public", "read", "holder") else MAX_REQUEST


class Accepted(NamedTuple):
    """An answer that says that something waits for somebody else (HTTP 202)."""

    body: Any


class Created(NamedTuple):
    """An answer that says that something was made (HTTP 201)."""

    body: Any


#: What begins a value in JSON: a text, a list or an object, or what stands before any other.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{,]', re.DOTALL)


class ApiHandler(Bounded):
    """Authenticates, decodes, calls one function and encodes its answer or its error."""

    def initialize(self, **settings: Any) -> None:
        """Take the route's settings: for each method who may use it and what it does."""
        super().initialize()
        self._service: LedgerService = settings["service"]
        self._endpoints: Mapping[str, Endpoint[Any]] = settings["endpoints"]
        self._names: tuple[str, ...] = settings["names"]
        self._wrap: bool = settings["wrap"]
        self._route: str = settings["route"]
        self._caller, self._serving = Caller(), False
        self.path_args: list[str] = []  # Tornado sets them for methods that it knows alone.

    def set_default_headers(self) -> None:
        """Mark every answer as luigid's own: by that a worker tells it from a proxy's."""
        self.set_header(ANSWERED, "1")

    async def admit(self) -> None:
        """Let in whom the route names. Raises Refused, SpendDenied (`unknown_key`), LedgerUnavailable."""
        endpoint = self._endpoints.get(self.request.method or "")
        if endpoint is None:
            raise self._method_not_allowed()
        who = endpoint.who
        self._caller = check(self.request, who, self._service)
        if who == "key":
            await self._service.check_key(self._caller.key)
        self.limit = limit_of(who)
        if (self.declared or 0) > self.limit:
            raise self._too_large()
        if who == "key":
            await self.hold(self._service.bodies, self._caller.key)

    async def _serve(self, *path: str) -> None:
        self._serving = True
        if self.refusal is not None:
            self.end_refused(self.refusal)
            return
        try:
            endpoint = self._endpoints[self.request.method or ""]
            request = endpoint.read(self._fields(), self._path(path))
            if endpoint.who in NEEDED:
                ACTOR.set(self._caller.actor)
            answer = await endpoint.act(self._service, ApiCall(self, self._caller), request)
            status = 201 if isinstance(answer, Created) else 202 if isinstance(answer, Accepted) else 200
            answer = answer.body if isinstance(answer, (Created, Accepted)) else answer
            self._answer(status, {"response": answer} if self._wrap else answer)
        except Exception as error:
            self.refuse(error)

    def refuse(self, error: Exception) -> None:
        """Answer a refusal as JSON; raise what is none."""
        if isinstance(error, SpendDenied) and error.reason == "unknown_key":
            error = wrong(self.request, self._service) or error
        if isinstance(error, Refused):
            self._error(error.status, error.code, error.message)
        elif isinstance(error, SpendDenied):
            facts = {"facts": error.facts} if error.facts else {}
            self._error(error.denial_status, error.reason, error.message, **facts)
        elif isinstance(error, LedgerError):
            if error.status >= 500:
                logger.error("%s", error, exc_info=error if isinstance(error, LedgerFailed) else None)
            self._error(error.status, error.code, str(error))
        elif isinstance(error, (BadMessage, BadAmount, ConfigError)):
            self._error(400, "bad_request", str(error))
        else:
            raise error

    get = post = delete = put = patch = head = options = _serve

    def shown_path(self, hidden: str) -> str:
        """Return the path for a log: what it names only where that was found, and never what may be a key."""
        path, service = self._route, self._service
        found = self.get_status() < 400 and service is not None and service.has_ledger
        names = dict(zip(self._names, self.path_args, strict=False))
        for name in self._names or ("any",):
            run = service.state.runs.get(names[name]) if name == "run_id" and name in names else None
            is_known = found or (run is not None and run.opened)
            is_shown = name in names and is_known and not path.startswith("/vault/")
            path = path.replace(f"{{{name}}}", quote(names[name], safe="") if is_shown else hidden)
        return path

    def _request_summary(self) -> str:
        # Tornado names a request so in its own messages.
        return f"{self.request.method} {self.shown_path('…')} ({self.request.remote_ip})"

    def on_connection_close(self) -> None:
        """Keep nothing of a client that has gone before it has asked."""
        super().on_connection_close()
        if not self._serving:
            self.on_finish()

    def _method_not_allowed(self) -> Refused:
        self.set_header("Allow", ", ".join(self._endpoints))
        return Refused(405, "method_not_allowed", f"use {' or '.join(self._endpoints)} here")

    def _too_large(self) -> Refused:
        return Refused(413, "too_large", f"a body has at most {self.limit} bytes here")

    def _path(self, parts: tuple[str, ...]) -> dict[str, str]:
        """Return what the path says, by name: blanks at its ends are no part of a run's."""
        return {n: p.strip() if n == "run_id" else p for n, p in zip(self._names, parts, strict=True)}

    def _fields(self) -> dict[str, Any]:
        if self.size > self.limit:
            raise self._too_large()
        if not (body := self.body):
            return {}
        if media_type_in(self.request.headers.get("Content-Type", "")) != "application/json":
            what = "send JSON in UTF-8: Content-Type application/json, with charset=utf-8 or without"
            raise Refused(415, "unsupported_media_type", what)
        many = len(body) > MAX_TOKENS  # Each is a byte at least.
        if many and next(islice(_TOKENS.finditer(body), MAX_TOKENS, None), None) is not None:
            raise Refused(400, "bad_request", f"the body has more than {MAX_TOKENS} values and names")
        try:
            fields = strict_json.read(body)
        except strict_json.NotStrict as error:
            raise Refused(400, "bad_request", str(error)) from None
        except (ValueError, RecursionError):
            raise Refused(400, "bad_request", "the body is not JSON in UTF-8") from None
        if not isinstance(fields, dict):
            raise Refused(400, "bad_request", "the body must be a JSON object")
        return fields

    def _error(self, status: int, code: str, message: str, **more: Any) -> None:
        # It may name what was asked for, and that may be a key in the wrong place.
        self._answer(status, {"error": code, "message": redaction.hide(message), **more})

    def _answer(self, status: int, body: Any) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        if self.closing:
            self.set_header("Connection", "close")
        self.finish(json.dumps(body, ensure_ascii=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an unexpected error in the same shape, without its text."""
        if status_code == 405:
            refused = self._method_not_allowed()
            self._error(405, refused.code, refused.message)
            return
        if status_code < 500:
            self._error(status_code, "bad_request", "the request's path or body cannot be decoded")
            return
        self._answer(status_code, {"error": "internal", "message": "see luigid's log"})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log unexpected errors; a client that went away is none."""
        if not isinstance(value, HTTPError):
            what = f"{self.request.method} {self.shown_path('…')}"
            logger.error("%s failed", what, exc_info=(typ, value, tb))


class Lost(ApiHandler):
    """Answers an address below ours that is no route, such as one with a slash too many."""

    async def admit(self) -> None:
        """Let nobody in. Raises Refused."""
        what = "there is no such route: docs/http-api.md lists them; a run_id in a path is percent-encoded"
        raise Refused(404, "not_found", f"{what}, and no slash ends one")


class ApiCall:
    """What a route's function is given beside its message: who asks, and the query."""

    def __init__(self, handler: ApiHandler, caller: Caller) -> None:
        self.handler, self.caller, self.key = handler, caller, caller.key

    def query_only(self, *names: str) -> None:
        """Refuse query parameters that the route does not know. Raises BadMessage."""
        if unknown := sorted(set(self.handler.request.query_arguments) - set(names)):
            known = ", ".join(sorted(names)) or "none"
            raise BadMessage(f"unknown query parameter {unknown[0][:60]!r}: this route takes {known}")

    def run(self) -> str | None:
        """Return the run that the query asks for; None: all of them. Raises BadMessage."""
        value = self.query("run")
        return None if value is None else value.strip()

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """Return a number of the query. Raises BadMessage."""
        text = self.query(name) or str(default)
        if not (text.isascii() and text.isdecimal() and len(text) < 12 and least <= int(text) <= most):
            raise BadMessage(f"{name!r} must be a number from {least} to {most}")
        return int(text)

    def choice(self, name: str, among: Iterable[str]) -> str | None:
        """Return one of some words of the query, None where it has none. Raises BadMessage."""
        value = self.query(name)
        if value is not None and value not in among:
            raise BadMessage(f"{name!r} must be one of {', '.join(among)}")
        return value

    def moment(self, name: str) -> int | None:
        """Return a moment of the query in milliseconds since the epoch. Raises BadMessage."""
        value = self.query(name)
        try:
            return None if value is None else expiry_ms(value)
        except ValueError as error:
            raise BadMessage(f"{name!r} {error}") from None

    def page(self, rows: list[Row], limit: int, cursor: str | None) -> list[Row]:
        """Return the page of what is one row more when there are more; say by what the next is asked for.

        That is the field `cursor` of its last row, percent-encoded; None: by an offset.
        """
        if len(rows) > limit and cursor is not None:
            self.handler.set_header("X-Next-Before", quote(str(rows[limit - 1][cursor]), safe=""))
        return rows[:limit]

    def query(self, name: str) -> str | None:
        """Return a query argument as it was sent; tornado's own way strips it. Raises BadMessage."""
        values = self.handler.request.query_arguments.get(name)
        try:
            value = values[0].decode("utf-8") if values else None
        except UnicodeDecodeError:
            raise BadMessage(f"{name!r} must be UTF-8") from None
        if values and len(values) > 1:
            raise BadMessage(f"{name!r} is given twice")
        if value is not None and not 0 < len(value) <= 1000:
            raise BadMessage(f"{name!r} must be a text of 1 to 1000 characters")
        return value
