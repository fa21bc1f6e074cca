"""A request whose body is read once its sender is known, within a limit, and which is answered all the same.

A client that ends its own side of the connection once it has asked (`shutdown(SHUT_WR)`, `nc -N` and some
proxies) is gone to tornado alone, which drops the answer. One that speaks TLS to a port in clear would wait
until it gives up, as tornado waits for a line's end: it is refused at once.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler, stream_request_body

#: A refused request's body of so many bytes is read and dropped: many a client reads no answer before it has
#: sent all. With a longer one the connection is closed.
DRAINED = 32 << 20
#: Seconds in which a whole body has to come: what is held for it is not held for a client that is no more.
BODY_S = 300.0


@stream_request_body
class Receiving(RequestHandler):
    """A subclass says in `admit` who may come in, with `limit` (bytes), and in `refuse` how it answers."""

    limit = 1 << 20
    #: Why the request is refused, when that is known before its body.
    refusal: Exception | None = None
    #: The connection ends with the answer, which says so.
    closing = False
    _answering, _answered = False, False

    def initialize(self, **settings: Any) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    async def admit(self) -> None:
        """Raise what `refuse` answers unless the sender is known and may ask for this."""
        raise NotImplementedError  # A route's own: tornado's handlers are no abstract classes.

    def refuse(self, error: Exception) -> None:
        """Answer with a refusal; raise what is none."""
        raise NotImplementedError  # As above.

    @property
    def body(self) -> bytes:
        """The body, as far as it is within the limit."""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] if self._parts else b""

    def forget(self) -> None:
        """Keep nothing of the body any more."""
        self._parts = []

    @property
    def declared(self) -> int | None:
        """The length that a request says its body has, in bytes; None: it does not say."""
        if "Transfer-Encoding" in self.request.headers:
            return None
        return _number(self.request.headers.get("Content-Length", "0"))

    async def prepare(self) -> None:
        """Admit the request, or answer; tornado reads nothing of its body before this is done."""
        connection = self.request.connection
        if isinstance(connection, HTTP1Connection):
            connection.set_body_timeout(BODY_S)
        try:
            await self.admit()
        except Exception as error:
            self.refusal, length = error, self.declared
            if length == 0:
                return
            self.closing = length is not None and length > DRAINED
            self._answering = not self.closing
            self.refuse(error)
            self._answering, self._answered = False, True

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body; of one that is too large, or refused, nothing is kept."""
        self.size += len(chunk)
        if self.refusal is None and self.size <= self.limit:
            self._parts.append(chunk)
        else:
            self._parts.clear()
        if self._answered and self.size > DRAINED and not self._finished:
            self.finish()

    def end_refused(self, refusal: Exception) -> None:
        """End a request that was refused before its body was read; it may have its answer already."""
        if self._answered:
            self.finish()
        else:
            self.refuse(refusal)

    def finish(self, chunk: Any = None) -> Future[None]:
        """End the answer; while the body of a refused request is still to come, only send it."""
        if not self._answering:
            return super().finish(chunk)
        self._transforms = []  # One that compresses would wait for the end.
        data = chunk.encode() if isinstance(chunk, str) else bytes(chunk or b"")
        self.set_header("Content-Length", str(len(data)))
        self.write(data)
        return self.flush()


_NAME = "spendguard_side"
#: A TLS handshake's first byte (RFC 8446, 5.1), which no HTTP request begins with; what is read in its place.
_TLS = 0x16
_NO_HTTP = b"TLS to a port that speaks plain http\r\n\r\n"


def answer_half_closed(app: Application) -> None:
    """Let an application answer who has ended its side, or speaks TLS to it; once, before it serves."""
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
        if count and not self._begun and buffer[0] == _TLS:
            buffer[: len(_NO_HTTP)] = _NO_HTTP  # A bad request: tornado answers 400, and closes.
            return len(_NO_HTTP)
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
