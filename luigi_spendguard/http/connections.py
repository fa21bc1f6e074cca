"""A connection: what is asked of its socket, the bytes on it, and where it waits for its next request."""

from __future__ import annotations

import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from luigi_spendguard.http.addresses import Destination
from luigi_spendguard.process_state import at_fork

#: Seconds after which a connection is not used again: what stands between (a NAT, a load balancer) forgets
#: one sooner or later, and a call that may not be repeated would be in doubt. Longer than a grant is good
#: for, so that a connection whose grant was too old is still there for the next one.
FRESH_S = 3.0


class Connect(NamedTuple):
    """Connect to a host by `by` (`time.monotonic`). Sent back: the socket; thrown in: OSError."""

    host: str
    port: int
    by: float


class Write(NamedTuple):
    """Write all of `data`. Thrown in: OSError."""

    socket: socket.socket
    data: bytes
    by: float


class Read(NamedTuple):
    """Read some bytes. Sent back: them, none at the end; thrown in: OSError."""

    socket: socket.socket
    by: float


class Undo(NamedTuple):
    """Do `act`, which undoes the coding of a reply and takes long. Sent back: what it returns, by `by`;
    thrown in: what it raises.
    """

    act: Callable[[], tuple[bytes, str]]
    by: float


Operation = Connect | Write | Read | Undo
Steps = Generator[Operation, Any, Any]
#: Bytes are written as they were `sealed`; those that are read are as the other side has meant them.
Channel: TypeAlias = "PlainChannel | TlsChannel"


class PlainChannel:
    """Bytes as they are."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def sealed(self, data: bytes) -> bytes:
        """Return bytes as they are to be written."""
        return data

    def write(self, data: bytes, by: float) -> Steps:
        """Write what was sealed."""
        yield Write(self._sock, data, by)

    def read(self, by: float) -> Generator[Operation, Any, bytes]:
        """Read some bytes, none at the end."""
        data: bytes = yield Read(self._sock, by)
        return data

    def unasked(self, data: bytes) -> bytes:
        """Return what is said by bytes that arrived while nothing was asked."""
        return data


class TlsChannel:
    """Bytes through TLS, over a socket or over another channel (a proxy's own TLS)."""

    def __init__(self, under: Channel, context: ssl.SSLContext, host: str) -> None:
        self._under, self._in, self._out = under, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)

    def handshake(self, by: float) -> Steps:
        """Agree on keys. Raises OSError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                yield from self._flush(by)
                yield from self._fill(by)
            except ssl.SSLError:
                yield from self._flush(by)  # The alert.
                raise
            else:
                yield from self._flush(by)
                return

    def sealed(self, data: bytes) -> bytes:
        """Return bytes as they are to be written."""
        self._tls.write(data)
        return self._under.sealed(self._out.read())

    def write(self, data: bytes, by: float) -> Steps:
        """Write what was sealed."""
        yield from _socket_of(self._under).write(data, by)

    def read(self, by: float) -> Generator[Operation, Any, bytes]:
        """Read some bytes, none at the end."""
        while True:
            try:
                return self._tls.read(1 << 16)
            except ssl.SSLWantReadError:
                yield from self._flush(by)  # A renewed key, asked for by the other side.
                yield from self._fill(by)
            except ssl.SSLZeroReturnError:
                return b""

    def unasked(self, data: bytes) -> bytes:
        """Return what is said by bytes that arrived while nothing was asked. Raises OSError at the end."""
        self._in.write(self._under.unasked(data))
        try:
            return self._tls.read(1 << 16)
        except ssl.SSLWantReadError:
            return b""

    def _flush(self, by: float) -> Steps:
        if data := self._out.read():
            yield from self._under.write(self._under.sealed(data), by)

    def _fill(self, by: float) -> Steps:
        data = yield from self._under.read(by)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()


def _socket_of(channel: Channel) -> PlainChannel:
    while isinstance(channel, TlsChannel):
        channel = channel._under
    return channel


@dataclass(frozen=True)
class Line:
    """A connection that is ready for a request, and the bytes on it."""

    socket: socket.socket
    channel: Channel

    def close(self) -> None:
        """Close it."""
        self.socket.close()


class Idle:
    """The connections of one process, for any of its threads; a forked child begins without any."""

    def __init__(self) -> None:
        self._lines: dict[Destination, deque[tuple[float, Line]]] = {}
        # A child has copies of the parent's: replies would be mixed up. The parent's stay open.
        at_fork(self.close)
        self._closed = weakref.finalize(self, _close, self._lines)

    def take(self, to: Destination) -> Line | None:
        """Return a connection that was used, or made, seconds ago, and on which nothing has arrived since."""
        lines = self._lines.get(to)
        while lines:
            try:
                since, line = lines.pop()
            except IndexError:  # Another thread's.
                break
            if time.monotonic() - since <= FRESH_S and _open(line):
                return line
            line.close()
        return None

    def keep(self, to: Destination, line: Line) -> None:
        """Keep a connection, and close those that have waited for too long."""
        lines = self._lines.setdefault(to, deque())
        lines.append((time.monotonic(), line))
        _pruned(lines)

    def prune(self) -> bool:
        """Close what has waited for too long; return whether anything still waits."""
        for lines in list(self._lines.values()):
            _pruned(lines)
        return any(self._lines.values())

    def close(self) -> None:
        """Close all."""
        _close(self._lines)


def _pruned(lines: deque[tuple[float, Line]]) -> None:
    while lines:
        try:
            oldest = lines.popleft()
        except IndexError:  # Another thread's.
            break
        if time.monotonic() - oldest[0] <= FRESH_S:
            lines.appendleft(oldest)
            break
        oldest[1].close()


def _close(lines: dict[Destination, deque[tuple[float, Line]]]) -> None:
    for waiting in list(lines.values()):
        while waiting:
            waiting.pop()[1].close()
    lines.clear()


def _open(line: Line) -> bool:
    """Return whether nothing has arrived but what TLS says for itself, such as the tickets of a new session:
    neither the end nor what answers no request.
    """
    waiting = select.poll()
    waiting.register(line.socket, select.POLLIN)
    try:
        while waiting.poll(0):
            data = line.socket.recv(1 << 16)
            if not data or line.channel.unasked(data):
                return False
    except OSError:
        return False
    return True
