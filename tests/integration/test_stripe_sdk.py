"""Existing code keeps working inside a vendor task: every way the official SDK is used, unchanged."""

from __future__ import annotations

import _thread
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import stripe

from luigi_spendguard import BudgetExceeded, SpendDenied
from tests.support.attempts import Pretender
from tests.support.site import SECRET, FakeStripe, Site

CHARGE = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}


def keys(vendor: FakeStripe) -> list[str]:
    return [request["key"] for request in vendor.posts()]


def test_a_module_level_call(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        intent = stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
        assert stripe.PaymentIntent.retrieve(intent.id).status == "succeeded"
    assert vendor.moved() == 100
    assert {r["authorization"] for r in vendor.books()["requests"]} == {f"Bearer {SECRET}"}
    [call] = [c for c in pretender.site.calls(pretender.run_id) if c["operation"] == "payment_intents.create"]
    assert (call["state"], call["spent_usd"], call["target"], call["object_id"]) == (
        "settled",
        "1.00",
        "cus_1",
        intent.id,
    )


def test_a_stripe_client_made_in_the_task(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        client = stripe.StripeClient(os.environ["STRIPE_SECRET_KEY"])
        client.v1.payment_intents.create({"customer": "cus_1", **CHARGE})
    assert vendor.moved() == 100


def test_a_stripe_client_made_before_any_task_with_the_secret(
    pretender: Pretender, vendor: FakeStripe
) -> None:
    client = stripe.StripeClient(SECRET)
    with pretender.attempt():
        client.v1.payment_intents.create({"customer": "cus_1", **CHARGE})
    assert vendor.moved() == 100


def test_auto_paging_reads_all_pages_for_nothing(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        for number in range(7):
            stripe.Customer.create(email=f"{number}@example.com")
        found = [c.email for c in stripe.Customer.list(limit=3).auto_paging_iter()]
    assert len(found) == 7
    assert pretender.site.run(pretender.run_id)["spent_usd"] == "0.00"


@pytest.mark.parametrize("which", ["vault key", "secret"])
def test_a_key_passed_with_the_call(pretender: Pretender, vendor: FakeStripe, which: str) -> None:
    with pretender.attempt() as attempt:
        key = attempt.key if which == "vault key" else SECRET
        stripe.PaymentIntent.create(api_key=key, customer="cus_1", **CHARGE)
    assert vendor.moved() == 100


def test_another_accounts_key_is_denied_never_replaced(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt(), pytest.raises(SpendDenied) as denied:
        stripe.PaymentIntent.create(api_key="sk_test_another_account", customer="cus_1", **CHARGE)
    assert denied.value.reason == "scope"
    assert isinstance(denied.value, stripe.PermissionError)
    assert "sk_test_another" not in str(denied.value)
    assert vendor.books()["requests"] == []
    [call] = pretender.site.calls(pretender.run_id)
    assert call["verdict"] == "denied:scope"


def test_the_secrets_usual_variable_holds_the_vault_key(
    pretender: Pretender, vendor: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", SECRET)
    monkeypatch.setenv("PAYMENTS_KEY", SECRET)
    with pretender.attempt() as attempt:
        assert os.environ["STRIPE_SECRET_KEY"] == os.environ["PAYMENTS_KEY"] == attempt.key
        assert SECRET not in os.environ.values()
    assert os.environ["STRIPE_SECRET_KEY"] == os.environ["PAYMENTS_KEY"] == SECRET


def test_threads_of_the_task_belong_to_it(pretender: Pretender, vendor: FakeStripe) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            stripe.PaymentIntent.create(customer=f"cus_{number}", **CHARGE)
        except BaseException as error:
            failures.append(error)

    with pretender.attempt():
        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(16, 24)))
    assert failures == []
    assert vendor.moved() == 2400
    assert pretender.site.run(pretender.run_id)["spent_usd"] == "24.00"


def test_replies_never_reach_the_wrong_thread_or_child(pretender: Pretender, vendor: FakeStripe) -> None:
    """The measured hazard: keep-alive connections that forked children inherit."""
    with pretender.attempt():
        made = [stripe.Customer.create(email=f"{n}@example.com") for n in range(4)]
        children = []
        for customer in made:
            pid = os.fork()
            if pid == 0:
                wrong = 1
                try:
                    seen = {stripe.Customer.retrieve(customer.id).id for _ in range(50)}
                    wrong = int(seen != {customer.id})
                finally:
                    os._exit(wrong)
            children.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0, 0]


def test_two_runs_in_one_process_are_told_apart(shared_site: Site, vendor: FakeStripe) -> None:
    first = Pretender(shared_site, f"{id(vendor)}-a", f"A_{id(vendor)}")
    second = Pretender(shared_site, f"{id(vendor)}-b", f"B_{id(vendor)}")
    ready, errors = threading.Barrier(2), []

    def task(pretender: Pretender, amount: int) -> None:
        with pretender.attempt():
            ready.wait()
            for turn in range(5):
                stripe.PaymentIntent.create(customer=f"cus_{turn}", **(CHARGE | {"amount": amount}))
            ready.wait()
            thread = threading.Thread(target=charge)
            thread.start()
            thread.join()
            ended = threading.Event()
            _thread.start_new_thread(begun_by_nobody, (ended,))
            assert ended.wait(30)
            ready.wait()

    def charge() -> None:
        stripe.PaymentIntent.create(customer="cus_of_a_thread", **CHARGE)

    def begun_by_nobody(ended: threading.Event) -> None:
        try:
            charge()
        except SpendDenied as error:
            errors.append(error.reason)
        finally:
            ended.set()

    threads = [threading.Thread(target=task, args=args) for args in ((first, 100), (second, 300))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared_site.run(first.run_id)["spent_usd"] == "6.00"
    assert shared_site.run(second.run_id)["spent_usd"] == "16.00"
    assert errors == ["scope", "scope"]
    assert vendor.moved() == 2200


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: stripe.Refund.create(amount=1), "unpriced"),
        (lambda: stripe.Account.create(type="custom"), "unpriced"),
        (lambda: stripe.PaymentLink.create(line_items=[{"price": "p", "quantity": 1}]), "unpriced"),
        (lambda: stripe.Subscription.create(customer="cus_1", items=[]), "unpriced"),
        (lambda: stripe.Product.create(name="x", teleport=True), "unpriced"),
        (lambda: stripe.Product.create(name="x", stripe_version="2020-08-27"), "unpriced"),
        (lambda: stripe.PaymentIntent.create(amount=1, currency="xyz"), "currency"),
        (lambda: stripe.PaymentIntent.create(currency="usd"), "unpriced"),
        (lambda: stripe.Customer.create(balance=-500), "unpriced"),
        (
            lambda: stripe.EphemeralKey.create(customer="c", stripe_version="2026-10-28.endive"),
            "endpoint",
        ),
        (lambda: stripe.WebhookEndpoint.create(url="https://example.com", enabled_events=["*"]), "endpoint"),
        (lambda: stripe.OAuth.token(grant_type="authorization_code", code="ac"), "endpoint"),
        (lambda: stripe.StripeClient(SECRET).raw_request("post", "/v2/x", content_type="a/b"), "unpriced"),
    ],
)
def test_what_is_not_priced_is_denied_and_on_record(
    pretender: Pretender, vendor: FakeStripe, call, reason: str
) -> None:
    with pretender.attempt(), pytest.raises(SpendDenied) as denied:
        call()
    assert denied.value.reason == reason
    assert isinstance(denied.value, stripe.StripeError)
    assert vendor.books()["requests"] == []
    on_record = [(c["verdict"], c["task_id"], c["family"]) for c in pretender.site.calls(pretender.run_id)]
    assert on_record == [(f"denied:{reason}", pretender.task_id, "Charge")]


