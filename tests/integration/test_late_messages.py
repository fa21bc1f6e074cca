"""A message that comes late, at whichever gateway: its call was made again meanwhile, and is paid once.

Two gateways share a ledger. A proxy keeps what is sent to the first one, ends the connection, and delivers it
later, to either.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import stripe
from requests import ConnectionError as Lost
from stripe import APIConnectionError, APIError, CardError, RateLimitError

from luigi_spendguard import BudgetExceeded, idempotency_key
from tests.support.attempts import Pretender
from tests.support.clients import by_requests
from tests.support.desk import by_hand
from tests.support.network import Holding
from tests.support.pipelines import charge
from tests.support.processes import Process, free_port, listening, wait_until
from tests.support.site import TWILIO_ACCOUNT, FakeStripe, Site
from tests.support.vendors import FakeTwilio

_NUMBERS = itertools.count(1)
TEXTS = f"https://api.twilio.com/2010-04-01/Accounts/{TWILIO_ACCOUNT}/Messages.json"


class Pair:
    """Two gateways, and a proxy before the first."""

    def __init__(self, folder: Path, stripe: FakeStripe, twilio: FakeTwilio) -> None:
        self.stripe, self.twilio = stripe, twilio
        self.site = Site(folder / "site", stripe=self.stripe, twilio=self.twilio, gateway=True)
        self.network, self.port = Holding(self.site.port), free_port()
        self.site.configure(spendguard={"gateway_url": self.network.url})
        self.price = by_hand(stripe, "/v1/prices", currency="usd", unit_amount="100")["id"]
        self.start()

    def start(self) -> None:
        """Start the second gateway."""
        args = ["-m", "luigi_spendguard", "gateway", "--port", str(self.port)]
        env = self.site._environment(**self.site.secrets)
        log, folder = self.site.folder / "second.log", self.site.folder
        self.second = Process(args, log, folder, env, lambda: listening(self.port))

    def restart(self) -> None:
        """Kill the second gateway, and start it anew."""
        self.second.popen.kill()
        self.second.end()
        self.start()

    def end(self) -> None:
        self.second.end()
        self.site.end()

    @contextmanager
    def attempt(self, budget_usd: str | None = None) -> Iterator[None]:
        """Run the block as an attempt of a task that pays somebody else than all before."""
        self.whom = f"{next(_NUMBERS):04d}"
        run = f"run-{self.whom}"
        with Pretender(self.site, run, f"Charge_{self.whom}", budget_usd=budget_usd).attempt():
            yield

    def call(self, kind: str, key: str | None = None) -> bool:
        """Make a call; return whether it was made, as far as is known. Raises where it was not answered."""
        if kind == "text":
            form = {"To": f"+1415555{self.whom}", "From": "+14155550199", "Body": "hi"}
            with idempotency_key(key) if key else nullcontext():
                return bool(by_requests("POST", TEXTS, data=form).status_code == 201)
        try:
            if kind == "subscription":
                items: list[Any] = [{"price": self.price}]
                return bool(stripe.Subscription.create(customer=f"cus_late_{self.whom}", items=items))
            more = {"idempotency_key": key} if key else {}
            card = "pm_card_chargeDeclined" if kind == "declined" else "pm_card_visa"
            return bool(charge(f"cus_late_{self.whom}", card=card, **more))
        except APIConnectionError:
            raise
        except (APIError, RateLimitError):
            return False

    def times(self, kind: str) -> int:
        """Return how often that was paid, by the vendor's books."""
        if kind == "text":
            return sum(one["to"] == f"+1415555{self.whom}" for one in self.twilio.sent())
        moved = [one for one in self.stripe.books()["moved"] if one["customer"] == f"cus_late_{self.whom}"]
        return sum(one["amount"] > 0 for one in moved)


@pytest.fixture(scope="module")
def twilio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTwilio]:
    fake = FakeTwilio(tmp_path_factory.mktemp("twilio"))
    yield fake
    fake.process.end()


