"""What one key's replies may hold of luigid's memory, however slowly they are read, and what others get."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.http.transport import MAX_REPLY
from luigi_spendguard.vendors.bodies import MOST_JSON
from scheduler_patch.gateway.replies import REPLIES_OF_A_KEY
from tests.integration.test_gateway import form, raw
from tests.integration.test_strangers import most_kib
from tests.integration.test_vault_keys import issued
from tests.support.asking import ADMIN, WORKER
from tests.support.processes import wait_until
from tests.support.raw import RawVendor, answer
from tests.support.site import Site

CHARGE = b"amount=100&currency=usd&customer=cus_%d&confirm=true&payment_method=pm_x"
PADDING = "x" * (MAX_REPLY - 1000)
#: So many calls of one key would hold far more than it may.
MANY = 12
#: What luigid may take for one key's replies: what is held, and copies while they are handed on. All of them
#: are 384 MiB.
ROOM_KIB = 2 * (REPLIES_OF_A_KEY + MAX_REPLY) >> 10


def intent(**more: Any) -> dict[str, Any]:
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "status": "succeeded",
        "amount": 100,
        "amount_received": 100,
        "currency": "usd",
    } | more


LIST = answer(200, {"object": "list", "data": [], "padding": PADDING})


class Talkative(RawVendor):
    """A Stripe whose replies are as long as they may be; `long`: those to charges, too."""

    def __init__(self) -> None:
        self.long = False
        super().__init__(self.reply)

    def reply(self, number: int, body: bytes) -> bytes:
        if not body:
            return LIST
        more = {"padding": PADDING[: MOST_JSON - 1000]} if self.long else {}
        return answer(200, intent(id=f"pi_{number}", **more))

    def charges(self) -> list[bytes]:
        return [body for body in self.bodies if body]


@pytest.fixture
def vendor() -> Iterator[Talkative]:
    with Talkative() as vendor:
        yield vendor


@pytest.fixture
def gateway(tmp_path: Path, vendor: Talkative) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 10000}
    stripe = {"base_url": vendor.url}
    with Site(tmp_path / "gateway", gateway=True, spendguard=said, spendguard_stripe=stripe) as site:
        yield site


def new_key(site: Site) -> str:
    return str(issued(site, agent_run_label=None, run_usd_cap=1000)["vault_key"])


def asks(site: Site, key: str, line: str, body: bytes = b"") -> socket.socket:
    """Ask, and read nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    sock.connect(("127.0.0.1", site.port))
    sock.settimeout(60)
    head = [
        f"{line} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {key}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
    ]
    sock.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    return sock


def read_all(*socks: socket.socket) -> list[int]:
    """Read whatever comes on all until each has had a long reply, or its end; return how many bytes."""
    got = dict.fromkeys(socks, 0)
    waiting = set(socks)
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], 30)
        assert ready, "nothing comes any more"
        for sock in ready:
            data = sock.recv(1 << 20)
            got[sock] += len(data)
            if not data or got[sock] > len(LIST):
                waiting.discard(sock)
    return list(got.values())


def charged(site: Site, key: str, number: int) -> int:
    return raw(site, "POST", "/stripe/v1/payment_intents", CHARGE % number, **form(key))[0]


def settled(site: Site) -> int:
    return sum(call["state"] == "settled" for call in site.call("GET", "/calls?limit=10000", token=ADMIN)[1])


def test_a_key_whose_clients_read_nothing_holds_a_few_replies(gateway: Site, vendor: Talkative) -> None:
    busy, other = new_key(gateway), new_key(gateway)
    assert charged(gateway, busy, 0) == 200
    before = most_kib(gateway)
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(asks(gateway, busy, "GET /stripe/v1/charges"))
        wait_until(lambda: len(vendor.bodies) == MANY + 1)
        assert charged(gateway, other, 1) == 200
        assert charged(gateway, busy, 2) == 200
        wait_until(lambda: settled(gateway) == MANY + 3, seconds=60)
        assert most_kib(gateway) - before < ROOM_KIB
        assert charged(gateway, other, 3) == 200
    assert len(vendor.bodies) == MANY + 4


def test_a_charge_is_settled_whether_or_not_its_client_takes_the_reply(
    gateway: Site, vendor: Talkative
) -> None:
    vendor.long, key = True, new_key(gateway)
    with ExitStack() as stack:
        for _ in range(4):  # As many as the key may hold, and one that waits.
            stack.enter_context(asks(gateway, key, "GET /stripe/v1/charges"))
        wait_until(lambda: len(vendor.bodies) == 4)
        for number in range(MANY):
            line = "POST /stripe/v1/payment_intents"
            stack.enter_context(asks(gateway, key, line, CHARGE % number))
        wait_until(lambda: settled(gateway) == MANY + 4, seconds=60)
    assert len(vendor.charges()) == MANY
    [run] = gateway.call("GET", "/runs", token=ADMIN)[1]
    assert (run["spent_usd"], run["reserved_usd"]) == (f"{MANY}.00", "0.00")


def test_a_slow_client_that_nobody_waits_for_gets_all_of_its_reply(gateway: Site) -> None:
    with asks(gateway, new_key(gateway), "GET /stripe/v1/charges") as sock:
        wait_until(lambda: settled(gateway) == 1)
        assert read_all(sock)[0] > len(LIST)


def test_clients_that_read_get_all_of_their_replies(gateway: Site, vendor: Talkative) -> None:
    key = new_key(gateway)
    with ExitStack() as stack:
        socks = [stack.enter_context(asks(gateway, key, "GET /stripe/v1/charges")) for _ in range(MANY)]
        assert min(read_all(*socks)) > len(LIST)
    assert len(vendor.bodies) == MANY
