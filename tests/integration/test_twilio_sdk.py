"""The Twilio SDK, unchanged, inside vendor tasks: guarded by the worker itself and by luigid's gateway."""

from __future__ import annotations

import asyncio
import base64
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import requests
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client

from luigi_spendguard import BudgetExceeded, SpendDenied, idempotency_key
from tests.support.attempts import Pretender
from tests.support.sdks import TEXTS, text, text_soon
from tests.support.site import TWILIO_ACCOUNT, TWILIO_SECRET, Site
from tests.support.vendors import FakeResend, FakeTwilio

both_ways = pytest.mark.parametrize("way", ["sync", "async"])
#: A segment to the US by the defaults, with the dearest carrier's fee.
QUOTE = 17_050


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTwilio]:
    vendor = FakeTwilio(tmp_path_factory.mktemp("twilio"))
    yield vendor
    vendor.process.end()


@pytest.fixture(scope="module", params=["worker", "gateway"])
def here(
    request: pytest.FixtureRequest,
    process: FakeTwilio,
    shared_site: Site,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    gateway = request.param == "gateway"
    with Site(folder, stripe=shared_site.stripe, twilio=process, gateway=gateway) as site:
        yield site


@pytest.fixture
def vendor(process: FakeTwilio) -> FakeTwilio:
    """Empty books; prices come later than the test is over."""
    process.forget()
    process.control(options={"send_delay": 0.02, "price_delay": 3600})
    return process


@pytest.fixture
def task(here: Site, vendor: FakeTwilio) -> Pretender:
    return pretender(here)


def pretender(site: Site, **more: Any) -> Pretender:
    unique = uuid.uuid4().hex[:10]
    return Pretender(site, f"run-{unique}", f"Send_{unique}", **more)


@both_ways
def test_a_text_is_sent_and_on_record(task: Pretender, vendor: FakeTwilio, way: str) -> None:
    with task.attempt():
        sid = TEXTS[way]()
    [sent] = vendor.sent()
    assert sent["sid"] == sid
    [request] = vendor.posts()
    basic = base64.b64encode(f"{TWILIO_ACCOUNT}:{TWILIO_SECRET}".encode()).decode()
    assert request["authorization"] == f"Basic {basic}"
    assert request["path"] == f"/2010-04-01/Accounts/{TWILIO_ACCOUNT}/Messages.json"
    [call] = task.site.calls(task.run_id)
    assert (call["operation"], call["state"], call["object_id"]) == ("messages.create", "settled", sid)
    assert call["target"] == "+15551234567"


@both_ways
def test_a_repeated_attempt_is_answered_as_before(task: Pretender, vendor: FakeTwilio, way: str) -> None:
    answers = []
    for _ in range(2):
        with task.attempt():
            answers.append(TEXTS[way]())
    assert answers[0] == answers[1]
    assert len(vendor.sent()) == 1


@both_ways
def test_a_text_that_the_vendor_may_have_sent_is_looked_for(
    task: Pretender, vendor: FakeTwilio, way: str
) -> None:
    vendor.fault("drop_after")
    natural = {"sync": requests.RequestException, "async": aiohttp.ClientError}[way]
    with task.attempt(), pytest.raises((natural, TwilioRestException)):
        TEXTS[way]()
    with task.attempt():
        sid = TEXTS[way]()
    [sent] = vendor.sent()
    assert sent["sid"] == sid
    assert len(vendor.posts()) == 1


@both_ways
def test_a_text_may_be_named_by_its_task(task: Pretender, vendor: FakeTwilio, way: str) -> None:
    sids = []
    with task.attempt():
        for receipt in ("1", "2", "1"):
            with idempotency_key(f"{task.run_id}-{receipt}"):
                sids.append(TEXTS[way]())
    assert sids[0] == sids[2] != sids[1]
    assert len(vendor.sent()) == 2


def test_a_denial_by_the_cap(here: Site, vendor: FakeTwilio) -> None:
    task = pretender(here, budget_usd="0.01")
    with task.attempt(), pytest.raises(TwilioRestException) as caught:
        text()
    error = caught.value
    assert isinstance(error, BudgetExceeded)
    assert (error.status, error.code, error.method) == (429, 9_000_429, "POST")
    assert error.uri.endswith("/Messages.json")
    assert error.details["cap_hit"] is True
    assert (error.details["reason"], error.details["run_id"]) == ("cap", task.run_id)
    assert vendor.books()["requests"] == []
    assert [call["verdict"] for call in here.calls(task.run_id)] == ["denied:cap"]


def test_thirty_texts_of_an_event_loop_stay_within_the_cap(here: Site, vendor: FakeTwilio) -> None:
    task = pretender(here, budget_usd="0.20")

    async def program() -> list[Any]:
        texts = (text_soon(f"+1555123{number:04}") for number in range(30))
        return await asyncio.gather(*texts, return_exceptions=True)

    with task.attempt():
        said = asyncio.run(program())
    fit = 200_000 // QUOTE
    assert len([answer for answer in said if isinstance(answer, BudgetExceeded)]) == 30 - fit
    assert len(vendor.sent()) == fit


def test_threads_of_the_task_belong_to_it(task: Pretender, vendor: FakeTwilio) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            text(f"+1555123{number:04}")
        except BaseException as error:
            failures.append(error)

    with task.attempt():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len({sent["sid"] for sent in vendor.sent()}) == 12


def test_further_pages_are_read_for_nothing(task: Pretender, vendor: FakeTwilio) -> None:
    async def listed() -> list[Any]:
        async with AsyncTwilioHttpClient() as http:
            return list(await Client(http_client=http).messages.list_async(page_size=2))

    with task.attempt():
        for number in range(5):
            text(f"+1555123{number:04}")
        spent = task.site.run(task.run_id)["spent_usd"]
        assert len(Client().messages.list(page_size=2)) == len(asyncio.run(listed())) == 5
        services = Client().messaging.v1.services.list(page_size=1)  # These link to their pages by URL.
    assert len(services) == 3
    assert task.site.run(task.run_id)["spent_usd"] == spent
    assert len([r for r in vendor.books()["requests"] if r["method"] == "GET"]) >= 8


def test_products_regions_and_clients_of_any_form(task: Pretender, vendor: FakeTwilio) -> None:
    with task.attempt() as attempt:
        Client(TWILIO_ACCOUNT, attempt.key, region="ie1").messages.create(
            to="+15550000001", from_="+1", body="a"
        )
        Client("SK" + "b2" * 16, attempt.key, TWILIO_ACCOUNT, edge="dublin").messages.create(
            to="+15550000002", from_="+1", body="a"
        )
        service = Client().verify.v2.services("VA" + "c3" * 16)
        service.verifications.create(to="+15550000003", channel="sms")
        assert Client().lookups.v2.phone_numbers("+15550000004").fetch().valid
    asked = vendor.books()["requests"]
    # What luigid asks about the texts' prices, sooner or later, is not the task's.
    hosts = {one["host"] for one in asked if one["method"] == "POST" or "/Messages/" not in one["path"]}
    assert hosts == {
        "api.ie1.twilio.com",
        "api.dublin.us1.twilio.com",
        "verify.twilio.com",
        "lookups.twilio.com",
    }


def test_the_vendors_refusal_is_the_sdks(task: Pretender, vendor: FakeTwilio) -> None:
    with task.attempt(), pytest.raises(TwilioRestException) as caught:
        text("not a number")
    if not isinstance(caught.value, SpendDenied):
        assert 10_000 < caught.value.code < 1_000_000
    assert task.site.run(task.run_id)["spent_usd"] == "0.00"


@both_ways
def test_another_account_is_denied_and_on_record(task: Pretender, vendor: FakeTwilio, way: str) -> None:
    with task.attempt(), pytest.raises(TwilioRestException) as caught:
        TEXTS[way](username="AC" + "d4" * 16, password="another_accounts_token")
    assert caught.value.reason == "scope"
    assert "another_accounts_token" not in str(caught.value)
    assert vendor.posts() == []
    assert [call["verdict"] for call in task.site.calls(task.run_id)] == ["denied:scope"]


def test_a_pipeline_of_luigis(
    here: Site, vendor: FakeTwilio, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mails = FakeResend(tmp_path_factory.mktemp("resend"))
    folder = tmp_path_factory.mktemp("pipeline")
    try:
        with Site(folder, stripe=here.stripe, twilio=vendor, resend=mails, gateway=here.gateway) as site:
            arguments = ("Sending", "--n", "2", "--run-id", "r", "--workers", "2")
            code, out = site.luigi(*arguments, module="tests.support.sending_pipeline")
            assert code == 0, out
            assert (len(vendor.sent()), mails.mails()) == (2, 2)
            assert {call["state"] for call in site.calls("r")} == {"settled"}
            assert {call["task_id"].partition("_")[0] for call in site.calls("r")} == {"Text", "Mail"}
            for secret in site.secrets.values():
                assert secret not in out
    finally:
        mails.process.end()
