"""The binding for httpx2: transports whose calls to vendors go through the guard, inside vendor tasks.

client = httpx2.Client(transport=SpendTransport())
openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=SpendTransport()))
"""

from __future__ import annotations

from luigi_spendguard.proxy.http_clients import Binding, GuardedAsyncTransport, GuardedTransport, missing

try:
    import httpx2
except ImportError as error:
    raise missing("httpx2") from error

__all__ = ["AsyncSpendTransport", "SpendTransport"]

_binding = Binding(httpx2)


class SpendTransport(GuardedTransport[httpx2.BaseTransport], httpx2.BaseTransport):
    """Sends calls to vendors under a reservation, and all others by `inner`, without any secret.

    `inner`: None for a `httpx2.HTTPTransport()`. The vendor's `timeout_s` of luigi.cfg holds, not the
    client's time-outs. Redirects are the client's: each hop is a call of its own.
    """

    binding = _binding


class AsyncSpendTransport(GuardedAsyncTransport[httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport):
    """`SpendTransport` for `httpx2.AsyncClient`, under asyncio; a cancelled call is lived to its end."""

    binding = _binding
