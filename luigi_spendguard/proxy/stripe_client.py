"""What the stripe SDK sends a call of a vendor task with: every send is reserved first.

`request` and its three siblings are what the SDK's own retry loops call, once for each send, and take an
answer from (stripe-python 15 and 16, `_http_client.py`).
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from requests.structures import CaseInsensitiveDict
from stripe._http_client import HTTPClient

from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.guard import Call, Guard
from luigi_spendguard.proxy import context, credentials
from luigi_spendguard.proxy.aside import aside
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.driver import drive
from luigi_spendguard.proxy.stripe_errors import as_the_sdks_errors
from luigi_spendguard.proxy.upstream import Upstream
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.stripe import Stripe

VENDOR = Stripe()
_upstream = Upstream()
_Answer = tuple[Any, int, Mapping[str, str]]


class StreamedBody(io.BytesIO):
    """A reply's body for the SDK's streaming calls, synchronous (`read`) and asynchronous (`async for`).

    The whole of it, at most `upstream.MAX_REPLY` bytes: the guard has read it to know the outcome.
    """

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := self.read(1 << 16):
            yield chunk


class GuardedClient(HTTPClient):
    """The HTTP client of one logical call; the SDK's retries of it are sends of the same call.

    Every method raises SpendDenied or OutcomeUnknown that are stripe's errors too, and stripe's own.
    """

    name = "spendguard"

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self._attempt, self._one_call = attempt, Call()

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
        return await aside(self._attempt.claim_id, send)

    async def request_stream_async(
        self, method: str, url: str, headers: Any, post_data: Any = None
    ) -> _Answer:
        """Send once under a reservation, in a thread; the answer's body is to be iterated over."""
        send = partial(self.request_stream, method, url, headers, post_data)
        return await aside(self._attempt.claim_id, send)

    async def sleep_async(self, secs: float) -> None:
        """Wait between two sends."""
        await asyncio.sleep(secs)

    def _reply(self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any) -> Reply:
        request = _request(method, url, headers or {}, post_data)
        with as_the_sdks_errors():
            return _guarded(request, self._one_call, self._attempt)


def _request(method: str, url: str, headers: Mapping[str, str], post_data: Any) -> Request:
    body = b"" if post_data is None else post_data
    if isinstance(body, str):
        body = body.encode("utf-8")
    lowered = {name.lower(): str(value) for name, value in headers.items()}
    return Request(method.upper(), url, lowered, body)


def _guarded(request: Request, call: Call, attempt: Attempt) -> Reply:
    settings = attempt.settings.vendor(VENDOR.name)
    secret = credentials.secret_of(VENDOR, attempt.settings)
    if secret is None:
        raise denial(
            "scope",
            "there is no Stripe secret on this worker: set [spendguard_stripe] secret in luigi.cfg "
            "or STRIPE_SECRET_KEY in the worker's environment",
        )
    guard = Guard(VENDOR, settings, secret, attempt.settings.fx, time.monotonic)
    life = guard.guarded(request, call, _foreign_credential(request, secret))
    return drive(life, attempt, _upstream, settings.timeout_s)


def _foreign_credential(request: Request, secret: str | None) -> SpendDenied | None:
    """Accept our vault key and the configured secret; anything else is another account's."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme == "Bearer" and (token == secret or context.is_vault_key(token)):
        return None
    return denial(
        "scope",
        "this call carries a Stripe key that is not the one of [spendguard_stripe] secret (or "
        "STRIPE_SECRET_KEY): leave `api_key` away, or configure that key",
    )
