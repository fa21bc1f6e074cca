"""What the SDK sends a call of a vendor task with: each send is reserved first, here or by the gateway.

`request` and its three siblings are what the SDK's own retry loops call, once for each send, and take an
answer from (stripe-python 15 and 16, `_http_client.py`).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from requests.structures import CaseInsensitiveDict
from stripe._http_client import HTTPClient

from luigi_spendguard.effects import Call
from luigi_spendguard.proxy.aside import aside
from luigi_spendguard.proxy.client_options import PLAIN, ClientOptions
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.sending import send
from luigi_spendguard.proxy.stripe_errors import as_the_sdks_errors
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.stripe import VENDOR

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
            return send(VENDOR, request, self._one_call, self._attempt, options=self._options)


def _request(method: str, url: str, headers: Mapping[str, str], post_data: Any) -> Request:
    body = b"" if post_data is None else post_data
    if isinstance(body, str):
        body = body.encode("utf-8")
    lowered = {name.lower(): str(value) for name, value in headers.items()}
    return Request(method.upper(), url, lowered, body)
