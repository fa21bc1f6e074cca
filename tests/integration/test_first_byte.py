"""When a byte has left: what fails while connecting was not sent, and a revoke is followed by no send.

A text may not be repeated: one that is in doubt stays so until a person looks.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES
from luigi_spendguard.http.connections import FRESH_S
from tests.support.attempts import Pretender
from tests.support.clients import PROXIES, by_requests
from tests.support.network import CERTIFICATE, NAME, ConnectProxy, Middlebox, TlsFront
from tests.support.processes import wait_until
from tests.support.site import TWILIO_ACCOUNT, FakeStripe, Site
from tests.support.vendors import FakeTwilio

TEXTS = f"https://api.twilio.com/2010-04-01/Accounts/{TWILIO_ACCOUNT}/Messages.json"
TEXT = {"To": "+14155550100", "From": "+14155550199", "Body": "hi"}


class World:
    """A vendor behind TLS, reached through a proxy by who has the secret: the worker, or the gateway."""

    def __init__(self, folder: Path, twilio: FakeTwilio, gateway: bool) -> None:
        self.twilio = twilio
        self.front = TlsFront(int(twilio.url.rpartition(":")[2]))
        self.proxy = ConnectProxy(int(self.front.url.rpartition(":")[2]))
        self.site = Site(
            folder, stripe=FakeStripe(folder / "stripe"), twilio=twilio, gateway=gateway, start=False
        )
        self.site.configure(spendguard_twilio={"base_url": f"https://{NAME}", "timeout_s": 5})
        self.environment = {
            "HTTPS_PROXY": f"http://user:p%40ss@{self.proxy.address}",
            "REQUESTS_CA_BUNDLE": str(CERTIFICATE),
        }
        if gateway:
            self.site.secrets |= self.environment  # Of luigid's environment.
        self.site.start()

    def again(self) -> None:
        """Begin a run of its own, at a proxy that does its work, with no connection of an earlier test's."""
        self.proxy.hang_up()
        self.twilio.forget()
        self.proxy.asked.clear()
        self.proxy.status = 200
        self.proxy.ready.set()
        self.front.ready.set()
        self.proxy.came.clear()
        unique = uuid.uuid4().hex[:8]
        self.pretender = Pretender(self.site, f"run-{unique}", f"Send_{unique}")

    def call(self) -> dict[str, Any]:
        (call,) = [one for one in self.site.calls(self.pretender.run_id) if one["method"] == "POST"]
        return call

    def is_under_way(self) -> bool:
        """Return whether the task's call has its grant; luigid asks the proxy for texts' prices, too."""
        calls = self.site.calls(self.pretender.run_id)
        return self.proxy.came.is_set() and any(one["state"] == "pending" for one in calls)

    def end(self) -> None:
        self.site.end()
        self.site.stripe.process.end()


@pytest.fixture(scope="module")
def twilio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTwilio]:
    fake = FakeTwilio(tmp_path_factory.mktemp("twilio"))
    yield fake
    fake.process.end()


