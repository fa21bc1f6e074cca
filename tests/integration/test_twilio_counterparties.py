"""Twilio's own SDK, unguarded, against our look-alike of Twilio, judged by its books."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.rest import Client

from tests.support.fake_twilio_traffic import segments
from tests.support.processes import wait_until
from tests.support.redirected import Redirect
from tests.support.vendors import FakeTwilio

ACCOUNT = "AC" + "a1" * 16
SECRET = "twilio_canary_4eC39HqLyjWDarjtT1zdp7dc"
FROM, TO, BRITAIN, NOBODY = "+15005550006", "+14155550100", "+447700900123", "+14155550199"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTwilio]:
    vendor = FakeTwilio(tmp_path_factory.mktemp("twilio"))
    yield vendor
    vendor.process.end()


@pytest.fixture
def vendor(process: FakeTwilio) -> FakeTwilio:
    """The module's look-alike with empty books, where a price is late."""
    process.forget()
    process.control(options={"send_delay": 0.02, "price_delay": 3600})
    return process


@pytest.fixture
def hook(vendor: FakeTwilio) -> Iterator[Redirect]:
    with Redirect(vendor.url) as hook:
        yield hook


@pytest.fixture
def client(hook: Redirect) -> Any:
    return Client(ACCOUNT, SECRET, http_client=hook)


def send(client: Any, to: str = TO, body: str = "Hello", **more: Any) -> Any:
    return client.messages.create(to=to, body=body, **({"from_": FROM} | more))


def test_a_message_is_sent_and_its_price_comes_late(client: Any, vendor: FakeTwilio) -> None:
    sent = send(client, BRITAIN, "a" * 161)
    assert (sent.status, sent.num_segments, sent.price, sent.price_unit) == ("queued", "2", None, None)
    assert (sent.account_sid, sent.sid[:2], sent.date_sent) == (ACCOUNT, "SM", None)
    wait_until(lambda: client.messages(sent.sid).fetch().status == "delivered")
    assert client.messages(sent.sid).fetch().price is None
    vendor.control(options={"price_delay": 0})
    found = client.messages(sent.sid).fetch()
    assert (found.price, found.price_unit) == ("-0.10480", "USD")
    assert found.date_created.tzinfo is timezone.utc
    assert vendor.billed() == 104_800
    [entry] = vendor.sent()
    assert (entry["kind"], entry["to"], entry["from"], entry["segments"]) == ("sms", BRITAIN, FROM, 2)


def test_a_messaging_service_tells_segments_and_sender_later(client: Any) -> None:
    sent = send(client, messaging_service_sid="MG" + "1" * 32, from_=None)
    assert (sent.status, sent.num_segments, sent.from_) == ("accepted", "0", None)
    wait_until(lambda: client.messages(sent.sid).fetch().num_segments == "1")
    assert client.messages(sent.sid).fetch().from_ == FROM


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("a" * 152 + "€" + "a" * 152, 3),  # 306 septets, but an escape is not cut off its character
        ("ą" * 70, 1),
        ("ą" * 71, 2),
        ("👍" * 35, 1),
        ("👍" * 67, 3),  # 134 units; 33 whole ones go into a part
        ("é" * 160, 1),
        ("ç" * 71, 2),
    ],
)
def test_segments(body: str, parts: int) -> None:
    assert segments(body) == parts


def test_media_is_billed_as_mms(client: Any, vendor: FakeTwilio) -> None:
    sent = send(client, media_url=["https://example.com/a.png", "https://example.com/b.png"])
    assert (sent.sid[:2], sent.num_media) == ("MM", "2")
    assert [(entry["kind"], entry["micros"]) for entry in vendor.sent()] == [("mms", 22_000)]


def test_every_post_is_a_message_of_its_own(client: Any, vendor: FakeTwilio) -> None:
    assert len({send(client).sid for _ in range(3)}) == 3
    assert vendor.billed() == 3 * 8_300


