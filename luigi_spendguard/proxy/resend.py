"""The binding for the Resend SDK: its calls inside vendor tasks go through the guard.

Every call passes `make_request` of a `Request` or `AsyncRequest`, which asks the module `resend` for its
HTTP client (resend-python 2.52, `request.py`, `async_request.py`). While a vendor task's call is made, the
module answers with ours, whatever client the pipeline has set.

A request is made by `requests`, as the SDK's own client makes it (`http_client_requests.py`), except that a
GET or DELETE carries no empty JSON object: some servers refuse it. The SDK makes every exception of an HTTP
client a `ResendError(500, "HttpClientError")`: what that hides of ours is brought out again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from types import ModuleType
from typing import Any, cast

from requests.structures import CaseInsensitiveDict

from luigi_spendguard import importing
from luigi_spendguard.errors import OutcomeUnknown, PluginError, SpendDenied, SpendguardError, bare
from luigi_spendguard.guard.effects import Call, NotSent
from luigi_spendguard.process_state import Blocks
from luigi_spendguard.protocol import commands
from luigi_spendguard.proxy import attempts, environment
from luigi_spendguard.proxy.aio import in_thread
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import attempt_for, revealed, send
from luigi_spendguard.proxy.patching import Function, Patches
from luigi_spendguard.proxy.sdk_clients import (
    PLAIN,
    ClientOptions,
    also,
    not_answered,
    not_sent,
    options_of,
    prepared,
)
from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.resend import VENDOR
from luigi_spendguard.vendors.resend.operations import LISTED

_WORKS_WITH = "luigi_spendguard works with resend 2, from 2.52 on"
_KEY_VARIABLE = "RESEND_API_KEY"
#: The SDK's class of an error, by the reason of a denial.
_NATURAL = {
    "cap": "RateLimitError",
    "revoked": "InvalidApiKeyError",
    "expired": "InvalidApiKeyError",
    "unknown_key": "InvalidApiKeyError",
    "idempotency_mismatch": "ValidationError",
}
#: Which client the SDK asks its module for.
_CLIENT, _ASYNC_CLIENT = "default_http_client", "default_async_http_client"

_patches = Patches(_WORKS_WITH)
#: Our client of the call that is being made in this context.
_ours: ContextVar[Any] = ContextVar("spendguard_resend_client", default=None)

_blocks = Blocks()


def bind() -> None:
    """Put the guard into the SDK, now or when it is imported. Raises PluginError for an unknown SDK."""
    importing.when_imported("resend", _guard_module)
    importing.when_imported("resend.request", _guard_requests)
    importing.when_imported("resend.async_request", _guard_async_requests)


def unbind() -> None:
    """Put the SDK back as it was."""
    importing.forget("resend", "resend.request", "resend.async_request")
    _patches.undo()
    module = sys.modules.get("resend")
    if module is not None and issubclass(type(module), _Answering):
        module.__class__ = ModuleType


def preload() -> None:
    """Load what is loaded when the SDK is first used: nothing of its own."""
    LISTED.read()


def in_place(attempt: Attempt) -> AbstractContextManager[None]:
    """Let the SDK have the attempt's vault key where it has no key, or the secret.

    It reads its variable once, when it is imported: afterwards it has again what that says then. To be
    entered before the environment's variables are hidden.
    """
    return _blocks.block(lambda _: _put_in_place(attempt), _put_back)


def _put_in_place(attempt: Attempt) -> None:
    module: Any = sys.modules.get("resend")
    if module is not None and _replaceable(getattr(module, "api_key", ""), attempt):
        module.api_key = attempt.key


def _put_back(last: bool) -> None:
    module: Any = sys.modules.get("resend")
    if last and module is not None and attempts.is_vault_key(str(getattr(module, "api_key", ""))):
        module.api_key = os.environ.get(_KEY_VARIABLE)


def _replaceable(key: str | None, attempt: Attempt) -> bool:
    if key is None or attempts.is_vault_key(key):
        return True
    return environment.stands_for(key) == environment.secret_of(VENDOR, attempt.settings)


def _answered(name: str) -> property:
    """Return the property by which the module answers for one of its HTTP clients."""

    def client(module: ModuleType) -> Any:
        ours = _ours.get()
        if ours is not None:
            return ours
        try:
            return vars(module)[name]
        except KeyError:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}") from None

    def put(module: ModuleType, client: Any) -> None:
        vars(module)[name] = client

    return property(client, put)


class _Answering(ModuleType):
    """What the module `resend` is made: it answers for its HTTP clients by way of `_ours`."""

    default_http_client = _answered(_CLIENT)
    default_async_http_client = _answered(_ASYNC_CLIENT)


def _guard_module(module: ModuleType) -> None:
    for name in (_CLIENT, _ASYNC_CLIENT):
        if name not in vars(module):
            raise PluginError(f"there is no resend.{name}: {_WORKS_WITH}")
    if type(module) is ModuleType:
        module.__class__ = _Answering
    elif not isinstance(module, _Answering):
        raise PluginError("the module resend is no plain module: something else has replaced it already")


def _guard_requests(module: ModuleType) -> None:
    _patches.put(module, "Request", "make_request", _guarded, reads=_CLIENT)


def _guard_async_requests(module: ModuleType) -> None:
    _patches.put(module, "AsyncRequest", "make_request", _guarded_async, reads=_ASYNC_CLIENT)


def _attempt(request: Any, url: str) -> Attempt | None:
    """Return the attempt that a call belongs to, None for one that passes. Raises SpendDenied."""
    key = getattr(sys.modules["resend"], "api_key", None)
    try:
        return attempt_for(VENDOR, request.verb, url, {"authorization": f"Bearer {key}"})
    except SpendDenied as denied:
        raise as_resend_error(denied) from None


def _options(name: str, url: str) -> ClientOptions:
    return options_of(vars(sys.modules["resend"]).get(name), url)


@contextmanager
def _sending_by(client: Any) -> Iterator[None]:
    token = _ours.set(client)
    try:
        yield
    finally:
        _ours.reset(token)


class _Passing:
    """The HTTP client of a call that passes: the pipeline's own, synchronous or not."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def request(self, method: str, url: str, headers: Any, **more: Any) -> Any:
        """Send by it, with the secret where a stand-in for it is shown."""
        return self._own.request(method=method, url=url, headers=revealed(VENDOR, url, headers), **more)


