"""The vendor's own id of each request stands beside its call, by the vendor's books."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.integration.test_life_of_a_call import charge
from tests.integration.test_lost_answers import TEXTS
from tests.support.attempts import Pretender
from tests.support.clients import by_requests
from tests.support.site import FakeStripe, Site
from tests.support.vendors import FakeTwilio


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTwilio]:
    vendor = FakeTwilio(tmp_path_factory.mktemp("twilio"))
    yield vendor
    vendor.process.end()


@pytest.fixture(scope="module", params=["worker", "gateway"])
def here(
    request: pytest.FixtureRequest, texts: FakeTwilio, shared_site: Site, tmp_path_factory: Any
) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    gateway = request.param == "gateway"
    with Site(folder, stripe=shared_site.stripe, twilio=texts, gateway=gateway) as site:
        yield site


@pytest.fixture
def task(here: Site, vendor: FakeStripe) -> Pretender:
    unique = uuid.uuid4().hex[:10]
    return Pretender(here, f"run-{unique}", f"Charge_{unique}")


def named(task: Pretender) -> list[str]:
    """Return the ids that the ledger has, the oldest call's first."""
    return [call["vendor_request"] for call in reversed(task.site.calls(task.run_id))]


def by_books(vendor: FakeStripe) -> list[str]:
    return [request["request_id"] for request in vendor.books()["requests"]]


def test_success_decline_error_and_read_have_the_vendors_id(task: Pretender, vendor: FakeStripe) -> None:
    with task.attempt():
        paid = charge("cus_1")
        stripe.PaymentIntent.retrieve(paid.id)
        with pytest.raises(stripe.InvalidRequestError):
            stripe.PaymentIntent.retrieve("pi_nowhere")
        with pytest.raises(stripe.InvalidRequestError):
            stripe.PaymentIntent.capture(paid.id)
    assert named(task) == by_books(vendor)
    assert len(set(named(task))) == 4
    with task.attempt(), pytest.raises(stripe.CardError):
        charge("cus_2", payment_method="pm_card_chargeDeclined")
    # The guard cancels what the decline has left open, and a replay is no request.
    assert set(named(task)) == set(by_books(vendor))


def test_what_is_not_answered_has_none_and_the_newest_answer_counts(
    task: Pretender, vendor: FakeStripe
) -> None:
    vendor.fault("drop_after", times=3)
    with task.attempt():
        with pytest.raises(stripe.APIConnectionError):
            charge("cus_1", idempotency_key="order-1")
        assert named(task) == [""]
        vendor.fault("status_after", status=500, times=3)
        with pytest.raises(stripe.APIError):
            charge("cus_1", idempotency_key="order-1")
        assert named(task) == [by_books(vendor)[-1]]
        charge("cus_1", idempotency_key="order-1")
    assert named(task) == [by_books(vendor)[-1]]
    [call] = task.site.calls(task.run_id)
    assert (call["state"], vendor.moved()) == ("settled", 100)


@pytest.mark.parametrize(
    "said", ["two words", "x" * 300, "req_\u00e9", "vault_key_0123456789abcdef0123456789abcdef"]
)
def test_what_is_no_id_is_not_kept(task: Pretender, vendor: FakeStripe, said: str) -> None:
    vendor.control(options={"request_id": said})
    try:
        with task.attempt():
            charge("cus_1")
    finally:
        vendor.control(options={"request_id": ""})
    [named_now] = named(task)
    assert "vault_key_0" not in named_now
    assert named_now == "" or "vault_key" in said


def test_a_text_has_twilios(task: Pretender, texts: FakeTwilio) -> None:
    texts.forget()
    with task.attempt():
        text = {"To": "+14155550111", "From": "+14155550199", "Body": "hi"}
        sent = by_requests("POST", TEXTS, data=text).json()
    [request] = texts.posts()
    [call] = task.site.calls(task.run_id)
    assert (call["object_id"], call["vendor_request"]) == (sent["sid"], request["request_id"])
    assert call["vendor_request"].startswith("RQ")


def test_command_and_csv_show_it(task: Pretender, vendor: FakeStripe) -> None:
    with task.attempt():
        charge("cus_1")
    [request_id] = by_books(vendor)
    code, out, err = task.site.cli("calls", "--run", task.run_id)
    assert (code, request_id in out) == (0, True), err
    code, out, _ = task.site.cli("calls", "--run", task.run_id, "--format", "csv")
    [row] = csv.DictReader(out.splitlines())
    assert row["vendor_request"] == request_id
    code, out, _ = task.site.cli("calls", "--run", task.run_id, "--format", "json")
    assert json.loads(out)[0]["vendor_request"] == request_id
