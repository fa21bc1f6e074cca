"""What peers without a right token or key cost those who have one, and luigid's memory."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from luigi_spendguard.http import receiving
from luigi_spendguard.http.relay import MAX_UPLOAD
from luigi_spendguard.vendors import Reply as VendorsReply
from luigi_spendguard.vendors import Request
from scheduler_patch.api import routes
from scheduler_patch.api.handler import MAX_REQUEST
from scheduler_patch.gateway.handler import relay_routes
from scheduler_patch.service.shares import BYTES_OF_A_KEY, WRONG_LIMIT
from tests.integration.test_gateway import form, raw
from tests.integration.test_vault_keys import charge, issued
from tests.support.asking import ADMIN, ASK, WORKER, WRONG, send
from tests.support.site import Site
from tests.unit.gateway.test_shares import Played
from tests.unit.gateway.test_shares import run as play

MADE_UP = "vault_key_" + "m4de-up_" * 5
#: How much more memory luigid may take for strangers' bodies together, in KiB.
ROOM_KIB = 40 << 10


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 10000}
    with Site(tmp_path / "gateway", gateway=True, spendguard=said) as site:
        yield site


def most_kib(site: Site) -> int:
    """Return the most memory that luigid has had, in KiB."""
    assert site.luigid is not None
    status = Path(f"/proc/{site.luigid.popen.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


@pytest.mark.parametrize("where", ["RPC", "gateway", "token"])
def test_who_is_right_is_served_at_once_whoever_else_fails_from_its_address(
    gateway: Site, where: str
) -> None:
    issued(gateway)  # The ledger is there; the admin's token has not been seen yet.
    for _ in range(WRONG_LIMIT + 5):
        if where == "RPC":
            status = send(gateway, "POST", "/api/spend_reserve", ASK | {"call_id": "c"}, MADE_UP).status
        elif where == "token":
            status = send(gateway, "GET", "/vault/keys", token=WRONG).status
        else:
            status, _, _ = raw(gateway, "POST", "/stripe/v1/charges", b"amount=1", **form(MADE_UP))
    assert status == 429
    key = issued(gateway)["vault_key"]
    assert charge(gateway, key).status == "succeeded"
    assert send(gateway, "GET", "/runs").status == 200
    assert send(gateway, "DELETE", "/runs/r", token=ADMIN).status == 200
    assert gateway.stripe.moved() == 100


def test_the_body_of_who_shows_no_right_key_takes_no_memory(gateway: Site) -> None:
    before = most_kib(gateway)
    body = b"x" * (1 << 20)
    with ExitStack() as stack:
        strangers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port))) for _ in range(20)
        ]
        head = "POST /stripe/v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data\r\n"
        head += f"Authorization: Bearer {MADE_UP}\r\nContent-Length: {MAX_UPLOAD}\r\n\r\n"
        for one in strangers:
            one.settimeout(20)
            one.sendall(head.encode())
            assert one.recv(100).startswith(b"HTTP/1.1 401 ")  # Before it has sent any of the body.
        for _ in range(16):
            for one in strangers:
                one.sendall(body)
        assert send(gateway, "GET", "/status").status == 200
        assert most_kib(gateway) - before < ROOM_KIB
    assert gateway.stripe.posts() == []


def test_a_client_that_reads_no_answer_before_it_has_sent_all_gets_it_then(gateway: Site) -> None:
    issued(gateway)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    for _ in range(2):  # On the same connection.
        connection.request("POST", "/stripe/v1/charges", b"x" * (9 << 20), form(MADE_UP))
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())["error"]["code"]) == (401, "unknown_key")
    connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": [' + b"{}," * 1_300_000 + b"{}]}",
        b'{"a": [' + b"[]," * 1_300_000 + b"[]]}",
        b"[" * 4_000_000,
        b'{"a": "' + b"x" * 4_000_000 + b'"}',
        b'{"a": [' + b"1," * 30_000 + b"1]}",
    ],
    ids=["objects", "lists", "depth", "text", "numbers"],
)
def test_a_body_of_anybodys_takes_no_memory(gateway: Site, body: bytes) -> None:
    issued(gateway)
    before = most_kib(gateway)
    for _ in range(6):
        reply = send(gateway, "POST", "/api/list_runs", body)
        assert reply.status == (413 if len(body) > 65536 else 400)
    assert most_kib(gateway) - before < ROOM_KIB


@pytest.mark.parametrize("one", [b"{}", b"[]", b"1", b'""'])
def test_a_body_of_very_many_values_is_not_taken_apart_whoevers_it_is(gateway: Site, one: bytes) -> None:
    key = issued(gateway)["vault_key"]
    before = most_kib(gateway)
    body = b'{"headers": [' + b",".join([one] * 1_000_000) + b"]}"
    for token in (WORKER, key):
        path = "/api/spend_claim" if token == WORKER else "/api/spend_reserve"
        assert send(gateway, "POST", path, body, token).is_error(400, "bad_request")
    assert most_kib(gateway) - before < ROOM_KIB


def test_long_bodies_of_one_key_leave_room_for_anothers(gateway: Site) -> None:
    busy, other = (issued(gateway, agent_run_label=None, run_usd_cap=100)["vault_key"] for _ in range(2))
    before = most_kib(gateway)
    body = b"x" * (1 << 20)
    with ExitStack() as stack:
        head = "POST /stripe/v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data\r\n"
        head += f"Authorization: Bearer {busy}\r\nContent-Length: {MAX_UPLOAD}\r\n\r\n"
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port))) for _ in range(20)]
        for one in slow:
            one.sendall(head.encode())
            one.setblocking(False)
        for _ in range(16):
            for one in slow:
                with suppress(BlockingIOError):
                    one.send(body)
            assert send(gateway, "GET", "/status").status == 200
        upload = form(other) | {"Content-Type": "multipart/form-data; boundary=x"}
        assert raw(gateway, "POST", "/stripe/v1/files", b"x" * (9 << 20), **upload)[0] != 503
        assert charge(gateway, other).status == "succeeded"
        assert most_kib(gateway) - before < (2 * MAX_UPLOAD >> 10) + 2 * ROOM_KIB
    again = raw(gateway, "POST", "/stripe/v1/files", body, **(upload | {"Authorization": f"Bearer {busy}"}))
    assert again[0] != 503  # All was given back.


def test_what_one_key_says_to_an_rpc_leaves_memory_too(gateway: Site) -> None:
    key = issued(gateway)["vault_key"]
    before = most_kib(gateway)
    with ExitStack() as stack:
        head = "POST /api/spend_reserve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {key}\r\nContent-Length: {MAX_REQUEST}\r\n\r\n"
        for _ in range(40):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            one.sendall(head.encode())
            one.setblocking(False)
            for _ in range(3):
                with suppress(BlockingIOError):
                    one.send(b"x" * (1 << 20))
                assert send(gateway, "GET", "/status").status == 200
        assert most_kib(gateway) - before < (BYTES_OF_A_KEY >> 10) + ROOM_KIB
    assert send(gateway, "POST", "/api/spend_reserve", ASK | {"call_id": "c"}, key).status == 403


@pytest.mark.parametrize("path", ["/stripe/v1/files", "/api/spend_reserve"])
def test_a_body_that_does_not_come_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Its client may be no more: what is held for it is another's again."""
    monkeypatch.setattr(receiving, "BODY_S", 0.3)

    async def answer(request: Request) -> VendorsReply:
        return VendorsReply(200, {}, b"{}")

    async def live(played: Played) -> None:
        service = played.service
        app = Application([*relay_routes(played.gateway), *routes(service)])
        server = HTTPServer(app)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data\r\n"
        head += f"Authorization: Bearer {await played.key()}\r\nContent-Length: 100000\r\n\r\nx"
        writer.write(head.encode())
        await played.until(lambda: bool(service.bodies._held))
        assert await reader.read() == b""
        assert service.bodies._held == {}
        writer.close()
        server.stop()

    play(tmp_path, answer, live)


def test_as_many_connections_as_the_system_allows_are_taken(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 200  # This process needs some to start the others.
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        site = Site(tmp_path / "site")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with site, ExitStack() as stack:
        for _ in range(min(few + 150, hard - 100)):
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=10))
        assert send(site, "GET", "/status").status == 200
