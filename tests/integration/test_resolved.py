"""What an operator says truly of calls in doubt where others act on their objects, by the vendor's books."""

from __future__ import annotations

import json
import threading
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stripe

from tests.integration.test_cli import spendguard
from tests.integration.test_gateway import form, raw
from tests.integration.test_vault_keys import issued
from tests.support.asking import ADMIN, WORKER
from tests.support.processes import wait_until
from tests.support.site import Site


@pytest.fixture(scope="module")
def gateway(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 10000, "max_cap_usd": 5000}
    with Site(tmp_path_factory.mktemp("gateway"), gateway=True, spendguard=said) as site:
        yield site


class Desk:
    """Two runs of one dollar each, and an object that somebody else has opened for a dollar."""

    def __init__(self, gateway: Site, cap: float = 1) -> None:
        gateway.stripe.forget()
        self.site, self.stripe = gateway, gateway.stripe
        self.api = stripe.StripeClient("sk_test_elsewhere", base_addresses={"api": self.stripe.url}).v1
        unique = uuid.uuid4().hex[:8]
        self.a, self.b = (
            issued(gateway, agent_run_label=f"{name}-{unique}", run_usd_cap=cap) for name in "ab"
        )

    def intent(self) -> str:
        said: Any = {"amount": 100, "currency": "usd", "payment_method": "pm_x"}
        return str(self.api.payment_intents.create(said).id)

    def invoice(self) -> str:
        customer: Any = self.api.customers.create({"email": "x@y.z"}).id
        self.api.invoice_items.create({"customer": customer, "amount": 100, "currency": "usd"})
        made = self.api.invoices.create({"customer": customer, "pending_invoice_items_behavior": "include"})
        self.api.invoices.finalize_invoice(str(made.id))
        return str(made.id)

    def post(self, key: dict[str, Any], path: str, body: str = "payment_method=pm_x", name: str = "") -> int:
        said = form(key["vault_key"], **{"Idempotency-Key": name or uuid.uuid4().hex})
        return raw(self.site, "POST", f"/stripe/v1/{path}", body.encode(), **said)[0]

    def charge(self, key: dict[str, Any]) -> int:
        body = f"amount=100&currency=usd&customer=cus_{uuid.uuid4().hex}&confirm=true&payment_method=pm_x"
        return self.post(key, "payment_intents", body)

    def lost(
        self,
        key: dict[str, Any],
        path: str,
        fault: str = "drop_before",
        name: str = "",
        body: str = "payment_method=pm_x",
    ) -> str:
        """Make a call whose answer is lost (or that never comes to Stripe); return it."""
        self.stripe.fault(fault, match=f"POST /v1/{path}")
        assert self.post(key, path, body, name) == 502
        return self.in_doubt(key)

    def in_doubt(self, key: dict[str, Any]) -> str:
        """Return the one call of a run that is in doubt."""
        [call] = [one for one in self.site.calls(key["run_id"]) if one["state"] == "in_doubt"]
        return str(call["id"])

    def resolve(self, call_id: str, **said: Any) -> dict[str, Any]:
        status, answer = self.site.call("POST", f"/calls/{call_id}/resolve", said, ADMIN)
        assert status == 200, answer
        return dict(answer)

    def spent(self) -> list[str]:
        return [self.site.run(key["run_id"])["spent_usd"] for key in (self.a, self.b)]

    def pay_on_page(self, intent: str) -> None:
        """Let the customer confirm an intent in the browser."""
        secret = self.stripe.books()["objects"][intent]["client_secret"]
        said = urllib.parse.urlencode({"client_secret": secret, "payment_method": "pm_x"}).encode()
        url = f"{self.stripe.url}/v1/payment_intents/{intent}/confirm"
        request = urllib.request.Request(url, said, {"Authorization": "Bearer pk_test_1"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            assert json.load(reply)["status"] == "succeeded"


@pytest.mark.parametrize("said", [{"not_sent": True}, {"spent_usd": "0"}])
def test_what_another_run_has_moved_meanwhile_counts_there(gateway: Site, said: dict[str, Any]) -> None:
    desk = Desk(gateway)
    confirm = f"payment_intents/{desk.intent()}/confirm"
    lost = desk.lost(desk.a, confirm)
    assert desk.post(desk.b, confirm) == 200
    resolved = desk.resolve(lost, **said)
    assert f"of run {desk.b['run_id']} counts $1.00 of " in resolved["message"]
    assert (desk.spent(), desk.charge(desk.b), desk.stripe.moved()) == (["0.00", "1.00"], 429, 100)
    corrections = [one for call in gateway.calls(desk.b["run_id"]) for one in call["corrections"]]
    assert [one["usd"] for one in corrections] == ["1.00"]


@pytest.mark.parametrize("fault", ["drop_after", "hang"])
def test_what_is_in_doubt_or_under_way_keeps_its_room(gateway: Site, fault: str) -> None:
    desk = Desk(gateway)
    confirm = f"payment_intents/{desk.intent()}/confirm"
    lost = desk.lost(desk.a, confirm)
    if fault == "hang":
        with gateway.stripe.holding(reads=False):
            sender = threading.Thread(target=desk.post, args=(desk.b, confirm))
            sender.start()
            wait_until(  # Not what is read before it.
                lambda: (
                    ("payment_intents.confirm", "pending")
                    in [(call["operation"], call["state"]) for call in gateway.calls(desk.b["run_id"])]
                )
            )
            desk.resolve(lost, not_sent=True)
            assert desk.charge(desk.b) == 429
        sender.join(20)
    else:
        desk.lost(desk.b, confirm, fault, name="again")
        desk.resolve(lost, not_sent=True)
        assert desk.charge(desk.b) == 429
        assert desk.post(desk.b, confirm, name="again") == 200
    assert (desk.spent(), desk.stripe.moved()) == (["0.00", "1.00"], 100)


def test_what_a_decline_has_left_open_counts_until_it_is_cancelled(gateway: Site) -> None:
    desk = Desk(gateway)
    intent = desk.intent()
    lost = desk.lost(desk.a, f"payment_intents/{intent}/confirm")
    declined = "payment_method=pm_card_chargeDeclined"
    assert desk.post(desk.b, f"payment_intents/{intent}/confirm", declined) == 402
    desk.resolve(lost, not_sent=True)
    desk.pay_on_page(intent)
    assert (desk.spent(), desk.stripe.moved()) == (["0.00", "1.00"], 100)


def test_an_invoice_that_was_not_paid_and_was_sent_is_paid_by_the_next_attempt(gateway: Site) -> None:
    desk = Desk(gateway)
    invoice = desk.invoice()
    lost = desk.lost(desk.a, f"invoices/{invoice}/pay", name="pay")
    assert desk.post(desk.a, f"invoices/{invoice}/send", "") == 200
    desk.resolve(lost, not_sent=True)
    assert (desk.spent()[0], desk.stripe.moved()) == ("1.00", 0)  # The customer may pay it on its page.
    assert desk.post(desk.a, f"invoices/{invoice}/pay", name="pay") == 200
    assert (desk.spent()[0], desk.stripe.moved()) == ("1.00", 100)


@pytest.mark.parametrize("said", [None, {"not_sent": True}, {"spent_usd": "0"}])
@pytest.mark.parametrize("body", ["amount=40&currency=usd", "amount=40"], ids=["priced", "looked up"])
def test_what_never_came_says_nothing_of_what_an_object_is_worth(
    gateway: Site, body: str, said: dict[str, Any] | None
) -> None:
    desk = Desk(gateway, cap=0.5)
    intent = f"payment_intents/{desk.intent()}"
    lost = desk.lost(desk.a, intent, body=body)
    if said is not None:
        desk.resolve(lost, **said)
    for key in (desk.a, desk.b):
        assert (desk.post(key, f"{intent}/confirm"), desk.stripe.moved()) == (429, 0)


def test_what_stripe_refuses_says_nothing_of_what_an_object_is_worth(gateway: Site) -> None:
    desk = Desk(gateway, cap=0.5)
    intent = f"payment_intents/{desk.intent()}"
    desk.stripe.fault("status", status=429, match=f"POST /v1/{intent}")
    assert desk.post(desk.a, intent, "amount=40&currency=usd") == 429
    assert (desk.post(desk.a, f"{intent}/confirm"), desk.stripe.moved()) == (429, 0)


def test_an_operators_word_of_a_change_leaves_what_its_object_is_worth_to_stripe(gateway: Site) -> None:
    """A change of an amount has spent nothing, executed or not; only Stripe knows what can be moved now."""
    desk = Desk(gateway)
    body = "amount=100&currency=usd&customer=cus_1&payment_method=pm_x"
    assert desk.post(desk.a, "payment_intents", body) == 200
    [intent] = [
        one["id"] for one in desk.stripe.books()["objects"].values() if one["object"] == "payment_intent"
    ]
    raised = gateway.call("POST", f"/runs/{desk.a['run_id']}/top_up", {"usd": "2"}, ADMIN)
    assert raised[0] == 200
    lost = desk.lost(desk.a, f"payment_intents/{intent}", "drop_after", body="amount=300&currency=usd")
    desk.resolve(lost, spent_usd="0")
    assert desk.charge(desk.a) == 200
    assert (desk.post(desk.a, f"payment_intents/{intent}/confirm"), desk.stripe.moved()) == (429, 100)


def test_no_more_is_counted_than_stripe_says(gateway: Site) -> None:
    desk = Desk(gateway, cap=5)
    body = "amount=100&currency=usd&customer=cus_1&payment_method=pm_x"
    assert desk.post(desk.a, "payment_intents", body) == 200
    [intent] = [
        one["id"] for one in desk.stripe.books()["objects"].values() if one["object"] == "payment_intent"
    ]
    gateway.stripe.fault("drop_before", match=f"POST /v1/payment_intents/{intent}")
    assert desk.post(desk.a, f"payment_intents/{intent}", "amount=300&currency=usd") == 502
    assert desk.post(desk.a, f"payment_intents/{intent}/confirm") == 200
    desk.resolve(desk.in_doubt(desk.a), not_sent=True)
    assert (desk.spent()[0], desk.stripe.moved()) == ("1.00", 100)


def test_words_and_corrections_in_any_order_count_what_has_moved_once(gateway: Site) -> None:
    desk = Desk(gateway)
    confirm = f"payment_intents/{desk.intent()}/confirm"
    lost = desk.lost(desk.a, confirm)
    assert desk.post(desk.b, confirm) == 200
    desk.resolve(lost, spent_usd="1")
    for said in ({"spent_usd": "0"}, {"spent_usd": "1"}, {"not_sent": True}):
        desk.resolve(lost, correct=True, **said)
        assert sorted(desk.spent()) == ["0.00", "1.00"], said
    assert (desk.spent(), desk.stripe.moved()) == (["0.00", "1.00"], 100)


def test_what_relied_on_an_object_that_was_named_by_mistake_counts_it_itself(gateway: Site) -> None:
    desk = Desk(gateway)
    foreign = desk.intent()
    gateway.stripe.fault("drop_after")
    assert desk.charge(desk.a) == 502
    lost = desk.in_doubt(desk.a)
    objects = desk.stripe.books()["objects"].values()
    [own] = [one["id"] for one in objects if one["object"] == "payment_intent" and one["id"] != foreign]
    desk.resolve(lost, spent_usd="1", object_id=foreign)
    assert desk.post(desk.b, f"payment_intents/{foreign}/confirm") == 200
    desk.resolve(lost, spent_usd="1", object_id=own, correct=True)
    assert (desk.spent(), desk.stripe.moved()) == (["1.00", "1.00"], 200)


def full(desk: Desk) -> str:
    """Leave a call in doubt on what a call of the other run has moved, which has spent its dollar since."""
    confirm = f"payment_intents/{desk.intent()}/confirm"
    lost = desk.lost(desk.a, confirm)
    assert (desk.post(desk.b, confirm), desk.charge(desk.b)) == (200, 200)
    return lost


@pytest.mark.parametrize(
    "way", [lambda run: ("top-up", run, "1"), lambda run: ("--overrun",)], ids=["topped up", "overrun"]
)
def test_the_command_says_who_counts_it_or_has_no_room(
    gateway: Site, way: Callable[[str], tuple[str, ...]]
) -> None:
    desk = Desk(gateway)
    lost, run = full(desk), desk.b["run_id"]
    command = ("resolve", lost, "--not-sent")
    code, out, err = spendguard(gateway, *command)
    assert (code, out, f"`spendguard top-up {run} 1.00` first, or repeat it with --overrun" in err) == (
        1,
        "",
        True,
    ), err
    said = way(run)
    if said[0] == "top-up":
        assert spendguard(gateway, *said)[0] == 0
        said = ()
    code, out, err = spendguard(gateway, *command, *said)
    assert (code, f" of run {run} counts $1.00 of pi_" in out) == (0, True), (out, err)
    after = gateway.run(run)
    expected = ("1.00", "1.00", "frozen") if said else ("2.00", "0.00", "active")
    assert (after["spent_usd"], after["overrun_usd"], after["state"]) == expected
    assert (desk.spent()[0], desk.stripe.moved()) == ("0.00", 200)
