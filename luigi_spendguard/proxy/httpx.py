"""The binding for httpx: transports whose calls to vendors go through the guard, inside vendor tasks.

client = httpx.Client(transport=SpendTransport())
"""

from __future__ import annotations

from luigi_spendguard.proxy.http_clients import Binding, Whole, missing

try:
    import httpx
except ImportError as error:
    raise missing("httpx") from error

__all__ = ["AsyncSpendTransport", "SpendTransport"]


class _Body(Whole, httpx.SyncByteStream, httpx.AsyncByteStream):
    pass


_binding = Binding(httpx, _Body)


class SpendTransport(httpx.BaseTransport):
    """Sends calls to vendors under a reservation, and all others by `inner`, without any secret.

    `inner`: None for a `httpx.HTTPTransport()`. The vendor's `timeout_s` of luigi.cfg holds, not the
    client's time-outs. Redirects are the client's: each hop is a call of its own.
    """

    def __init__(self, inner: httpx.BaseTransport | None = None) -> None:
        self._inner = inner if inner is not None else httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises httpx.ConnectError when nothing was sent, httpx.ReadError or
        httpx.ReadTimeout when no reply came, and what `inner` raises.
        """
        guarded = _binding.guarded(request)
        if guarded is None:
            return self._inner.handle_request(_binding.passing(request))
        request.read()
        response: httpx.Response = _binding.response(guarded, request, self._inner)
        return response

    def close(self) -> None:
        """Close `inner`."""
        self._inner.close()


class AsyncSpendTransport(httpx.AsyncBaseTransport):
    """`SpendTransport` for `httpx.AsyncClient`, under asyncio; a cancelled call is lived to its end."""

    def __init__(self, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self._inner = inner if inner is not None else httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises as `SpendTransport` does, and PluginError outside asyncio."""
        guarded = _binding.guarded(request)
        if guarded is None:
            return await self._inner.handle_async_request(_binding.passing(request))
        await request.aread()
        response: httpx.Response = await _binding.response_aside(guarded, request, self._inner)
        return response

    async def aclose(self) -> None:
        """Close `inner`."""
        await self._inner.aclose()
