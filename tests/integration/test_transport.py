"""The one sender, driven by a thread and by an event loop: what it writes, reads, keeps and refuses."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from luigi_spendguard.guard.effects import Late, NotSent
from luigi_spendguard.http import transport
from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES, destination
from luigi_spendguard.http.blocking import BlockingTransport, _done
from luigi_spendguard.http.connections import Connect, Idle, PlainChannel, Read, Write
from luigi_spendguard.http.transport import MAX_INTERIM, MAX_PARTS
from luigi_spendguard.vendors import Reply, Request
from scheduler_patch.gateway.replies import Replies, Room
from scheduler_patch.gateway.transport import LoopTransport
from tests.support.clients import PROXIES
from tests.support.network import CERTIFICATE, NAME, ConnectProxy, TlsFront
from tests.support.processes import free_port
from tests.support.raw import RawVendor, answer

Send = Callable[..., list[Any]]


def by_thread(*requests: Request, grant_s: float = 60.0, timeout_s: float = 5.0) -> list[Any]:
    """Send one after another; return replies, and what was raised instead."""
    upstream, found = BlockingTransport(), list[Any]()
    for request in requests:
        try:
            found.append(upstream.send(request, time.monotonic() + grant_s, timeout_s))
        except Exception as error:
            found.append(error)
    return found


def by_loop(*requests: Request, grant_s: float = 60.0, timeout_s: float = 5.0) -> list[Any]:
    """Do the same in an event loop."""

    async def program() -> list[Any]:
        upstream, found = LoopTransport(), list[Any]()
        for request in requests:
            try:
                room = Room(Replies(), "key", lambda: None)
                found.append(await upstream.send(request, time.monotonic() + grant_s, timeout_s, room))
            except Exception as error:
                found.append(error)
        await upstream.close()
        return found

    return asyncio.run(program())


@pytest.fixture(params=[by_thread, by_loop], ids=["thread", "loop"])
def send(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "NO_PROXY", "no_proxy", *CERTIFICATE_VARIABLES):
        monkeypatch.delenv(name, raising=False)


class Counting(RawVendor):
    """Counts connections."""

    accepted = 0

    def serve(self, connection: Any) -> None:
        self.accepted += 1
        super().serve(connection)


def post(url: str, body: bytes = b"a=1", **headers: str) -> Request:
    return Request("POST", url, headers, body)


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what leaves, as it leaves."""
    seen: list[bytes] = []
    real = PlainChannel.write

    def write(self: Any, data: bytes, by: float) -> Any:
        seen.append(data)
        return real(self, data, by)

    monkeypatch.setattr(PlainChannel, "write", write)
    return seen


def test_what_belongs_to_a_connection_is_written_here_alone(send: Send, heads: list[bytes]) -> None:
    forged = {
        "host": "evil.test",
        "content-length": "9",
        "transfer-encoding": "chunked",
        "connection": "close",
        "expect": "100-continue",
        "cookie": "a=b",
        "accept-encoding": "gzip",
        "x-own": "caf\xe9 ",
        "proxy-authorization": "Basic x",
    }
    with RawVendor(lambda number, body: answer(200, {})) as vendor:
        send(Request("POST", f"{vendor.url}/v1/x y?q=\xe9", forged, b"a=1"))
    (head,) = heads
    lines = head.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert lines[0] == b"post /v1/x%20y?q=%c3%a9 http/1.1"
    host = vendor.url.partition("//")[2].encode()
    expected = {b"host: " + host, b"accept-encoding: identity", b"content-length: 3", b"x-own: caf\xe9"}
    assert set(lines[1:]) == expected


@pytest.mark.parametrize("bad", [{"x": "a\r\nhost: evil"}, {"x": "\u2713"}, {"x": "a\x00b"}])
def test_what_cannot_be_written_was_not_sent(send: Send, bad: dict[str, str]) -> None:
    with RawVendor(lambda number, body: answer(200, {})) as vendor:
        (found,) = send(post(vendor.url, **bad))
        assert isinstance(found, NotSent)
        assert vendor.bodies == []


@pytest.mark.parametrize(
    ("coding", "made"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("x-gzip", gzip.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),  # The bare one, without zlib's own frame.
        ("gzip, deflate", lambda data: zlib.compress(gzip.compress(data))),
        ("identity", bytes),
    ],
)
def test_a_coding_that_nobody_asked_for_is_undone(
    send: Send, coding: str, made: Callable[[bytes], bytes]
) -> None:
    data = made(b'{"id": "1"}')
    head = f"HTTP/1.1 200 X\r\nContent-Encoding: {coding}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    with RawVendor(lambda number, body: head + data) as vendor:
        (found,) = send(post(vendor.url))
    assert (found.body, "content-encoding" in found.headers) == (b'{"id": "1"}', False)


