"""Sends a request and knows for certain whether a byte of it has left; without I/O of its own.

`sending` is a generator, as the guard's are: it yields what is to be done with a socket (`Connect`, `Write`,
`Read`) and is sent what came of it, so that a worker's threads and luigid's loop send in the same way. A
name's resolution, TCP, a proxy's CONNECT and TLS are connecting; the grant's clock is checked after that,
and the next thing that is written is the request's first byte. HTTP/1.1 by h11, TLS by `ssl`'s own buffers.
No redirects, no cookies, no retries; codings that were not asked for are undone.
"""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Generator
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import h11

from luigi_spendguard.guard.effects import Late, NotSent
from luigi_spendguard.http.addresses import Destination, NoAddress, Proxy, destination, tls_context
from luigi_spendguard.http.connections import (
    Channel,
    Connect,
    Idle,
    Line,
    Operation,
    PlainChannel,
    Steps,
    TlsChannel,
    Undo,
)
from luigi_spendguard.http.unreached import Unreached
from luigi_spendguard.vendors import Reply, Request

#: Seconds to connect in, proxy and TLS included; the vendor's `timeout_s` is for its answer.
CONNECT_S = 10.0
#: A longer reply is not read: the call is in doubt.
MAX_REPLY = 32 << 20
#: One in more parts (chunks), or after more interim ones, is not either: each takes its time, short or not.
MAX_PARTS, MAX_INTERIM = 50_000, 100
#: The most bytes of a reply's head, or of a chunk's size, and those that leave with the first byte.
_MAX_HEAD, _FIRST = 1 << 16, 1 << 16

#: What belongs to one connection (RFC 9110, 7.6.1), or is written here.
_OWN = {
    "host",
    "content-length",
    "transfer-encoding",
    "accept-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-authorization",
    "proxy-connection",
    "cookie",
}
#: The same of a reply, whose coding is undone; and a session of the vendor's, which is nobody's here.
_NOT_PASSED_ON = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "set-cookie",
}


class Limits(NamedTuple):
    """Until when a request may be sent (`time.monotonic`), and for how many seconds what is waited for."""

    deadline: float
    timeout_s: float
    connect_s: float = CONNECT_S


def sending(
    request: Request, idle: Idle, limits: Limits, *, straight: bool = False, proxy: str = ""
) -> Generator[Operation, Any, Reply]:
    """Send a request before its deadline; return the reply, which has come in full within the time-out.

    Raises NotSent, Late (the connection is then kept in `idle`), and after the first byte ConnectionError
    or TimeoutError. None has a cause, whose frames would hold the request and so the secret.
    """
    try:
        to = destination(request.url, straight=straight, proxy=proxy)
        http, data = _written(request, to)
        line = idle.take(to) or (yield from _connected(to, time.monotonic() + limits.connect_s))
        if time.monotonic() > limits.deadline:
            idle.keep(to, line)
            raise Late("the grant was too old when the connection was ready")
    except (OSError, ValueError, h11.ProtocolError) as error:
        raise _unsent(error) from None
    except (NotSent, GeneratorExit):
        raise
    except BaseException as interrupt:
        unsent = NotSent("interrupted before the first byte")
        unsent.interrupt = interrupt
        raise unsent from None
    # From here on a byte may have left.
    kept = False
    try:
        reply, kept = yield from _exchanged(line, http, data, time.monotonic() + limits.timeout_s)
    except TimeoutError:
        raise TimeoutError("the reply has not come within the time-out") from None
    except (OSError, ValueError, h11.ProtocolError) as error:
        raise ConnectionError(f"the exchange broke off: {_kind(error)}") from None
    finally:
        if not kept:
            line.close()
    if kept:
        idle.keep(to, line)
    return reply


def _unsent(error: Exception) -> NotSent:
    """Return what an error before the first byte is to who has asked."""
    known = Unreached.of(error)
    if not known.remedy:
        return NotSent(f"{_kind(error)} before the first byte")
    unsent = NotSent(f"{known.why}: {known.remedy}")
    unsent.is_told, unsent.lasts = True, known.lasts
    return unsent


def _kind(error: Exception) -> str:
    """Say what an error is; the text of ours has nothing of the request in it."""
    ours = isinstance(error, (_Refused, NoAddress))
    return str(error) if ours else type(error).__name__


class _Refused(ConnectionError):
    """The other side does not go on."""


def _connected(to: Destination, by: float) -> Generator[Operation, Any, Line]:
    """Connect, through the proxy if there is one, and agree on TLS. Raises OSError, h11.ProtocolError."""
    near = to if to.proxy is None else to.proxy
    sock: socket.socket = yield Connect(near.host, near.port, by)
    channel: Channel = PlainChannel(sock)
    try:
        if to.proxy is not None:
            if to.proxy.tls:
                channel = yield from _secured(channel, to.bundle, to.proxy.host, by)
            yield from _tunnelled(channel, to, to.proxy, by)
        if to.tls:
            channel = yield from _secured(channel, to.bundle, to.host, by)
    except BaseException:
        sock.close()
        raise
    return Line(sock, channel)


def _secured(
    channel: Channel, bundle: str | None, host: str, by: float
) -> Generator[Operation, Any, TlsChannel]:
    tls = TlsChannel(channel, tls_context(bundle), host)
    try:
        yield from tls.handshake(by)
    except TimeoutError:
        raise TimeoutError("the handshake operation timed out") from None  # As `ssl` calls it.
    return tls


