"""Sends a request to the vendor without holding up luigid's thread, and knows whether a byte of it has left.

aiohttp's client with a request class of its own: the deadline of the grant is checked when the connection
is ready, before the first byte. No redirects, cookies, netrc or retries.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from yarl import URL

from luigi_spendguard.effects import Late, NotSent
from luigi_spendguard.vendors import Reply, Request

#: Time to connect, in seconds; the vendor's `timeout_s` is for its answer.
CONNECT_S = 10.0
#: A longer reply is not read: the call is in doubt.
MAX_REPLY = 32 << 20
#: Connections kept to all vendors together.
CONNECTIONS = 256


class _Sending:
    """One send: until when its first byte may leave, and whether it has."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self.started = deadline, False


_sending: ContextVar[_Sending] = ContextVar("spendguard_sending")


class _Checked(ClientRequest):
    """Checks the grant's clock before the first byte, and sends once."""

    async def send(self, conn: Any) -> Any:
        sending = _sending.get()
        if sending.started:  # aiohttp repeats what it takes for idempotent over a broken connection.
            raise aiohttp.ServerDisconnectedError("the connection broke after the request was sent")
        if time.monotonic() > sending.deadline:
            raise Late("the grant was too old when the connection was ready")
        sending.started = True
        return await super().send(conn)


class Upstream:
    """The gateway's connections to vendors; made in the loop that uses it."""

    def __init__(self) -> None:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=ssl.create_default_context())
        self._direct = self._session(connector, trust_env=False)
        # Proxies and CA bundles of the environment are for https: plain http is this machine's, in tests.
        self._outward = self._session(connector, trust_env=True)

    def _session(self, connector: aiohttp.TCPConnector, *, trust_env: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            trust_env=trust_env,
            request_class=_Checked,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            max_line_size=16_384,
            max_field_size=16_384,
        )

    async def send(self, request: Request, deadline: float, timeout_s: float) -> Reply:
        """Send and return the whole reply. Raises Late, NotSent, or what broke the exchange afterwards.

        `deadline` is of `time.monotonic`, in seconds; the reply has to be there `timeout_s` after it.
        """
        sending = _Sending(deadline)
        _sending.set(sending)
        session = self._outward if urlsplit(request.url).scheme == "https" else self._direct
        # The bytes are the vendor's own: a coding would have to be undone to be read.
        headers = {**request.headers, "accept-encoding": "identity"}
        try:
            async with session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=headers,
                data=request.body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=max(0.0, deadline - time.monotonic()) + timeout_s, sock_connect=CONNECT_S
                ),
            ) as reply:
                return Reply(reply.status, _headers(reply), await _body(reply))
        except NotSent:
            raise
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            # Its frames, and what it came of, hold the request and so the secret.
            kind = type(error).__name__
            if not sending.started:
                raise NotSent(f"{kind} before the first byte") from None
            raise aiohttp.ClientConnectionError(f"the exchange broke off: {kind}") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._direct.close()
        await self._outward.close()
        if self._direct.connector is not None:
            await self._direct.connector.close()


async def _body(reply: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in reply.content.iter_any():
        size += len(part)
        if size > MAX_REPLY:
            reply.close()
            raise aiohttp.ClientPayloadError("the reply is too long")
        parts.append(part)
    return b"".join(parts)


#: What belongs to one connection, or to a coding that aiohttp has undone.
_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "upgrade",
    "transfer-encoding", "content-length", "content-encoding",
}  # fmt: skip


def _headers(reply: aiohttp.ClientResponse) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in reply.headers.items():
        lowered = name.lower()
        if lowered not in _HOP and lowered != "set-cookie":  # A session of the vendor's is nobody's here.
            found[lowered] = f"{found[lowered]}, {value}" if lowered in found else value
    return found