@pytest.fixture(scope="module", params=["worker", "gateway"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, twilio: FakeTwilio
) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"), twilio, request.param == "gateway")
    with world.front, world.proxy:
        try:
            yield world
        finally:
            world.end()


@pytest.fixture
def world(made: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in (*PROXIES, "NO_PROXY", "no_proxy", *CERTIFICATE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    if not made.site.gateway:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
    made.again()
    return made


def text() -> int:
    return int(by_requests("POST", TEXTS, data=TEXT).status_code)


def in_a_thread(act: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(act())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_a_proxy_is_asked_with_its_password_and_learns_nothing_else(world: World) -> None:
    with world.pretender.attempt():
        assert (text(), text()) == (201, 201)
    assert len(world.twilio.sent()) == 2
    assert set(world.proxy.credentials) <= {"user:p@ss"}
    for head in world.proxy.asked:
        assert head.startswith(f"CONNECT {NAME}:443 HTTP/1.1\r\n")
        assert "authorization: basic" not in head.lower().replace("proxy-authorization", "")


@pytest.mark.parametrize("status", [0, 403, 407, 502])
def test_a_connect_that_is_refused_was_not_sent(world: World, status: int) -> None:
    world.proxy.status = status
    with world.pretender.attempt(), pytest.raises(requests.ConnectionError):
        text()
    assert (world.call()["state"], world.twilio.posts()) == ("voided", [])
    world.proxy.status = 200
    with world.pretender.attempt():
        assert text() == 201
    assert len(world.twilio.sent()) == 1


@pytest.mark.parametrize("slow", ["proxy", "tls"])
def test_a_connection_that_took_long_is_kept_while_the_grant_is_asked_for_again(
    world: World, slow: str
) -> None:
    ready = world.proxy.ready if slow == "proxy" else world.front.ready
    ready.clear()
    before = world.front.accepted
    with world.pretender.attempt():
        thread, found = in_a_thread(text)
        wait_until(world.is_under_way)
        time.sleep(2.5)  # A grant is good for two seconds.
        ready.set()
        thread.join(30)
    assert found == [201]
    assert len(world.twilio.sent()) == 1
    others = 1 if world.site.gateway else 0  # luigid asks for the prices of texts, too.
    assert len(world.proxy.asked) <= 1 + others
    assert world.front.accepted - before <= 1 + others
    assert world.call()["state"] == "settled"


@pytest.mark.parametrize("slow", ["proxy", "tls"])
def test_a_revoke_is_followed_by_no_send_and_leaves_nothing_in_doubt(world: World, slow: str) -> None:
    ready = world.proxy.ready if slow == "proxy" else world.front.ready
    ready.clear()
    with world.pretender.attempt():
        thread, found = in_a_thread(text)
        wait_until(world.is_under_way)
        status, _ = world.site.call("DELETE", f"/runs/{world.pretender.run_id}")
        assert status == 200
        ready.set()
        thread.join(30)
    assert found == [401]
    assert world.twilio.posts() == []
    wait_until(lambda: world.call()["state"] != "pending")
    assert world.call()["state"] == "voided"
    run = world.site.run(world.pretender.run_id)
    assert (run["spent_usd"], run["reserved_usd"]) == ("0.00", "0.00")


@pytest.fixture(params=["worker", "gateway"])
def site(request: pytest.FixtureRequest, tmp_path: Path, twilio: FakeTwilio) -> Iterator[Site]:
    """A site whose luigid is started by the test."""
    twilio.forget()
    stripe = FakeStripe(tmp_path / "stripe")
    gateway = request.param == "gateway"
    site = Site(tmp_path / "site", stripe=stripe, twilio=twilio, gateway=gateway, start=False)
    try:
        yield site
    finally:
        site.end()
        stripe.process.end()


def test_a_certificate_that_nobody_trusts_was_not_sent_to(
    site: Site, twilio: FakeTwilio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*PROXIES, "NO_PROXY", "no_proxy", *CERTIFICATE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    with TlsFront(int(twilio.url.rpartition(":")[2])) as front:
        site.configure(spendguard_twilio={"base_url": front.url.replace("http:", "https:"), "timeout_s": 3})
        site.start()
        pretender = Pretender(site, "run-1", "Send_1")
        with pretender.attempt(), pytest.raises(requests.ConnectionError) as raised:
            text()
    (call,) = site.calls("run-1")
    assert (call["state"], twilio.posts()) == ("voided", [])
    said = str(raised.value)
    assert "its certificate is not trusted: " in said
    assert "name the PEM file of who has signed it in REQUESTS_CA_BUNDLE" in said


@pytest.mark.parametrize("resets", [True, False], ids=["reset", "silence"])
def test_a_connection_that_was_forgotten_puts_no_text_in_doubt(
    site: Site, twilio: FakeTwilio, resets: bool
) -> None:
    with Middlebox(int(twilio.url.rpartition(":")[2]), resets=resets) as box:
        site.configure(spendguard_twilio={"base_url": box.url, "timeout_s": 30})
        site.start()
        pretender = Pretender(site, "run-1", "Send_1")
        with pretender.attempt():
            assert (text(), text()) == (201, 201)
            assert box.accepted == 1, "two texts in a row need one connection"
            box.forget()
            time.sleep(FRESH_S + 0.2)  # Only its age tells that it may be forgotten.
            assert text() == 201
        assert {one["state"] for one in site.calls("run-1")} == {"settled"}
        assert len(twilio.sent()) == 3
