"""A request and its answer: authenticated, decoded strictly, and one JSON shape for errors."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from tornado.web import HTTPError, RequestHandler

from luigi_spendguard.config import ConfigError
from luigi_spendguard.errors import LedgerError, SpendDenied
from luigi_spendguard.messages import BadMessage
from luigi_spendguard.money import BadAmount
from scheduler_patch.auth import Refused, check
from scheduler_patch.office import Office

logger = logging.getLogger(__name__)

#: The largest body that our routes read, in bytes.
MAX_REQUEST = 4 << 20

Fields = dict[str, Any]
Act = Callable[[Office, "Call"], Awaitable[Any]]


class Created(NamedTuple):
    """An answer that says that something was made (HTTP 201)."""

    body: Any


class _Twice(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _once(pairs: list[tuple[str, Any]]) -> Fields:
    """Make an object of its pairs; a name given twice could be read in two ways."""
    fields: Fields = {}
    for name, value in pairs:
        if name in fields:
            raise _Twice(name)
        fields[name] = value
    return fields


class Handler(RequestHandler):
    """Authenticates, decodes, calls one function and encodes its answer or its error."""

    def initialize(self, office: Office, methods: Mapping[str, tuple[str, Act]], wrap: bool) -> None:
        """Take the route's settings: for each method who may use it and what it does."""
        self._office, self._methods, self._wrap = office, methods, wrap

    async def _serve(self, *path: str) -> None:
        try:
            who, act = self._methods.get(self.request.method or "", ("", None))
            if act is None:
                raise self._method_not_allowed()
            key = check(self.request, who, self._office)
            fields = self._fields()
            answer = await act(self._office, Call(self, key, fields, path))
            if key:
                self._office.throttle.was_right(key)
            status, answer = (201, answer.body) if isinstance(answer, Created) else (200, answer)
            self._answer(status, {"response": answer} if self._wrap else answer)
        except Refused as error:
            self._error(error.status, error.code, error.message)
        except SpendDenied as error:
            if error.reason == "unknown_key":
                self._office.throttle.was_wrong(self.request.remote_ip or "")
            facts = {"facts": error.facts} if error.facts else {}
            self._answer(error.denial_status, {"error": error.reason, "message": error.message, **facts})
        except LedgerError as error:
            if error.status >= 500:
                logger.error("%s", error)
            self._error(error.status, error.code, str(error))
        except (BadMessage, BadAmount, ConfigError) as error:
            self._error(400, "bad_request", str(error))

    get = post = delete = put = patch = head = options = _serve

    def _request_summary(self) -> str:
        # A key may be revoked by itself, in the path; Luigi's access log is none of the places to keep it.
        return re.sub(r"vault_key_[^/? ]*", "vault_key_…", super()._request_summary())

    def _method_not_allowed(self) -> Refused:
        self.set_header("Allow", ", ".join(self._methods))
        return Refused(405, "method_not_allowed", f"use {' or '.join(self._methods)} here")

    def _fields(self) -> Fields:
        if len(self.request.body) > MAX_REQUEST:
            raise Refused(413, "too_large", f"a body has at most {MAX_REQUEST} bytes")
        if not self.request.body:
            return {}
        kind = self.request.headers.get("Content-Type", "").split(";")[0].strip()
        if kind != "application/json":
            raise Refused(415, "unsupported_media_type", "send application/json")
        try:
            fields = json.loads(self.request.body, object_pairs_hook=_once)
            json.dumps(fields, ensure_ascii=False).encode()  # Half a surrogate pair fits no database.
        except _Twice as error:
            raise Refused(400, "bad_request", f"the field {error.name[:60]!r} is given twice") from None
        except (ValueError, RecursionError):
            raise Refused(400, "bad_request", "the body is not JSON in UTF-8") from None
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
            logger.error("%s %s failed", self.request.method, self.request.path,
                         exc_info=(typ, value, tb))  # fmt: skip


class Lost(Handler):
    """Answers an address below ours that is no route, such as one with a slash too many."""

    async def _serve(self, *path: str) -> None:
        what = f"there is no route {self.request.path[:200]!r}: docs/http-api.md lists them"
        self._error(404, "not_found", f"{what}; a run_id in a path is percent-encoded, and no slash ends one")

    get = post = delete = put = patch = head = options = _serve


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
            raise BadMessage(f"unknown field {unknown[0]!r}: this route takes {', '.join(names) or 'none'}")

    def query_only(self, *names: str) -> None:
        """Refuse query parameters that the route does not know. Raises BadMessage."""
        if unknown := sorted(set(self.handler.request.query_arguments) - set(names)):
            known = ", ".join(sorted(names)) or "none"
            raise BadMessage(f"unknown query parameter {unknown[0][:60]!r}: this route takes {known}")

    def run_id(self, *names: str) -> str:
        """Return the run of the path, or of the RPC's field, beside which only `names` may stand."""
        if self.path:
            self.only(*names)
            return self.path[0]
        self.only("run_id", *names)
        return self.text("run_id")

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
