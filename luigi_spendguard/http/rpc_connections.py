"""`RpcConnections`: kept-alive connections to luigid, and an exchange on one of them; small and few bytes.

HTTP/1.1 as far as a JSON RPC needs it, with TLS by `ssl`: a request is written at once, its reply's length is
said or it comes in chunks. Not for vendors: their requests are `transport`'s, which knows what has left.
"""

from __future__ import annotations

import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from luigi_spendguard.errors import bare
from luigi_spendguard.http.addresses import Destination, SchedulerAddress, destination, tls_context

#: Seconds after which a connection is not used again: what stands between forgets one sooner or later.
_FRESH_S = 30.0
#: A longer reply, or a longer head of one, is not read.
_MAX_REPLY, _MAX_HEAD = 64 << 20, 1 << 16


class BadReply(ConnectionError):
    """What was read is no reply of HTTP/1.1, or is not all of one."""


class Closed(ConnectionError):
    """The other side has closed the connection before it answered."""


class Exchange(NamedTuple):
    """A request, in parts, and until when its reply is waited for (`time.monotonic`)."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    by: float


class RpcConnections:
    """Connections to one luigid, for any thread of this process."""

    def __init__(self, address: SchedulerAddress) -> None:
        self._url, self._prefix = address.url, urlsplit(address.base).path
        self._idle: deque[tuple[float, socket.socket]] = deque()
        self._closed = weakref.finalize(self, _close, self._idle)

    def close(self) -> None:
        """Close those that nobody uses."""
        _close(self._idle)

    def post(self, exchange: Exchange, connect_s: float) -> tuple[int, bytes]:
        """Send a request that may be sent again; return the reply's status and body.

        Raises OSError, without frames that have the request's bytes, and so a token.
        """
        try:
            to = destination(self._url, straight=True)
            kept = self._take()
            if kept is not None:
                try:
                    return self._exchanged(kept, to, exchange)
                except (Closed, ConnectionResetError, BrokenPipeError):
                    pass  # While it waited: luigid was restarted.
            return self._exchanged(_connected(to, connect_s), to, exchange)
        except BaseException as error:
            raised = bare(error)
        raise raised

    def _exchanged(self, sock: socket.socket, to: Destination, exchange: Exchange) -> tuple[int, bytes]:
        done = False
        try:
            sock.settimeout(_left(exchange.by))
            sock.sendall(_written(to, self._prefix, exchange))
            status, body, done = _Reading(sock, exchange.by).reply()
        finally:
            if not done:
                sock.close()
        if done:
            self._idle.append((time.monotonic(), sock))
        return status, body

    def _take(self) -> socket.socket | None:
        """Return a connection that was used lately, and on which nothing has arrived since."""
        while self._idle:
            try:
                since, sock = self._idle.pop()
            except IndexError:  # Another thread's.
                break
            if time.monotonic() - since <= _FRESH_S and _is_silent(sock):
                return sock
            sock.close()
        return None


def _close(idle: deque[tuple[float, socket.socket]]) -> None:
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


def _left(by: float) -> float:
    return max(0.1, by - time.monotonic())


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


def _written(to: Destination, prefix: str, exchange: Exchange) -> bytes:
    """Return a request's bytes. Raises ValueError for a header that could not be read."""
    lines = [f"POST {prefix}{exchange.path} HTTP/1.1", f"Host: {to.authority}"]
    lines += [f"{name}: {value}" for name, value in exchange.headers.items()]
    lines.append(f"Content-Length: {len(exchange.body)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError("a header has a line break in it")
    return head.encode("latin-1") + b"\r\n\r\n" + exchange.body


class _Reading:
    """Reads one reply from a socket."""

    def __init__(self, sock: socket.socket, by: float) -> None:
        self._sock, self._by, self._data = sock, by, b""

    def reply(self) -> tuple[int, bytes, bool]:
        """Return status, body, and whether the connection can be used again. Raises OSError."""
        status = 100
        while status < 200:
            status, headers, lasts = self._head()
        if status in (204, 304):
            return status, b"", lasts
        if headers.get("transfer-encoding", "identity").lower() != "identity":
            return status, self._chunks(), lasts and not self._data
        if (length := headers.get("content-length")) is None:
            return status, self._rest(), False
        if not (length.isascii() and length.isdigit() and int(length) <= _MAX_REPLY):
            raise BadReply("its length cannot be")
        return status, self._part(int(length)), lasts and not self._data

    def _head(self) -> tuple[int, dict[str, str], bool]:
        text = self._until(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
            raise BadReply("it does not speak HTTP/1.1")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        lasts = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return int(rest[:3]), headers, lasts

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        size, read = 1, 0
        while size:
            try:
                size = int(self._until(b"\r\n").partition(b";")[0], 16)
            except ValueError:
                raise BadReply("its chunks cannot be read") from None
            if (read := read + size) > _MAX_REPLY or size < 0:
                raise BadReply("it is too long")
            if size:
                parts.append(self._part(size))
                self._part(2)
        while self._until(b"\r\n"):
            pass
        return b"".join(parts)

    def _rest(self) -> bytes:
        while len(self._data) <= _MAX_REPLY and self._more():
            pass
        return self._data

    def _part(self, length: int) -> bytes:
        parts, missing = [self._data[:length]], length - len(self._data)
        self._data = self._data[length:]
        while missing > 0:
            if not self._more():
                raise BadReply("it has broken off")
            parts.append(self._data[:missing])
            self._data, missing = self._data[missing:], missing - len(parts[-1])
        return b"".join(parts)

    def _until(self, end: bytes) -> bytes:
        while (at := self._data.find(end)) < 0:
            begun = bool(self._data)
            if len(self._data) > _MAX_HEAD:
                raise BadReply("its head is too long")
            if not self._more():
                raise BadReply("it has broken off") if begun else Closed("closed without a reply")
        found, self._data = self._data[:at], self._data[at + len(end) :]
        return found

    def _more(self) -> bool:
        """Read some more bytes; return whether there were any."""
        self._sock.settimeout(_left(self._by))
        data = self._sock.recv(1 << 16)
        self._data += data
        return bool(data)
