"""A declined intent stays open at Stripe: whoever has its client_secret can confirm it later.

Judged by the look-alike's own books, with the real SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe
import urllib3

from luigi_spendguard.errors import BudgetExceeded
from tests.support.asking import ADMIN, WORKER
from tests.support.books import Books
from tests.support.desk import Outside
from tests.support.site import FakeStripe, Site

CAP = 10_000_000  # $10
TOKENS = {"admin_token": ADMIN, "worker_token": WORKER, "daily_cap_usd": 1000}
DECLINED: Any = {
    "amount": 1000,
    "currency": "usd",
    "customer": "cus_1",
    "confirm": True,
    "payment_method": "pm_card_chargeDeclined",
}
GOOD: Any = {**DECLINED, "payment_method": "pm_card_visa"}


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[FakeStripe]:
    made = FakeStripe(tmp_path / "vendor")
    yield made
    made.process.end()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db", cap=CAP)
    yield made
    made.ledger.close()


@pytest.fixture
def desk(books: Books, vendor: FakeStripe) -> Outside:
    return Outside(books, vendor.url)


def by_page(vendor: FakeStripe, intent: Any) -> int:
    """Confirm an intent as its page in a browser does; return the HTTP status."""
    said = {"client_secret": intent["client_secret"], "payment_method": "pm_card_visa"}
    return (
        urllib3.PoolManager()
        .request(
            "POST",
            f"{vendor.url}/v1/payment_intents/{intent['id']}/confirm",
            fields=said,
            headers={"Authorization": "Bearer pk_test_page"},
            encode_multipart=False,
        )
        .status
    )


def declined(call: Any, *args: Any) -> Any:
    """Make a call that the vendor declines; return the intent that its error shows."""
    with pytest.raises(stripe.CardError) as caught:
        call(*args)
    error = caught.value
    assert (error.code, error.http_status) == ("card_declined", 402)
    assert error.json_body["error"]["payment_intent"]["status"] == "requires_payment_method"
    return error.json_body["error"]["payment_intent"]


def counted(desk: Outside) -> int:
    """Return all that is counted, in cents."""
    return sum(desk.figures()) // 10_000


def test_five_declines_and_five_later_confirmations(desk: Outside, vendor: FakeStripe) -> None:
    create = desk.client.v1.payment_intents.create
    intents = [declined(create, {**DECLINED, "customer": f"cus_{n}"}) for n in range(5)]
    for intent in intents:
        by_page(vendor, intent)
        assert vendor.moved() <= counted(desk) <= CAP // 10_000


@pytest.mark.parametrize("status", [408, 424, 499])
def test_a_4xx_that_says_nothing_of_a_refusal_charges_once(
    desk: Outside, vendor: FakeStripe, status: int
) -> None:
    vendor.fault("status_after", status=status)
    with pytest.raises(stripe.StripeError):
        desk.client.v1.payment_intents.create(GOOD)
    assert (vendor.moved(), counted(desk)) == (1000, 1000)
    desk.again()
    desk.client.v1.payment_intents.create(GOOD)
    assert (vendor.moved(), desk.spent()) == (1000, 1000)


def test_what_was_cancelled_frees_its_money_for_a_new_try(desk: Outside, vendor: FakeStripe) -> None:
    intent = declined(desk.client.v1.payment_intents.create, DECLINED)
    assert desk.spent() == 0
    assert vendor.books()["objects"][intent["id"]]["status"] == "canceled"
    paid = desk.client.v1.payment_intents.create(GOOD)
    assert (paid.id != intent["id"], vendor.moved(), desk.spent()) == (True, 1000, 1000)
    cancels = [r for r in vendor.posts() if r["path"].endswith("/cancel")]
    keys = [r["key"] for r in vendor.posts()]
    assert (len(cancels), len(set(keys))) == (1, 3)
    [row] = [ask for ask in desk.asked if ask.operation == "payment_intents.cancel"]
    assert row.object_id == intent["id"]


def test_the_callers_own_key_is_tried_again_after_a_decline(desk: Outside, vendor: FakeStripe) -> None:
    create = desk.client.v1.payment_intents.create
    declined(create, DECLINED, {"idempotency_key": "order-1"})
    paid = create(DECLINED | {"payment_method": "pm_card_visa"}, {"idempotency_key": "order-1"})
    assert (paid.status, vendor.moved(), desk.spent()) == ("succeeded", 1000, 1000)


@pytest.mark.parametrize("fault", ["drop_after", "drop_before", "status", "not_json"])
def test_a_cancel_whose_outcome_is_unknown_leaves_it_counted(
    desk: Outside, vendor: FakeStripe, fault: str
) -> None:
    vendor.fault(fault, match="POST /v1/payment_intents/pi_", status=500)
    intent = declined(desk.client.v1.payment_intents.create, DECLINED)
    assert counted(desk) == 1000
    assert desk.denied(desk.client.v1.payment_intents.create, GOOD).reason == "cap"
    by_page(vendor, intent)
    assert vendor.moved() <= counted(desk)


class TestKept:
    """`declined_intents = keep`: they go on counting until they are cancelled."""

    @pytest.fixture
    def desk(self, books: Books, vendor: FakeStripe) -> Outside:
        return Outside(books, vendor.url, own={"declined_intents": "keep"})

    def test_it_counts_and_is_confirmed_later(self, desk: Outside, vendor: FakeStripe) -> None:
        create = desk.client.v1.payment_intents.create
        intents = [declined(create, DECLINED)]
        for number in range(4):
            with pytest.raises((stripe.CardError, BudgetExceeded)):
                create({**DECLINED, "customer": f"cus_{number}"})
        assert by_page(vendor, intents[0]) == 200
        assert (vendor.moved(), desk.spent()) == (1000, 1000)

    def test_the_task_goes_on_with_it(self, desk: Outside, vendor: FakeStripe) -> None:
        intent = declined(desk.client.v1.payment_intents.create, DECLINED)
        paid = desk.client.v1.payment_intents.confirm(intent["id"], {"payment_method": "pm_card_visa"})
        assert (paid.status, vendor.moved(), desk.spent()) == ("succeeded", 1000, 1000)

    def test_a_cancel_gives_it_back(self, desk: Outside, vendor: FakeStripe) -> None:
        intent = declined(desk.client.v1.payment_intents.create, DECLINED)
        assert desk.spent() == 1000
        desk.client.v1.payment_intents.cancel(intent["id"])
        assert desk.spent() == 0
        desk.client.v1.payment_intents.create(GOOD)
        assert (vendor.moved(), desk.spent()) == (1000, 1000)

    def test_a_new_try_is_a_new_call_with_a_new_key(self, desk: Outside, vendor: FakeStripe) -> None:
        create = desk.client.v1.payment_intents.create
        small: Any = {**DECLINED, "amount": 300}
        declined(create, small, {"idempotency_key": "order-1"})
        declined(create, small, {"idempotency_key": "order-1"})
        create({**small, "payment_method": "pm_card_visa"}, {"idempotency_key": "order-1"})
        assert (vendor.moved(), desk.spent()) == (300, 900)
        desk.again()  # A task that died after the good one is answered with that.
        create({**small, "payment_method": "pm_card_visa"}, {"idempotency_key": "order-1"})
        assert (vendor.moved(), desk.spent()) == (300, 900)


class TestWhatWasThereBefore:
    def test_a_declined_confirm_leaves_its_intent_counted(self, desk: Outside, vendor: FakeStripe) -> None:
        plain: Any = {"amount": 1000, "currency": "usd", "customer": "cus_1"}
        intent = desk.client.v1.payment_intents.create(plain)
        confirm = desk.client.v1.payment_intents.confirm
        left = declined(confirm, intent.id, {"payment_method": "pm_card_chargeDeclined"})
        assert desk.spent() == 1000
        assert (
            desk.denied(desk.client.v1.payment_intents.create, {**GOOD, "customer": "cus_2"}).reason == "cap"
        )
        assert by_page(vendor, {**left, "client_secret": intent.client_secret}) == 200
        assert (vendor.moved(), desk.spent()) == (1000, 1000)

    def test_a_declined_confirm_of_somebody_elses_intent_counts_it(
        self, desk: Outside, vendor: FakeStripe
    ) -> None:
        intent = _by_hand(vendor, "/v1/payment_intents", amount="1000", currency="usd")
        confirm = desk.client.v1.payment_intents.confirm
        left = declined(confirm, intent["id"], {"payment_method": "pm_card_chargeDeclined"})
        assert by_page(vendor, left) == 200
        assert (vendor.moved(), desk.spent()) == (1000, 1000)

    def test_an_invoice_that_could_not_be_paid_is_open(self, desk: Outside, vendor: FakeStripe) -> None:
        draft = _by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
        _by_hand(vendor, "/v1/invoiceitems", amount="1000", currency="usd", customer="cus_1", invoice=draft)
        with pytest.raises(stripe.CardError):
            desk.client.v1.invoices.pay(draft, {"payment_method": "pm_card_chargeDeclined"})
        _by_hand(vendor, f"/v1/invoices/{draft}/pay")  # Its own page takes another card.
        assert vendor.moved() <= counted(desk)
        desk.client.v1.invoices.pay(draft)
        assert (vendor.moved(), desk.spent()) == (1000, 1000)

    @pytest.mark.parametrize("own", [False, True])
    def test_a_refused_payment_may_have_finalized_its_draft(
        self, desk: Outside, vendor: FakeStripe, own: bool
    ) -> None:
        v1: Any = desk.client.v1
        draft = _by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
        item = {"amount": 1000, "currency": "usd", "customer": "cus_1", "invoice": draft}
        if own:
            v1.invoice_items.create(item)
        else:
            _by_hand(vendor, "/v1/invoiceitems", **{name: str(one) for name, one in item.items()})
        for _ in range(2):  # Then it is open already.
            with pytest.raises(stripe.InvalidRequestError):
                v1.invoices.pay(draft, {"payment_method": "pm_none"})
            assert counted(desk) == 1000
        _by_hand(vendor, f"/v1/invoices/{draft}/pay")  # Stripe collects it later.
        assert vendor.moved() == 1000 == counted(desk)

    def test_one_that_has_left_it_a_draft_leaves_nothing(self, desk: Outside, vendor: FakeStripe) -> None:
        draft = _by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
        _by_hand(vendor, "/v1/invoiceitems", amount="1000", currency="usd", customer="cus_1", invoice=draft)
        with pytest.raises(stripe.InvalidRequestError):
            desk.client.v1.invoices.pay(draft, {"payment_method": "pm_unread"})
        assert (vendor.moved(), counted(desk)) == (0, 0)

    def test_one_that_cannot_be_read_afterwards_counts(self, desk: Outside, vendor: FakeStripe) -> None:
        draft = _by_hand(vendor, "/v1/invoices", customer="cus_1")["id"]
        _by_hand(vendor, "/v1/invoiceitems", amount="1000", currency="usd", customer="cus_1", invoice=draft)
        look_up = f"GET /v1/invoices/{draft}"
        vendor.fault("slow", match=look_up)  # The one that prices the call.
        vendor.fault("status", match=look_up, status=404)
        with pytest.raises(stripe.InvalidRequestError):
            desk.client.v1.invoices.pay(draft, {"payment_method": "pm_none"})
        _by_hand(vendor, f"/v1/invoices/{draft}/pay")
        assert vendor.moved() == 1000 == counted(desk)

    def test_a_declined_charge_leaves_nothing(self, desk: Outside, vendor: FakeStripe) -> None:
        charge: Any = {"amount": 1000, "currency": "usd", "source": "tok_chargeDeclined"}
        with pytest.raises(stripe.CardError):
            desk.client.v1.charges.create(charge)
        assert (vendor.moved(), desk.spent()) == (0, 0)


def _by_hand(vendor: FakeStripe, path: str, **said: Any) -> Any:
    headers = {"Authorization": "Bearer sk_test_by_hand"}
    return (
        urllib3.PoolManager()
        .request("POST", vendor.url + path, fields=said, headers=headers, encode_multipart=False)
        .json()
    )


class TestAtTheGateway:
    """A vault key that may do nothing but make intents: the guard's own cancel is not asked of it."""

    TERMS: Any = {
        "vendor": "stripe",
        "run_usd_cap": "10",
        "allowed_endpoints": ["payment_intents.create"],
        "allowed_customers": ["cus_1"],
    }

    def test_a_declined_intent_is_cancelled_there(self, tmp_path: Path, vendor: FakeStripe) -> None:
        with Site(tmp_path / "site", stripe=vendor, gateway=True, spendguard=TOKENS) as site:
            status, key = site.call("POST", "/vault/keys", self.TERMS, WORKER)
            assert status == 201
            api = {"api": f"{site.url}/stripe"}
            client = stripe.StripeClient(key["vault_key"], base_addresses=api)
            for _ in range(3):
                intent = declined(client.v1.payment_intents.create, DECLINED)
                assert by_page(vendor, intent) == 400
            assert client.v1.payment_intents.create(GOOD).status == "succeeded"
            assert (vendor.moved(), site.run(key["run_id"])["spent_usd"]) == (1000, "10.00")
            on_record = [one["operation"] for one in site.calls(key["run_id"]) if one["verdict"] == "allowed"]
            assert on_record.count("payment_intents.cancel") == 3
