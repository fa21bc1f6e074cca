"""A task has its reply while the end of the call is on its way: what it calls next is decided behind that."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import stripe

from luigi_spendguard import SpendDenied
from luigi_spendguard.http import gathering, ledger_client
from luigi_spendguard.proxy.attempts import Attempt
from tests.support.attempts import Pretender
from tests.support.pipelines import charge
from tests.support.processes import other_process
from tests.support.recorder import Recorder
from tests.support.site import FakeStripe, Site

DECLINED = "pm_card_chargeDeclined"


@pytest.fixture(autouse=True)
def _not_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """No end is said but with what is said next."""
    monkeypatch.setattr(gathering, "SOON_S", 600)


@contextmanager
def gathering_attempt(pretender: Pretender) -> Iterator[Attempt]:
    with pretender.attempt() as attempt, attempt.client.gathering():
        yield attempt


def sent(vendor: FakeStripe) -> list[str]:
    return [f"{request['method']} {request['path']}" for request in vendor.books()["requests"]]


def states(pretender: Pretender) -> dict[str, str]:
    return {call["operation"]: call["state"] for call in pretender.site.calls(pretender.run_id)}


def test_a_confirm_right_after_a_create_finds_its_object(pretender: Pretender, vendor: FakeStripe) -> None:
    with gathering_attempt(pretender):
        intent = stripe.PaymentIntent.create(
            amount=100, currency="usd", customer="cus_1", payment_method="pm_card_visa"
        )
        assert states(pretender) == {"payment_intents.create": "pending"}
        assert stripe.PaymentIntent.confirm(intent.id).status == "succeeded"
        assert states(pretender) == {
            "payment_intents.confirm": "pending",
            "payment_intents.create": "settled",
        }
    assert sent(vendor) == ["POST /v1/payment_intents", f"POST /v1/payment_intents/{intent.id}/confirm"]
    assert vendor.moved() == 100
    run = pretender.site.run(pretender.run_id)
    assert (run["spent_usd"], run["reserved_usd"]) == ("1.00", "0.00")


def test_what_a_decline_gives_back_is_there_for_the_next_call(shared_site: Site, vendor: FakeStripe) -> None:
    pretender = Pretender(shared_site, "run-declined", "Charge_declined", budget_usd="1.00")
    with gathering_attempt(pretender):
        with pytest.raises(stripe.CardError):
            stripe.PaymentIntent.create(
                amount=100, currency="usd", customer="cus_1", payment_method=DECLINED, confirm=True
            )
        charge("cus_2")
        with pytest.raises(SpendDenied):
            charge("cus_3")
    assert vendor.moved() == 100


@pytest.mark.parametrize("how", ["drop_after", "declined"])
def test_what_was_not_made_is_booked_before_the_task_hears_of_it(
    pretender: Pretender, vendor: FakeStripe, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    if how == "drop_after":
        vendor.fault(how, match="POST /v1/payment_intents")
    with gathering_attempt(pretender):
        with pytest.raises((stripe.APIConnectionError, stripe.CardError)):
            stripe.PaymentIntent.create(
                amount=100,
                currency="usd",
                customer="cus_1",
                payment_method="pm_card_visa" if how == "drop_after" else DECLINED,
                confirm=True,
            )
        state = "in_doubt" if how == "drop_after" else "voided"
        assert states(pretender)["payment_intents.create"] == state


def test_another_process_of_the_task_makes_a_lost_call_again_and_pays_once(
    pretender: Pretender, vendor: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stripe, "max_network_retries", 0)
    vendor.fault("drop_after", match="POST /v1/payment_intents")
    with gathering_attempt(pretender), other_process(lambda: charge("cus_1")) as make_it_again:
        with pytest.raises(stripe.APIConnectionError):
            charge("cus_1")
        make_it_again()
    assert vendor.moved() == 100


def test_another_process_of_the_task_goes_on_with_an_object_of_this_one(
    shared_site: Site, vendor: FakeStripe
) -> None:
    pretender = Pretender(shared_site, "run-confirmed", "Charge_confirmed", budget_usd="1.00")
    here, there = multiprocessing.Pipe()
    with (
        gathering_attempt(pretender),
        other_process(lambda: stripe.PaymentIntent.confirm(there.recv())) as confirm,
    ):
        intent = stripe.PaymentIntent.create(
            amount=100, currency="usd", customer="cus_1", payment_method="pm_card_visa"
        )
        here.send(intent.id)
        confirm()
    assert vendor.moved() == 100
    run = shared_site.run(pretender.run_id)
    assert (run["spent_usd"], run["reserved_usd"]) == ("1.00", "0.00")


def test_calls_and_the_end_of_their_attempt_are_one_message_each(
    pretender: Pretender, vendor: FakeStripe
) -> None:
    site = pretender.site
    with Recorder(site.url) as recorder:
        there = Pretender(site, pretender.run_id, pretender.task_id)
        there.client = ledger_client.HttpLedgerClient(recorder.url, there.settings.worker_token)
        with gathering_attempt(there):
            for number in range(3):
                charge(f"cus_{number}")
        there.client.close()
    said = [name for name, _ in recorder.said if name.startswith("spend_")]
    assert said == ["spend_claim", "spend_reserve", *["spend_attempt"] * 2, "spend_settle", "spend_finish"]
    assert vendor.moved() == 300


def test_an_end_outlasts_a_luigid_that_goes_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pretender = Pretender(site, "nightly")
    assert site.luigid is not None
    with gathering_attempt(pretender):
        charge("cus_1")
        site.luigid.end()
        monkeypatch.setattr(ledger_client, "GIVE_UP_S", 0.2)
        with pytest.raises(SpendDenied, match="cannot be reached"):
            charge("cus_2")
        site.start()
        monkeypatch.undo()
    assert pretender.client.flush(20)
    assert [call["state"] for call in site.calls("nightly") if call["target"] == "cus_1"] == ["settled"]
    assert site.stripe.moved() == 100
