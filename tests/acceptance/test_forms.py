"""Whatever server reads a form: never more has moved at the vendor than the ledger has.

The vendor takes each request for the worst of what Rack, qs, PHP, Java and a trimming server read.
`--malformed 10000` makes as many forms as the figures ask for; a push makes a few hundred.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard import spend_proxy
from tests.support.asking import ADMIN, WORKER
from tests.support.attempts import Pretender
from tests.support.forms import FORM, Made, requests
from tests.support.judge import Judge, issued, judged
from tests.support.site import FakeStripe, Site
from tests.support.vendors import FakeReadings

CHARGE = "amount=100&currency=usd&customer=cus_1&payment_method=pm_card_visa&confirm=true"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from _site(tmp_path_factory.mktemp("forms"), gateway=True)


@pytest.fixture(scope="module")
def worker_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from _site(tmp_path_factory.mktemp("worker-forms"), gateway=False)


def _site(folder: Path, *, gateway: bool) -> Iterator[Site]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "default_cap_usd": 10_000_000}
    vendor: FakeStripe = FakeReadings(folder / "vendor")
    with Site(folder, stripe=vendor, gateway=gateway, spendguard=said) as site:
        try:
            yield site
        finally:
            vendor.process.end()


def _judge(site: Site, base: str, key: tuple[str, str] | None = None, **more: str) -> Judge:
    return Judge(site, site.stripe, base, key or issued(site, "stripe"), only=more.get("only", ""))


def test_a_form_passes_as_it_is_read(site: Site) -> None:
    judge = _judge(site, f"{site.url}/stripe")
    honest = Made("POST", "/v1/payment_intents", CHARGE.encode(), False, headers=(("Content-Type", FORM),))
    judge.judge([honest])
    assert (judge.moved, judge.statuses[200]) == (100, 1)


@pytest.mark.parametrize(
    ("method", "where", "text"),
    [
        ("POST", "/v1/payment_intents", f"{CHARGE}&[amount]=99900"),
        ("POST", "/v1/payment_intents", f"{CHARGE}&amount%20=99900"),
        ("POST", "/v1/payment_intents", f"{CHARGE}&amount]=99900"),
        ("POST", "/v1/payment_intents", f"{CHARGE}&description=x]=y"),
        ("POST", "/v1/customers", "name=x&[balance]=-500000"),
        (
            "POST",
            "/v1/checkout/sessions",
            "mode=setup& mode=payment&line_items[0][price_data][unit_amount]=99900",
        ),
        (
            "POST",
            "/v1/subscription_schedules",
            "customer=cus_1&start_date=now&phases[10][items][0][price]=price_100&phases[2][items][0][price]=price_99900",
        ),
        ("DELETE", "/v1/subscriptions/sub_1?[invoice_now]=true", ""),
    ],
)
def test_what_was_read_in_two_ways_is_denied(site: Site, method: str, where: str, text: str) -> None:
    path, _, query = where.partition("?")
    judge = _judge(site, f"{site.url}/stripe")
    judge.judge([Made(method, path, text.encode(), False, query.encode(), (("Content-Type", FORM),))])


def test_a_key_of_one_customer_moves_no_others_money(site: Site) -> None:
    key = issued(site, "stripe", allowed_customers=["cus_1"])
    judge = _judge(site, f"{site.url}/stripe", key, only="cus_1")
    text = f"{CHARGE}&[customer]=cus_2".encode()
    judge.judge([Made("POST", "/v1/payment_intents", text, False, headers=(("Content-Type", FORM),))])


def test_some_generated_forms(site: Site) -> None:
    judged(_judge(site, f"{site.url}/stripe"), requests(), 250)


@pytest.mark.figures
@pytest.mark.timeout(3600)
def test_many_generated_forms(site: Site, malformed: int) -> None:
    judged(_judge(site, f"{site.url}/stripe"), requests(), malformed * 7 // 10)
    key = issued(site, "stripe", allowed_customers=["cus_1"])
    judged(_judge(site, f"{site.url}/stripe", key, only="cus_1"), requests(), malformed * 3 // 10)


def test_some_generated_forms_of_a_tasks_programs(worker_site: Site) -> None:
    """The worker's own guard reads them, behind its listener."""
    pretender = Pretender(worker_site, f"run-{uuid.uuid4().hex[:10]}", budget_usd="9000000")
    with pretender.attempt() as attempt, spend_proxy("stripe") as url:
        judged(_judge(worker_site, url, (attempt.key, pretender.run_id)), requests(), 125)
