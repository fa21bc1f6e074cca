"""A call's life against a vendor that fails in every way: what is charged, counted and said."""

from __future__ import annotations

import uuid

import pytest
import stripe

from luigi_spendguard import SpendDenied
from luigi_spendguard.errors import OutcomeUnknown
from tests.support.attempts import Pretender
from tests.support.site import SECRET, FakeStripe, Site

CHARGE = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}


def charge(customer: str = "cus_1", **more: object) -> stripe.PaymentIntent:
    return stripe.PaymentIntent.create(customer=customer, **(CHARGE | more))


def figures(pretender: Pretender) -> tuple[str, str]:
    run = pretender.site.run(pretender.run_id)
    return run["spent_usd"], run["reserved_usd"]


def test_two_good_equal_calls_of_one_attempt_are_two_calls(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        assert charge().id != charge().id
    assert (vendor.moved(), figures(pretender)) == (200, ("2.00", "0.00"))


def test_the_next_attempt_replays_both_and_charges_a_third(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        first = [charge().id, charge().id]
    with pretender.attempt():
        again = [charge().id, charge().id]
        assert again == first
        assert vendor.moved() == 200
        assert charge().id not in first
    assert (vendor.moved(), figures(pretender)) == (300, ("3.00", "0.00"))


def test_another_amount_for_the_same_target_is_refused_with_advice(
    pretender: Pretender, vendor: FakeStripe
) -> None:
    with pretender.attempt():
        charge()
    with pretender.attempt(), pytest.raises(SpendDenied) as denied:
        charge(amount=200)
    assert denied.value.reason == "idempotency_mismatch"
    assert isinstance(denied.value, stripe.IdempotencyError)
    assert "idempotency key" in str(denied.value)
    assert vendor.moved() == 100


def test_new_metadata_is_the_same_call(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        charge(metadata={"at": "09:00"})
    with pretender.attempt():
        charge(metadata={"at": "09:05"})
    assert vendor.moved() == 100


def test_the_callers_own_idempotency_key_decides(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        first = charge(idempotency_key="invoice-1")
        assert charge(idempotency_key="invoice-1").id == first.id
        assert charge(idempotency_key="invoice-2").id != first.id
    assert vendor.moved() == 200
    assert [r["key"] for r in vendor.posts()] == ["invoice-1", "invoice-2"]


def test_a_decline_returns_the_money_and_the_next_try_is_a_new_one(
    pretender: Pretender, vendor: FakeStripe
) -> None:
    with pretender.attempt():
        with pytest.raises(stripe.CardError):
            charge(payment_method="pm_card_chargeDeclined")
        assert figures(pretender) == ("0.00", "0.00")
        assert charge().status == "succeeded"
    assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))
    sent = [request["key"] for request in vendor.posts() if not request["path"].endswith("/cancel")]
    assert len(set(sent)) == len(sent) == 2


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
def test_a_lost_connection_is_retried_under_one_key_and_charges_once(
    pretender: Pretender, vendor: FakeStripe, fault: str
) -> None:
    vendor.fault(fault)
    with pretender.attempt():
        assert charge().status == "succeeded"
    assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))
    assert len({request["key"] for request in vendor.posts()}) == 1
    assert len([c for c in pretender.site.calls(pretender.run_id) if c["verdict"] == "allowed"]) == 1


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_error_leaves_the_call_in_doubt_until_a_retry_knows(
    pretender: Pretender, vendor: FakeStripe, status: int
) -> None:
    vendor.fault("status_after", status=status, times=3)
    with pretender.attempt(), pytest.raises(stripe.APIError):
        charge()
    run = pretender.site.run(pretender.run_id)
    assert (run["spent_usd"], run["reserved_usd"], run["in_doubt_usd"]) == ("0.00", "1.00", "1.00")
    with pretender.attempt():
        assert charge().status == "succeeded"
    assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))


def test_a_4xx_after_a_lost_reply_does_not_void(pretender: Pretender, vendor: FakeStripe) -> None:
    vendor.fault("drop_after")
    vendor.fault("status", status=429)
    with pretender.attempt(), pytest.raises(stripe.RateLimitError):
        charge()
    assert vendor.moved() == 100
    assert figures(pretender) == ("0.00", "1.00")
    with pretender.attempt():
        charge()
    assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
def test_a_4xx_of_the_only_send_voids(pretender: Pretender, vendor: FakeStripe, status: int) -> None:
    vendor.fault("status", status=status)
    with pretender.attempt(), pytest.raises(stripe.StripeError):
        charge()
    assert (vendor.moved(), figures(pretender)) == (0, ("0.00", "0.00"))