def test_a_number_that_fails_is_not_billed_unless_a_fee_is_told(client: Any, vendor: FakeTwilio) -> None:
    vendor.control(options={"failing": [NOBODY], "price_delay": 0})
    sid = send(client, NOBODY).sid
    wait_until(lambda: client.messages(sid).fetch().status == "failed")
    failed = client.messages(sid).fetch()
    assert (failed.error_code, failed.price, vendor.billed()) == (30003, None, 0)
    vendor.control(options={"price": {sid: "-0.00100"}})
    assert client.messages(sid).fetch().price == "-0.00100"
    assert vendor.billed() == 1_000


def test_a_scheduled_message_can_be_cancelled_once(client: Any, vendor: FakeTwilio) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    plan = {"schedule_type": "fixed", "send_at": later, "messaging_service_sid": "MG" + "1" * 32}
    sent = send(client, **plan)
    assert (sent.status, vendor.billed()) == ("scheduled", 8_300)
    assert client.messages(sent.sid).update(status="canceled").status == "canceled"
    assert (client.messages(sent.sid).fetch().status, vendor.billed()) == ("canceled", 0)
    with pytest.raises(TwilioRestException) as caught:
        client.messages(sent.sid).update(status="canceled")
    assert caught.value.code == 30409
    with pytest.raises(TwilioRestException) as caught:
        send(client, **(plan | {"send_at": datetime.now(timezone.utc) + timedelta(minutes=5)}))
    assert caught.value.code == 35114


def test_without_a_service_a_wish_to_schedule_is_ignored(client: Any) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    assert send(client, schedule_type="fixed", send_at=later).status == "queued"


def test_a_message_is_redacted_and_deleted_and_stays_billed(client: Any, vendor: FakeTwilio) -> None:
    vendor.control(options={"send_delay": 3600})
    with pytest.raises(TwilioRestException, match="before it is complete"):
        client.messages(send(client).sid).delete()
    vendor.control(options={"send_delay": 0})
    sid = send(client).sid
    wait_until(lambda: client.messages(sid).fetch().status == "delivered")
    assert client.messages(sid).update(body="").body == ""
    assert client.messages(sid).delete() is True
    with pytest.raises(TwilioRestException) as caught:
        client.messages(sid).fetch()
    assert (caught.value.status, caught.value.code, vendor.billed()) == (404, 20404, 16_600)


def test_lists_are_paged_and_filtered(client: Any, vendor: FakeTwilio) -> None:
    sids = [send(client, body=str(number)).sid for number in range(5)]
    other = send(client, BRITAIN).sid
    assert [message.sid for message in client.messages.list(page_size=2)] == [other, *reversed(sids)]
    asked = [request["query"] for request in vendor.books()["requests"] if request["method"] == "GET"]
    assert len(asked) == 3
    assert all("PageToken=PASM" in query for query in asked[1:])
    assert [message.sid for message in client.messages.list(to=BRITAIN, from_=FROM)] == [other]
    assert client.messages.list(from_=TO) == []
    wait_until(lambda: client.messages(other).fetch().date_sent is not None)
    at = client.messages(other).fetch().date_sent
    for found in (
        {"date_sent": at.date()},
        {"date_sent_after": at - timedelta(hours=1)},
        {"date_sent_before": at + timedelta(hours=1), "date_sent_after": at},
    ):
        assert [message.sid for message in client.messages.list(to=BRITAIN, **found)] == [other]
    for nothing in (
        {"date_sent_after": at + timedelta(hours=1)},
        {"date_sent": at.date() - timedelta(days=1)},
    ):
        assert client.messages.list(to=BRITAIN, **nothing) == []


