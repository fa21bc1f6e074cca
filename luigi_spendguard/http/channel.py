"""What is asked of a connection's socket, and the bytes on it, plain or through TLS; without I/O."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias


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
