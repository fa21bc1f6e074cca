"""The binding for the stripe SDK: its calls inside vendor tasks go through the guard.

Every call of the SDK, module-level or of a `StripeClient`, whatever HTTP client it was made with, passes
one of four methods of `HTTPClient` (stripe-python 15 and 16, `_http_client.py`), once for each logical
call; their retry loops then ask the client for each send.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import stripe
from stripe._http_client import HTTPClient

from luigi_spendguard.blocks import Blocks
from luigi_spendguard.errors import PluginError, SpendDenied
from luigi_spendguard.proxy import context
from luigi_spendguard.proxy.client_options import options_of
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.sending import attempt_for, revealed
from luigi_spendguard.proxy.stripe_client import GuardedClient
from luigi_spendguard.proxy.stripe_errors import as_stripe_error
from luigi_spendguard.vendors.stripe import VENDOR

_SYNCHRONOUS = ("request_with_retries", "request_stream_with_retries")
_ASYNCHRONOUS = ("request_with_retries_async", "request_stream_with_retries_async")
_SENDS = ("request", "request_stream", "request_async", "request_stream_async", "sleep_async")
_originals: dict[str, Callable[..., Any]] = {}
_blocks = Blocks()


def _patched(name: str) -> Callable[..., Any]:
    original = _originals[name]

    def guarded(self: HTTPClient, method: str, url: str, headers: Any, *args: Any, **kwargs: Any) -> Any:
        client, headers = _client_for(self, method, url, headers)
        return original(client, method, url, headers, *args, **kwargs)

    async def guarded_async(
        self: HTTPClient, method: str, url: str, headers: Any, *args: Any, **kwargs: Any
    ) -> Any:
        client, headers = _client_for(self, method, url, headers)
        return await original(client, method, url, headers, *args, **kwargs)

    chosen = guarded_async if name in _ASYNCHRONOUS else guarded
    chosen.__name__ = name
    return chosen


def _client_for(
    own: HTTPClient, method: str, url: str, headers: Mapping[str, str]
) -> tuple[HTTPClient, Mapping[str, str]]:
    """Return what a call is sent with, its `own` client where it passes, and its headers.

    Raises SpendDenied.
    """
    try:
        attempt = attempt_for(VENDOR, method, url, headers)
    except SpendDenied as denied:
        raise as_stripe_error(denied) from None
    if attempt is None:
        return own, revealed(VENDOR, url, headers)
    return GuardedClient(attempt, options_of(own, url)), headers


def bind() -> None:
    """Put the guard into the stripe SDK; once is enough. Raises PluginError for an unknown SDK."""
    if _originals:
        return
    patched = (*_SYNCHRONOUS, *_ASYNCHRONOUS)
    missing = [name for name in (*patched, *_SENDS) if not hasattr(HTTPClient, name)]
    if missing:
        raise PluginError(
            f"stripe {stripe.VERSION} has no HTTPClient.{missing[0]}: luigi_spendguard works with "
            "stripe 15 and 16"
        )
    for name in patched:
        _originals[name] = getattr(HTTPClient, name)
    for name in patched:
        setattr(HTTPClient, name, _patched(name))


def unbind() -> None:
    """Put the SDK back as it was."""
    for name, original in _originals.items():
        setattr(HTTPClient, name, original)
    _originals.clear()


def in_place(attempt: Attempt) -> AbstractContextManager[None]:
    """Let the SDK have the attempt's vault key where it has no key at all."""
    return _blocks.block(lambda _: _put_in_place(attempt), _put_back)


def _put_in_place(attempt: Attempt) -> None:
    if stripe.api_key is None or context.is_vault_key(stripe.api_key):
        stripe.api_key = attempt.key


def _put_back(last: bool) -> None:
    # With several attempts in one process the last one's key is found, and the guard takes any of theirs.
    if last and stripe.api_key is not None and context.is_vault_key(stripe.api_key):
        stripe.api_key = None