def test_what_is_not_sent_yet_has_no_date_to_be_found_by(client: Any, vendor: FakeTwilio) -> None:
    vendor.control(options={"send_delay": 3600})
    sid = send(client).sid
    hour_ago = datetime.now(timezone.utc) - timedelta(hours=1)
    assert client.messages.list(to=TO, date_sent_after=hour_ago) == []
    assert [message.sid for message in client.messages.list(to=TO)] == [sid]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"to": "12", "from_": FROM, "body": "x"}, 21211),
        ({"to": "", "from_": FROM, "body": "x"}, 21604),
        ({"to": TO, "from_": FROM}, 21602),
        ({"to": TO, "body": "x"}, 21603),
        ({"to": TO, "from_": FROM, "body": "x" * 1601}, 21617),
    ],
)
def test_errors_have_twilios_codes(client: Any, vendor: FakeTwilio, asked: Any, code: int) -> None:
    with pytest.raises(TwilioRestException) as caught:
        client.messages.create(**asked)
    assert (caught.value.status, caught.value.code, vendor.sent()) == (400, code, [])


def test_who_may_ask(hook: Redirect, vendor: FakeTwilio) -> None:
    send(Client("SK" + "b2" * 16, SECRET, ACCOUNT, http_client=hook))
    for user, password, account in (
        (ACCOUNT, "vk_live_1", ACCOUNT),
        ("AC" + "c3" * 16, SECRET, ACCOUNT),
        ("run_1", SECRET, ACCOUNT),
    ):
        with pytest.raises(TwilioRestException) as caught:
            send(Client(user, password, account, http_client=hook))
        assert (caught.value.status, caught.value.code) == (401, 20003)
    assert len(vendor.sent()) == 1
    assert len(vendor.posts()) == 4
    vendor.control(options={"secrets": ["vk_"]})
    send(Client(ACCOUNT, "vk_live_1", http_client=hook))


def test_a_call_is_billed_by_the_minute_once_it_is_over(client: Any, vendor: FakeTwilio) -> None:
    vendor.control(options={"call_delay": 0.05, "price_delay": 0})
    made = client.calls.create(to=TO, from_=FROM, url="https://example.com/twiml")
    assert (made.status, made.price, vendor.billed()) == ("queued", None, 28_000)
    wait_until(lambda: client.calls(made.sid).fetch().status == "completed")
    done = client.calls(made.sid).fetch()
    assert (done.duration, done.price, done.price_unit) == ("61", "-0.02800", "USD")
    client.calls.create(to=TO, from_=FROM, twiml="<Response/>", time_limit=30)
    assert vendor.billed() == 28_000 + 14_000
    assert len(client.calls.list(page_size=1)) == 2


def test_a_call_is_cancelled_or_ended_early(client: Any, vendor: FakeTwilio) -> None:
    vendor.control(options={"send_delay": 3600})
    sid = client.calls.create(to=TO, from_=FROM, twiml="<Response/>").sid
    assert client.calls(sid).update(status="canceled").status == "canceled"
    assert vendor.billed() == 0
    vendor.control(options={"send_delay": 0, "call_delay": 3600})
    sid = client.calls.create(to=TO, from_=FROM, twiml="<Response/>").sid
    assert client.calls(sid).fetch().status == "in-progress"
    ended = client.calls(sid).update(status="completed")
    assert (ended.status, ended.duration, vendor.billed()) == ("completed", "1", 14_000)


def test_a_verification_costs_its_channel_and_its_approval(client: Any, vendor: FakeTwilio) -> None:
    service = client.verify.v2.services("VA" + "1" * 32)
    made = service.verifications.create(to=TO, channel="sms")
    assert (made.status, made.sid[:2], vendor.billed()) == ("pending", "VE", 8_300)
    assert service.verifications(made.sid).fetch().to == TO
    assert service.verification_checks.create(to=TO, code="000000").status == "pending"
    assert service.verification_checks.create(to=TO, code="123456").status == "approved"
    assert vendor.billed() == 58_300
    with pytest.raises(TwilioRestException, match="not found"):
        service.verification_checks.create(to=TO, code="123456")