def _tunnelled(channel: Channel, to: Destination, proxy: Proxy, by: float) -> Steps:
    """Ask a proxy for a way to the vendor; it learns the vendor's host and port."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    target = f"[{to.host}]:{to.port}" if ":" in to.host else f"{to.host}:{to.port}"
    headers = [("host", target)]
    if proxy.authorization:
        headers.append(("proxy-authorization", str(proxy.authorization)))
    asked = http.send(h11.Request(method="CONNECT", target=target, headers=headers)) or b""
    asked += http.send(h11.EndOfMessage()) or b""
    yield from channel.write(channel.sealed(asked), by)
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data((yield from channel.read(by)))
        elif isinstance(event, h11.Response):
            if not 200 <= event.status_code < 300:
                raise _Refused(f"the proxy {proxy.host}:{proxy.port} has answered {event.status_code}")
            if http.trailing_data[0]:
                raise _Refused(f"the proxy {proxy.host}:{proxy.port} has said more than its answer")
            return
        elif not isinstance(event, h11.InformationalResponse):
            raise _Refused(f"the proxy {proxy.host}:{proxy.port} has closed the connection")


def _written(request: Request, to: Destination) -> tuple[h11.Connection, bytes]:
    """Return a request's bytes. Raises ValueError or h11.ProtocolError for one that cannot be written."""
    parts = urlsplit(request.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [(b"host", to.authority.encode())]
    # The bytes are the vendor's own: a coding would have to be undone to be read.
    headers.append((b"accept-encoding", b"identity"))
    for name, value in request.headers.items():
        if name.lower() not in _OWN:
            headers.append((name.encode("latin-1"), value.strip().encode("latin-1")))
    if request.body or request.method not in ("GET", "HEAD"):
        headers.append((b"content-length", str(len(request.body)).encode()))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    target = quote(path, safe="!#$%&'()*+,/:;=?@[]~")
    data = http.send(h11.Request(method=request.method, target=target, headers=headers)) or b""
    if request.body:
        data += http.send(h11.Data(data=request.body)) or b""
    data += http.send(h11.EndOfMessage()) or b""
    return http, data


def _exchanged(
    line: Line, http: h11.Connection, data: bytes, by: float
) -> Generator[Operation, Any, tuple[Reply, bool]]:
    """Write and read; return the reply and whether the connection can be used again."""
    channel, refused = line.channel, None
    try:
        # What is sealed at once is short: the first byte leaves right after the clock was checked.
        for start in range(0, len(data), _FIRST):
            yield from channel.write(channel.sealed(data[start : start + _FIRST]), by)
    except TimeoutError:
        raise
    except OSError as error:  # A server that takes no more may have said why.
        refused = error
    head: h11.Response | None = None
    parts: list[bytes] = []
    size = interim = 0
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            try:
                http.receive_data((yield from channel.read(by)))
            except OSError as error:
                raise refused or error from None
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            size += len(event.data)
            parts.append(bytes(event.data))
            if size > MAX_REPLY or len(parts) > MAX_PARTS:
                raise _Refused("the reply is too long")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            break
        elif isinstance(event, h11.InformationalResponse) and interim < MAX_INTERIM:
            interim += 1
        else:
            raise _Refused("the connection was closed, or goes on, without a reply")
    again = http.our_state is h11.DONE and http.their_state is h11.DONE and not http.trailing_data[0]
    body = b"".join(parts)
    parts.clear()
    headers, codings = _headers_of(head)
    if codings:
        body, left = yield Undo(partial(decoded, body, codings, MAX_REPLY), by)
        headers |= {"content-encoding": left} if left else {}
    return Reply(head.status_code, headers, body), again and refused is None


def _headers_of(head: h11.Response) -> tuple[dict[str, str], str]:
    """Return a reply's headers, and its codings."""
    headers: dict[str, str] = {}
    codings = ""
    for raw, content in head.headers:
        name, value = raw.decode("ascii"), content.decode("latin-1")
        if name == "content-encoding":
            codings = f"{codings},{value}"
        elif name not in _NOT_PASSED_ON:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers, codings


def decoded(body: bytes, codings: str, limit: int) -> tuple[bytes, str]:
    """Return a body without its `codings` (a Content-Encoding), and those that are not known here.

    Raises ValueError for one that is broken, or longer than `limit` bytes.
    """
    todo = [name for one in codings.split(",") if (name := one.strip().lower()) not in ("", "identity")]
    while todo and todo[-1] in ("gzip", "x-gzip", "deflate"):
        body = _inflated(body, todo.pop().endswith("gzip"), limit)
    return body, ", ".join(todo)


def _inflated(body: bytes, gzip: bool, limit: int) -> bytes:
    # Deflate is zlib's format by its RFC, and the bare one with some servers.
    forms = (zlib.MAX_WBITS | 16,) if gzip else (zlib.MAX_WBITS, -zlib.MAX_WBITS)
    for form in forms:
        inflating = zlib.decompressobj(form)
        try:
            inflated = inflating.decompress(body, limit + 1)
        except zlib.error:
            continue
        if len(inflated) > limit:
            raise ValueError("the reply is too long")
        if inflating.eof:
            return inflated
    if not body:
        return body
    raise ValueError("the reply's coding is broken")
