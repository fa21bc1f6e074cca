"""A proxy, or a number of retries, that code sets on an SDK's client: honoured, or refused; never ignored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import requests
import stripe
import urllib3
from requests.adapters import HTTPAdapter
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from luigi_spendguard import proxy
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES
from luigi_spendguard.proxy import httpx2 as of_httpx2
from luigi_spendguard.proxy.httpx import AsyncSpendTransport, SpendTransport
from luigi_spendguard.proxy.requests import SpendAdapter
from tests.support.attempts import Pretender
from tests.support.clients import PROXIES
from tests.support.network import CERTIFICATE, NAME, ConnectProxy, TlsFront
from tests.support.site import TWILIO_ACCOUNT, FakeStripe, Site
from tests.support.vendors import FakeTwilio

TEXTS = f"https://api.twilio.com/2010-04-01/Accounts/{TWILIO_ACCOUNT}/Messages.json"
TEXT = {"To": "+14155550100", "From": "+14155550199", "Body": "hi"}
INTENT = {
    "amount": 100,
    "currency": "usd",
    "customer": "cus_1",
    "payment_method": "pm_card_visa",
    "confirm": True,
}


@dataclass
class World:
    site: Site
    twilio: FakeTwilio
    ways: dict[str, ConnectProxy]

    def sent(self) -> tuple[int, int]:
        """Return how many charges and texts the vendors have been asked for."""
        return len(self.site.stripe.posts()), len(self.twilio.posts())

    @contextmanager
    def attempt(self) -> Iterator[Any]:
        with Pretender(self.site, "run-1", "Send_1").attempt() as attempt:
            yield attempt


@pytest.fixture(scope="module")
def vendors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeStripe, FakeTwilio]]:
    made = FakeStripe(tmp_path_factory.mktemp("stripe")), FakeTwilio(tmp_path_factory.mktemp("twilio"))
    yield made
    for one in made:
        one.process.end()


@contextmanager
def world_of(folder: Path, vendors: tuple[FakeStripe, FakeTwilio], gateway: bool) -> Iterator[World]:
    ports = [int(one.url.rpartition(":")[2]) for one in vendors]
    with TlsFront(ports[0]) as of_stripe, TlsFront(ports[1]) as of_twilio:
        fronts = [int(one.url.rpartition(":")[2]) for one in (of_stripe, of_twilio)]
        with ConnectProxy(fronts[0]) as charges, ConnectProxy(fronts[1]) as texts:
            site = Site(folder, stripe=vendors[0], twilio=vendors[1], gateway=gateway, start=False)
            for section in ("spendguard_stripe", "spendguard_twilio"):
                site.configure(**{section: {"base_url": f"https://{NAME}", "timeout_s": 5}})
            site.start()
            try:
                yield World(site, vendors[1], {"stripe": charges, "twilio": texts})
            finally:
                site.end()


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, vendors: tuple[FakeStripe, FakeTwilio]) -> None:
    for name in (*PROXIES, "NO_PROXY", "no_proxy", *CERTIFICATE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    for one in vendors:
        one.forget()
    proxy.bind()


@pytest.fixture
def worker(tmp_path: Path, vendors: tuple[FakeStripe, FakeTwilio], clean: None) -> Iterator[World]:
    with world_of(tmp_path / "site", vendors, gateway=False) as world:
        yield world


@pytest.fixture
def gateway(tmp_path: Path, vendors: tuple[FakeStripe, FakeTwilio], clean: None) -> Iterator[World]:
    with world_of(tmp_path / "site", vendors, gateway=True) as world:
        yield world


def by_client(key: str, way: str) -> Any:
    return stripe.StripeClient(key, proxy=way).v1.payment_intents.create(INTENT)


def by_session(key: str, way: str) -> Any:
    session = requests.Session()
    session.proxies = {"https": way}
    client = stripe.StripeClient(key, http_client=stripe.RequestsClient(session=session))
    return client.v1.payment_intents.create(INTENT)


def by_twilio(key: str, way: str) -> Any:
    client = Client(TWILIO_ACCOUNT, key, http_client=TwilioHttpClient(proxy={"https": way}))
    return client.messages.create(to=TEXT["To"], from_=TEXT["From"], body="hi")


def by_async_twilio(key: str, way: str) -> Any:
    async def program() -> Any:
        async with AsyncTwilioHttpClient(proxy_url=way) as http_client:
            client = Client(TWILIO_ACCOUNT, key, http_client=http_client)
            return await client.messages.create_async(to=TEXT["To"], from_=TEXT["From"], body="hi")

    return asyncio.run(program())


def by_httpx(key: str, way: str) -> Any:
    with httpx.Client(transport=SpendTransport(httpx.HTTPTransport(proxy=way))) as client:
        return client.post(TEXTS, data=TEXT).raise_for_status()


def by_httpx2(key: str, way: str) -> Any:
    with httpx2.Client(transport=of_httpx2.SpendTransport(httpx2.HTTPTransport(proxy=way))) as client:
        return client.post(TEXTS, data=TEXT).raise_for_status()


def by_async_httpx(key: str, way: str) -> Any:
    async def program() -> Any:
        inner = AsyncSpendTransport(httpx.AsyncHTTPTransport(proxy=way))
        async with httpx.AsyncClient(transport=inner) as client:
            return (await client.post(TEXTS, data=TEXT)).raise_for_status()

    return asyncio.run(program())


def by_requests(key: str, way: str) -> Any:
    with requests.Session() as session:
        session.mount("https://", SpendAdapter())
        session.proxies = {"https": way}
        reply = session.post(TEXTS, data=TEXT)
        reply.raise_for_status()
        return reply


EVERY = [
    (by_client, "stripe"),
    (by_session, "stripe"),
    (by_twilio, "twilio"),
    (by_async_twilio, "twilio"),
    (by_httpx, "twilio"),
    (by_httpx2, "twilio"),
    (by_async_httpx, "twilio"),
    (by_requests, "twilio"),
]


@pytest.mark.parametrize(("send", "vendor"), EVERY)
def test_a_proxy_of_the_clients_is_the_way_to_the_vendor(
    worker: World, send: Callable[[str, str], Any], vendor: str
) -> None:
    way = worker.ways[vendor]
    with worker.attempt() as attempt:
        send(attempt.key, f"http://u%3A:p%40ss@{way.address}")
    assert worker.sent() == ((1, 0) if vendor == "stripe" else (0, 1))
    assert (len(way.asked), way.credentials) == (1, ["u::p@ss"])


@pytest.mark.parametrize(("send", "vendor"), EVERY)
def test_where_a_gateway_sends_it_is_refused_with_the_remedy(
    gateway: World, send: Callable[[str, str], Any], vendor: str
) -> None:
    denials = (SpendDenied, httpx.HTTPStatusError, httpx2.HTTPStatusError, requests.HTTPError)
    with gateway.attempt() as attempt, pytest.raises(denials) as refused:
        send(attempt.key, f"http://{gateway.ways[vendor].address}")
    said = getattr(refused.value, "response", None)
    assert "set HTTPS_PROXY in luigid's environment" in (str(refused.value) if said is None else said.text)
    assert gateway.sent() == (0, 0)


def test_the_environments_own_proxy_may_be_named_in_code(
    worker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = f"http://{worker.ways['stripe'].address}"
    monkeypatch.setenv("HTTPS_PROXY", way)
    with worker.attempt() as attempt:
        by_client(attempt.key, way)
    assert worker.sent() == (1, 0)


def retried_by_twilio(key: str, way: str, retries: int) -> Any:
    http_client = TwilioHttpClient(proxy={"https": way}, max_retries=retries)
    client = Client(TWILIO_ACCOUNT, key, http_client=http_client)
    return client.messages.create(to=TEXT["To"], from_=TEXT["From"], body="hi")


def retried_by_httpx(key: str, way: str, retries: int) -> Any:
    inner = httpx.HTTPTransport(proxy=way)
    inner._pool._retries = retries  # httpx takes no retries beside a proxy.
    with httpx.Client(transport=SpendTransport(inner)) as client:
        return client.post(TEXTS, data=TEXT).raise_for_status()


def retried_by_requests(key: str, way: str, retries: int) -> Any:
    with requests.Session() as session:
        session.mount("https://", SpendAdapter(HTTPAdapter(max_retries=retries)))
        session.proxies = {"https": way}
        reply = session.post(TEXTS, data=TEXT)
        reply.raise_for_status()
        return reply


@pytest.mark.parametrize("send", [retried_by_twilio, retried_by_httpx, retried_by_requests])
def test_a_lost_connection_is_made_again_as_often_as_the_client_says(
    worker: World, send: Callable[[str, str, int], Any]
) -> None:
    way = worker.ways["twilio"]
    way.first = [502, 0, 502, 0]
    with worker.attempt() as attempt:
        with pytest.raises((requests.ConnectionError, httpx.ConnectError)):
            send(attempt.key, f"http://{way.address}", 1)
        assert (len(way.first), worker.sent()) == (2, (0, 0))
        send(attempt.key, f"http://{way.address}", 2)
    assert worker.sent() == (0, 1)
    assert {call["state"] for call in worker.site.calls("run-1")} <= {"settled", "voided"}


def test_a_client_that_repeats_what_was_answered_is_refused(worker: World) -> None:
    policy = urllib3.Retry(3, status_forcelist=[503], allowed_methods=None)
    with worker.attempt(), requests.Session() as session:
        session.mount("https://", SpendAdapter(HTTPAdapter(max_retries=policy)))
        reply = session.post(TEXTS, data=TEXT)
    assert (reply.status_code, worker.sent()) == (403, (0, 0))
    assert "certain replies" in reply.text
