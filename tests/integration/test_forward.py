"""Calls of a vendor that luigid's gateway serves: forwarded as they are, answered as if guarded here."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import luigi
import pytest
import stripe

from luigi_spendguard import BudgetExceeded, KeyRevoked, SpendDenied, backoff, config, proxy
from luigi_spendguard.errors import DENIAL_STATUS, OutcomeUnknown
from luigi_spendguard.http.addresses import CERTIFICATE_VARIABLES
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.http.shared import CallsUnderWay
from luigi_spendguard.protocol import ReserveReply, ReserveRequest
from luigi_spendguard.proxy import attempts, gateway_client, interrupt
from luigi_spendguard.proxy import call as sending
from luigi_spendguard.proxy.stripe import as_stripe_error
from luigi_spendguard.worker.process import GuardedTaskProcess
from tests.support.fake_gateway import CERTIFICATE, FakeGateway, denial
from tests.support.processes import free_port, wait_until

SECRET = "sk_test_of_the_worker_never_used"
KEY = "vault_key_0123456789abcdef"
CHARGE = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}


@dataclass
class Books:
    """The worker's side of a ledger: keeps what it is asked, and grants nothing."""

    url: str | None
    told: list[ReserveRequest] = field(default_factory=list)
    address = None
    authorization = ""
    under_way: CallsUnderWay = field(default_factory=CallsUnderWay)

    def reserve(self, key: str, ask: ReserveRequest) -> ReserveReply:
        assert key == KEY
        self.told.append(ask)
        return ReserveReply("denied", reason=ask.denied or "cap", message=ask.message or "guarded here")


@contextmanager
def attempt(
    url: str | None, *, secret: str | None = None, served: tuple[str, ...] = ("stripe",), **settings: Any
) -> Iterator[Books]:
    """Run the block as a claimed task whose scheduler is at `url`."""
    loaded = config.load([], environ={})
    vendor = replace(loaded.vendor("stripe"), secret=secret, timeout_s=settings.pop("timeout_s", 80.0))
    loaded = replace(loaded, vendors={"stripe": vendor}, **settings)
    books = Books(url)
    client: Any = books
    made = attempts.Attempt("claim", "run", "Charge_1", "Charge", KEY, client, loaded, frozenset(served))
    with proxy.attempt_running(made):
        yield books


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway("/luigi") as gateway:
        yield gateway


def test_a_call_goes_as_it_is_under_the_vault_key(gateway: FakeGateway) -> None:
    with attempt(gateway.url) as books:
        intent = stripe.PaymentIntent.create(customer="cus_1", idempotency_key="mine", **CHARGE)
    assert intent.status == "succeeded"
    [seen] = gateway.seen
    assert (seen.method, seen.path) == ("POST", "/luigi/stripe/v1/payment_intents")
    assert b"amount=100&currency=usd&payment_method=pm_card_visa&confirm=true" in seen.body
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["idempotency-key"] == "mine"
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert seen.headers["stripe-version"] == stripe.api_version
    assert seen.headers["user-agent"].startswith("Stripe/v1 PythonBindings/")
    assert books.told == []


def test_the_reply_is_the_vendors_to_the_byte(gateway: FakeGateway) -> None:
    body = '{\n "id":  "pi_1", "object": "payment_intent",\t"description": "ß€"}'.encode()
    gateway.script = [(200, {"Content-Type": "application/json", "Request-Id": "req_9", "X-Y": "z"}, body)]
    with attempt(gateway.url):
        intent = stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    answer = intent.last_response
    assert (answer.body.encode(), answer.code, answer.request_id) == (body, 200, "req_9")
    assert answer.headers["x-y"] == "z"


def test_a_read_keeps_its_query_and_has_no_key(gateway: FakeGateway) -> None:
    with attempt(gateway.url):
        stripe.PaymentIntent.retrieve("pi_1", expand=["customer", "latest_charge"])
    [seen] = gateway.seen
    path, _, query = seen.path.partition("?")
    assert path == "/luigi/stripe/v1/payment_intents/pi_1"
    assert unquote(query) == "expand[0]=customer&expand[1]=latest_charge"
    assert "idempotency-key" not in seen.headers
    assert (seen.method, seen.body) == ("GET", b"")


