"""The binding for the stripe SDK: its calls inside vendor tasks go through the guard.

Every call of the SDK, module-level or of a `StripeClient`, whatever HTTP client it was made with, passes
one of four methods of `HTTPClient` (stripe-python 15 and 16, `_http_client.py`), once for each logical
call. Their retry loops then ask the client's `request`, or one of its three siblings, for each send: that is
reserved first, here or by the gateway. What is denied is raised as the SDK's own error, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, cast

import stripe
from requests.structures import CaseInsensitiveDict
from stripe._http_client import HTTPClient

from luigi_spendguard.errors import GatewayUnreachable, OutcomeUnknown, PluginError, SpendDenied
from luigi_spendguard.guard.effects import Call, NotSent
from luigi_spendguard.process_state import Blocks
from luigi_spendguard.proxy import attempts
from luigi_spendguard.proxy.aio import in_thread
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.call import attempt_for, revealed, send
from luigi_spendguard.proxy.sdk_clients import PLAIN, ClientOptions, also, options_of
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.stripe import VENDOR
from luigi_spendguard.vendors.stripe.operations import LISTED
from luigi_spendguard.vendors.stripe.outcomes import shape

_NATURAL: Mapping[str, type[stripe.StripeError]] = {
    "cap": stripe.RateLimitError,
    "endpoint": stripe.PermissionError,
    "scope": stripe.PermissionError,
    "unpriced": stripe.PermissionError,
    "currency": stripe.PermissionError,
    "revoked": stripe.AuthenticationError,
    "expired": stripe.AuthenticationError,
    "unknown_key": stripe.AuthenticationError,
    "idempotency_mismatch": stripe.IdempotencyError,
    "in_doubt": stripe.APIError,
    "ledger_unavailable": stripe.APIError,
}


def as_stripe_error(denied: SpendDenied) -> SpendDenied:
    """Return the denial as an exception that is also the SDK's natural error."""
    if isinstance(denied, stripe.StripeError):
        return denied
    shaped = shape(denied)
    body = json.loads(shaped.body)
    lost = isinstance(denied, GatewayUnreachable)
    natural = stripe.APIConnectionError if lost else _NATURAL[denied.reason]
    error: SpendDenied = also(denied, natural, "Stripe")
    if lost:  # It was tried for long enough.
        error.should_retry = False  # type: ignore[attr-defined]  # set by an `__init__` that is not called
    stripe.StripeError.__init__(
        error,  # type: ignore[arg-type]  # it is both
        message=denied.message,
        http_status=shaped.status,
        json_body=body,
        headers=cast("dict[str, str]", CaseInsensitiveDict(shaped.headers)),
        code=body["error"]["code"],
    )
    return error


def outcome_unknown(unknown: OutcomeUnknown) -> Exception:
    """Return the error as an exception that is also the SDK's natural one."""
    error: Any = also(unknown, stripe.APIConnectionError, "Stripe")
    stripe.APIConnectionError.__init__(error, str(unknown), should_retry=False)
    return error  # type: ignore[no-any-return]  # made by type()


@contextmanager
def as_the_sdks_errors() -> Iterator[None]:
    """Turn what a send raises in the block into what the SDK's retry loop, and its user, understand."""
    try:
        yield
    except SpendDenied as denied:
        raise as_stripe_error(denied) from None
    except OutcomeUnknown as unknown:
        raise outcome_unknown(unknown) from None
    except NotSent as error:
        raise stripe.APIConnectionError(
            f"could not connect to Stripe, nothing was sent: {error}", should_retry=True
        ) from error
    except OSError as error:
        raise stripe.APIConnectionError(
            f"no reply from Stripe ({type(error).__name__}): the call may have been executed and is in doubt "
            "until a retry with the same key says so",
            should_retry=True,
        ) from error


_Answer = tuple[Any, int, Mapping[str, str]]


class StreamedBody(io.BytesIO):
    """A reply's body for the SDK's streaming calls, synchronous (`read`) and asynchronous (`async for`).

    The whole of it, at most `transport.MAX_REPLY` bytes: the guard has read it to know the outcome.
    """

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := self.read(1 << 16):
            yield chunk