@pytest.mark.parametrize(("fault", "times"), [("not_json", 1), ("truncate", 3)])
def test_a_reply_that_cannot_be_read_is_in_doubt_and_told_once_it_is_known(
    pretender: Pretender, vendor: FakeStripe, fault: str, times: int
) -> None:
    vendor.fault(fault, times=times)
    with pretender.attempt(), pytest.raises(stripe.APIConnectionError) as error:
        charge()
    assert "in doubt" in str(error.value)
    assert figures(pretender) == ("0.00", "1.00")
    with pretender.attempt():
        charge()
    assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))


def test_a_smaller_amount_than_asked_is_not_believed(pretender: Pretender, vendor: FakeStripe) -> None:
    vendor.fault("change", change={"amount": 1, "amount_received": 1})
    with pretender.attempt(), pytest.raises(OutcomeUnknown) as unknown:
        charge()
    assert isinstance(unknown.value, stripe.StripeError)
    assert f"spendguard resolve {unknown.value.call_id}" in str(unknown.value)
    assert figures(pretender) == ("0.00", "1.00")
    site = pretender.site
    status, call = site.call("POST", f"/calls/{unknown.value.call_id}/resolve", {"spent_usd": "1"})
    assert (status, call["state"]) == (200, "settled")
    assert figures(pretender) == ("1.00", "0.00")


def lost(pretender: Pretender, vendor: FakeStripe) -> tuple[str, str]:
    """Leave a charge that the vendor has made in doubt; return the call's id and the object's."""
    vendor.fault("status_after", status=500, times=3)
    with pretender.attempt(), pytest.raises(stripe.APIError):
        charge()
    [call] = pretender.site.calls(pretender.run_id)
    [object_id] = [name for name in vendor.books()["objects"] if name.startswith("pi_")]
    return call["id"], object_id


def test_the_object_an_operator_has_named_answers_the_next_attempt(
    pretender: Pretender, vendor: FakeStripe
) -> None:
    call_id, object_id = lost(pretender, vendor)
    said = {"spent_usd": "1", "object_id": object_id}
    assert pretender.site.call("POST", f"/calls/{call_id}/resolve", said)[0] == 200
    posts = len(vendor.posts())
    with pretender.attempt():
        intent = charge()
    assert (intent.id, intent.status) == (object_id, "succeeded")
    assert (vendor.moved(), len(vendor.posts()), figures(pretender)) == (100, posts, ("1.00", "0.00"))
    assert [c["verdict"] for c in pretender.site.calls(pretender.run_id)] == [
        "allowed",
        "replayed",
        "allowed",
    ]


@pytest.mark.parametrize("times", [1, 3])
def test_it_does_so_as_well_where_the_vendor_does_not_show_it_at_first(
    pretender: Pretender, vendor: FakeStripe, times: int
) -> None:
    """The SDK asks three times; whether that was in vain or not, the call is no other one."""
    call_id, object_id = lost(pretender, vendor)
    said = {"spent_usd": "1", "object_id": object_id}
    assert pretender.site.call("POST", f"/calls/{call_id}/resolve", said)[0] == 200
    vendor.fault("status_after", status=500, times=times, match="GET /v1")
    with pretender.attempt():
        if times == 3:
            with pytest.raises(stripe.APIError):
                charge()
        assert charge().id == object_id
    assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))


def test_without_an_object_the_refusal_says_that_an_operator_resolved_it(
    pretender: Pretender, vendor: FakeStripe
) -> None:
    call_id, object_id = lost(pretender, vendor)
    path = f"/calls/{call_id}/resolve"
    assert pretender.site.call("POST", path, {"spent_usd": "1"})[0] == 200
    with pretender.attempt(), pytest.raises(SpendDenied) as denied:
        charge()
    assert denied.value.reason == "idempotency_mismatch"
    assert "an operator has resolved it (spent $1.00)" in str(denied.value)
    assert f"spendguard resolve {call_id} --spent 1.00 --object ID --correct" in str(denied.value)
    assert "replay_days" not in str(denied.value)
    pretender.site.call("POST", path, {"spent_usd": "1", "object_id": "pi_none", "correct": True})
    with pretender.attempt(), pytest.raises(SpendDenied, match="pi_none, which the vendor does not show"):
        charge()
    said = {"spent_usd": "1", "object_id": object_id, "correct": True}
    assert pretender.site.call("POST", path, said)[0] == 200
    with pretender.attempt():
        assert charge().id == object_id
    assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))


