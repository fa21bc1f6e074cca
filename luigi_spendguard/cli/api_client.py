"""The operator's side of luigid-spendguard's HTTP API, for the command line."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from configparser import InterpolationError
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import luigi.configuration
import urllib3

from luigi_spendguard.cli.tokens import Token
from luigi_spendguard.errors import SpendguardError
from luigi_spendguard.http.addresses import SchedulerAddress
from luigi_spendguard.http.unreached import Unreached
from luigi_spendguard.protocol import ANSWERED
from luigi_spendguard.protocol.messages import UPGRADE, other_version
from luigi_spendguard.redaction import Secret

#: Seconds until a luigid that does not answer is given up; a revoke waits for grants of 2 s.
TIMEOUT_S = 30.0
#: What is answered while nobody can be asked: that says nothing of what was asked for.
_NOT_NOW = (502, 503, 504)
#: Seconds to connect in, TLS included.
CONNECT_S = 5.0


class OperatorError(SpendguardError):
    """A command was not carried out.

    Attributes:
        exit_code: 1 refused, 3 cannot be reached or asked now, 4 not allowed.
        code: the error's code, where luigid has answered with one.

    """

    def __init__(self, message: str, exit_code: int = 1, code: str = "") -> None:
        super().__init__(message)
        self.exit_code, self.code = exit_code, code


def scheduler_url() -> str:
    """Return the address of luigid as Luigi's own configuration has it. Raises OperatorError."""
    config = luigi.configuration.get_config()
    try:
        url = config.get("core", "default_scheduler_url", "") or config.get(
            "core", "default-scheduler-url", ""
        )
        if url:
            return str(url)
        host = config.get("core", "default_scheduler_host", "localhost")
        return f"http://{host}:{config.get('core', 'default_scheduler_port', 8082)}"
    except InterpolationError:
        raise OperatorError(
            "the address of luigid in [core] of luigi.cfg cannot be read: Luigi wants a % there as %%", 2
        ) from None