def test_an_upload_and_a_stream_go_by_their_path(gateway: FakeGateway) -> None:
    content = bytes(range(256)) * 40
    file = b'{"id": "file_1", "object": "file"}'
    gateway.script = [(200, {}, file), (200, {"Content-Type": "application/pdf"}, content), (200, {}, file)]
    with attempt(gateway.url) as books:
        stripe.File.create(file=io.BytesIO(content), purpose="dispute_evidence")
        assert stripe.Quote.pdf("qt_1").io.read() == content
        bases: Any = {"files": f"{gateway.url}/stripe", "api": "https://api.stripe.com"}
        client = stripe.StripeClient(KEY, base_addresses=bases)
        client.v1.files.create({"file": io.BytesIO(content), "purpose": "dispute_evidence"})
    assert [seen.path for seen in gateway.seen] == [
        "/luigi/stripe/v1/files",
        "/luigi/stripe/v1/quotes/qt_1/pdf",
        "/luigi/stripe/v1/files",
    ]
    assert content in gateway.seen[0].body
    assert content in gateway.seen[2].body
    assert books.told == []


def test_a_decline_is_the_vendors_own_error(gateway: FakeGateway) -> None:
    body = b'{"error": {"type": "card_error", "code": "card_declined", "message": "no"}}'
    gateway.script = [(402, {}, body)]
    with attempt(gateway.url), pytest.raises(stripe.CardError) as error:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert error.value.code == "card_declined"
    assert not isinstance(error.value, SpendDenied)


@pytest.mark.parametrize(("reason", "status"), DENIAL_STATUS.items())
def test_a_denial_is_the_exception_that_guarding_here_raises(
    gateway: FakeGateway, reason: str, status: int
) -> None:
    facts = {"asked_usd": "1.00", "cap_usd": "0.50", "run_id": "run", "call_id": "c1"}
    gateway.answer = lambda seen: denial(reason, status, "because of this", **facts)
    with attempt(gateway.url), pytest.raises(SpendDenied) as denied:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    here: Any = as_stripe_error(_local(reason, "because of this", facts))
    error: Any = denied.value
    assert type(error) is type(here)
    assert isinstance(error, stripe.StripeError)
    for name in ("reason", "message", "facts", "http_status", "code", "json_body", "headers"):
        assert getattr(error, name) == getattr(here, name), name
    assert len(gateway.seen) == 1


def _local(reason: str, message: str, facts: dict[str, str]) -> SpendDenied:
    kind = BudgetExceeded if reason == "cap" else KeyRevoked if DENIAL_STATUS[reason] == 401 else SpendDenied
    return kind(reason, message, facts)


def test_an_unknown_outcome_is_one_here_and_is_not_sent_again(gateway: FakeGateway) -> None:
    gateway.script = [denial("outcome_unknown", 502, "nobody knows", call_id="call-7")]
    with attempt(gateway.url), pytest.raises(OutcomeUnknown) as unknown:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert unknown.value.call_id == "call-7"
    assert isinstance(unknown.value, stripe.APIConnectionError)
    assert len(gateway.seen) == 1


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "[]",
        '{"reason": "new_in_version_9", "message": "m"}',
        '{"reason": "cap"}',
        '"cap"',
        '{"reason": "cap", "message": "m", "facts": "f"}',
    ],
)
def test_a_denial_that_cannot_be_understood_stays_one(gateway: FakeGateway, said: str) -> None:
    gateway.script = [(429, {"X-Spendguard-Denial": said}, b"{}")]
    with attempt(gateway.url), pytest.raises(SpendDenied) as denied:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert denied.value.reason == "ledger_unavailable"
    assert len(gateway.seen) == 1


def test_a_replay_is_said_in_the_log(gateway: FakeGateway, caplog: pytest.LogCaptureFixture) -> None:
    with attempt(gateway.url):
        answers = [
            stripe.PaymentIntent.create(customer="cus_1", idempotency_key="k", **CHARGE).id for _ in range(2)
        ]
    assert answers[0] == answers[1]
    [said] = [r.getMessage() for r in caplog.records if "Replayed" in r.getMessage()]
    assert said.startswith("Replayed: POST /v1/payment_intents was made before, answered at 20")
    assert said.endswith("nothing was sent or spent now")


@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_lost_after_the_request_is_tried_again_under_one_key(
    gateway: FakeGateway, times: int
) -> None:
    gateway.script = ["drop"] * times
    with attempt(gateway.url):
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    keys = {seen.headers["idempotency-key"] for seen in gateway.seen}
    assert (len(keys), len(gateway.seen)) == (1, times + 1)


def test_a_connection_that_is_always_lost_is_the_sdks_connection_error(gateway: FakeGateway) -> None:
    gateway.script = ["drop"] * 9
    with attempt(gateway.url), pytest.raises(stripe.APIConnectionError) as error:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert error.value.should_retry
    assert "may have been executed" in str(error.value)


