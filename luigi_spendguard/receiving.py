"""A request whose body is read once its sender is known, and within a limit."""

from __future__ import annotations

from asyncio import Future
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.web import RequestHandler, stream_request_body

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
        """Take the route's settings."""
        self._parts: list[bytes] = []
        self.size = 0

    async def admit(self) -> None:
        """Raise what `refuse` answers unless the sender is known and may ask for this."""
        raise NotImplementedError  # A route's own: tornado's handlers are no abstract classes.

    def refuse(self, error: Exception) -> None:
        """Answer with a refusal; raise what is none."""
        raise NotImplementedError

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
        said = self.request.headers.get("Content-Length", "0")
        return int(said) if said.isdecimal() and len(said) < 20 else None

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
