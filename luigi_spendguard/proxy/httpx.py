"""The binding for httpx: transports whose calls to vendors go through the guard, inside vendor tasks.

    client = httpx.Client(transport=SpendTransport())
    openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=SpendTransport()))

A denial is a response in the vendor's own format, 429 for the cap, with `X-Spendguard-Denial`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import requests

from luigi_spendguard.effects import NotSent
from luigi_spendguard.errors import PluginError
from luigi_spendguard.proxy.aside import aside
from luigi_spendguard.proxy.exchanges import Exchange, exchange
from luigi_spendguard.vendors import Reply, Request

try:
    import httpx
except ImportError as missing:
    raise PluginError(
        "luigi_spendguard.proxy.httpx needs httpx, which is not installed: "
        "pip install 'luigi-spendguard[httpx]'"
    ) from missing

__all__ = ["AsyncSpendTransport", "SpendTransport"]


class SpendTransport(httpx.BaseTransport):
    """Sends calls to vendors under a reservation, and all others by `inner`, without any secret.

    `inner`: None for a `httpx.HTTPTransport()`. The vendor's `timeout_s` of luigi.cfg holds, not the client's
    time-outs. Redirects are the client's: each hop is a call of its own.
    """

    def __init__(self, inner: httpx.BaseTransport | None = None) -> None:
        self._inner = inner if inner is not None else httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises httpx.ConnectError when nothing was sent, httpx.ReadError or
        httpx.ReadTimeout when no reply came, and what `inner` raises.
        """
        guarded = _guarded(request)
        if guarded is None:
            return self._inner.handle_request(request)
        request.read()
        return _response(guarded, request)

    def close(self) -> None:
        """Close `inner`."""
        self._inner.close()


class AsyncSpendTransport(httpx.AsyncBaseTransport):
    """`SpendTransport` for `httpx.AsyncClient`, under asyncio; a cancelled call is lived to its end."""

    def __init__(self, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self._inner = inner if inner is not None else httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises as `SpendTransport` does, and PluginError outside asyncio."""
        guarded = _guarded(request)
        if guarded is None:
            return await self._inner.handle_async_request(request)
        await request.aread()
        if guarded.attempt is None:  # Denied already.
            return _response(guarded, request)
        return await aside(guarded.attempt.claim_id, lambda: _response(guarded, request))

    async def aclose(self) -> None:
        """Close `inner`."""
        await self._inner.aclose()


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A reply's body, which the guard has read whole; httpx then knows when it was taken."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


def _guarded(request: httpx.Request) -> Exchange | None:
    return exchange(request.method, str(request.url), request.headers)


def _response(guarded: Exchange, request: httpx.Request) -> httpx.Response:
    """Send the task's request, which has been read; it stays as it is: the secret is put on a copy."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    asked = Request(request.method.upper(), str(request.url), headers, request.content)
    try:
        reply = guarded.reply(asked)
    except NotSent as error:
        raise httpx.ConnectError(f"nothing was sent: {error}", request=request) from error
    except (requests.RequestException, OSError) as error:
        kind = httpx.ReadTimeout if isinstance(error, requests.Timeout) else httpx.ReadError
        raise kind(_NO_REPLY.format(type(error).__name__), request=request) from error
    return _as_httpx(reply)


_NO_REPLY = "no reply ({}): the call may have been executed, and is in doubt unless it only reads"


def _as_httpx(reply: Reply) -> httpx.Response:
    headers = {**reply.headers, "content-length": str(len(reply.body))}
    return httpx.Response(
        reply.status, headers=headers, stream=_Body(reply.body), extensions={"http_version": b"HTTP/1.1"}
    )