def test_money_that_leaves_spends_too_and_what_a_refund_is_worth_is_looked_up(
    pretender: Pretender, vendor: FakeStripe
) -> None:
    with pretender.attempt():
        charge = stripe.Charge.create(amount=400, currency="usd", source="tok_visa")
        stripe.Refund.create(charge=charge.id)
        stripe.Transfer.create(amount=50, currency="usd", destination="acct_2")
        payout = stripe.Payout.create(amount=70, currency="usd")
        stripe.Payout.cancel(payout.id)
    assert vendor.moved() == 850
    assert pretender.site.run(pretender.run_id)["spent_usd"] == "8.50"
    assert [r["path"] for r in vendor.books()["requests"] if r["method"] == "GET"] == [
        f"/v1/charges/{charge.id}"
    ]


def test_a_file_is_uploaded_for_nothing(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt():
        made = stripe.File.create(purpose="dispute_evidence", file=io.BytesIO(b"\x89PNG\xff"))
    assert made.id.startswith("file_")
    assert pretender.site.run(pretender.run_id)["spent_usd"] == "0.00"


def test_a_denial_by_the_cap_is_the_sdks_rate_limit_error_and_is_not_retried(
    shared_site: Site, vendor: FakeStripe
) -> None:
    pretender = Pretender(shared_site, f"small-{id(vendor)}", f"S_{id(vendor)}", budget_usd="0.50")
    with pretender.attempt(), pytest.raises(stripe.RateLimitError) as denied:
        stripe.PaymentIntent.create(customer="cus_1", **CHARGE)
    error = denied.value
    assert isinstance(error, BudgetExceeded)
    assert (error.http_status, error.code) == (429, "budget_exhausted")
    assert error.headers["x-spendguard-cap-hit"] == error.headers["X-Keybrake-Cap-Hit"] == "true"
    assert error.facts["cap_usd"] == "0.50"
    assert error.facts["asked_usd"] == "1.00"
    assert len(shared_site.calls(pretender.run_id)) == 1
    assert vendor.books()["requests"] == []


def test_a_scalar_given_twice_is_refused(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt(), pytest.raises(SpendDenied) as denied:
        stripe.HTTPClient().request_with_retries(
            "post",
            "https://api.stripe.com/v1/payment_intents",
            {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/x-www-form-urlencoded"},
            "amount=1&amount=999&currency=usd",
        )
    assert denied.value.reason == "unpriced"
    assert "'amount' is given twice" in str(denied.value)
    assert vendor.books()["requests"] == []


def test_the_secret_leaves_for_its_own_address_alone(pretender: Pretender, vendor: FakeStripe) -> None:
    with pretender.attempt(), pytest.raises(SpendDenied) as denied:
        stripe.StripeClient(SECRET, base_addresses={"api": "http://127.0.0.1:9"}).v1.balance.retrieve()
    assert denied.value.reason == "endpoint"
