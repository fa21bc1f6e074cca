"""A call in doubt whose key Stripe has forgotten: it is looked up by its tag, and ended by what is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stripe

from luigi_spendguard import SpendDenied
from tests.integration.test_life_of_a_call import charge
from tests.integration.test_tags import TAG, again, here, own, pretender, switch, task
from tests.integration.test_turns import by_hand
from tests.support.attempts import Pretender
from tests.support.processes import wait_until
from tests.support.site import FakeStripe, Site

__all__ = ["here", "own", "task"]
DAY_S = 25 * 3600


def lost_a_day_ago(task: Pretender, vendor: FakeStripe, make: Any, fault: str = "drop_after") -> str:
    """Let a call be lost, and a day go by; return its id."""
    vendor.control(options={"later_s": -DAY_S})
    vendor.fault(fault, times=3)
    with task.attempt(), pytest.raises(stripe.APIConnectionError):
        make()
    vendor.control(options={"later_s": 0})
    with task.site.books(writes=True) as tx:
        tx.run(
            "UPDATE call SET created_at = created_at - ?1, granted_at = granted_at - ?1 WHERE run_id = ?2",
            DAY_S * 1000,
            task.run_id,
        )
    [call] = [one for one in task.site.calls(task.run_id) if one["state"] == "in_doubt"]
    return str(call["id"])


def refused(task: Pretender, vendor: FakeStripe, make: Any) -> str:
    """Make the call again, which must be denied as in doubt, with nothing sent; return why."""
    before = len(vendor.posts())
    with again(task).attempt(), pytest.raises(SpendDenied) as denied:
        make()
    assert (denied.value.reason, len(vendor.posts())) == ("in_doubt", before)
    [call] = [one for one in task.site.calls(task.run_id) if one["verdict"] == "allowed" and one["state"]][
        -1:
    ]
    assert call["state"] == "in_doubt"
    return str(denied.value)


def counted(task: Pretender) -> tuple[str, str]:
    run = task.site.run(task.run_id)
    return run["spent_usd"], run["reserved_usd"]


def test_what_was_made_is_found_and_its_answer_given(task: Pretender, vendor: FakeStripe) -> None:
    call_id = lost_a_day_ago(task, vendor, charge)
    [made] = vendor.books()["objects"].values()
    with again(task).attempt():
        assert charge().id == made["id"]
    with again(task).attempt():
        assert charge().id == made["id"], "it is answered by the ledger from now on"
    first = task.site.calls(task.run_id)[-1]
    assert (first["id"], first["state"], first["object_id"]) == (call_id, "settled", made["id"])
    assert (counted(task), vendor.moved()) == (("1.00", "0.00"), 100)
    assert {one["key"] for one in vendor.posts()} == {vendor.posts()[0]["key"]}


#: Where each of these is looked for.
KINDS = {
    "charge": "/v1/charges",
    "refund": "/v1/refunds",
    "refund below a charge": "/v1/refunds",
    "refund of a charge": "/v1/refunds",
    "transfer": "/v1/transfers",
    "payout": "/v1/payouts",
    "reversal": "/v1/transfers/{}/reversals",
    "balance": "/v1/customers/{}/balance_transactions",
    "subscription item": "/v1/subscription_items",
}


@pytest.mark.parametrize("kind", KINDS)
def test_so_is_whatever_else_has_a_list(task: Pretender, vendor: FakeStripe, kind: str) -> None:
    def make() -> Any:
        if kind == "charge":
            return stripe.Charge.create(amount=30, currency="usd", source="tok_visa", customer="cus_9")
        if kind == "refund":
            return stripe.Refund.create(payment_intent=of, amount=30)
        if kind == "refund below a charge":
            return stripe.Charge._static_request("post", f"/v1/charges/{of}/refunds", params={"amount": 30})
        if kind == "refund of a charge":
            return stripe.Charge._static_request("post", f"/v1/charges/{of}/refund", params={"amount": 30})
        if kind == "transfer":
            return stripe.Transfer.create(amount=30, currency="usd", destination="acct_1")
        if kind == "reversal":
            return stripe.Transfer.create_reversal(of, amount=30)
        if kind == "balance":
            return stripe.Customer.create_balance_transaction(of, amount=-30, currency="usd")
        if kind == "subscription item":
            return stripe.SubscriptionItem.create(subscription=of, price=price)
        return stripe.Payout.create(amount=30, currency="usd")

    price = by_hand(vendor, "/v1/prices", currency="usd", unit_amount="30")["id"]
    of = _another(kind, vendor, price)
    call_id = lost_a_day_ago(task, vendor, make)
    [name] = [name for name, one in vendor.books()["objects"].items() if TAG in one.get("metadata", {})]
    with again(task).attempt():
        made = make()
    assert made.id == (of if kind == "refund of a charge" else name)
    assert counted(task) == ("0.30", "0.00")
    [first] = [one for one in task.site.calls(task.run_id) if one["id"] == call_id]
    assert (first["state"], first["object_id"]) == ("settled", name)
    lists = [one["path"] for one in vendor.books()["requests"] if one["method"] == "GET"]
    assert KINDS[kind].format(of) in lists


def _another(kind: str, vendor: FakeStripe, price: str) -> str:
    """Make what a call is about, past the guard; return its id."""
    path, said = "/v1/payment_intents", {"amount": "100", "currency": "usd", "confirm": "true"}
    said["payment_method"] = "pm_card_visa"
    if kind in ("refund below a charge", "refund of a charge"):
        path, said = "/v1/charges", {"amount": "100", "currency": "usd", "source": "tok_visa"}
    elif kind == "reversal":
        path, said = "/v1/transfers", {"amount": "100", "currency": "usd", "destination": "acct_1"}
    elif kind == "balance":
        path, said = "/v1/customers", {"email": "a@example.com"}
    elif kind == "subscription item":
        path, said = "/v1/subscriptions", {"customer": "cus_1", "items[0][price]": price}
    return str(by_hand(vendor, path, **said)["id"])


def test_it_is_found_among_many_on_the_third_page(task: Pretender, vendor: FakeStripe) -> None:
    lost_a_day_ago(task, vendor, charge)
    [made] = vendor.books()["objects"].values()
    vendor.control(copies={"of": made["id"], "times": 250})
    with again(task).attempt():
        assert charge().id == made["id"]
    assert (counted(task), vendor.moved()) == (("1.00", "0.00"), 100)
    lists = [one for one in vendor.books()["requests"] if one["path"] == "/v1/payment_intents"]
    assert sum(one["method"] == "GET" for one in lists) == 3


def test_a_decline_is_told_as_one(task: Pretender, vendor: FakeStripe) -> None:
    def make() -> Any:
        return charge(payment_method="pm_card_chargeDeclined")

    lost_a_day_ago(task, vendor, make)
    with again(task).attempt(), pytest.raises(stripe.CardError):
        make()
    assert counted(task) == ("1.00", "0.00"), "it can be confirmed until it is cancelled"


def test_what_was_cancelled_since_costs_nothing(task: Pretender, vendor: FakeStripe) -> None:
    lost_a_day_ago(task, vendor, lambda: charge(capture_method="manual"))
    [made] = vendor.books()["objects"].values()
    vendor.control(objects={made["id"]: {"status": "canceled"}})
    with again(task).attempt():
        assert charge(capture_method="manual").status == "canceled"
    assert counted(task) == ("0.00", "0.00")


@pytest.mark.parametrize("instead", ["never came", "untagged since", "another's tag"])
def test_what_is_not_found_stays_in_doubt_with_what_was_looked_at(
    task: Pretender, vendor: FakeStripe, instead: str
) -> None:
    call_id = lost_a_day_ago(
        task, vendor, charge, fault="drop_before" if instead == "never came" else "drop_after"
    )
    for one in vendor.books()["objects"]:
        tag = {} if instead == "untagged since" else {TAG: "0" * 32}
        vendor.control(objects={one: {"metadata": tag}})
    why = refused(task, vendor, charge)
    assert f"metadata:{TAG}=" in why
    assert f"spendguard resolve {call_id}" in why
    assert "no proof" in why
    assert counted(task) == ("0.00", "1.00")
    task.site.cli("resolve", call_id, "--not-sent")
    with again(task).attempt():
        charge()
    assert counted(task) == ("1.00", "0.00")


def test_two_of_one_tag_are_not_chosen_between(task: Pretender, vendor: FakeStripe) -> None:
    lost_a_day_ago(task, vendor, charge)
    [made] = vendor.books()["objects"].values()
    vendor.control(copies={"of": made["id"], "times": 1, "tagged": True})
    why = refused(task, vendor, charge)
    assert made["id"] in why


def test_what_another_call_has_made_with_its_tag_is_not_taken(task: Pretender, vendor: FakeStripe) -> None:
    """A caller has copied the metadata of what was lost."""
    lost_a_day_ago(task, vendor, charge)
    [made] = vendor.books()["objects"].values()
    vendor.control(options={"later_s": -DAY_S})
    with pretender(task.site).attempt():
        copied = charge("cus_1", metadata=made["metadata"])
    vendor.control(options={"later_s": 0})
    with again(task).attempt():
        assert charge().id == made["id"] != copied.id
    assert (counted(task), vendor.moved()) == (("1.00", "0.00"), 200)


@pytest.mark.parametrize(
    "fault",
    [{"fault": "not_json"}, {"fault": "status", "status": 403}, {"fault": "change", "change": {"data": []}}],
)
def test_a_list_that_cannot_be_read_says_nothing(
    task: Pretender, vendor: FakeStripe, fault: dict[str, Any]
) -> None:
    lost_a_day_ago(task, vendor, charge)
    if "change" in fault:
        fault["change"]["has_more"] = True
    vendor.fault(**fault, match="GET /v1/payment_intents")
    refused(task, vendor, charge)
    with again(task).attempt():
        charge()
    assert (counted(task), vendor.moved()) == (("1.00", "0.00"), 100)


def test_what_went_out_without_a_tag_is_refused_as_before(here: Site, vendor: FakeStripe) -> None:
    switch(here, "false")
    task = pretender(here)
    lost_a_day_ago(task, vendor, charge)
    switch(here, "true")
    assert "too old" in refused(task, vendor, charge)


def test_it_is_never_sent_again_by_whoever_takes_it_over(task: Pretender, vendor: FakeStripe) -> None:
    """Whoever had found it is gone, and the books say that it is under way."""
    lost_a_day_ago(task, vendor, charge)
    with task.site.books(writes=True) as tx:
        tx.run("UPDATE call SET state = 'pending' WHERE run_id = ?", task.run_id)
    with again(task).attempt():
        charge()
    assert (counted(task), vendor.moved(), len(vendor.books()["objects"])) == (("1.00", "0.00"), 100, 1)


def test_what_nobody_makes_again_luigid_looks_up_where_it_has_the_secret(
    vendor: FakeStripe, tmp_path: Path
) -> None:
    """As soon as it is up, and by its clock from then on."""
    with Site(tmp_path, stripe=vendor, gateway=True) as site:
        task, other = pretender(site), pretender(site)
        call_id = lost_a_day_ago(task, vendor, charge)
        [made] = vendor.books()["objects"].values()
        never = lost_a_day_ago(other, vendor, lambda: charge("cus_2"), fault="drop_before")
        vendor.control(copies={"of": made["id"], "times": 1})
        sent = len(vendor.posts())
        site.restart()
        wait_until(lambda: site.calls(task.run_id)[-1]["state"] == "settled")
        wait_until(lambda: any(one["kind"] == "look_up" for one in _journal(site, never)))
        [found] = [one for one in site.calls(task.run_id) if one["id"] == call_id]
        assert (found["object_id"], counted(task), counted(other)) == (
            made["id"],
            ("1.00", "0.00"),
            ("0.00", "1.00"),
        )
        with again(task).attempt():
            assert charge().id == made["id"]
        assert len(vendor.posts()) == sent
        assert [one["kind"] for one in _journal(site, call_id)][-3:] == ["look_up", "found", "settle"]


def _journal(site: Site, call_id: str) -> list[dict[str, Any]]:
    with site.books() as tx:
        return tx.all("SELECT * FROM journal WHERE call_id = ? ORDER BY id", call_id)