def test_a_gateway_that_is_away_is_a_denial_within_seconds() -> None:
    begun = time.monotonic()
    with attempt(f"http://127.0.0.1:{free_port()}"), pytest.raises(SpendDenied) as denied:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert 4 < time.monotonic() - begun < 30
    assert denied.value.reason == "ledger_unavailable"
    assert isinstance(denied.value, stripe.APIConnectionError)
    assert pickle.loads(pickle.dumps(denied.value)).reason == "ledger_unavailable"


@pytest.mark.parametrize("own", [{}, {"idempotency_key": "mine"}], ids=["sdk's key", "own key"])
@pytest.mark.parametrize("by_sdk", [True, False], ids=["by the SDK", "by the task"])
def test_a_gateway_that_dies_with_a_call_under_way_may_have_sent_it(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str], by_sdk: bool
) -> None:
    monkeypatch.setattr(stripe, "max_network_retries", 2 if by_sdk else 0)
    with FakeGateway("/luigi") as gateway, attempt(gateway.url):

        def dies(seen: Any) -> Any:
            gateway.end()
            monkeypatch.setattr(gateway_client, "GIVE_UP_S", 0.3)
            return "drop"

        gateway.answer = dies
        if not by_sdk:
            with pytest.raises(stripe.APIConnectionError):
                stripe.PaymentIntent.create(customer="cus_1", **CHARGE, **own)
        with pytest.raises(SpendDenied) as denied:
            stripe.PaymentIntent.create(customer="cus_1", **CHARGE, **own)
        assert "An earlier try of this call may have been sent: it counts" in str(denied.value)
        with pytest.raises(SpendDenied) as denied:
            stripe.PaymentIntent.create(customer="cus_2", **CHARGE)
        assert "earlier try" not in str(denied.value)


def test_a_gateway_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    port, refused, growing = free_port(), threading.Event(), backoff.growing

    def noted(*limits: float) -> Iterator[float]:
        for wait_s in growing(*limits):
            refused.set()
            yield wait_s

    monkeypatch.setattr(backoff, "growing", noted)
    with ThreadPoolExecutor(1) as pool, attempt(f"http://127.0.0.1:{port}"):
        call = pool.submit(stripe.PaymentIntent.create, customer="cus_1", **CHARGE)
        assert refused.wait(30)
        with FakeGateway(port=port) as gateway:
            assert call.result(10).status == "succeeded"
            assert len(gateway.seen) == 1


def test_the_answer_is_waited_for_as_long_as_the_vendors_and_a_little(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_client, "GATEWAY_S", 0.3)
    client = stripe.StripeClient(KEY)
    begun = time.monotonic()
    with gateway.holding(), attempt(gateway.url, timeout_s=0.2), pytest.raises(stripe.APIConnectionError):
        client.v1.payment_intents.create({"customer": "cus_1", **CHARGE})
    assert time.monotonic() - begun > 0.4


@pytest.mark.parametrize(
    "answer",
    [
        (404, {"Content-Type": "text/html"}, b"<html>404: Not Found</html>"),
        (404, {}, b'{"error": "not_found", "message": "no such route"}'),
        (401, {}, b'{"error": "unknown_key", "message": "no such key"}'),
    ],
)
def test_a_scheduler_that_is_no_gateway_is_a_clear_denial(gateway: FakeGateway, answer: Any) -> None:
    gateway.script = [answer]
    with attempt(gateway.url), pytest.raises(SpendDenied, match="is no gateway for stripe") as denied:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert denied.value.reason == "ledger_unavailable"
    assert len(gateway.seen) == 1


def test_a_redirect_is_not_followed(gateway: FakeGateway) -> None:
    with FakeGateway() as elsewhere:
        where = f"{elsewhere.url}/stripe/v1/payment_intents"
        gateway.script = [(307, {"Location": where}, b'{"error": {"type": "api_error", "message": "moved"}}')]
        with attempt(gateway.url), pytest.raises(stripe.APIError):
            stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
        assert elsewhere.seen == []


def test_no_cookie_of_an_answer_is_sent_with_the_next_call(gateway: FakeGateway) -> None:
    gateway.script = [(200, {"Set-Cookie": "a=b; Path=/"}, b'{"id": "pi_1", "object": "payment_intent"}')]
    with attempt(gateway.url):
        for customer in ("cus_1", "cus_2"):
            stripe.PaymentIntent.create(customer=customer, **CHARGE)
    assert not any("cookie" in seen.headers for seen in gateway.seen)


