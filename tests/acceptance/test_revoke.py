"""P5: revoke answers when no grant made before can still be used; what was sent settles as usual."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from dataclasses import replace

import pytest
import stripe

from luigi_spendguard import SpendDenied
from luigi_spendguard.ledger.claims import NewClaim, claim
from luigi_spendguard.protocol import GRANT_SECONDS, EndRequest, ReserveRequest
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.proxy.stripe import GuardedStripeClient
from tests.support.attempts import Pretender
from tests.support.processes import wait_until
from tests.support.site import FakeStripe


def asked() -> ReserveRequest:
    return ReserveRequest(
        call_id=str(uuid.uuid4()),
        vendor="stripe",
        account="stripe:test",
        method="POST",
        operation="payment_intents.create",
        path="/v1/payment_intents",
        target=uuid.uuid4().hex,
        fingerprint="1",
        total_micros=1_000_000,
        repeatable=True,
    )


def revoke(pretender: Pretender) -> dict[str, object]:
    status, said = pretender.site.call("DELETE", f"/runs/{pretender.run_id}")
    assert (status, said["state"]) == (200, "revoked")
    return said


def settle(attempt: Attempt, ask: ReserveRequest) -> None:
    attempt.client.end(
        attempt.key, EndRequest("settle", ask.call_id, 1, total_micros=1_000_000, object_id="pi_1")
    )


def test_it_waits_until_a_grant_is_too_old_to_be_used(pretender: Pretender) -> None:
    attempt, ask = pretender.claimed(), asked()
    begun = time.monotonic()
    assert attempt.client.reserve(attempt.key, ask).verdict == "allowed"
    assert revoke(pretender)["calls_under_way"] == 1
    assert time.monotonic() - begun >= GRANT_SECONDS


def test_it_answers_when_the_last_grant_has_ended(pretender: Pretender) -> None:
    attempt, ask = pretender.claimed(), asked()
    attempt.client.reserve(attempt.key, ask)
    said: list[dict[str, object]] = []
    revoking = threading.Thread(target=lambda: said.append(revoke(pretender)))
    revoking.start()
    wait_until(lambda: pretender.site.run(pretender.run_id)["state"] == "revoked", what="the revoke")
    assert attempt.client.reserve(attempt.key, asked()).reason == "revoked"
    assert not said, "it answered while a grant could still be used"
    settle(attempt, ask)
    revoking.join(20)
    assert said[0]["calls_under_way"] == 1
    assert pretender.site.run(pretender.run_id)["spent_usd"] == "1.00"


def test_it_waits_for_an_earlier_runs_call_that_this_run_sends_again(pretender: Pretender) -> None:
    ask = asked()
    with pretender.attempt() as attempt:
        attempt.client.reserve(attempt.key, ask)
        attempt.client.end(attempt.key, EndRequest("doubt", ask.call_id, 1))
    later = Pretender(pretender.site, f"{pretender.run_id}-later", pretender.task_id)
    elsewhere = NewClaim(str(uuid.uuid4()), later.run_id, later.task_id, "Charge", {}, "another luigid's")
    with pretender.site.books(writes=True) as tx:  # This luigid dispatches it for the run that has paid.
        _, key = claim(tx, elsewhere)
    begun = time.monotonic()
    answer = later.client.reserve(key, replace(ask, call_id=str(uuid.uuid4())))
    assert (answer.verdict, answer.resend, answer.call_id) == ("allowed", True, ask.call_id)
    assert revoke(later)["calls_under_way"] == 1
    assert time.monotonic() - begun >= GRANT_SECONDS


def test_an_sdks_retry_sends_nothing_after_it_although_an_equal_call_is_under_way(
    pretender: Pretender, vendor: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes a lost call again has not the grant of who has taken it over."""
    lost, released = threading.Event(), threading.Event()

    def wait(*_: object) -> float:
        lost.set()
        released.wait(30)
        return 0

    def charge() -> object:
        card = {"payment_method": "pm_card_visa", "confirm": True}
        return stripe.PaymentIntent.create(amount=100, currency="usd", customer="cus_1", **card)

    def retrying() -> None:
        with suppress(stripe.StripeError, SpendDenied):
            charge()

    monkeypatch.setattr(GuardedStripeClient, "_sleep_time_seconds", wait)
    vendor.fault("drop_before")
    with pretender.attempt():
        first = threading.Thread(target=retrying)
        first.start()
        assert lost.wait(30)
        with vendor.holding():
            second = threading.Thread(target=charge)
            second.start()
            wait_until(lambda: len(vendor.posts()) == 2, what="the equal call")
            assert revoke(pretender)["calls_under_way"] == 1
            released.set()
            time.sleep(1.5)  # Who waits asks again after a second at the most.
            assert len(vendor.posts()) == 2, "sent after it had answered"
        first.join(30)
        second.join(30)
    assert (len(vendor.posts()), vendor.moved()) == (2, 100)


def test_it_is_final(pretender: Pretender) -> None:
    attempt = pretender.claimed()
    revoke(pretender)
    pretender.site.call("POST", f"/runs/{pretender.run_id}/top_up", {"usd": "50"})
    assert pretender.site.run(pretender.run_id)["state"] == "revoked"
    denied = attempt.client.reserve(attempt.key, asked())
    assert (denied.verdict, denied.reason) == ("denied", "revoked")
    assert revoke(pretender)["calls_under_way"] == 0
