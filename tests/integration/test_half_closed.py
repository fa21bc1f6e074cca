"""A client that ends its own side of the connection once it has asked is answered all the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.integration.test_vault_keys import issued
from tests.support.asking import ADMIN, WORKER
from tests.support.site import Site

CHARGE = b"amount=100&currency=usd&customer=cus_1&confirm=true&payment_method=pm_x"
FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"
INTENTS = "POST /stripe/v1/payment_intents"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 10000}
    with Site(tmp_path_factory.mktemp("half"), gateway=True, spendguard=said) as site:
        yield site


@pytest.fixture
def key(gateway: Site) -> str:
    gateway.stripe.forget()
    return str(issued(gateway, agent_run_label=None, run_usd_cap=100)["vault_key"])


def ask(site: Site, line: str, *headers: str, body: bytes = b"", length: str | None = None) -> bytes:
    """Send a request, end the sending side, and return all that comes until luigid ends its own."""
    if length is None and not any(one.startswith("Transfer-Encoding") for one in headers):
        length = str(len(body))
    said = [
        f"{line} HTTP/1.1",
        "Host: localhost",
        *headers,
        *([] if length is None else [f"Content-Length: {length}"]),
    ]
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as sock:
        sock.sendall("\r\n".join(said).encode() + b"\r\n\r\n" + body)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply else 0


def test_a_good_charge_is_made_once_and_answered(gateway: Site, key: str) -> None:
    reply = ask(gateway, INTENTS, f"Authorization: Bearer {key}", FORM, body=CHARGE)
    assert status(reply) == 200
    assert reply.endswith(b"}")
    assert [one["amount"] for one in gateway.stripe.books()["moved"]] == [100]


def test_so_is_one_that_is_sent_in_chunks(gateway: Site, key: str) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHARGE), CHARGE)
    said = (f"Authorization: Bearer {key}", FORM, "Transfer-Encoding: chunked")
    assert status(ask(gateway, INTENTS, *said, body=body)) == 200
    assert [one["amount"] for one in gateway.stripe.books()["moved"]] == [100]


@pytest.mark.parametrize(
    ("line", "shown", "body", "expected"),
    [
        (INTENTS, "key", b"amount=x&currency=usd", 403),
        (INTENTS, "key", b"", 403),
        (INTENTS, "vault_key_wrong", CHARGE, 401),
        (INTENTS, "vault_key_wrong", b"", 401),
        ("GET /stripe/v1/balance", "key", b"", 200),
        ("OPTIONS /stripe/v1/payment_intents", "key", b"", 403),
        ("GET /runs", ADMIN, b"", 200),
        ("DELETE /runs/none", "wrong", b"", 401),
        ("POST /vault/keys", WORKER, b'{"vendor": "stripe", "run_usd_cap": "1"}', 201),
        ("POST /vault/keys", WORKER, b"{", 400),
        ("DELETE /runs/none", ADMIN, b"", 404),
    ],
)
def test_whatever_is_asked_is_answered(
    gateway: Site, key: str, line: str, shown: str, body: bytes, expected: int
) -> None:
    token = key if shown == "key" else shown
    kind = JSON if "/stripe/" not in line else FORM
    assert status(ask(gateway, line, f"Authorization: Bearer {token}", kind, body=body)) == expected
    assert gateway.stripe.books()["moved"] == []


@pytest.mark.parametrize("missing", [1, 2, len(CHARGE)])
@pytest.mark.parametrize("twice", ["", ",{0}"])
def test_a_body_that_ends_too_early_is_not_made_whole(
    gateway: Site, key: str, missing: int, twice: str
) -> None:
    length = ("{0}" + twice).format(len(CHARGE))
    said = (f"Authorization: Bearer {key}", FORM)
    reply = ask(gateway, INTENTS, *said, body=CHARGE[: len(CHARGE) - missing], length=length)
    assert status(reply) in (0, 400)
    assert gateway.stripe.posts() == []


@pytest.mark.parametrize("cut", [1, 2, 5, 6, 7])
def test_nor_is_one_in_chunks(gateway: Site, key: str, cut: int) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHARGE), CHARGE)
    said = (f"Authorization: Bearer {key}", FORM, "Transfer-Encoding: chunked")
    assert status(ask(gateway, INTENTS, *said, body=body[:-cut])) in (0, 400)
    assert gateway.stripe.posts() == []


def test_a_length_of_thousands_of_digits_is_a_bad_request(gateway: Site, key: str) -> None:
    for shown in (key, "vault_key_wrong"):
        said = (f"Authorization: Bearer {shown}", FORM)
        assert status(ask(gateway, INTENTS, *said, body=CHARGE, length="9" * 5000)) in (400, 401, 413)
    assert gateway.luigid is not None
    assert "Traceback" not in gateway.luigid.text()