@pytest.mark.parametrize(("said", "served"), [(["stripe"], {"stripe"}), ([], set()), (None, set())])
def test_the_claims_answer_names_the_vendors_that_are_served(
    gateway: FakeGateway, said: list[str] | None, served: set[str]
) -> None:
    answer = {"run_id": "run", "vault_key": KEY, **({} if said is None else {"gateway": said})}
    gateway.script = [(200, {}, json.dumps({"response": answer}).encode())]
    process = object.__new__(GuardedTaskProcess)
    process.task, process.worker_id, process.run_id = luigi.Task(), "worker", "run"
    process.client, process.settings = HttpLedgerClient(gateway.url, None), config.load([], environ={})
    claimed = process._claim()
    assert claimed.served == served
    assert claimed.client.url == gateway.url


# Which credentials and hosts are accepted, and who guards.


@pytest.mark.parametrize("api_key", [None, KEY, SECRET])
def test_the_workers_secret_is_accepted_and_never_leaves(gateway: FakeGateway, api_key: str | None) -> None:
    with attempt(gateway.url, secret=SECRET):
        stripe.PaymentIntent.create(customer="cus_1", api_key=api_key, **CHARGE)
    [seen] = gateway.seen
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert SECRET not in str(seen)


@pytest.mark.parametrize("secret", [None, SECRET])
def test_another_key_is_denied_and_on_record(gateway: FakeGateway, secret: str | None) -> None:
    with attempt(gateway.url, secret=secret) as books, pytest.raises(SpendDenied) as denied:
        stripe.PaymentIntent.create(customer="cus_1", api_key="sk_test_another", **CHARGE)
    assert denied.value.reason == "scope"
    assert gateway.seen == []
    assert [ask.denied for ask in books.told] == ["scope"]


@pytest.mark.parametrize(
    "base",
    [
        "http://127.0.0.1:9",
        "http://api.stripe.com",
        "https://a@api.stripe.com",
        "https://api.stripe.com:444",
        "https://stripe.com.example.com",
    ],
)
def test_another_host_is_denied_never_replaced(gateway: FakeGateway, base: str) -> None:
    client = stripe.StripeClient(KEY, base_addresses={"api": base})
    with attempt(gateway.url) as books, pytest.raises(SpendDenied) as denied:
        client.v1.balance.retrieve()
    assert denied.value.reason == "endpoint"
    assert gateway.seen == []
    assert [ask.denied for ask in books.told] == ["endpoint"]


def test_headers_of_the_connection_are_left_behind(gateway: FakeGateway) -> None:
    left = {"Connection": "close, X-Mine", "X-Mine": "1", "Proxy-Authorization": "Basic eDp5", "TE": "gzip"}
    headers = {**left, "X-Kept": "1"}
    with attempt(gateway.url):
        stripe.PaymentIntent.create(customer="cus_1", headers=headers, **CHARGE)
    [seen] = gateway.seen
    assert seen.headers["x-kept"] == "1"
    assert not {"x-mine", "proxy-authorization", "te", "transfer-encoding"} & set(seen.headers)
    assert seen.headers["host"] == f"127.0.0.1:{gateway.port}"


def test_a_gateway_of_its_own_address_is_used_where_the_secret_is_not_here(gateway: FakeGateway) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with attempt(url, served=(), gateway_url=gateway.url):
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    with attempt(url, secret=SECRET, served=("stripe",), gateway_url=gateway.url):
        stripe.PaymentIntent.create(customer="cus_2", **CHARGE)
    assert len(gateway.seen) == 2


def test_a_local_secret_is_guarded_here_unless_luigid_serves_the_vendor(gateway: FakeGateway) -> None:
    ours = attempt(gateway.url, secret=SECRET, served=(), gateway_url=gateway.url)
    with ours as books, pytest.raises(BudgetExceeded, match="guarded here"):
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert [ask.denied for ask in books.told] == [None]
    assert gateway.seen == []


@pytest.mark.parametrize("gateway_url", [None, "http://127.0.0.1:9"])
def test_a_local_scheduler_has_no_gateway(gateway_url: str | None) -> None:
    local = attempt(None, gateway_url=gateway_url)
    with local, pytest.raises(SpendDenied, match="no secret for stripe") as denied:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert denied.value.reason == "scope"


def test_without_gateway_or_secret_the_error_says_what_to_set(gateway: FakeGateway) -> None:
    with attempt(gateway.url, served=()), pytest.raises(SpendDenied, match="no secret for stripe"):
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)


def test_a_gateway_in_clear_is_refused_where_luigid_is_not() -> None:
    where = "http://gateway.example.com"
    with attempt("https://luigid", gateway_url=where), pytest.raises(SpendDenied, match="https for both"):
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)


