"""What a call makes at Stripe has its tag; and Stripe, which compares bodies, takes every repeated one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import stripe

from tests.integration.test_life_of_a_call import charge
from tests.support.attempts import Pretender
from tests.support.site import FakeStripe, Site

TAG = "spendguard_call"


@pytest.fixture(scope="module", params=["worker", "gateway"])
def own(
    request: pytest.FixtureRequest, shared_site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    with Site(folder, stripe=shared_site.stripe, gateway=request.param == "gateway") as site:
        yield site


@pytest.fixture
def here(own: Site, vendor: FakeStripe) -> Iterator[Site]:
    """The site; whoever has switched the setting finds it as it was before."""
    yield own
    if own.settings["spendguard_stripe"].get("tag_vendor_objects") is not None:
        switch(own, None)


@pytest.fixture
def task(here: Site) -> Pretender:
    return pretender(here)


def pretender(site: Site, run_id: str = "", task_id: str = "") -> Pretender:
    unique = uuid.uuid4().hex[:10]
    return Pretender(site, run_id or f"run-{unique}", task_id or f"Charge_{unique}")


def again(task: Pretender) -> Pretender:
    """The same task of the same run, under the luigi.cfg of now."""
    return pretender(task.site, task.run_id, task.task_id)


def switch(site: Site, value: str | None) -> None:
    change = {"tag_vendor_objects": value}
    if site.gateway:
        site.restart(spendguard_stripe=change)
    else:
        site.configure(spendguard_stripe=change)


def tags(vendor: FakeStripe) -> list[str]:
    """Return the tags of all objects at the vendor's, "" for those without."""
    return [(one.get("metadata") or {}).get(TAG, "") for one in vendor.books()["objects"].values()]


def bodies(vendor: FakeStripe) -> set[tuple[str, str]]:
    """Return which bodies came under which keys."""
    return {(one["key"], one["body"]) for one in vendor.posts()}


class TestWhatIsTagged:
    def test_what_a_call_makes_and_nothing_that_changes_it(self, task: Pretender, vendor: FakeStripe) -> None:
        with task.attempt():
            held = charge(capture_method="manual", metadata={"order": "7"})
            stripe.PaymentIntent.modify(held.id, metadata={"note": "x"})
            stripe.PaymentIntent.capture(held.id, metadata={"captured": "yes"})
            stripe.Refund.create(payment_intent=held.id, amount=10)
            stripe.Transfer.create(amount=20, currency="usd", destination="acct_1")
            stripe.Charge.create(amount=30, currency="usd", source="tok_visa", customer="cus_2")
            stripe.Customer.create(email="a@example.com")
        first, refund, transfer, direct, customer = tags(vendor)
        assert len({first, refund, transfer, direct}) == 4
        assert customer == "", "it moves no money"
        books = vendor.books()["objects"]
        assert books[held.id]["metadata"] == {
            TAG: first,
            "order": "7",
            "note": "x",
            "captured": "yes",
        }
        assert [TAG in one["body"] for one in vendor.posts()] == [True, False, False, True, True, True, False]

    def test_the_caller_sees_it_as_the_vendor_has_it(self, task: Pretender, vendor: FakeStripe) -> None:
        with task.attempt():
            made = charge(metadata={"order": "7"})
        assert made.metadata.to_dict() == vendor.books()["objects"][made.id]["metadata"]
        assert made.metadata[TAG] == tags(vendor)[0]

    @pytest.mark.parametrize(
        "metadata",
        [
            {TAG: "the caller's own"},
            {TAG: ""},
            "",
            {f"k{number}": "v" for number in range(50)},
            {TAG: "0" * 32, "more": "x"},
        ],
        ids=["own", "own-empty", "cleared", "full", "another-calls"],
    )
    def test_a_caller_who_leaves_no_room_is_left_alone(
        self, task: Pretender, vendor: FakeStripe, metadata: Any
    ) -> None:
        with task.attempt():
            made = stripe.Charge.create(amount=30, currency="usd", source="tok_visa", metadata=metadata)
        [request] = vendor.posts()
        assert request["body"].count(TAG) == (TAG in metadata)
        wanted = {name: value for name, value in dict(metadata or {}).items() if value}
        assert vendor.books()["objects"][made.id]["metadata"] == wanted

    def test_the_last_room_is_taken(self, task: Pretender, vendor: FakeStripe) -> None:
        with task.attempt():
            made = charge(metadata={f"a key {number}": "v" * 500 for number in range(49)})
        assert len(vendor.books()["objects"][made.id]["metadata"]) == 50

    def test_switched_off_nothing_is(self, here: Site, vendor: FakeStripe) -> None:
        switch(here, "false")
        task = pretender(here)
        with task.attempt():
            charge()
        assert tags(vendor) == [""]
        [request] = vendor.posts()
        assert TAG not in request["body"]