def test_a_larger_amount_is_overrun_and_freezes_the_run(pretender: Pretender, vendor: FakeStripe) -> None:
    vendor.fault("change", change={"amount": 150, "amount_received": 150})
    with pretender.attempt():
        charge()
        with pytest.raises(SpendDenied) as denied:
            charge("cus_2")
    run = pretender.site.run(pretender.run_id)
    assert (run["state"], run["spent_usd"], run["overrun_usd"]) == ("frozen", "1.00", "0.50")
    assert run["remaining_usd"] == "98.50"
    assert denied.value.reason == "cap"
    assert "frozen" in str(denied.value)


def test_a_reply_that_contains_the_secret_is_withheld(pretender: Pretender, vendor: FakeStripe) -> None:
    vendor.fault("echo_secret")
    with pretender.attempt(), pytest.raises(SpendDenied) as denied:
        charge()
    assert SECRET not in str(denied.value)
    assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))
    assert SECRET.encode() not in pretender.site.ledger.read_bytes()


def test_a_vendor_that_cannot_be_reached_costs_nothing(tmp_path) -> None:
    with Site(tmp_path / "site") as site:
        site.stripe.process.end()
        pretender = Pretender(site, "r")
        with pretender.attempt(), pytest.raises(stripe.APIConnectionError, match="nothing was sent"):
            charge()
        assert figures(pretender) == ("0.00", "0.00")
        assert {c["state"] for c in site.calls("r")} == {"voided"}


def test_a_vendor_that_hangs_is_given_up_and_in_doubt(tmp_path) -> None:
    with Site(tmp_path / "site", spendguard_stripe={"timeout_s": 0.3}) as site:
        site.stripe.fault("hang", seconds=2, times=1)
        pretender = Pretender(site, "r")
        with pretender.attempt(), pytest.raises(stripe.StripeError):
            charge()
        assert figures(pretender) == ("0.00", "1.00")


class TestObjects:
    """Money is counted once, however many calls it takes to move it."""

    def test_create_then_confirm(self, pretender: Pretender, vendor: FakeStripe) -> None:
        with pretender.attempt():
            intent = charge(confirm=False)
            assert figures(pretender) == ("1.00", "0.00")  # Anybody with its client_secret can confirm it.
            stripe.PaymentIntent.confirm(intent.id)
        assert (vendor.moved(), figures(pretender)) == (100, ("1.00", "0.00"))

    def test_cancelling_gives_back(self, pretender: Pretender, vendor: FakeStripe) -> None:
        with pretender.attempt():
            intent = charge(confirm=False)
            stripe.PaymentIntent.cancel(intent.id)
        assert (vendor.moved(), figures(pretender)) == (0, ("0.00", "0.00"))

    def test_a_part_capture_gives_back_the_rest(self, pretender: Pretender, vendor: FakeStripe) -> None:
        with pretender.attempt():
            intent = charge(amount=500, capture_method="manual")
            assert figures(pretender) == ("5.00", "0.00")
            stripe.PaymentIntent.capture(intent.id, amount_to_capture=200)
        assert (vendor.moved(), figures(pretender)) == (200, ("2.00", "0.00"))

    def test_an_update_reserves_only_what_is_more(self, pretender: Pretender, vendor: FakeStripe) -> None:
        with pretender.attempt():
            intent = charge(confirm=False)
            stripe.PaymentIntent.modify(intent.id, amount=300)
            assert figures(pretender) == ("3.00", "0.00")
            stripe.PaymentIntent.confirm(intent.id)
        assert (vendor.moved(), figures(pretender)) == (300, ("3.00", "0.00"))

    def test_confirming_an_object_that_is_not_in_the_ledger_looks_it_up(
        self, pretender: Pretender, vendor: FakeStripe
    ) -> None:
        with pretender.attempt():
            made = charge(confirm=False).id
        other = Pretender(pretender.site, f"other-{uuid.uuid4().hex}", f"Other_{uuid.uuid4().hex}")
        foreign = f"pi_{uuid.uuid4().hex}"
        vendor.control(options={})
        with other.attempt():
            with pytest.raises(SpendDenied) as denied:
                stripe.PaymentIntent.confirm(foreign)
            assert denied.value.reason == "unpriced"
            stripe.PaymentIntent.confirm(made)
        assert vendor.moved() == 100
        assert figures(other) == ("0.00", "0.00")  # It is counted in the run that opened it.

    def test_a_charge_and_its_capture(self, pretender: Pretender, vendor: FakeStripe) -> None:
        with pretender.attempt():
            made = stripe.Charge.create(amount=400, currency="usd", source="tok_visa", capture=False)
            assert figures(pretender) == ("4.00", "0.00")
            stripe.Charge.capture(made.id, amount=300)
        assert (vendor.moved(), figures(pretender)) == (300, ("3.00", "0.00"))
