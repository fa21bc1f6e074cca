"""The binding for the Twilio SDK: its calls inside vendor tasks go through the guard.

Every call of a `Client` passes `ClientBase.request` or `request_async`, whichever product, region, HTTP
client or credential provider it has, and the further pages of a list (twilio-python 9.13,
`base/client_base.py`, `base/page.py`): there it gets an HTTP client of ours. The SDK's own HTTP clients are
guarded besides, for code that uses them by themselves.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from luigi_spendguard import importing
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.proxy import environment
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import attempt_for, takes_the_secret
from luigi_spendguard.proxy.patching import Function, Patches
from luigi_spendguard.proxy.sdk_clients import options_of
from luigi_spendguard.vendors.twilio import VENDOR
from luigi_spendguard.vendors.twilio.operations import LISTED

_patches = Patches("luigi_spendguard works with twilio 9, from 9.13 on")

#: What the SDK, and this binding of it, load when a text is sent or a call made.
_LATE = ("luigi_spendguard.proxy.twilio_http", "twilio.rest.api.v2010.account")
#: The SDK's HTTP clients, by their modules.
_HTTP_CLIENTS = {
    "twilio.http.http_client": "TwilioHttpClient",
    "twilio.http.async_http_client": "AsyncTwilioHttpClient",
    "twilio.http.validation_client": "ValidationClient",
}


def bind() -> None:
    """Put the guard into the SDK, now or when it is imported. Raises PluginError for an unknown SDK."""
    importing.when_imported("twilio.base.client_base", _guard_clients)
    for name in _HTTP_CLIENTS:
        importing.when_imported(name, _guard_http_client)


def unbind() -> None:
    """Put the SDK back as it was."""
    importing.forget("twilio.base.client_base", *_HTTP_CLIENTS)
    _patches.undo()


def preload() -> None:
    """Load what is loaded when the SDK is first used. Raises ImportError without it."""
    LISTED.read()
    for name in _LATE:
        importlib.import_module(name)


@contextmanager
def in_place(attempt: Attempt) -> Iterator[None]:
    """Do nothing: the SDK has no key of its own, and finds the vault key in the environment."""
    yield


def _guard_clients(module: ModuleType) -> None:
    _patches.put(module, "ClientBase", "request", _through_ours, reads="http_client")
    _patches.put(module, "ClientBase", "request_async", _through_ours_async, reads="http_client")


def _guard_http_client(module: ModuleType) -> None:
    kind = _HTTP_CLIENTS[module.__name__]
    _patches.put(module, kind, "request", _replaced_async if kind.startswith("Async") else _replaced)


class _Asked(NamedTuple):
    """What a call of the SDK is asked for with."""

    method: str
    url: str
    params: Any
    data: Any
    headers: Any
    auth: Any

    def __repr__(self) -> str:
        return f"{self.method} {self.url}"  # In a traceback with local variables, too.

    def shown_by(self, client: Any) -> _Asked:
        """Return the call with what a client of the SDK's shows in it: the client's own where it has none."""
        shown = self.auth or (client.username, client.password)
        return self._replace(auth=shown if all(part is not None for part in shown) else None)

    def attempt(self) -> Attempt | None:
        """Return the attempt that the call belongs to, None for one that passes. Raises SpendDenied."""
        from luigi_spendguard.proxy.twilio_http import as_twilio_error, request_of

        request = request_of(*self)
        try:
            return attempt_for(VENDOR, request.method, request.url, request.headers)
        except SpendDenied as denied:
            raise as_twilio_error(denied, request.method, request.url) from None

    def revealed(self) -> _Asked:
        """Return a call that passes, with the secret where a stand-in for it is shown."""
        auth = self.auth
        if not (isinstance(auth, tuple) and all(isinstance(part, str) for part in auth)):
            return self
        real = tuple(map(environment.stands_for, auth))
        return self._replace(auth=real) if real != auth and takes_the_secret(VENDOR, self.url) else self


def _with(client: Any, http_client: Any) -> Any:
    """Return a client like `client` that sends by `http_client`; other threads' calls go on with theirs."""
    made = object.__new__(type(client))
    vars(made).update(vars(client))
    made.http_client = http_client
    return made


def _read(
    method: str,
    url: str = "",
    params: Any = None,
    data: Any = None,
    headers: Any = None,
    auth: Any = None,
    *more: Any,
    **named: Any,
) -> tuple[_Asked, tuple[Any, ...], dict[str, Any]]:
    """Return what a function of the SDK's is called with: what every one takes, and what follows.

    A client calls the address `uri`, its HTTP client `url`.
    """
    return _Asked(method, named.pop("uri", url), params, data, headers, auth), more, named


def _through_ours(original: Function) -> Function:
    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked, more, named = _read(*args, **kwargs)
        shown = asked.shown_by(self)
        attempt = shown.attempt()
        if attempt is None:
            return original(self, *shown.revealed(), *more, **named)
        from luigi_spendguard.proxy.twilio_http import GuardedTwilioClient, without_frames

        client = _with(self, GuardedTwilioClient(attempt, options_of(self.http_client, asked.url)))
        try:
            return original(client, *asked, *more, **named)
        except Exception as error:
            raised = without_frames(error)
        raise raised

    return request


def _through_ours_async(original: Function) -> Function:
    async def request_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked, more, named = _read(*args, **kwargs)
        shown = asked.shown_by(self)
        attempt = shown.attempt()
        if attempt is None:
            return await original(self, *shown.revealed(), *more, **named)
        from luigi_spendguard.proxy.twilio_http import GuardedAsyncTwilioClient, without_frames

        own = self.http_client
        client = _with(self, GuardedAsyncTwilioClient(attempt, own, options_of(own, asked.url)))
        try:
            return await original(client, *asked, *more, **named)
        except Exception as error:
            raised = without_frames(error)
        raise raised

    return request_async


def _replaced(original: Function) -> Function:
    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked, more, named = _read(*args, **kwargs)
        attempt = asked.attempt()
        if attempt is None:
            return original(self, *asked.revealed(), *more, **named)
        from luigi_spendguard.proxy.twilio_http import GuardedTwilioClient, without_frames

        try:
            return GuardedTwilioClient(attempt, options_of(self, asked.url)).request(*asked)
        except Exception as error:
            raised = without_frames(error)
        raise raised

    return request


def _replaced_async(original: Function) -> Function:
    async def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked, more, named = _read(*args, **kwargs)
        attempt = asked.attempt()
        if attempt is None:
            return await original(self, *asked.revealed(), *more, **named)
        from luigi_spendguard.proxy.twilio_http import GuardedAsyncTwilioClient, without_frames

        try:
            return await GuardedAsyncTwilioClient(attempt, self, options_of(self, asked.url)).request(*asked)
        except Exception as error:
            raised = without_frames(error)
        raise raised

    return request
