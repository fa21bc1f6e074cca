"""The binding for httpx2: transports whose calls to vendors go through the guard, inside vendor tasks.

client = httpx2.Client(transport=SpendTransport())
openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=SpendTransport()))
"""

from __future__ import annotations

from luigi_spendguard.proxy.http_clients import Binding, Whole, missing

try:
    import httpx2
except ImportError as error:
    raise missing("httpx2") from error

__all__ = ["AsyncSpendTransport", "SpendTransport"]


class _Body(Whole, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    pass


_binding = Binding(httpx2, _Body)


class SpendTransport(httpx2.BaseTransport):
    """Sends calls to vendors under a reservation, and all others by `inner`, without any secret.

    `inner`: None for a `httpx2.HTTPTransport()`. The vendor's `timeout_s` of luigi.cfg holds, not the
    client's time-outs. Redirects are the client's: each hop is a call of its own.
    """

    def __init__(self, inner: httpx2.BaseTransport | None = None) -> None:
        self._inner = inner if inner is not None else httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request. Raises httpx2.ConnectError when nothing was sent, httpx2.ReadError or
        httpx2.ReadTimeout when no reply came, and what `inner` raises.
        """
        guarded = _binding.guarded(request)
        if guarded is None:
            return self._inner.handle_request(_binding.passing(request))
        request.read()
        response: httpx2.Response = _binding.response(guarded, request, self._inner)
        return response

    def close(self) -> None:
        """Close `inner`."""
        self._inner.close()


class AsyncSpendTransport(httpx2.AsyncBaseTransport):
    """`SpendTransport` for `httpx2.AsyncClient`, under asyncio; a cancelled call is lived to its end."""

    def __init__(self, inner: httpx2.AsyncBaseTransport | None = None) -> None:
        self._inner = inner if inner is not None else httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request. Raises as `SpendTransport` does, and PluginError outside asyncio."""
        guarded = _binding.guarded(request)
        if guarded is None:
            return await self._inner.handle_async_request(_binding.passing(request))
        await request.aread()
        response: httpx2.Response = await _binding.response_aside(guarded, request, self._inner)
        return response

    async def aclose(self) -> None:
        """Close `inner`."""
        await self._inner.aclose()