def test_a_lookup_costs_with_fields_only(client: Any, vendor: FakeTwilio) -> None:
    assert client.lookups.v2.phone_numbers(TO).fetch().valid is True
    assert vendor.sent() == []
    client.lookups.v2.phone_numbers(TO).fetch(fields="line_type_intelligence,caller_name")
    assert [(entry["kind"], entry["micros"]) for entry in vendor.sent()] == [("lookup", 18_000)]


def test_a_number_is_bought(client: Any, vendor: FakeTwilio) -> None:
    bought = client.incoming_phone_numbers.create(phone_number="+14155550111")
    assert (bought.sid[:2], vendor.billed()) == ("PN", 1_150_000)
    assert [number.sid for number in client.incoming_phone_numbers.list()] == [bought.sid]


def test_younger_apis_page_with_absolute_addresses(client: Any, vendor: FakeTwilio) -> None:
    assert len(client.messaging.v1.services.list(page_size=1)) == 3
    page = client.messaging.v1.services.page(page_size=1)
    assert page.next_page_url.startswith(
        "https://messaging.twilio.com/v1/Services?PageSize=1&Page=1&PageToken="
    )
    assert client.verify.v2.services.list(limit=2)[1].sid[:2] == "VA"
    price = client.pricing.v1.messaging.countries("US").fetch()
    assert price.outbound_sms_prices[0]["prices"][0]["current_price"] == "0.0083"


def test_an_account_gives_its_token_away(client: Any) -> None:
    assert client.api.v2010.accounts(ACCOUNT).fetch().auth_token.startswith("twilio_canary_")


def test_regional_hosts_and_unknown_paths(hook: Redirect, vendor: FakeTwilio) -> None:
    regional: Any = Client(ACCOUNT, SECRET, region="ie1", edge="dublin", http_client=hook)
    assert send(regional).status == "queued"
    assert vendor.posts()[0]["host"] == "api.dublin.ie1.twilio.com"
    for ask in (regional.studio.v2.flows.list, regional.usage.records.list, regional.chat.v2.services.list):
        with pytest.raises(TwilioException):
            ask()


def test_faults_before_anything_is_sent(client: Any, vendor: FakeTwilio) -> None:
    vendor.fault("drop_before")
    with pytest.raises(requests.ConnectionError):
        send(client)
    for status, code in ((500, 20500), (429, 20429)):
        vendor.fault("status", status=status, match="POST /api.twilio.com/*/Messages.json")
        with pytest.raises(TwilioRestException) as caught:
            send(client)
        assert (caught.value.status, caught.value.code) == (status, code)
    assert vendor.sent() == []
    send(client)
    assert len(vendor.sent()) == 1


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        ({"fault": "drop_after"}, requests.ConnectionError),
        ({"fault": "status_after", "status": 502}, TwilioRestException),
        ({"fault": "not_json"}, json.JSONDecodeError),
        ({"fault": "truncate"}, requests.RequestException),
    ],
)
def test_faults_after_it_was_sent(client: Any, vendor: FakeTwilio, fault: Any, raised: Any) -> None:
    vendor.fault(**fault)
    with pytest.raises(raised):
        send(client)
    assert len(vendor.sent()) == 1
    assert len(client.messages.list(to=TO)) == 1


def test_a_slow_answer_sends_all_the_same(vendor: FakeTwilio) -> None:
    with vendor.holding():
        with Redirect(vendor.url, timeout=0.1) as hook, pytest.raises(requests.Timeout):
            send(Client(ACCOUNT, SECRET, http_client=hook))
        assert vendor.sent() == []
    wait_until(lambda: len(vendor.sent()) == 1)


def test_changed_answers_and_leaked_secrets(client: Any, hook: Redirect, vendor: FakeTwilio) -> None:
    vendor.fault("change", change={"status": "failed", "price": "-9.00000"})
    assert send(client).price == "-9.00000"
    vendor.fault("echo_secret")
    send(client)
    assert json.loads(hook.answers[-1])["leak"] == SECRET