def coded(data: bytes) -> bytes:
    return b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data) + data


@pytest.mark.parametrize(
    "reply",
    [
        coded(gzip.compress(b"x" * 100)[:-9]),
        coded(b"not gzip"),
        coded(gzip.compress(b"\0" * (33 << 20))),
        b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 X\r\nX: " + b"y" * 70_000,
        b"",
    ],
    ids=["cut", "other", "bomb", "short", "chunk", "lengths", "nonsense", "head", "nothing"],
)
def test_a_broken_reply_is_none(send: Send, reply: bytes) -> None:
    class Once(RawVendor):
        def serve(self, connection: Any) -> None:
            connection.recv(65536)
            connection.sendall(reply)

    with Once(lambda number, body: b"") as vendor:
        (found,) = send(post(vendor.url, authorization="Bearer sk_test_canary"))
    assert isinstance(found, ConnectionError)
    assert found.__traceback__ is None or "sk_test" not in repr(found)


def test_no_cookie_is_kept_and_no_redirect_followed(send: Send, heads: list[bytes]) -> None:
    more = b"Set-Cookie: session=1\r\nLocation: /elsewhere\r\nConnection: keep-alive\r\n"
    with RawVendor(lambda number, body: answer(302, {}, more)) as vendor:
        found = send(post(vendor.url), post(vendor.url))
    assert [reply.status for reply in found] == [302, 302]
    assert {name for reply in found for name in reply.headers} == {"content-type", "location"}
    assert not any(b"cookie" in head.lower() for head in heads)


def test_a_connection_that_is_to_be_closed_is_not_used_again(send: Send) -> None:
    with Counting(lambda number, body: answer(200, {}, b"Connection: close\r\n" * (number < 2))) as vendor:
        found = send(*[post(vendor.url) for _ in range(5)])
    assert [reply.status for reply in found] == [200] * 5
    assert vendor.accepted == 3


def test_a_forked_child_uses_no_connection_of_its_parents() -> None:
    with Counting(lambda number, body: answer(200, {})) as vendor:
        upstream = BlockingTransport()

        def status() -> int:
            return upstream.send(post(vendor.url), time.monotonic() + 60, 5).status

        assert status() == 200
        pid = os.fork()
        if not pid:
            os._exit(status() != 200)
        assert os.waitpid(pid, 0)[1] == 0
        assert vendor.accepted == 2
        assert status() == 200  # On the parent's, which the child has not closed.
    assert vendor.accepted == 2


def test_what_waits_too_long_is_closed_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luigi_spendguard.http.connections.FRESH_S", 0.0)
    monkeypatch.setattr("scheduler_patch.gateway.transport.FRESH_S", -0.9)

    async def program(url: str) -> bool:
        upstream = LoopTransport()
        await upstream.send(post(url), time.monotonic() + 60, 5, Room(Replies(), "key", lambda: None))
        lines = upstream._idle._lines
        limit = time.monotonic() + 10
        while any(lines.values()) and time.monotonic() < limit:
            await asyncio.sleep(0.02)
        left = any(lines.values())
        await upstream.close()
        return left

    with RawVendor(lambda number, body: answer(200, {})) as vendor:
        assert not asyncio.run(program(vendor.url))


