"""What an author's own error handling meets: the same classes whether the worker or the gateway sends."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import stripe
from resend.exceptions import ResendError

from luigi_spendguard.errors import OutcomeUnknown, SpendDenied
from luigi_spendguard.proxy import attempts
from tests.support.attempts import Pretender
from tests.support.clients import by_httpx, by_requests
from tests.support.processes import free_port
from tests.support.sdks import MAILS, TEXTS
from tests.support.site import SECRET, FakeStripe, Site
from tests.support.vendors import FakeResend, FakeTwilio

INTENTS = "https://api.stripe.com/v1/payment_intents"
FORM = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": "true"}


class World:
    def __init__(self, site: Site, twilio: FakeTwilio, resend: FakeResend) -> None:
        self.site, self.fakes = site, {"stripe": site.stripe, "twilio": twilio, "resend": resend}

    def attempt(self) -> Any:
        unique = uuid.uuid4().hex[:8]
        self.pretender = Pretender(self.site, f"run-{unique}", f"Charge_{unique}")
        return self.pretender.attempt()

    def states(self) -> set[str]:
        calls = self.site.calls(self.pretender.run_id)
        return {call["state"] for call in calls if call["method"] != "GET"}


@pytest.fixture(scope="module", params=["worker", "gateway"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    fakes = FakeStripe(folder / "s"), FakeTwilio(folder / "t"), FakeResend(folder / "r")
    site = Site(
        folder / "site",
        stripe=fakes[0],
        twilio=fakes[1],
        resend=fakes[2],
        start=False,
        gateway=request.param == "gateway",
    )
    try:
        for vendor in ("stripe", "twilio", "resend"):
            site.configure(**{f"spendguard_{vendor}": {"timeout_s": 2}})
        site.start()
        yield World(site, fakes[1], fakes[2])
    finally:
        site.end()
        for fake in fakes:
            fake.process.end()


@pytest.fixture
def world(made: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    for fake in made.fakes.values():
        fake.forget()
    return made


def charge(**more: Any) -> Any:
    return stripe.PaymentIntent.create(
        amount=100, currency="usd", customer="cus_1", payment_method="pm_card_visa", confirm=True, **more
    )


def posted(send: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: send("POST", INTENTS, data={**FORM, "customer": "cus_1"})


EVERY: list[Any] = [
    ("stripe", charge, stripe.APIConnectionError),
    ("stripe", posted(by_httpx), (httpx.ReadError, httpx.ReadTimeout)),
    ("stripe", posted(by_requests), (requests.ConnectionError, requests.ReadTimeout)),
    ("twilio", TEXTS["sync"], (requests.ConnectionError, requests.ReadTimeout)),
    ("twilio", TEXTS["async"], (aiohttp.ClientConnectionError, aiohttp.ServerTimeoutError)),
    ("resend", MAILS["sync"], ResendError),
]


@pytest.mark.parametrize(("vendor", "call", "natural"), EVERY)
@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "hang"])
def test_a_lost_reply_is_the_clients_own_error(
    world: World, vendor: str, call: Callable[[], Any], natural: Any, fault: str
) -> None:
    world.fakes[vendor].fault(fault, match="POST /", seconds=3)
    with world.attempt(), pytest.raises(natural) as lost:
        call()
    assert not isinstance(lost.value, (SpendDenied, OutcomeUnknown))
    assert not getattr(lost.value, "http_status", None)
    assert world.states() == {"in_doubt"}
    assert len(world.fakes[vendor].posts()) == 1


REFUSED: list[Any] = [
    ("stripe", charge, stripe.APIConnectionError),
    ("stripe", posted(by_httpx), httpx.ConnectError),
    ("stripe", posted(by_requests), requests.ConnectionError),
    ("twilio", TEXTS["sync"], requests.ConnectionError),
    ("twilio", TEXTS["async"], aiohttp.ClientConnectionError),
    ("resend", MAILS["sync"], ResendError),
]


@pytest.mark.parametrize("gateway", [False, True], ids=["worker", "gateway"])
def test_a_refused_connection_is_the_clients_own_error(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, made: World, gateway: bool
) -> None:
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    folder = tmp_path_factory.mktemp("refused")
    fakes: Any = made.fakes
    site = Site(
        folder,
        stripe=fakes["stripe"],
        twilio=fakes["twilio"],
        resend=fakes["resend"],
        start=False,
        gateway=gateway,
    )
    away = f"http://127.0.0.1:{free_port()}"
    for vendor in fakes:
        site.configure(**{f"spendguard_{vendor}": {"base_url": away}})
    site.start()
    try:
        for number, (_, call, natural) in enumerate(REFUSED):
            pretender = Pretender(site, f"run-{number}", f"Charge_{number}")
            with pretender.attempt(), pytest.raises(natural, match="nothing was sent"):
                call()
            assert {one["state"] for one in site.calls(f"run-{number}")} == {"voided"}
    finally:
        site.end()


def test_a_gateway_that_is_away_is_the_clients_own_error(
    made: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing was sent, and its author's retry may help."""
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    monkeypatch.setattr("luigi_spendguard.proxy.gateway_client.GIVE_UP_S", 0.3)
    with made.attempt() as attempt:
        settings = replace(attempt.settings, gateway_url=f"http://127.0.0.1:{free_port()}")
        away = replace(attempt, settings=settings, served=frozenset({"stripe", "twilio", "resend"}))
        with attempts.running(away):
            for _, call, natural in REFUSED:
                with pytest.raises(natural, match="nothing was sent"):
                    call()


def test_the_sdks_retry_of_a_lost_reply_is_one_charge(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe, "max_network_retries", 2)
    world.fakes["stripe"].fault("drop_after", match="POST /")
    with world.attempt():
        assert charge().status == "succeeded"
    assert (world.site.stripe.moved(), world.states()) == (100, {"settled"})


@pytest.mark.parametrize(
    ("fault", "natural"),
    [
        ({"fault": "status", "status": 429}, stripe.RateLimitError),
        ({"fault": "status", "status": 503}, stripe.APIError),
        ({"fault": "drop_before"}, stripe.APIConnectionError),
    ],
    ids=["429", "503", "reset"],
)
def test_a_look_up_that_fails_for_now_is_the_sdks_own_error_and_may_be_made_again(
    world: World, fault: dict[str, Any], natural: type[Exception]
) -> None:
    form = {**FORM, "customer": "cus_1"}
    told = {"Authorization": f"Bearer {SECRET}"}  # Made elsewhere: the ledger does not know it.
    reply = requests.post(f"{world.site.stripe.url}/v1/payment_intents", data=form, headers=told, timeout=30)
    intent = reply.json()["id"]
    world.site.stripe.control(faults=[{"times": 1, "match": "GET /v1/", **fault}])
    with world.attempt():
        with pytest.raises(natural) as failed:
            stripe.Refund.create(payment_intent=intent)
        assert not isinstance(failed.value, SpendDenied)
        assert [post["path"] for post in world.site.stripe.posts()] == ["/v1/payment_intents"]
        assert stripe.Refund.create(payment_intent=intent).amount == 100
    refunds = [post for post in world.site.stripe.posts() if post["path"] == "/v1/refunds"]
    assert (len(refunds), world.states()) == (1, {"settled"})