class Operator:
    """Calls the API at `url` with a token, as `tokens` chooses it. All methods raise OperatorError."""

    who, remedy = "luigid-spendguard", "start it, or name its address with --url"

    def __init__(self, url: str, token: Token, timeout_s: float = TIMEOUT_S) -> None:
        try:
            self._address = SchedulerAddress.of(url)
        except ValueError as error:
            raise OperatorError(str(error), 2) from None
        self.url, self.given = self._address.url, Secret(url)
        self.token = token
        #: Whether luigid has changed something that was asked for.
        self.has_changed = False
        self._headers = {"Accept": "application/json", **self._address.credentials(token.value)}
        self._pool = self._address.pool(timeout=urllib3.Timeout(connect=CONNECT_S, read=timeout_s))

    def under(self, token: Token) -> Operator:
        """Return a client of the same address that shows another token."""
        return Operator(self.given, token)

    def patient(self, timeout_s: float) -> Operator:
        """Return a client of the same address that waits so long for an answer."""
        return Operator(self.given, self.token, timeout_s)

    def at(self, url: str, token: Token, who: str, remedy: str) -> Operator:
        """Return a client of another address and its token; `who` is there, `remedy` if it is not."""
        here, there = urlsplit(str(self.given)), urlsplit(url)
        user = here.netloc.rpartition("@")[0]
        if user and (here.scheme, here.netloc.rpartition("@")[2]) == (there.scheme, there.netloc):
            url = there._replace(netloc=f"{user}@{there.netloc}").geturl()  # The same proxy asks for them.
        other = Operator(url, token)
        other.who, other.remedy = who, remedy
        return other

    def get(self, path: str, **query: str | None) -> Any:
        """Read a route."""
        return self._read(path, query)[0]

    def total(self, path: str, **query: str | None) -> int | None:
        """Return how many rows a route that lists something has on all pages, where it says so."""
        total = self._read(path, {**query, "limit": "1"})[1].get("X-Total-Count")
        return None if total is None else int(total)

    def _read(self, path: str, query: Mapping[str, str | None]) -> tuple[Any, Mapping[str, str]]:
        asked = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", path + (f"?{urlencode(asked)}" if asked else ""))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Change something."""
        answer = self._call("POST", path, body)[0]
        only_looked = body.get("dry_run") or (isinstance(answer, dict) and answer.get("repeated"))
        self.has_changed = self.has_changed or not only_looked
        return answer

    def delete(self, path: str) -> Any:
        """Revoke something."""
        answer = self._call("DELETE", path)[0]
        self.has_changed = True
        return answer

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        """Return what luigid answers, and its headers.

        What it has not marked as its own (`ANSWERED`) it has not said: what was asked for may be done.
        """
        headers, tries = dict(self._headers), _Tries()
        again = "" if method == "GET" else _again(method, body)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            reply = self._pool.request(
                method,
                self._address.base + path,
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                retries=tries.policy(),
            )
        except urllib3.exceptions.HTTPError as error:
            said = Unreached.of(error).said(f"{self.who} at {self.url}", self.remedy)
            raise OperatorError(said + (again if tries.may_be_sent else ""), 3) from None
        try:
            answer = json.loads(reply.data)
        except ValueError:
            answer = None
        is_luigids = reply.headers.get(ANSWERED) is not None
        if is_luigids and 200 <= reply.status < 300 and answer is not None:
            return answer, reply.headers
        if is_luigids and isinstance(answer, dict) and "message" in answer:
            message, code = str(answer["message"]), str(answer.get("error", ""))
            if reply.status in (401, 403):
                raise OperatorError(f"{message} ({self.token.said})", 4, code)
            versions = UPGRADE if code == "method_not_allowed" else other_version(message)
            exit_code = 3 if reply.status in _NOT_NOW else 1
            message += again if reply.status >= 500 else ""
            raise OperatorError(f"{message} ({versions})" if versions else message, exit_code, code)
        said, passes_on = self._stranger(reply)
        raise OperatorError(said + (again if passes_on or tries.may_be_sent else ""), 3)

    def _stranger(self, reply: Any) -> tuple[str, bool]:
        """Say what answers in place of luigid-spendguard, and whether it may have passed on what it got."""
        if reply.status in (401, 407):
            return (
                f"what stands before {self.url} lets nobody in (HTTP {reply.status}): give its user and "
                "password in the address, http://user:password@…, percent-encoded"
            ), False
        if reply.status in (404, 405) and reply.headers.get("Server", "").startswith("TornadoServer/"):
            return (
                f"{self.url} answered HTTP {reply.status} and keeps no budgets: is it a stock luigid? Start "
                "luigid-spendguard instead, or switch it on with [scheduler] metrics_custom_import "
                f"(docs/configuration.md). Or is this command new to it? Then {UPGRADE}"
            ), False
        return (
            f"something answered HTTP {reply.status} at {self.url}: it is no luigid. Name luigid's address "
            "with --url or [core] default_scheduler_url; let what stands before it pass on its answers with "
            f"all headers ({ANSWERED}). Where it is an older luigid, {UPGRADE}"
        ), True


class _Tries:
    """One more try over a broken connection: every change carries a request id, or changes nothing twice."""

    def __init__(self) -> None:
        #: Whether one of them may have sent the request.
        self.may_be_sent = False

    def policy(self) -> urllib3.Retry:
        """Return the retries of one request."""
        tries = self

        class Policy(urllib3.Retry):
            def increment(
                self,
                method: str | None = None,
                url: str | None = None,
                response: Any = None,
                error: Exception | None = None,
                _pool: Any = None,
                _stacktrace: Any = None,
            ) -> Policy:
                """Take note of a try that was sent, perhaps, and count it."""
                tries.may_be_sent = tries.may_be_sent or not _was_connecting(error)
                return super().increment(method, url, response, error, _pool, _stacktrace)

        return Policy(1, redirect=False, backoff_factor=0.2, allowed_methods=None)


def _was_connecting(error: BaseException | None) -> bool:
    """Return whether a try had no connection yet on which it could send anything."""
    kinds = urllib3.exceptions
    if isinstance(error, kinds.SSLError):
        return any(isinstance(one, ssl.SSLCertVerificationError) for one in error.args)
    return isinstance(error, (kinds.ConnectTimeoutError, kinds.NewConnectionError, kinds.ProxyError))


def _again(method: str, body: Mapping[str, Any] | None) -> str:
    """Return what is said of a change of which nobody knows whether it was made."""
    request_id = (body or {}).get("request_id")
    how = "look before you repeat it"
    if request_id:
        how = f"the same command with --request-id {request_id} makes it once, whether it was or not"
    elif method == "DELETE":
        how = "the same command changes nothing twice"
    return f". It is not known whether the change was made: {how}"


def path_of(*parts: str) -> str:
    """Return a path of percent-encoded parts."""
    return "".join("/" + quote(part, safe="") for part in parts)