@pytest.mark.parametrize("way", ["http://user:pass/word@p:1", "http://user:pw@[::1", "http://p:secret"])
def test_a_proxy_that_cannot_be_read_does_not_show_its_password(
    send: Send, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", way)
    (found,) = send(post(f"https://{NAME}/v1"))
    assert isinstance(found, NotSent)
    for part in ("pass", "pw", "secret"):
        assert part not in str(found)


def test_bytes_that_answer_nothing_are_no_reply(send: Send) -> None:
    """A reply too many, on a connection that is kept, would be taken for the next call's."""
    with RawVendor(lambda number, body: answer(200, {"n": number}) * 2) as vendor:
        first, second = send(post(vendor.url), post(vendor.url))
    assert (first.body, second.body) == (b'{"n": 0}', b'{"n": 1}')


def test_an_upload_that_is_refused_early_is_answered(send: Send) -> None:
    class Early(RawVendor):
        def serve(self, connection: Any) -> None:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            while connection.recv(1 << 20):
                pass

    with Early(lambda number, body: b"") as vendor:
        (found,) = send(post(vendor.url, b"x" * (8 << 20)))
    assert isinstance(found, Reply)
    assert found.status == 413


@pytest.mark.parametrize("name", CERTIFICATE_VARIABLES)
@pytest.mark.parametrize("secured", [False, True], ids=["http-proxy", "https-proxy"])
def test_a_vendor_behind_a_proxy(
    send: Send, monkeypatch: pytest.MonkeyPatch, name: str, secured: bool
) -> None:
    monkeypatch.setenv(name, str(CERTIFICATE))
    with (
        RawVendor(lambda number, body: answer(200, {"n": number})) as vendor,
        TlsFront(int(vendor.url.rpartition(":")[2])) as front,
        ConnectProxy(int(front.url.rpartition(":")[2]), tls=secured) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"https://{proxy.address}" if secured else proxy.address)
        found = send(post(f"https://{NAME}/v1"), post(f"https://{NAME}/v1"))
    assert [getattr(one, "body", one) for one in found] == [b'{"n": 0}', b'{"n": 1}']
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("way", ["socks5://127.0.0.1:1", "ftp://x", "http://"])
def test_a_proxy_of_another_kind_is_refused_by_name(
    send: Send, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", way)
    (found,) = send(post(f"https://{NAME}/v1"))
    assert isinstance(found, NotSent)
    assert "cannot be used" in str(found)


def test_a_grant_that_is_too_old_sends_nothing_and_keeps_the_connection(send: Send) -> None:
    with RawVendor(lambda number, body: answer(200, {})) as vendor:
        (found,) = send(post(vendor.url), grant_s=-1)
        assert isinstance(found, Late)
        assert vendor.bodies == []


@pytest.mark.parametrize("at", [Connect, Write, Read])
def test_an_interrupt_is_known_to_have_come_before_the_first_byte_or_after(at: type) -> None:
    """While connecting nothing was sent; afterwards nobody knows."""
    with RawVendor(lambda number, body: answer(200, {})) as vendor:
        idle = Idle()
        steps = transport.sending(post(vendor.url), idle, transport.Limits(time.monotonic() + 60, 5))
        step = next(steps)
        while not isinstance(step, at):
            step = steps.send(_done(step))
        with pytest.raises((NotSent, KeyboardInterrupt)) as raised:
            steps.throw(KeyboardInterrupt())
        idle.close()
    before = isinstance(raised.value, NotSent)
    assert before == (at is Connect)
    assert not before or isinstance(raised.value.interrupt, KeyboardInterrupt)


def test_nobody_listens(send: Send) -> None:
    (found,) = send(post(f"http://127.0.0.1:{free_port()}"))
    assert isinstance(found, NotSent)


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.test", ("p", 1)),
        ({"https_proxy": "p:1"}, "https://a.test", ("p", 1)),
        ({"ALL_PROXY": "https://p"}, "https://a.test", ("p", 443)),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.test"}, "https://api.a.test", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "https://11.1.2.3", ("p", 1)),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://a.test", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://127.0.0.1:5", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://localhost", None),
        ({"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:1"}, "http://a.test", None),
        ({"HTTP_PROXY": "http://p:1"}, "https://a.test", None),
    ],
)
def test_which_proxy_is_for_which_address(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, expected: Any
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = destination(url).proxy
    assert (found and (found.host, found.port)) == expected
    assert destination(url, straight=True).proxy is None


@pytest.mark.parametrize(("parts", "whole"), [(MAX_PARTS, True), (MAX_PARTS + 1, False)])
def test_a_reply_in_very_many_crumbs_is_not_read(send: Send, parts: int, whole: bool) -> None:
    crumbs = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * parts + b"0\r\n\r\n"
    with RawVendor(lambda number, body: crumbs) as vendor:
        [found] = send(post(vendor.url), timeout_s=60)
    assert len(vendor.bodies) == 1
    if whole:
        assert found.body == b"x" * parts
    else:
        assert isinstance(found, ConnectionError)


@pytest.mark.parametrize(("interim", "whole"), [(MAX_INTERIM, True), (MAX_INTERIM + 1, False)])
def test_a_reply_after_very_many_interim_ones_is_not_waited_for(
    send: Send, interim: int, whole: bool
) -> None:
    said = b"HTTP/1.1 103 Early Hints\r\n\r\n" * interim + answer(200, {})
    with RawVendor(lambda number, body: said) as vendor:
        [found] = send(post(vendor.url))
    assert len(vendor.bodies) == 1
    assert found.status == 200 if whole else isinstance(found, ConnectionError)


def test_a_vendor_that_is_fast_does_not_keep_the_loop() -> None:
    """Every part of a reply lets others go on: counted, by one who goes on whenever it can."""
    turns = 0

    async def program(url: str) -> None:
        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        upstream = LoopTransport()
        room = Room(Replies(), "key", lambda: None)
        reply = await upstream.send(Request("GET", url, {}), time.monotonic() + 60, 60, room)
        assert len(reply.body) == 24 << 20
        task.cancel()
        await upstream.close()

    with RawVendor(lambda number, body: answer(200, "x" * ((24 << 20) - 2))) as vendor:
        asyncio.run(program(f"{vendor.url}/"))
    assert turns >= (24 << 20) >> 16
