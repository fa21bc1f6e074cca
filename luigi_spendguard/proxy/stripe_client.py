"""What the SDK sends a call of a vendor task with: each send is reserved first, here or by the gateway.

`request` and its three siblings are what the SDK's own retry loops call, once for each send, and take an
answer from (stripe-python 15 and 16, `_http_client.py`).
"""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from requests.structures import CaseInsensitiveDict
from stripe._http_client import HTTPClient

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import SpendDenied, denial
from luigi_spendguard.guard import Call, Guard
from luigi_spendguard.proxy import context, credentials
from luigi_spendguard.proxy.aside import aside
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.driver import drive
from luigi_spendguard.proxy.forward import Forwarder, Gateway, gateway_of
from luigi_spendguard.proxy.stripe_errors import as_the_sdks_errors
from luigi_spendguard.proxy.upstream import Upstream
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.stripe import Stripe

VENDOR = Stripe()
_upstream = Upstream()
_forwarder = Forwarder()
#: api, files, connect and meter-events (stripe-python 16.1, `_base_address.py`).
_HOSTS = re.compile(r"https://[a-z][a-z-]*\.stripe\.com(?P<target>/.*)")
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
    """Send under a reservation: the gateway's where there is one, else this worker's own."""
    settings = attempt.settings.vendor(VENDOR.name)
    secret = credentials.secret_of(VENDOR, attempt.settings)
    gateway = gateway_of(VENDOR.name, secret, attempt)
    if gateway is None and secret is None:
        raise denial(
            "scope",
            "there is no Stripe secret: set [spendguard_stripe] secret in luigid's luigi.cfg, so that its "
            "gateway guards the calls, or in this worker's (or STRIPE_SECRET_KEY in its environment)",
        )
    refusal = _foreign_credential(request, secret)
    if gateway is not None and refusal is None:
        try:
            target = _target(request.url, settings, gateway)
        except SpendDenied as denied:
            refusal = denied
        else:
            return _forwarder.forward(request, target, gateway, attempt)
    # Guarded here, or put on record here as refused: nothing is sent then, and no secret is needed.
    guard = Guard(VENDOR, settings, secret or "", attempt.settings.fx, time.monotonic)
    return drive(guard.guarded(request, call, refusal), attempt, _upstream, settings.timeout_s)


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


def _target(url: str, settings: VendorSettings, gateway: Gateway) -> str:
    """Return path and query of a call to Stripe's hosts, or to what stands for them here.

    The gateway tells the hosts apart by the path. Raises SpendDenied (`endpoint`) for another host.
    """
    target = stripes_target(url)
    if target is not None:
        return target
    for base in (gateway.url, settings.base_url):
        if base and url.startswith(base + "/"):
            return url[len(base) :].partition("#")[0]
    host = urlsplit(url).hostname or "?"
    raise denial(
        "endpoint", f"{host} is no host of Stripe's: calls are forwarded to the gateway at {gateway.base}"
    )


def stripes_target(url: str) -> str | None:
    """Return path and query of a call to one of Stripe's own hosts, None for another host."""
    match = _HOSTS.fullmatch(url.partition("#")[0])
    return match.group("target") if match else None
