"""An RPC's exchange on a connection that is kept: every form a reply may have, and what breaks it."""

from __future__ import annotations

import http.client
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from luigi_spendguard.http import rpc_connections
from luigi_spendguard.http.addresses import SchedulerAddress
from luigi_spendguard.http.rpc_connections import BadReply, Exchange, RpcConnections

CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers each request with the next of its replies; None: closes the connection instead.

    Attributes:
        connections, connection: how many were made, and the last.
        heard: the requests.

    """

    def __init__(self, replies: list[bytes | None]) -> None:
        self.replies, self.heard, self.connections = replies, list[bytes](), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self.replies:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections, self.connection = self.connections + 1, connection
            with connection, suppress(ConnectionResetError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        while self.replies:
            data = b""
            while b"\r\n\r\n" not in data or not data.endswith(b"body"):
                if not (more := connection.recv(1 << 16)):
                    return
                data += more
            self.heard.append(data)
            if (reply := self.replies.pop(0)) is None:
                return
            connection.sendall(reply)

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)


@contextmanager
def server(*replies: bytes | None) -> Iterator[tuple[Server, RpcConnections]]:
    made = Server(list(replies))
    connections = RpcConnections(SchedulerAddress.of(f"http://127.0.0.1:{made.port}/below"))
    try:
        yield made, connections
    finally:
        connections.close()
        made.end()


def post(connections: RpcConnections, seconds: float = 20, **headers: str) -> tuple[int, bytes]:
    asked = Exchange("/api/spend_x", headers, b"body", time.monotonic() + seconds)
    return connections.post(asked, 2.0)[:2]


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        (PLAIN, 200, b"{}"),
        (b"HTTP/1.1 503 Busy now\r\ncontent-length:  3 \r\nX: y\r\n\r\nno!", 503, b"no!"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, 200, b"{}"),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, b""),
        (CHUNKS + b'3;x=y\r\n{"a\r\n4\r\n":1}\r\n0\r\nT: t\r\n\r\n', 200, b'{"a":1}'),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
    ],
    ids=["plain", "an error", "a first answer", "empty", "in chunks", "of version 1.0"],
)
def test_a_reply(reply: bytes, status: int, body: bytes) -> None:
    with server(reply) as (heard, connections):
        assert post(connections, Authorization="Bearer t") == (status, body)
    assert heard.heard == [
        b"POST /below/api/spend_x HTTP/1.1\r\nAccept-Encoding: identity\r\nContent-Length: 4\r\n"
        + f"Host: 127.0.0.1:{heard.port}\r\n".encode()
        + b"Authorization: Bearer t\r\n\r\nbody"
    ]


@pytest.mark.parametrize(("mark", "is_luigids"), [(b"X-Spendguard-Answered: 1\r\n", True), (b"", False)])
def test_whose_a_reply_is(mark: bytes, is_luigids: bool) -> None:
    with server(b"HTTP/1.1 409 X\r\nContent-Length: 2\r\n%b\r\n{}" % mark) as (_, connections):
        reply = connections.post(Exchange("/api/spend_x", {}, b"body", time.monotonic() + 20), 2.0)
    assert reply == (409, b"{}", is_luigids)


def test_a_program_that_prints_its_requests_prints_none_of_these(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with server(PLAIN) as (_, connections):
        post(connections, Authorization="Bearer t")
    assert capfd.readouterr() == ("", "")


def test_a_connection_is_kept() -> None:
    with server(PLAIN, PLAIN, PLAIN) as (heard, connections):
        for _ in range(3):
            assert post(connections) == (200, b"{}")
        assert heard.connections == 1


@pytest.mark.parametrize(
    "last",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["it says so", "of version 1.0"],
)
def test_one_that_does_not_last_is_not(last: bytes) -> None:
    with server(last) as (_, connections):
        assert post(connections) == (200, b"{}")
        assert not connections._idle


def test_one_that_was_closed_meanwhile_is_made_anew() -> None:
    with server(PLAIN, None, PLAIN) as (heard, connections):
        assert [post(connections) for _ in range(2)] == [(200, b"{}")] * 2
        assert heard.connections == 2
        assert len(heard.heard) == 3


def test_one_on_which_something_has_come_that_nobody_asked_for_is_not_used_again() -> None:
    with server(PLAIN, PLAIN) as (heard, connections):
        post(connections)
        heard.connection.sendall(b"HTTP/1.1 408 Too slow\r\nContent-Length: 0\r\n\r\n")
        (_, kept) = connections._idle[0]
        select.select([kept.sock], [], [], 20)
        assert post(connections) == (200, b"{}")
        assert heard.connections == 2


def test_one_that_has_waited_for_long_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(PLAIN, PLAIN) as (_, connections):
        post(connections)
        monkeypatch.setattr(rpc_connections, "_FRESH_S", -1)
        (_, kept) = connections._idle[0]
        assert connections._take() is None
        assert kept.sock is None


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-x\r\n\r\nContent-Length",
        b"HTTP/1.1 ok\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
        CHUNKS + b"xyz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"Content-Length",
    ],
    ids=[
        "no HTTP",
        "no status",
        "too long",
        "bad chunks",
        "long head",
    ],
)
def test_what_is_no_reply(reply: bytes) -> None:
    with server(reply) as (_, connections), pytest.raises(BadReply):
        post(connections)


def test_one_in_chunks_that_is_too_long_is_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_connections, "_MAX_REPLY", 4)
    with server(CHUNKS + b"5\r\n12345\r\n0\r\n\r\n") as (_, connections), pytest.raises(BadReply):
        post(connections)


@pytest.mark.parametrize(
    "part",
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nno length", PLAIN[:-1], CHUNKS + b"3\r\n{"],
    ids=["its head", "without a length", "its body", "a chunk"],
)
def test_one_that_breaks_off_is_no_reply(part: bytes) -> None:
    with server(part) as (_, connections), pytest.raises(BadReply):
        post(connections)


def test_a_reply_is_waited_for_so_long() -> None:
    with server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", PLAIN) as (_, connections):
        with pytest.raises(TimeoutError):
            post(connections, seconds=0)
        assert not connections._idle


def test_a_header_of_two_lines_is_not_sent() -> None:
    with server(PLAIN) as (heard, connections):
        with pytest.raises(ValueError, match="line break"):
            post(connections, Authorization="Bearer t\r\nX: y")
        assert heard.heard == []
