"""A client that ends its own side of the connection once it has asked is answered all the same.

`shutdown(SHUT_WR)`, `nc -N` and some proxies do so. Tornado alone takes it for a client that is gone, and
drops the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.web import Application

_NAME = "spendguard_side"


def answer_half_closed(app: Application) -> None:
    """Let an application answer clients that have ended their side; once, before it serves."""
    start = app.start_request

    def start_request(server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return _Side(start(server_conn, request_conn), request_conn)

    vars(app)["start_request"] = start_request


def has_ended(request: HTTPServerRequest) -> bool:
    """Return whether a request's client was seen to have ended its side; it may be gone, too."""
    side = getattr(request.connection, _NAME, None)
    return side is not None and bool(side.ended)


class _Side(HTTPMessageDelegate):
    """Passes one request on, and looks at its client's side from then on.

    `read_from_fd` is what tornado's streams leave to a subclass (6.x: 0 is the end of a client's side, and
    closes the connection). One byte in its place, which nothing reads, keeps the stream from looking again:
    the next request's read is tornado's own, and meets the end.
    """

    def __init__(self, inner: HTTPMessageDelegate, connection: HTTPConnection) -> None:
        self._inner = inner
        self._begun = self._whole = self.ended = False
        #: Bytes of the body that are still to come; None: it is sent in chunks.
        self._missing: int | None = None
        self._stream: IOStream | None = getattr(connection, "stream", None)
        if self._stream is not None:
            vars(connection)[_NAME] = self
            vars(self._stream)["read_from_fd"] = self._read

    def _read(self, buffer: bytearray | memoryview) -> int | None:
        stream = self._stream
        assert stream is not None
        count = type(stream).read_from_fd(stream, buffer)
        if count != 0 or stream.reading():
            return count
        if self.ended or not self._begun:  # Told already; or the headers are being read at this moment.
            return None
        if not self._whole:
            return 0
        self.ended = True
        buffer[:1] = b"\0"
        return 1

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Take note of how long the body is to be."""
        length = headers.get("Content-Length")
        if "Transfer-Encoding" not in headers:
            self._missing = 0 if length is None else _number(length)
        self._begun, self._whole = True, self._missing == 0
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Count a part of the body."""
        if self._missing is not None:
            self._missing -= len(chunk)
            self._whole = self._missing == 0
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        """Take note that all has come."""
        self._whole = True
        self._inner.finish()

    def on_connection_close(self) -> None:
        """Leave a connection that is closed."""
        if self._stream is not None:
            vars(self._stream).pop("read_from_fd", None)
        self._inner.on_connection_close()


def _number(length: str) -> int | None:
    return int(length) if length.isdecimal() and len(length) < 20 else None
