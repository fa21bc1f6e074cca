"""The binding for the stripe SDK: its calls inside vendor tasks go through the guard.

Every call of the SDK, module-level or of a `StripeClient`, whatever HTTP client it was made with, passes
`HTTPClient.request_with_retries` (stripe-python 15 and 16, `_http_client.py`), once for each logical
call; its retry loop calls `request` once for each send.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
import stripe
from requests.structures import CaseInsensitiveDict
from stripe._http_client import HTTPClient

from luigi_spendguard.errors import OutcomeUnknown, PluginError, SpendDenied, denial
from luigi_spendguard.guard import Call, Guard, NotSent
from luigi_spendguard.proxy import context, credentials
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.driver import drive
from luigi_spendguard.proxy.stripe_errors import as_stripe_error, outcome_unknown
from luigi_spendguard.proxy.upstream import Upstream
from luigi_spendguard.vendors import Request
from luigi_spendguard.vendors.stripe import Stripe

_PATCHED = (
    "request_with_retries",
    "request_stream_with_retries",
    "request_with_retries_async",
    "request_stream_with_retries_async",
)
VENDOR = Stripe()
_originals: dict[str, Callable[..., Any]] = {}


class _OneCall(threading.local):
    """The logical call that this thread's SDK is sending, over its retries."""

    attempt: Attempt | None = None
    call: Call | None = None


_one = _OneCall()


class GuardedClient(HTTPClient):
    """An HTTP client for the SDK whose every send is reserved first."""

    name = "spendguard"

    def __init__(self) -> None:
        super().__init__()
        self.upstream = Upstream()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        **_: Any,
    ) -> tuple[Any, int, Mapping[str, str]]:
        """Send once under a reservation. Raises SpendDenied, OutcomeUnknown, stripe's errors."""
        attempt = _one.attempt or context.current()
        if attempt is None:
            raise denial("scope", "this client is for vendor tasks only")
        call = _one.call or Call()
        request = _request(method, url, headers or {}, post_data)
        guard = _guard(attempt)
        life = guard.guarded(request, call, _foreign_credential(request, guard))
        try:
            reply = drive(life, attempt, self.upstream, guard.settings.timeout_s)
        except SpendDenied as denied:
            raise as_stripe_error(denied) from None
        except OutcomeUnknown as unknown:
            raise outcome_unknown(unknown) from None
        except NotSent as error:
            raise stripe.APIConnectionError(
                f"could not connect to Stripe, nothing was sent: {error}", should_retry=True
            ) from error
        except (requests.RequestException, OSError) as error:
            raise stripe.APIConnectionError(
                f"no reply from Stripe ({type(error).__name__}): the call may have been executed and is "
                "in doubt until a retry with the same key says so",
                should_retry=True,
            ) from error
        return reply.body.decode("utf-8", "replace"), reply.status, CaseInsensitiveDict(reply.headers)

    def close(self) -> None:
        """Close this thread's connections to the vendor."""
        self.upstream.close()


_client = GuardedClient()


def _guard(attempt: Attempt) -> Guard:
    settings = attempt.settings.vendor(VENDOR.name)
    secret = credentials.secret_of(VENDOR, attempt.settings)
    if secret is None:
        raise as_stripe_error(
            denial(
                "scope",
                "there is no Stripe secret on this worker: set [spendguard_stripe] secret in luigi.cfg "
                "or STRIPE_SECRET_KEY in the worker's environment",
            )
        )
    return Guard(VENDOR, settings, secret, attempt.settings.fx, time.monotonic)


def _request(method: str, url: str, headers: Mapping[str, str], post_data: Any) -> Request:
    body = b"" if post_data is None else post_data
    if isinstance(body, str):
        body = body.encode("utf-8")
    lowered = {name.lower(): str(value) for name, value in headers.items()}
    return Request(method.upper(), url, lowered, body)


def _foreign_credential(request: Request, guard: Guard) -> SpendDenied | None:
    """Accept our vault key and the configured secret; anything else is another account's."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme == "Bearer" and (token == guard.secret or context.is_vault_key(token)):
        return None
    return denial(
        "scope",
        "this call carries a Stripe key that is not the one of [spendguard_stripe] secret (or "
        "STRIPE_SECRET_KEY): leave `api_key` away, or configure that key",
    )


def _patched(name: str) -> Callable[..., Any]:
    original = _originals[name]

    def request_with_retries(self: HTTPClient, method: str, *args: Any, **kwargs: Any) -> Any:
        attempt = _owner(method)
        if attempt is None:
            return original(self, method, *args, **kwargs)
        with _one_call(attempt):
            return original(_client, method, *args, **kwargs)

    def not_yet(self: HTTPClient, method: str, *args: Any, **kwargs: Any) -> Any:
        if _owner(method) is None:
            return original(self, method, *args, **kwargs)
        raise as_stripe_error(
            denial(
                "unpriced",
                "the SDK's async and streaming calls are denied inside vendor tasks in this version: use "
                "the synchronous call",
            )
        )

    chosen = request_with_retries if name == "request_with_retries" else not_yet
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


@contextmanager
def _one_call(attempt: Attempt) -> Iterator[None]:
    before = _one.attempt, _one.call
    _one.attempt, _one.call = attempt, Call()
    try:
        yield
    finally:
        _one.attempt, _one.call = before


def bind() -> None:
    """Put the guard into the stripe SDK; once is enough. Raises PluginError for an unknown SDK."""
    if _originals:
        return
    missing = [name for name in (*_PATCHED, "request") if not hasattr(HTTPClient, name)]
    if missing:
        raise PluginError(
            f"stripe {stripe.VERSION} has no HTTPClient.{missing[0]}: luigi_spendguard works with "
            "stripe 15 and 16"
        )
    for name in _PATCHED:
        _originals[name] = getattr(HTTPClient, name)
    for name in _PATCHED:
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
