"""Answers that are lost, odd or somebody else's: the call is counted, and made again it is sent once."""

from __future__ import annotations

import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import stripe
from stripe import APIConnectionError, APIError, IdempotencyError

from luigi_spendguard import idempotency_key
from luigi_spendguard.proxy.gateway_client import Forwarder
from luigi_spendguard.proxy.listener import spend_proxy
from tests.support.attempts import Pretender
from tests.support.clients import by_httpx, by_requests
from tests.support.pipelines import charge
from tests.support.raw import Losing, RawVendor, answer
from tests.support.site import TWILIO_ACCOUNT, FakeStripe, Site
from tests.support.vendors import FakeResend, FakeTwilio, FakeVendor

MAILS = "https://api.resend.com/emails"
TEXTS = f"https://api.twilio.com/2010-04-01/Accounts/{TWILIO_ACCOUNT}/Messages.json"
LOOKUPS = "https://lookups.twilio.com/v2/PhoneNumbers/"


@dataclass
class World:
    site: Site
    twilio: FakeTwilio
    resend: FakeResend

    def attempt(self) -> Any:
        unique = uuid.uuid4().hex[:8]
        self.pretender = Pretender(self.site, f"run-{unique}", f"Charge_{unique}")
        return self.pretender.attempt()

    def sent(self, kind: str) -> list[Any]:
        return self.resend.sent() if kind == "mail" else self.twilio.sent()

    def calls(self) -> list[dict[str, Any]]:
        return self.site.calls(self.pretender.run_id)


@pytest.fixture(scope="module", params=["worker", "gateway"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("world"), request.param == "gateway") as site:
        yield site.world


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("relayed"), True) as site:
        yield site.world


class Made(Site):
    def end(self) -> None:
        super().end()
        for vendor in (self.world.twilio, self.world.resend, self.stripe):
            vendor.process.end()


def made(folder: Path, gateway: bool) -> Made:
    twilio, resend = FakeTwilio(folder / "twilio"), FakeResend(folder / "resend")
    site = Made(
        folder / "site",
        stripe=FakeStripe(folder / "stripe"),
        twilio=twilio,
        resend=resend,
        gateway=gateway,
        spendguard_twilio={
            "timeout_s": 4,
            "lookup_prices": "caller_name: 0.01",
            "channel_prices": "whatsapp: 0.2",
        },
    )
    site.world = World(site, twilio, resend)
    return site


@pytest.fixture(autouse=True)
def forgotten(request: pytest.FixtureRequest) -> None:
    for name in {"world", "relayed"} & set(request.fixturenames):
        found = request.getfixturevalue(name)
        found.twilio.forget()
        found.resend.forget()


def make(kind: str, number: int, **headers: str) -> int:
    if kind == "mail":
        mail = {"from": "a@example.com", "to": f"u{number}@example.com", "subject": "s", "text": "t"}
        return int(by_requests("POST", MAILS, json=mail, headers=headers).status_code)
    if kind == "text":
        text = {"To": f"+1415555{number:04d}", "From": "+14155550199", "Body": "hi"}
        return int(by_requests("POST", TEXTS, data=text, headers=headers).status_code)
    return int(by_requests("GET", f"{LOOKUPS}+1415555{number:04d}?Fields=caller_name").status_code)


@pytest.mark.parametrize("kind", ["mail", "text", "lookup"])
@pytest.mark.parametrize(
    "instead",
    [b"", b"HTTP/1.1 504 X\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlate"],
    ids=["lost", "504"],
)
def test_thirty_calls_that_a_gateway_did_not_answer_are_sent_once_each(
    relayed: World, kind: str, instead: bytes
) -> None:
    """A broken network, or a reverse proxy that is less patient than the gateway."""
    with Losing(relayed.site.port, instead) as network:
        relayed.site.configure(spendguard={"gateway_url": network.url})
        try:
            with relayed.attempt():
                for number in range(30):
                    with pytest.raises(requests.ConnectionError):
                        make(kind, number)
                network.loses = False
                assert {make(kind, number) for number in range(30)} <= {200, 201}
                assert {make(kind, number) for number in range(30, 33)} <= {200, 201}, "others are new"
        finally:
            relayed.site.configure(spendguard={"gateway_url": None})
    to = Counter(str(one.get("to") or one["recipients"]) for one in relayed.sent(kind))
    assert (len(to), set(to.values())) == (33, {1})


