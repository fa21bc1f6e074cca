"""How long a reply may take in all, whoever sends it and however slowly."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.vendors import Request
from tests.support.raw import RawVendor, answer

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


@contextmanager
def dripping(first: bytes, each: bytes, pause_s: float) -> Iterator[str]:
    """Serve one request: say `first`, then `each` again and again."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(65536)
                connection.sendall(first)
                while not over.wait(pause_s):
                    connection.sendall(each)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        finally:
            over.set()
            thread.join(10)


@pytest.mark.parametrize(
    ("first", "each"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "chunks", "headers", "interim"],
)
def test_a_vendor_that_drips_is_cut_off(first: bytes, each: bytes) -> None:
    with dripping(first, each, 0.1) as url:
        began = time.monotonic()
        with pytest.raises((ConnectionError, TimeoutError)):
            BlockingTransport().send(Request("POST", url, {}, b"a=1"), began + 60, 0.5)
        assert 0.4 < time.monotonic() - began < 5


def test_a_connection_serves_one_reply_after_another() -> None:
    """The time of the first is not the second's."""
    upstream, accepted = BlockingTransport(), []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        accepted.append(connection)
        with connection:
            for _ in range(3):
                connection.recv(65536)
                time.sleep(0.4)  # What is measured: three of them are longer than what one may take.
                connection.sendall(WHOLE)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        for _ in range(3):
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            reply = upstream.send(Request("GET", url, {}), time.monotonic() + 60, 1.0)
            assert (reply.status, reply.body) == (200, b"body")
        thread.join(10)
    assert len(accepted) == 1


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 199 X\r\n\r\n"]
)
def test_an_interim_reply_is_not_the_reply_and_never_the_next_ones(interim: bytes) -> None:
    with RawVendor(
        lambda number, body: interim * 2 + answer(422 if not number else 200, {"n": number})
    ) as vendor:
        upstream = BlockingTransport()
        for status in (422, 200):
            reply = upstream.send(Request("POST", f"{vendor.url}/", {}, b"a=1"), time.monotonic() + 60, 5)
            assert reply.status == status


def test_a_vendor_that_changes_the_protocol_has_not_answered() -> None:
    switched = b"HTTP/1.1 101 Switching\r\n\r\n"
    with RawVendor(lambda number, body: switched) as vendor, pytest.raises(ConnectionError):
        BlockingTransport().send(Request("POST", f"{vendor.url}/", {}, b"a=1"), time.monotonic() + 60, 5)