@pytest.fixture(scope="module")
def gateways(
    engine: str, shared_site: Site, twilio: FakeTwilio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"), shared_site.stripe, twilio)
    with pair.network:
        yield pair
    pair.end()


@pytest.fixture
def pair(gateways: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    return gateways


@pytest.mark.parametrize(("kind", "lost"), [("charge", 0), ("charge", 1), ("text", 0)])
def test_what_was_made_again_at_another_gateway_is_sent_no_more(pair: Pair, kind: str, lost: int) -> None:
    """`lost`: of its repetitions, which the vendor has answered with an error after it had executed one."""
    with pair.attempt():
        with pair.network.holding(), pytest.raises((Lost, APIConnectionError)):
            pair.call(kind)
        (pair.stripe if kind == "charge" else pair.twilio).fault(
            "status_after", status=500, times=lost, match="POST /"
        )
        assert [pair.call(kind) for _ in range(lost + 1)][-1]
        assert (pair.network.deliver(pair.port), pair.times(kind)) == (503, 1)
        assert pair.call(kind), "another one"
    assert pair.times(kind) == 2


def test_nor_by_a_gateway_that_was_started_anew(pair: Pair) -> None:
    with pair.attempt():
        with pair.network.holding(), pytest.raises(APIConnectionError):
            pair.call("charge")
        pair.network.to = pair.port
        try:
            assert pair.call("charge")
        finally:
            pair.network.to = pair.site.port
        pair.restart()
        assert pair.network.deliver(pair.port) == 503
    assert pair.times("charge") == 1


@pytest.mark.parametrize("first", ["late", "again"])
def test_a_try_that_its_sdks_next_one_has_overtaken_is_sent_no_more(
    pair: Pair, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is answered with an error after it was executed, so that nothing is named as lost.

    `first`: what comes next, the try that was held, or the call that the task makes then.
    """
    with pair.attempt():
        monkeypatch.setattr(stripe, "max_network_retries", 1)
        pair.stripe.fault("status_after", status=500, match="POST /v1/payment_intents")
        with pair.network.holding():
            assert not pair.call("charge")
        monkeypatch.setattr(stripe, "max_network_retries", 0)
        steps = [lambda: pair.network.deliver(pair.port) == 503, lambda: pair.call("charge")]
        for step in steps if first == "late" else reversed(steps):
            assert step()
        assert pair.times("charge") == 1
        assert pair.call("charge"), "another one"
    assert pair.times("charge") == 2


def test_nor_where_the_next_one_was_declined(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with pair.attempt():
        monkeypatch.setattr(stripe, "max_network_retries", 1)
        with pair.network.holding(), pytest.raises(CardError):
            pair.call("declined")
        tried = len(pair.stripe.posts())
        assert pair.network.deliver(pair.port) == 503
        assert len(pair.stripe.posts()) == tried


@pytest.mark.parametrize("kind", ["charge", "text"])
def test_nor_what_has_a_key_of_its_callers(pair: Pair, kind: str) -> None:
    """Its task, which has heard an error under that key, makes it under another one."""
    with pair.attempt():
        with pair.network.holding(), pytest.raises((Lost, APIConnectionError)):
            pair.call(kind, "order-1")
        vendor = pair.stripe if kind == "charge" else pair.twilio
        vendor.fault("status", status=429, match="POST /")
        assert not pair.call(kind, "order-1")
        assert (pair.network.deliver(pair.port), pair.times(kind)) == (503, 0)
        assert pair.call(kind, "order-1-again")
        assert pair.times(kind) == 1
        assert pair.call(kind, "order-1"), "it may yet be made"
    assert pair.times(kind) == 2


@pytest.mark.parametrize("answer", ["declined", "500"])
def test_what_comes_twice_is_sent_no_more_once_its_caller_knows_that_it_failed(
    pair: Pair, answer: str
) -> None:
    with pair.attempt():
        with pair.network.holding(passes=True):
            if answer == "declined":
                with pytest.raises(CardError):
                    pair.call("declined")
            else:
                pair.stripe.fault("status_after", status=500, match="POST /v1/payment_intents")
                assert not pair.call("charge")
        tried = len(pair.stripe.posts())
        assert (pair.network.deliver(pair.port), len(pair.stripe.posts())) == (503, tried)
        assert pair.call("charge")
    assert pair.times("charge") == 1


@pytest.mark.parametrize("first", ["late", "again"])
@pytest.mark.parametrize("kind", ["charge", "text"])
def test_what_comes_twice_is_paid_once_where_the_first_was_denied(pair: Pair, kind: str, first: str) -> None:
    """Its caller makes it again once there is room; `first`: what comes first then."""
    with pair.attempt("0.001"):
        with pair.network.holding(passes=True), suppress(BudgetExceeded):
            assert not pair.call(kind)
        assert pair.times(kind) == 0
        assert pair.site.cli("top-up", f"run-{pair.whom}", "5")[0] == 0
        status = {"late": 201 if kind == "text" else 200, "again": 503}[first]
        steps = [lambda: pair.network.deliver(pair.port) == status, lambda: pair.call(kind)]
        for step in steps if first == "late" else reversed(steps):
            assert step()
        assert pair.times(kind) == 1
        assert pair.call(kind), "another one"
    assert pair.times(kind) == 2


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("status", [429, 503])
def test_an_error_of_what_prices_a_call_says_nothing_of_what_is_made_already(
    pair: Pair, status: int, lost: bool
) -> None:
    """`lost`: that has no answer; else it is the second of one request that came twice."""
    price = {"status": status, "match": "GET /v1/prices"}
    with pair.attempt():
        if lost:
            with pair.network.holding(), pytest.raises(APIConnectionError):
                pair.call("subscription")
        else:
            pair.stripe.fault("status", **price)
            with pair.network.holding(passes=True):
                assert not pair.call("subscription")
        assert pair.network.deliver(pair.port) == 200
        if lost:
            pair.stripe.fault("status", **price)
            assert not pair.call("subscription")
        assert (pair.call("subscription"), pair.times("subscription")) == (True, 1)
        assert pair.call("subscription"), "another one"
    assert pair.times("subscription") == 2


def test_what_comes_late_and_first_is_the_one_that_is_paid(pair: Pair) -> None:
    """The one that makes it again waits for it, at the other gateway."""
    with pair.attempt(), ThreadPoolExecutor(2) as pool:
        with pair.network.holding(), pytest.raises(APIConnectionError):
            pair.call("charge")
        with pair.stripe.holding():
            tried = len(pair.stripe.posts())
            late = pool.submit(pair.network.deliver, pair.port)
            wait_until(lambda: len(pair.stripe.posts()) > tried, what="the late one, at the vendor")
            before = pair.network.accepted
            again = pool.submit(pair.call, "charge")
            wait_until(lambda: pair.network.accepted > before, what="the one that makes it again")
        assert (late.result(60), again.result(60), pair.times("charge")) == (200, True, 1)


def test_at_the_same_moment_one_of_both_is_paid(pair: Pair) -> None:
    for turn in range(5):
        with pair.attempt(), ThreadPoolExecutor(1) as pool:
            with pair.network.holding(), pytest.raises(APIConnectionError):
                pair.call("charge")
            begin = threading.Barrier(2)

            def late(begin: threading.Barrier = begin, turn: int = turn) -> int:
                begin.wait(10)
                time.sleep(0.004 * turn)
                return pair.network.deliver(pair.port)

            status = pool.submit(late)
            begin.wait(10)
            assert pair.call("charge")
            assert status.result(60) in (200, 503)
        assert pair.times("charge") == 1, turn


@pytest.mark.parametrize("first", ["made", "500", "declined"])
def test_what_another_process_makes_later_under_the_same_key_is_not_late(pair: Pair, first: str) -> None:
    """It was forked before its parent made any call, and its own first one comes behind all of those."""
    fork, key = multiprocessing.get_context("fork"), str(uuid.uuid5(uuid.NAMESPACE_URL, f"order-{first}"))
    ours, theirs = fork.Pipe()
    with pair.attempt():
        order = {"customer": f"cus_late_{pair.whom}", "idempotency_key": key}

        def again() -> None:
            theirs.recv()
            theirs.send(charge(**order).id)

        child = fork.Process(target=again)
        child.start()
        for number in range(3):
            charge(f"cus_other_{number}")
        if first == "declined":
            with pytest.raises(CardError):
                charge(**order, card="pm_card_chargeDeclined")
        elif first == "500":
            pair.stripe.fault("status_after", status=500, match="POST /v1/payment_intents")
            with pytest.raises(APIError):
                charge(**order)
        made = charge(**order).id if first == "made" else None
        ours.send(None)
        assert ours.poll(30)
        assert ours.recv() in (made, charge(**order).id)
        child.join(20)
    assert (child.exitcode, pair.times("charge")) == (0, 1)


def test_threads_that_make_a_call_under_one_key_all_have_its_answer(pair: Pair) -> None:
    with pair.attempt(), ThreadPoolExecutor(8) as pool:
        customer = f"cus_late_{pair.whom}"
        for order in range(4):
            key = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{pair.whom}-{order}"))
            begin = threading.Barrier(8)

            def one(_: int, key: str = key, begin: threading.Barrier = begin) -> str:
                begin.wait(10)
                return charge(customer, idempotency_key=key).id

            assert len(set(pool.map(one, range(8)))) == 1
    assert pair.times("charge") == 4