@pytest.mark.parametrize("kind", ["mail", "text"])
def test_a_request_that_a_gateway_refuses_to_take_says_nothing_of_a_call_that_was_lost(
    relayed: World, kind: str
) -> None:
    """As where too many bodies of its key wait already: that was taken for the lost call's answer."""
    with Losing(relayed.site.port) as network:
        relayed.site.configure(spendguard={"gateway_url": network.url})
        try:
            with relayed.attempt():
                with pytest.raises(requests.ConnectionError):
                    make(kind, 1)
                network.loses = False
                assert make(kind, 1, Origin="https://elsewhere.example") == 403
                assert make(kind, 1) in (200, 201)
                assert len(relayed.sent(kind)) == 1
                assert make(kind, 1) in (200, 201)  # Another one: that before was answered.
        finally:
            relayed.site.configure(spendguard={"gateway_url": None})
    assert len(relayed.sent(kind)) == 2


class OutOfTime(Exception):
    """A task has given a call so long, and no longer."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds."""

    def end(number: int, frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_call_that_a_task_gives_up_again_and_again_is_sent_once(world: World) -> None:
    """What it gave up while it waited for the first one to end is no call of its own once that has ended."""
    stripe = world.site.stripe
    with world.attempt():
        charge(
            "cus_first"
        )  # What is loaded late is there: the next one waits for its answer when time is up.
        before = stripe.moved()
        with stripe.holding():
            for _ in range(3):
                with pytest.raises((OutOfTime, IdempotencyError, APIConnectionError)), at_most(1.5):
                    charge("cus_slow")
        charge("cus_slow")
        time.sleep(1.5)  # Who waits asks again after a second at the most.
        assert stripe.moved() - before == 100
        charge("cus_slow")  # Another one: that before was answered.
    assert stripe.moved() - before == 200


@pytest.mark.parametrize("kind", ["mail", "text", "charge"])
@pytest.mark.parametrize("lost", [0, 1], ids=["answered", "lost"])
def test_a_call_that_its_repetition_has_overtaken_is_sent_no_more(
    relayed: World, kind: str, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given up stands in a proxy, or in the network, and arrives after all.

    `lost`: of its repetitions, which the vendor has answered with an error after it had executed one.
    """
    sent, vendor = Forwarder._sent, {"mail": relayed.resend, "text": relayed.twilio}
    fake: FakeVendor = vendor.get(kind, relayed.site.stripe)
    held: list[tuple[Any, ...]] = []

    def holding(*args: Any) -> Any:
        held.append(args)
        raise ConnectionResetError

    def once(number: int) -> bool:
        try:
            return (
                bool(charge(f"cus_late_{number}")) if kind == "charge" else make(kind, number) in (200, 201)
            )
        except APIError:
            return False

    def times() -> int:
        return relayed.site.stripe.moved() // 100 if kind == "charge" else len(relayed.sent(kind))

    before = times()
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    with relayed.attempt():
        monkeypatch.setattr(Forwarder, "_sent", holding)
        with pytest.raises((requests.ConnectionError, APIConnectionError)):
            once(1)
        monkeypatch.setattr(Forwarder, "_sent", sent)
        assert once(2), "not that one, and made while it is lost"
        fake.fault("status_after", status=500, times=lost, match="POST /")
        assert [once(1) for _ in range(lost + 1)][-1]
        assert sent(*held[0]).status == 503
        assert times() - before == 2
        assert once(1), "another one"
    assert times() - before == 3


def test_a_try_that_its_sdks_next_one_has_overtaken_is_sent_no_more(
    relayed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task hears of the next one, names nothing as lost, and makes its call again."""
    fake, sent, held = relayed.site.stripe, Forwarder._sent, list[tuple[Any, ...]]()

    def holding_the_first(*args: Any) -> Any:
        if held:
            return sent(*args)
        held.append(args)
        raise ConnectionResetError

    before = fake.moved()
    with relayed.attempt():
        monkeypatch.setattr(Forwarder, "_sent", holding_the_first)
        monkeypatch.setattr(stripe, "max_network_retries", 1)
        fake.fault("status_after", status=500, match="POST /v1/payment_intents")
        with pytest.raises(APIError):
            charge("cus_overtaken")
        assert fake.moved() - before == 100
        monkeypatch.setattr(stripe, "max_network_retries", 0)
        assert sent(*held[0]).status == 503
        charge("cus_overtaken")
        assert fake.moved() - before == 100
        charge("cus_overtaken")  # Another one: that before was answered.
    assert fake.moved() - before == 200


@pytest.mark.parametrize("named", ["*", "k" * 7001])
def test_more_lost_calls_than_can_be_named_are_refused_on_record(relayed: World, named: str) -> None:
    with relayed.attempt() as attempt:
        mail = {"from": "a@example.com", "to": "b@example.com", "subject": "s", "text": "t"}
        reply = requests.post(
            f"{relayed.site.url}/resend/emails",
            json=mail,
            timeout=30,
            headers={"Authorization": f"Bearer {str.__str__(attempt.key)}", "X-Spendguard-Unanswered": named},
        )
    assert (reply.status_code, relayed.sent("mail")) == (409, []), reply.text
    (call,) = relayed.calls()
    assert call["verdict"] == "denied:in_doubt"


def test_an_equal_call_under_its_callers_key_is_another_one(relayed: World) -> None:
    with Losing(relayed.site.port) as network:
        relayed.site.configure(spendguard={"gateway_url": network.url})
        try:
            with relayed.attempt():
                with pytest.raises(requests.ConnectionError):
                    make("mail", 1)
                network.loses = False
                with idempotency_key("order-7"):
                    assert make("mail", 1) == 200
                assert make("mail", 1) == 200
        finally:
            relayed.site.configure(spendguard={"gateway_url": None})
    assert len(relayed.sent("mail")) == 2


@pytest.mark.parametrize("send", [by_requests, by_httpx])
@pytest.mark.parametrize("gateway", [False, True], ids=["worker", "gateway"])
def test_a_reply_with_bytes_beyond_ascii_in_a_header_is_the_reply(
    tmp_path: Path, shared_site: Site, send: Any, gateway: bool
) -> None:
    with RawVendor(lambda number, body: answer(200, {"id": f"m{number}"}, b"X-Note: caf\xe9\r\n")) as vendor:
        site = Site(tmp_path / "site", stripe=shared_site.stripe, resend=vendor, gateway=gateway)
        with site, Pretender(site, "run").attempt():
            mail = {"from": "a@example.com", "to": "b@example.com", "subject": "s", "text": "t"}
            assert send("POST", MAILS, json=mail).status_code == 200
        assert len(vendor.bodies) == 1


@pytest.mark.parametrize("status", [408, 460, 600, 999])
def test_a_status_that_no_vendor_has_leaves_the_money_counted(
    tmp_path: Path, shared_site: Site, status: int
) -> None:
    with RawVendor(lambda number, body: answer(status, {"id": "x"})) as vendor:
        site = Site(
            tmp_path / "site",
            stripe=shared_site.stripe,
            resend=vendor,
            spendguard={"default_cap_usd": 2},
            spendguard_resend={"email_price": 1},
        )
        with site, Pretender(site, "run").attempt():
            for number in range(4):
                mail = {"from": "a@example.com", "to": f"b{number}@example.com", "subject": "s", "text": "t"}
                by_requests("POST", MAILS, json=mail)
            assert len(vendor.bodies) == 2
            run = site.run("run")
            assert (run["spent_usd"], run["reserved_usd"], run["in_doubt_calls"]) == ("0.00", "2.00", 2)


@pytest.mark.parametrize("named", ["\ud800x", "x\0", "x" * 256], ids=["surrogate", "NUL", "long"])
@pytest.mark.parametrize("gateway", [False, True], ids=["worker", "gateway"])
def test_an_id_that_no_ledger_can_keep_leaves_the_call_in_doubt(
    tmp_path: Path, shared_site: Site, named: str, gateway: bool
) -> None:
    with RawVendor(lambda number, body: answer(200, {"id": named})) as vendor:
        site = Site(tmp_path / "site", stripe=shared_site.stripe, resend=vendor, gateway=gateway)
        with site, Pretender(site, "run").attempt():
            mail = {"from": "a@example.com", "to": "b@example.com", "subject": "s", "text": "t"}
            reply = by_requests("POST", MAILS, json=mail)
            assert (reply.status_code, len(vendor.bodies)) == (502, 1), reply.text
            (call,) = site.calls("run")
            assert call["state"] == "in_doubt"


def test_a_named_lookup_is_paid_once(world: World) -> None:
    with world.attempt():
        for _ in range(2):
            with idempotency_key("lookup-of-ann"):
                assert make("lookup", 1) == 200
    assert len(world.twilio.sent()) == 1
    assert [call["verdict"] for call in world.calls()] == ["replayed", "allowed"]


def test_a_paid_lookup_that_was_lost_is_not_said_to_only_read(world: World) -> None:
    with world.attempt() as attempt, spend_proxy("twilio") as url:
        world.twilio.fault("drop_after", match="GET /", times=1)
        said = [
            requests.get(
                f"{url}/lookups.twilio.com/v2/PhoneNumbers/+14155550009?Fields=caller_name",
                auth=("x", str.__str__(attempt.key)),
                timeout=30,
            )
            for _ in range(2)
        ]
    assert "only reads" not in said[0].text + said[1].text
    assert len(world.twilio.sent()) == 1


@pytest.mark.parametrize("to", ["whatsapp:+1" + "5" * 5000, "whatsapp:+1" + "5" * 4090])
def test_what_is_too_long_for_the_ledger_is_denied_and_on_record(world: World, to: str) -> None:
    with world.attempt():
        reply = by_requests("POST", TEXTS, data={"To": to, "From": "whatsapp:+14155550100", "Body": "x"})
        assert reply.status_code == 403, reply.text
        assert "cannot be kept in the ledger" in reply.text
    (call,) = world.calls()
    assert (call["verdict"], call["vendor"]) == ("denied:unpriced", "twilio")
    assert world.twilio.sent() == []


def test_a_url_that_is_too_long_is_denied_and_on_record(world: World) -> None:
    with world.attempt():
        assert by_requests("GET", f"{LOOKUPS}{'5' * 5900}?Fields=caller_name").status_code == 403
    (call,) = world.calls()
    assert call["verdict"].startswith("denied:")


@pytest.mark.parametrize(
    ("method", "length"), [("POST", 2100), ("POST", 4080), ("GET", 4094)], ids=["long", "longer", "operation"]
)
def test_a_denial_that_has_much_to_say_is_on_record(world: World, method: str, length: int) -> None:
    with world.attempt():
        reply = by_requests(method, f"https://api.resend.com/{'x' * length}")
    (call,) = world.calls()
    assert reply.status_code == 403
    assert call["verdict"] in ("denied:unpriced", "denied:endpoint"), reply.text
    assert call["message"][:200] == reply.json()["message"][:200]
    assert world.sent("mail") == []
