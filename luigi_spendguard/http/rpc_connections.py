"""`RpcConnections`: kept-alive connections to luigid, and an exchange on one of them, by `http.client`.

Not for vendors: their requests are `transport`'s, which knows what has left.
"""

from __future__ import annotations

import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple
from urllib.parse import urlsplit

from luigi_spendguard.errors import bare
from luigi_spendguard.http.addresses import Destination, SchedulerAddress, destination, tls_context
from luigi_spendguard.protocol import ANSWERED

#: Seconds after which a connection is not used again: what stands between forgets one sooner or later.
_FRESH_S = 30.0
#: A longer reply is not read, in bytes.
_MAX_REPLY = 64 << 20


class BadReply(ConnectionError):
    """What was read is no reply of HTTP/1.1, or is not all of one."""


class Exchange(NamedTuple):
    """A request, in parts, and until when its reply is waited for (`time.monotonic`)."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    by: float


class HttpAnswer(NamedTuple):
    """A reply; `is_luigids`: luigid has given it, not what stands before it."""

    status: int
    body: bytes
    is_luigids: bool


class RpcConnections:
    """Connections to one luigid, for any thread of this process."""

    def __init__(self, address: SchedulerAddress) -> None:
        self._url, self._prefix = address.url, urlsplit(address.base).path
        self._idle: deque[tuple[float, HTTPConnection]] = deque()
        self._closed = weakref.finalize(self, _close, self._idle)

    def close(self) -> None:
        """Close those that nobody uses."""
        _close(self._idle)

    def post(self, exchange: Exchange, connect_s: float) -> HttpAnswer:
        """Send a request that may be sent again; return the reply.

        Raises OSError, without frames that have the request's bytes, and so a token.
        """
        try:
            to = destination(self._url, straight=True)
            kept = self._take()
            if kept is not None:
                try:
                    return self._exchanged(kept, to, exchange)
                except (ConnectionResetError, BrokenPipeError):
                    pass  # While it waited: luigid was restarted.
            return self._exchanged(_connection(to, connect_s), to, exchange)
        except BaseException as error:
            raised = _shown(error)
        raise raised

    def _exchanged(self, connection: HTTPConnection, to: Destination, asked: Exchange) -> HttpAnswer:
        lasts = False
        try:
            connection.sock.settimeout(max(0.1, asked.by - time.monotonic()))
            headers = {"Host": to.authority, **asked.headers}
            connection.request("POST", f"{self._prefix}{asked.path}", asked.body, headers)
            reply = connection.getresponse()
            if reply.length is None and not reply.chunked:
                raise BadReply("it does not say its length, or its head has broken off")
            if (reply.length or 0) > _MAX_REPLY:
                raise BadReply("it is too long")
            body = reply.read(_MAX_REPLY)
            if reply.length or len(body) == _MAX_REPLY:
                raise BadReply("it is too long, or has broken off")
            lasts = reply.isclosed() and not reply.will_close
        finally:
            if not lasts:
                connection.close()
        if lasts:
            self._idle.append((time.monotonic(), connection))
        return HttpAnswer(reply.status, body, reply.headers.get(ANSWERED) is not None)

    def _take(self) -> HTTPConnection | None:
        """Return a connection that was used lately, and on which nothing has arrived since."""
        while self._idle:
            try:
                since, connection = self._idle.pop()
            except IndexError:  # Another thread's.
                break
            if time.monotonic() - since <= _FRESH_S and _is_silent(connection.sock):
                return connection
            connection.close()
        return None


def _shown(error: BaseException) -> BaseException:
    """Return what is raised for an error, without anything of the request."""
    if isinstance(error, OSError):
        return bare(error)
    if isinstance(error, HTTPException):
        return BadReply(f"it is not HTTP/1.1 ({type(error).__name__})")
    if isinstance(error, ValueError):  # It has the header.
        return ValueError("a header has a line break in it, or what is not Latin-1")
    return bare(error)


def _close(idle: deque[tuple[float, HTTPConnection]]) -> None:
    while idle:
        idle.pop()[1].close()


def _is_silent(sock: socket.socket) -> bool:
    try:
        sock.settimeout(0)
        sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        pass
    return False


def _connection(to: Destination, connect_s: float) -> HTTPConnection:
    connection = HTTPConnection("luigid")  # `Host` is said with each request.
    connection.set_debuglevel(0)  # A program that looks at its own requests prints no token of ours.
    connection.sock, connection.auto_open = _connected(to, connect_s), 0
    return connection


def _connected(to: Destination, connect_s: float) -> socket.socket:
    if to.host.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(connect_s)
            sock.connect(to.host)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((to.host, to.port), connect_s)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tls_context(to.bundle).wrap_socket(sock, server_hostname=to.host) if to.tls else sock
    except BaseException:
        sock.close()
        raise
