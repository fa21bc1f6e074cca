"""The SDK's asynchronous calls are guarded like its synchronous ones: same cap, same identity."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stripe

from luigi_spendguard import BudgetExceeded, SpendDenied
from luigi_spendguard.errors import PluginError
from luigi_spendguard.proxy import aio, attempts, interrupt
from tests.support.attempts import Pretender
from tests.support.processes import wait_until
from tests.support.site import SECRET, FakeStripe, Site
from tests.support.vendors import cancelled

CHARGE = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}


def module_level(customer: str, **more: Any) -> Awaitable[Any]:
    return stripe.PaymentIntent.create_async(customer=customer, **{**CHARGE, **more})


def client(customer: str, **more: Any) -> Awaitable[Any]:
    made = stripe.StripeClient(SECRET, max_network_retries=2)
    return made.v1.payment_intents.create_async({"customer": customer, **CHARGE, **more})


@pytest.mark.parametrize("create", [module_level, client])
def test_fifty_at_once_stay_within_the_cap_to_the_cent(
    shared_site: Site, vendor: FakeStripe, create: Callable[..., Awaitable[Any]]
) -> None:
    name = f"{create.__name__}-{id(vendor)}"
    pretender = Pretender(shared_site, f"async-{name}", f"Async_{name}", budget_usd="30")

    async def program() -> list[Any]:
        calls = (create(f"cus_{number}") for number in range(50))
        return await asyncio.gather(*calls, return_exceptions=True)

    with pretender.attempt():
        said = asyncio.run(program())
    denied = [answer for answer in said if isinstance(answer, BudgetExceeded)]
    assert (len(denied), len(said)) == (20, 50)
    assert all(isinstance(error, stripe.RateLimitError) for error in denied)
    assert vendor.moved() == 3000
    run = shared_site.run(pretender.run_id)
    assert (run["spent_usd"], run["reserved_usd"]) == ("30.00", "0.00")
    assert len(shared_site.calls(pretender.run_id)) == 50


def test_no_client_library_of_an_event_loop_is_needed(pretender: Pretender, vendor: FakeStripe) -> None:
    client = stripe.StripeClient(SECRET, http_client=stripe.RequestsClient())
    with pretender.attempt():
        asyncio.run(client.v1.payment_intents.create_async({"customer": "cus_1", **CHARGE}))
    assert vendor.moved() == 100


def test_a_retried_call_is_one_call_under_one_key(pretender: Pretender, vendor: FakeStripe) -> None:
    vendor.fault("status_after", status=500)
    with pretender.attempt():
        asyncio.run(module_level("cus_1"))
    assert vendor.moved() == 100
    assert len({request["key"] for request in vendor.posts()}) == 1
    assert len(vendor.posts()) == 2
    [call] = pretender.site.calls(pretender.run_id)
    assert (call["state"], call["spent_usd"]) == ("settled", "1.00")


def test_a_repeated_attempt_is_replayed(pretender: Pretender, vendor: FakeStripe) -> None:
    answers = []
    for _ in range(2):
        with pretender.attempt():
            answers.append(asyncio.run(module_level("cus_1")).id)
    assert answers[0] == answers[1]
    assert vendor.moved() == 100


def test_a_cancelled_call_is_accounted_for_before_the_attempt_ends(
    pretender: Pretender, vendor: FakeStripe
) -> None:
    with pretender.attempt(), vendor.holding():
        asyncio.run(cancelled(module_level("cus_1"), vendor))
        assert interrupt.in_flight() == 1
    assert interrupt.in_flight() == 0
    assert vendor.moved() == 100
    [call] = pretender.site.calls(pretender.run_id)
    assert (call["state"], call["spent_usd"]) == ("settled", "1.00")


def test_the_event_loop_goes_on_during_a_call(pretender: Pretender, vendor: FakeStripe) -> None:
    vendor.control(options={"latency": 0.5})
    ticks = 0

    async def program() -> None:
        nonlocal ticks
        call = asyncio.ensure_future(module_level("cus_1"))
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
        await call

    with pretender.attempt():
        asyncio.run(program())
    assert ticks > 10


def test_two_attempts_in_two_event_loops_are_told_apart(shared_site: Site, vendor: FakeStripe) -> None:
    pretenders = [Pretender(shared_site, f"{id(vendor)}-{n}", f"L{n}_{id(vendor)}") for n in (1, 2)]
    ready = threading.Barrier(2)

    async def program(amount: int) -> None:
        await asyncio.gather(*(module_level(f"cus_{turn}", amount=amount) for turn in range(8)))

    def task(pretender: Pretender, amount: int) -> None:
        with pretender.attempt():
            ready.wait()
            asyncio.run(program(amount))
            ready.wait()

    threads = [threading.Thread(target=task, args=args) for args in zip(pretenders, (100, 300), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [shared_site.run(p.run_id)["spent_usd"] for p in pretenders] == ["8.00", "24.00"]


def test_a_forked_child_has_threads_of_its_own(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        asyncio.run(module_level("cus_parent"))
        pid = os.fork()
        if pid == 0:
            wrong = 1
            try:
                asyncio.run(module_level("cus_child"))
                wrong = 0
            finally:
                os._exit(wrong)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert vendor.moved() == 200


def test_outside_a_vendor_task_the_rules_are_those_of_synchronous_calls(vendor: FakeStripe) -> None:
    with attempts.worker_running(), pytest.raises(SpendDenied) as denied:
        asyncio.run(module_level("cus_1", api_key="sk_test_1"))
    assert denied.value.reason == "scope"
    assert isinstance(denied.value, stripe.PermissionError)
    # No worker: left alone, and sent by the client that the caller chose.
    assert asyncio.run(module_level_with(Own())).id == "pi_own"
    assert vendor.books()["requests"] == []


class Own(stripe.HTTPClient):
    name = "own"

    async def request_async(self, *args: Any, **kwargs: Any) -> tuple[str, int, dict[str, str]]:
        return '{"id": "pi_own", "object": "payment_intent"}', 200, {}


def module_level_with(http_client: stripe.HTTPClient) -> Awaitable[Any]:
    made = stripe.StripeClient("sk_test_1", http_client=http_client)
    return made.v1.payment_intents.create_async({"customer": "cus_1", **CHARGE})


def test_other_event_loops_are_refused_before_anything_begins() -> None:
    begun: list[int] = []
    with pytest.raises(PluginError, match="need asyncio"):
        aio.in_thread("claim", lambda: begun.append(1)).send(None)
    assert begun == []


def test_what_does_not_end_in_time_is_said(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()

    async def program() -> None:
        call = asyncio.ensure_future(aio.in_thread("claim-slow", go.wait))
        await asyncio.sleep(0.05)
        call.cancel()

    asyncio.run(program())
    begun = time.monotonic()
    assert not aio.drain("claim-slow", 0.1)
    assert time.monotonic() - begun < 10
    assert "1 call of an asynchronous" in caplog.text
    go.set()
    wait_until(lambda: aio.drain("claim-slow", 0))
