"""The binding for the Twilio SDK: its calls inside vendor tasks go through the guard.

Every call of a `Client` passes `ClientBase.request` or `request_async`, whichever product, region, HTTP
client or credential provider it has, and the further pages of a list (twilio-python 9.13,
`base/client_base.py`, `base/page.py`): there it gets an HTTP client of ours. The SDK's own HTTP clients are
guarded besides, for code that uses them by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.proxy import environment, patching
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import attempt_for, takes_the_secret
from luigi_spendguard.proxy.patching import Function, Patches
from luigi_spendguard.proxy.sdk_clients import options_of
from luigi_spendguard.vendors.twilio import VENDOR

_patches = Patches("luigi_spendguard works with twilio 9, from 9.13 on")

#: The SDK's HTTP clients, by their modules.
_HTTP_CLIENTS = {
    "twilio.http.http_client": "TwilioHttpClient",
    "twilio.http.async_http_client": "AsyncTwilioHttpClient",
    "twilio.http.validation_client": "ValidationClient",
}


def bind() -> None:
    """Put the guard into the SDK, now or when it is imported. Raises PluginError for an unknown SDK."""
    patching.when_imported("twilio.base.client_base", _guard_clients)
    for name in _HTTP_CLIENTS:
        patching.when_imported(name, _guard_http_client)


def unbind() -> None:
    """Put the SDK back as it was."""
    patching.forget("twilio.base.client_base", *_HTTP_CLIENTS)
    _patches.undo()


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


def _shown(client: Any, auth: Any) -> Any:
    shown = auth or (client.username, client.password)
    return shown if all(part is not None for part in shown) else None


def _through_ours(original: Function) -> Function:
    def request(
        self: Any,
        method: str,
        uri: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        auth: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        asked = _Asked(method, uri, params, data, headers, _shown(self, auth))
        attempt = asked.attempt()
        if attempt is None:
            return original(self, *asked.revealed(), *args, **kwargs)
        from luigi_spendguard.proxy.twilio_http import GuardedTwilioClient, without_frames

        client = _with(self, GuardedTwilioClient(attempt, options_of(self.http_client, uri)))
        try:
            return original(client, method, uri, params, data, headers, auth, *args, **kwargs)
        except Exception as error:
            raised = without_frames(error)
        raise raised

    return request


def _through_ours_async(original: Function) -> Function:
    async def request_async(
        self: Any,
        method: str,
        uri: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        auth: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        asked = _Asked(method, uri, params, data, headers, _shown(self, auth))
        attempt = asked.attempt()
        if attempt is None:
            return await original(self, *asked.revealed(), *args, **kwargs)
        from luigi_spendguard.proxy.twilio_http import GuardedAsyncTwilioClient, without_frames

        client = _with(
            self, GuardedAsyncTwilioClient(attempt, self.http_client, options_of(self.http_client, uri))
        )
        try:
            return await original(client, method, uri, params, data, headers, auth, *args, **kwargs)
        except Exception as error:
            raised = without_frames(error)
        raise raised

    return request_async


def _replaced(original: Function) -> Function:
    def request(
        self: Any,
        method: str,
        url: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        auth: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        asked = _Asked(method, url, params, data, headers, auth)
        attempt = asked.attempt()
        if attempt is None:
            return original(self, *asked.revealed(), *args, **kwargs)
        from luigi_spendguard.proxy.twilio_http import GuardedTwilioClient, without_frames

        try:
            guarded = GuardedTwilioClient(attempt, options_of(self, url))
            return guarded.request(*asked)
        except Exception as error:
            raised = without_frames(error)
        raise raised

    return request


def _replaced_async(original: Function) -> Function:
    async def request(
        self: Any,
        method: str,
        url: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        auth: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        asked = _Asked(method, url, params, data, headers, auth)
        attempt = asked.attempt()
        if attempt is None:
            return await original(self, *asked.revealed(), *args, **kwargs)
        from luigi_spendguard.proxy.twilio_http import GuardedAsyncTwilioClient, without_frames

        try:
            guarded = GuardedAsyncTwilioClient(attempt, self, options_of(self, url))
            return await guarded.request(*asked)
        except Exception as error:
            raised = without_frames(error)
        raise raised

    return request