# Threads, forks, event loops, proxies, revokes.


def test_sixty_four_threads_get_their_own_answers(gateway: FakeGateway) -> None:
    def charge(number: int) -> bool:
        names = [f"cus_{number}_{turn}" for turn in range(5)]
        return names == [stripe.PaymentIntent.create(customer=name, **CHARGE).customer for name in names]

    with attempt(gateway.url), ThreadPoolExecutor(64) as pool:
        assert all(pool.map(charge, range(64)))
    assert len(gateway.moved) == 320


def test_asynchronous_calls_are_forwarded_too(gateway: FakeGateway) -> None:
    async def program() -> list[Any]:
        calls = (stripe.PaymentIntent.create_async(customer=f"cus_{n}", **CHARGE) for n in range(50))
        return [intent.customer for intent in await asyncio.gather(*calls)]

    with attempt(gateway.url):
        assert asyncio.run(program()) == [f"cus_{number}" for number in range(50)]
    assert len(gateway.moved) == 50


def test_forked_children_share_no_connection(gateway: FakeGateway) -> None:
    with attempt(gateway.url):
        stripe.PaymentIntent.create(customer="cus_parent", **CHARGE)
        children = []
        for child in range(4):
            pid = os.fork()
            if pid == 0:
                wrong = 1
                try:
                    names = [f"cus_{child}_{turn}" for turn in range(20)]
                    said = [stripe.PaymentIntent.create(customer=name, **CHARGE).customer for name in names]
                    wrong = int(said != names)
                finally:
                    os._exit(wrong)
            children.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0, 0]
    assert len({seen.peer for seen in gateway.seen}) == 5


def test_a_proxy_of_the_environment_does_not_capture_the_call(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    with FakeGateway() as captor:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, captor.url)
        with attempt(gateway.url):
            ThreadPoolExecutor(1).submit(stripe.PaymentIntent.create, customer="cus_1", **CHARGE).result()
        assert captor.seen == []
    assert len(gateway.seen) == 1


def test_a_forwarded_call_counts_as_in_flight(gateway: FakeGateway) -> None:
    idle = threading.Event()
    interrupt.on_idle(idle.set)
    try:
        with attempt(gateway.url), ThreadPoolExecutor(1) as pool:
            with gateway.holding():
                call = pool.submit(stripe.PaymentIntent.create, customer="cus_1", **CHARGE)
                wait_until(lambda: bool(gateway.seen))
                assert interrupt.in_flight() == 1
                assert not idle.is_set()
            call.result()
        assert idle.is_set()
    finally:
        interrupt.on_idle(None)


# Outside vendor tasks: a pipeline that asks for its vault keys itself.


def test_a_plain_task_may_show_a_vault_key_to_a_gateway(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe, "api_base", f"{gateway.url}/stripe")
    monkeypatch.setattr(stripe, "api_key", "vault_key_of_its_own")
    monkeypatch.setattr(stripe, "default_http_client", stripe.RequestsClient())
    with attempts.worker_running():
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert [seen.headers["authorization"] for seen in gateway.seen] == ["Bearer vault_key_of_its_own"]


@pytest.mark.parametrize(
    ("key", "base"), [("vault_key_of_its_own", "https://api.stripe.com"), (SECRET, "https://gateway/stripe")]
)
def test_a_plain_task_may_not_call_otherwise(key: str, base: str) -> None:
    client = stripe.StripeClient(key, base_addresses={"api": base})
    with attempts.worker_running(), pytest.raises(SpendDenied, match="outside any vendor task"):
        client.v1.payment_intents.create({"customer": "cus_1", **CHARGE})


@pytest.fixture
def in_tls(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    for name in CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # A session keeps what it was told to trust.
    monkeypatch.setattr(sending, "_forwarder", gateway_client.Forwarder())
    monkeypatch.setattr(gateway_client, "GIVE_UP_S", 2)
    with FakeGateway(tls=True) as gateway:
        yield gateway


@pytest.mark.parametrize("name", CERTIFICATE_VARIABLES)
def test_the_certificates_of_the_environment_are_trusted(
    in_tls: FakeGateway, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(CERTIFICATE))
    with attempt(in_tls.url):
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert len(in_tls.seen) == 1


def test_an_unknown_certificate_gets_no_key(in_tls: FakeGateway) -> None:
    with (
        attempt(in_tls.url),
        pytest.raises(SpendDenied, match=r"certificate is not trusted.*REQUESTS_CA_BUNDLE") as denied,
    ):
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    assert denied.value.reason == "ledger_unavailable"
    assert in_tls.seen == []