def _guarded(original: Function) -> Function:
    def make_request(self: Any, url: str) -> Any:
        attempt = _attempt(self, url)
        if attempt is None:
            with _sending_by(_Passing(vars(sys.modules["resend"]).get(_CLIENT))):
                return original(self, url)
        try:
            with _sending_by(GuardedResendClient(attempt, _options(_CLIENT, url))):
                return original(self, url)
        except Exception as error:
            raised = brought_out(error)
        raise raised

    return make_request


def _guarded_async(original: Function) -> Function:
    async def make_request(self: Any, url: str) -> Any:
        attempt = _attempt(self, url)
        if attempt is None:
            with _sending_by(_Passing(vars(sys.modules["resend"]).get(_ASYNC_CLIENT))):
                return await original(self, url)
        try:
            with _sending_by(GuardedAsyncResendClient(attempt, _options(_ASYNC_CLIENT, url))):
                return await original(self, url)
        except Exception as error:
            raised = brought_out(error)
        raise raised

    return make_request


def as_resend_error(error: SpendDenied | OutcomeUnknown) -> Exception:
    """Return a denial, or an unknown outcome, as an exception that is also the SDK's natural error."""
    from resend import exceptions  # Here: the SDK may not be installed.

    if isinstance(error, exceptions.ResendError):
        return error
    shaped = VENDOR.shape(error)
    body = json.loads(shaped.body)
    natural = exceptions.ResendError
    if isinstance(error, SpendDenied):
        natural = getattr(exceptions, _NATURAL.get(error.reason, "ResendError"))
        advice = "Do not send it again: the message says what has to be changed first."
    else:
        advice = f"Look at Resend's own list, then {commands.resolve_text(error.call_id or 'CALL')}."
    ours: exceptions.ResendError = also(error, natural, "Resend")
    # Not `natural.__init__`: its advice is to wait, or to make another key.
    exceptions.ResendError.__init__(
        ours,
        code=shaped.status,
        error_type=body["name"],
        message=body["message"],
        suggested_action=advice,
        headers=cast("dict[str, str]", CaseInsensitiveDict(shaped.headers)),
    )
    return ours


def brought_out(error: Exception) -> Exception:
    """Return what the SDK hides of ours in a `ResendError`, else the error itself.

    Without the frames that it went through, which hold the request's headers.
    """
    from resend.exceptions import ResendError

    hidden = error.__context__ if isinstance(error, ResendError) else error
    if isinstance(hidden, (SpendDenied, OutcomeUnknown)):
        return bare(as_resend_error(hidden))
    if isinstance(hidden, SpendguardError) and not isinstance(hidden, NotSent):
        return bare(hidden)
    return bare(error) if isinstance(error, ResendError) else error


_Answer = tuple[bytes, int, Mapping[str, str]]


def request_of(
    method: str, url: str, headers: Mapping[str, str], json: Any = None, files: Any = None, data: Any = None
) -> Request:
    """Return the request that the SDK's own client would send for its arguments."""
    verb = method.upper()
    if files is not None or data is not None or (verb in ("GET", "DELETE") and not json):
        json = None
    request = prepared(verb, url, dict(headers), json=json, files=files, data=data)
    if request.headers.get("authorization") != "Bearer None":  # The SDK's text for no key.
        return request
    shown = {name: value for name, value in request.headers.items() if name != "authorization"}
    return replace(request, headers=shown)


class GuardedResendClient:
    """The HTTP client of one logical call, synchronous."""

    def __init__(self, attempt: Attempt, options: ClientOptions = PLAIN) -> None:
        self._attempt, self._options = attempt, options

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        json: Any = None,
        files: Any = None,
        data: Any = None,
    ) -> _Answer:
        """Send once under a reservation.

        Raises SpendDenied, OutcomeUnknown, and RuntimeError for what the SDK's own client calls a failed
        request: nothing was sent, or the exchange broke.
        """
        return self._answer(request_of(method, url, headers, json, files, data))

    def _answer(self, request: Request) -> _Answer:
        try:
            reply = send(VENDOR, request, Call(), self._attempt, options=self._options)
        except NotSent as error:
            raise RuntimeError(not_sent("Resend", error)) from error
        except OSError as error:
            raise RuntimeError(not_answered("Resend", error)) from error
        return reply.body, reply.status, CaseInsensitiveDict(reply.headers)


class GuardedAsyncResendClient(GuardedResendClient):
    """The same for an asynchronous call, which lives in a thread."""

    async def request(  # type: ignore[override]  # of the SDK's other kind of client
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        json: Any = None,
        files: Any = None,
        data: Any = None,
    ) -> _Answer:
        request = request_of(method, url, headers, json, files, data)
        return await in_thread(self._attempt.claim_id, lambda: self._answer(request))
