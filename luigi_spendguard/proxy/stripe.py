"""The binding for the stripe SDK: its calls inside vendor tasks go through the guard.

Every call of the SDK, module-level or of a `StripeClient`, whatever HTTP client it was made with, passes
one of four methods of `HTTPClient` (stripe-python 15 and 16, `_http_client.py`), once for each logical
call; their retry loops then ask the client for each send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import stripe
from stripe._http_client import HTTPClient

from luigi_spendguard.errors import PluginError, SpendDenied, denial
from luigi_spendguard.proxy import context, credentials
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.stripe_client import VENDOR, GuardedClient
from luigi_spendguard.proxy.stripe_errors import as_stripe_error

_SYNCHRONOUS = ("request_with_retries", "request_stream_with_retries")
_ASYNCHRONOUS = ("request_with_retries_async", "request_stream_with_retries_async")
_SENDS = ("request", "request_stream", "request_async", "request_stream_async", "sleep_async")
_originals: dict[str, Callable[..., Any]] = {}


def _patched(name: str) -> Callable[..., Any]:
    original = _originals[name]

    def guarded(self: HTTPClient, method: str, *args: Any, **kwargs: Any) -> Any:
        attempt = _owner(method)
        return original(self if attempt is None else GuardedClient(attempt), method, *args, **kwargs)

    async def guarded_async(self: HTTPClient, method: str, *args: Any, **kwargs: Any) -> Any:
        attempt = _owner(method)
        return await original(self if attempt is None else GuardedClient(attempt), method, *args, **kwargs)

    chosen = guarded_async if name in _ASYNCHRONOUS else guarded
    chosen.__name__ = name
    return chosen


def _owner(method: str) -> Attempt | None:
    """Return whose call this is; None lets it pass unguarded. Raises SpendDenied."""
    try:
        attempt = context.current()
        if attempt is None and method.upper() != "GET" and context.inside_luigi():
            raise denial(
                "scope",
                "a Stripe call that could spend was made outside any vendor task: move it into the run() "
                "of a task that mixes in luigi_spendguard.VendorTask (or whose family matches "
                "[spendguard] vendor_tasks)",
            )
    except SpendDenied as denied:
        raise as_stripe_error(denied) from None
    return attempt


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


@contextmanager
def in_place(attempt: Attempt) -> Iterator[None]:
    """Let the task's code find the attempt's vault key where it looks for the secret."""
    secret = credentials.secret_of(VENDOR, attempt.settings)
    # Without a secret the call gets as far as the guard, whose error says what to set.
    with credentials.hidden(VENDOR, secret, attempt.key):
        if stripe.api_key is None:
            stripe.api_key = attempt.key
        try:
            yield
        finally:
            if stripe.api_key == attempt.key:
                stripe.api_key = None
