"""The binding for the Resend SDK: its calls inside vendor tasks go through the guard.

Every call passes `make_request` of a `Request` or `AsyncRequest`, which asks the module `resend` for its
HTTP client (resend-python 2.52, `request.py`, `async_request.py`). While a vendor task's call is made, the
module answers with ours, whatever client the pipeline has set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from luigi_spendguard.errors import PluginError, SpendDenied
from luigi_spendguard.process_state import Blocks
from luigi_spendguard.proxy import attempts, environment, patching
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import attempt_for, revealed
from luigi_spendguard.proxy.client_options import ClientOptions, options_of
from luigi_spendguard.proxy.patching import Function, Patches
from luigi_spendguard.vendors.resend import VENDOR

_WORKS_WITH = "luigi_spendguard works with resend 2, from 2.52 on"
_KEY_VARIABLE = "RESEND_API_KEY"
#: Which client the SDK asks its module for.
_CLIENT, _ASYNC_CLIENT = "default_http_client", "default_async_http_client"

_patches = Patches(_WORKS_WITH)
#: Our client of the call that is being made in this context.
_ours: ContextVar[Any] = ContextVar("spendguard_resend_client", default=None)

_blocks = Blocks()


def bind() -> None:
    """Put the guard into the SDK, now or when it is imported. Raises PluginError for an unknown SDK."""
    patching.when_imported("resend", _guard_module)
    patching.when_imported("resend.request", _guard_requests)
    patching.when_imported("resend.async_request", _guard_async_requests)


def unbind() -> None:
    """Put the SDK back as it was."""
    patching.forget("resend", "resend.request", "resend.async_request")
    _patches.undo()
    module = sys.modules.get("resend")
    if module is not None and issubclass(type(module), _Answering):
        module.__class__ = ModuleType


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


class _Answering(ModuleType):
    """What the module `resend` is made: it answers for its HTTP clients by way of `_ours`."""

    @property
    def default_http_client(self) -> Any:
        """The client of synchronous calls."""
        return _client(self, _CLIENT)

    @default_http_client.setter
    def default_http_client(self, client: Any) -> None:
        vars(self)[_CLIENT] = client

    @property
    def default_async_http_client(self) -> Any:
        """The client of asynchronous calls."""
        return _client(self, _ASYNC_CLIENT)

    @default_async_http_client.setter
    def default_async_http_client(self, client: Any) -> None:
        vars(self)[_ASYNC_CLIENT] = client


def _client(module: ModuleType, name: str) -> Any:
    ours = _ours.get()
    if ours is not None:
        return ours
    try:
        return vars(module)[name]
    except KeyError:
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}") from None


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
    from luigi_spendguard.proxy.resend_http import as_resend_error

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
        from luigi_spendguard.proxy.resend_http import GuardedResendClient, brought_out

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
        from luigi_spendguard.proxy.resend_http import GuardedAsyncResendClient, brought_out

        try:
            with _sending_by(GuardedAsyncResendClient(attempt, _options(_ASYNC_CLIENT, url))):
                return await original(self, url)
        except Exception as error:
            raised = brought_out(error)
        raise raised

    return make_request