class GuardedStripeClient(HTTPClient):
    """The HTTP client of one logical call; the SDK's retries of it are sends of the same call.

    Every method raises SpendDenied or OutcomeUnknown that are stripe's errors too, and stripe's own.
    """

    name = "spendguard"

    def __init__(self, attempt: Attempt, options: ClientOptions = PLAIN) -> None:
        super().__init__()
        self._attempt, self._one_call, self._options = attempt, Call(), options

    def request(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> _Answer:
        """Send once under a reservation."""
        reply = self._reply(method, url, headers, post_data)
        return reply.body, reply.status, CaseInsensitiveDict(reply.headers)

    def request_stream(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> _Answer:
        """Send once under a reservation; the answer's body is to be read."""
        reply = self._reply(method, url, headers, post_data)
        return StreamedBody(reply.body), reply.status, CaseInsensitiveDict(reply.headers)

    async def request_async(self, method: str, url: str, headers: Any, post_data: Any = None) -> _Answer:
        """Send once under a reservation, in a thread."""
        send = partial(self.request, method, url, headers, post_data)
        return await in_thread(self._attempt.claim_id, send)

    async def request_stream_async(
        self, method: str, url: str, headers: Any, post_data: Any = None
    ) -> _Answer:
        """Send once under a reservation, in a thread; the answer's body is to be iterated over."""
        send = partial(self.request_stream, method, url, headers, post_data)
        return await in_thread(self._attempt.claim_id, send)

    async def sleep_async(self, secs: float) -> None:
        await asyncio.sleep(secs)

    def _reply(self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any) -> Reply:
        request = _request(method, url, headers or {}, post_data)
        with as_the_sdks_errors():
            return send(VENDOR, request, self._one_call, self._attempt, options=self._options)


def _request(method: str, url: str, headers: Mapping[str, str], post_data: Any) -> Request:
    body = b"" if post_data is None else post_data
    if isinstance(body, str):
        body = body.encode("utf-8")
    lowered = {name.lower(): str(value) for name, value in headers.items()}
    return Request(method.upper(), url, lowered, body)


_SYNCHRONOUS = ("request_with_retries", "request_stream_with_retries")
_ASYNCHRONOUS = ("request_with_retries_async", "request_stream_with_retries_async")
_SENDS = ("request", "request_stream", "request_async", "request_stream_async", "sleep_async")
#: What the SDK loads when it is first used, and the resources by which most money moves.
_LATE = ("_api_requestor", "_object_classes", "oauth_error")
_RESOURCES = ("Charge", "Customer", "Invoice", "InvoiceItem", "PaymentIntent", "Payout", "Refund", "Transfer")
_originals: dict[str, Callable[..., Any]] = {}
_made_async: dict[str, Callable[..., HTTPClient]] = {}
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
    return GuardedStripeClient(attempt, options_of(own, url)), headers


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
    if _made_async:
        _api_requestor().new_http_client_async_fallback = _made_async.pop("original")


def preload() -> None:
    """Load what is loaded when the SDK is first used. Raises ImportError, AttributeError for an unknown SDK.

    And make the client that it makes for asynchronous calls before its first one, whatever that is: its TLS
    context takes long. It has no connection yet, and is the child's that asks for one which is told the same.
    """
    LISTED.read()
    for name in _LATE:
        importlib.import_module(f"stripe.{name}")
    for name in _RESOURCES:
        getattr(stripe, name)
    if stripe.default_http_client is not None or _made_async:
        return
    make = _made_async["original"] = _api_requestor().new_http_client_async_fallback
    told = {"verify_ssl_certs": stripe.verify_ssl_certs, "proxy": stripe.proxy}
    ready = [(told, stripe.ca_bundle_path, make(**told))]

    def given(**asked: Any) -> Any:
        with contextlib.suppress(IndexError):  # Another call has it.
            *same, client = ready.pop()
            if same == [asked, stripe.ca_bundle_path]:
                return client
        return make(**asked)

    _api_requestor().new_http_client_async_fallback = given


def _api_requestor() -> Any:
    return importlib.import_module("stripe._api_requestor")


def in_place(attempt: Attempt) -> AbstractContextManager[None]:
    """Let the SDK have the attempt's vault key where it has no key at all."""
    return _blocks.block(lambda _: _put_in_place(attempt), _put_back)


def _put_in_place(attempt: Attempt) -> None:
    if stripe.api_key is None or attempts.is_vault_key(stripe.api_key):
        stripe.api_key = attempt.key


def _put_back(last: bool) -> None:
    # With several attempts in one process the last one's key is found, and the guard takes any of theirs.
    if last and stripe.api_key is not None and attempts.is_vault_key(stripe.api_key):
        stripe.api_key = None
