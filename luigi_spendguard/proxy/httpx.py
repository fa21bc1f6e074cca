"""The binding for httpx: transports whose calls to vendors go through the guard, inside vendor tasks.

client = httpx.Client(transport=SpendTransport())
"""

from __future__ import annotations

from luigi_spendguard.proxy.http_clients import Binding, GuardedAsyncTransport, GuardedTransport, missing

try:
    import httpx
except ImportError as error:
    raise missing("httpx") from error

__all__ = ["AsyncSpendTransport", "SpendTransport"]

_binding = Binding(httpx)


class SpendTransport(GuardedTransport[httpx.BaseTransport], httpx.BaseTransport):
    """Sends calls to vendors under a reservation, and all others by `inner`, without any secret.

    `inner`: None for a `httpx.HTTPTransport()`. The vendor's `timeout_s` of luigi.cfg holds, not the
    client's time-outs. Redirects are the client's: each hop is a call of its own.
    """

    binding = _binding


class AsyncSpendTransport(GuardedAsyncTransport[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport):
    """`SpendTransport` for `httpx.AsyncClient`, under asyncio; a cancelled call is lived to its end."""

    binding = _binding