class TestOneBodyUnderOneKey:
    """All ways in which a key on the wire is used again."""

    def test_retries_of_the_sdk(self, task: Pretender, vendor: FakeStripe) -> None:
        vendor.fault("drop_after", times=2)
        with task.attempt():
            charge(metadata={"at": "09:00"})
        assert (len(vendor.posts()), len(bodies(vendor)), vendor.moved()) == (3, 1, 100)

    def test_the_next_attempt_says_other_metadata(self, task: Pretender, vendor: FakeStripe) -> None:
        """What is in doubt is sent as it was sent; there is no room for a tag in what is asked now."""
        vendor.fault("drop_after", times=3)
        with task.attempt(), pytest.raises(stripe.APIConnectionError):
            charge(metadata={"at": "09:00"})
        with task.attempt():
            charge(metadata={f"k{number}": "v" for number in range(50)})
        assert (len(bodies(vendor)), vendor.moved()) == (1, 100)

    def test_there_was_no_room_and_there_is_now(self, task: Pretender, vendor: FakeStripe) -> None:
        vendor.fault("drop_after", times=3)
        with task.attempt(), pytest.raises(stripe.APIConnectionError):
            charge(metadata={f"k{number}": "v" for number in range(50)})
        with task.attempt():
            charge(metadata={"at": "09:05"})
        assert (len(bodies(vendor)), vendor.moved()) == (1, 100)
        assert tags(vendor) == [""]

    def test_a_refusal_leaves_the_key_as_good_as_new(self, task: Pretender, vendor: FakeStripe) -> None:
        vendor.fault("status", status=429)
        with task.attempt():
            with suppress(stripe.RateLimitError):
                charge()
            charge()
        keys = {one["key"] for one in vendor.posts()}
        assert (len(keys), len(bodies(vendor)), vendor.moved()) == (1, 1, 100)

    def test_a_decline_uses_the_key_up_and_the_next_has_another_tag(
        self, task: Pretender, vendor: FakeStripe
    ) -> None:
        with task.attempt():
            with pytest.raises(stripe.CardError):
                charge(payment_method="pm_card_chargeDeclined")
            charge()
        declined, paid = tags(vendor)
        assert declined
        assert paid not in ("", declined)

    @pytest.mark.parametrize("ways", [("true", "false"), ("false", "true")], ids=["off", "on"])
    def test_switched_while_in_doubt(self, here: Site, vendor: FakeStripe, ways: tuple[str, str]) -> None:
        before, after = ways
        switch(here, before)
        task = pretender(here)
        vendor.fault("drop_after", times=3)
        with task.attempt(), pytest.raises(stripe.APIConnectionError):
            charge(metadata={"at": "09:00"})
        switch(here, after)
        with again(task).attempt():
            charge(metadata={"at": "09:05"})
            charge("cus_new")
        sent = bodies(vendor)
        assert (len(sent), vendor.moved()) == (2, 200)
        assert [bool(tag) for tag in tags(vendor)] == [before == "true", after == "true"]

    @pytest.mark.parametrize("ways", [("true", "false"), ("false", "true")], ids=["off", "on"])
    def test_an_own_key_that_other_runs_have_used_before(
        self, here: Site, vendor: FakeStripe, ways: tuple[str, str]
    ) -> None:
        """As after an upgrade: what an earlier version has sent had no tag."""
        before, after = ways
        key = f"order-{uuid.uuid4().hex[:8]} of ours"
        switch(here, before)
        with pretender(here).attempt("completed"):
            first = charge(idempotency_key=key)
        switch(here, after)
        for _ in range(2):
            with pretender(here).attempt("completed"):
                assert charge(idempotency_key=key).id == first.id
        assert len(vendor.posts()) == 3
        assert (len(bodies(vendor)), vendor.moved()) == (1, 100)

    @pytest.mark.parametrize("ways", [("true", "false"), ("false", "true")], ids=["off", "on"])
    def test_a_key_that_a_refusal_has_left_as_good_as_new(
        self, here: Site, vendor: FakeStripe, ways: tuple[str, str]
    ) -> None:
        """Whether Stripe has kept it is not known: a load balancer's 429 may come before, or behind it."""
        before, after = ways
        switch(here, before)
        task = pretender(here)
        vendor.fault("status_after", status=429)
        with task.attempt(), suppress(stripe.RateLimitError):
            charge()
        switch(here, after)
        with again(task).attempt():
            charge()
        assert (len(bodies(vendor)), vendor.moved()) == (1, 100)

    def test_a_number_that_is_not_kept(self, task: Pretender, vendor: FakeStripe) -> None:
        """The body of what shows a card's number is not kept: the task's own is sent again, with the tag."""
        bank = {"account_number": "000123456789", "routing_number": "110000000"}
        method = {"type": "us_bank_account", "us_bank_account": bank}
        vendor.fault("drop_after", times=3)
        asked: Any = {"payment_method_data": method, "payment_method": None, "confirm": False}
        with task.attempt(), pytest.raises(stripe.APIConnectionError):
            charge(**asked)
        with task.attempt():
            charge(**asked)
        [tag] = tags(vendor)
        assert tag
        assert (len(bodies(vendor)), len(vendor.posts())) == (1, 4)

    def test_a_ledger_that_was_lost(
        self, task: Pretender, shared_site: Site, vendor: FakeStripe, tmp_path: Any
    ) -> None:
        with task.attempt():
            first = charge()
        anew = Site(tmp_path, stripe=shared_site.stripe, gateway=task.site.gateway)
        with anew, pretender(anew, task.run_id, task.task_id).attempt():
            assert charge().id == first.id
        assert (len(bodies(vendor)), vendor.moved()) == (1, 100)


def test_a_worker_and_a_gateway_of_one_ledger(shared_site: Site, vendor: FakeStripe, tmp_path: Any) -> None:
    """Under one own key, each with a luigi.cfg that says another thing of tags."""
    with Site(tmp_path, stripe=shared_site.stripe, spendguard_stripe={"tag_vendor_objects": "false"}) as site:
        with pretender(site).attempt("completed"):
            first = charge(idempotency_key="order-1")
        site.gateway = True
        site.restart(spendguard_stripe={"tag_vendor_objects": "true"})
        with pretender(site).attempt("completed"):
            assert charge(idempotency_key="order-1").id == first.id
        site.gateway = False
        site.restart()
        with pretender(site).attempt():
            assert charge(idempotency_key="order-1").id == first.id
    assert (len(vendor.posts()), len(bodies(vendor)), vendor.moved()) == (3, 1, 100)
