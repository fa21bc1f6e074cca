"""Whatever server reads a form: never more has moved at the vendor than the ledger has.

The vendor takes each request for the worst of what Rack, qs, PHP and a trimming server read.
`--malformed 10000` makes as many forms as the figures ask for; a push makes a few hundred.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from luigi_spendguard import spend_proxy
from tests.support.asking import ADMIN, WORKER
from tests.support.attempts import Pretender
from tests.support.forms import FORM, Made, requests, worth
from tests.support.site import FakeStripe, Site
from tests.support.vendors import FakeReadings

#: Forms of one example: their books are looked at together.
EACH = 25
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


def _key(site: Site, **more: object) -> tuple[str, str]:
    """Return a key, and its run."""
    terms = {"vendor": "stripe", "run_usd_cap": 10_000_000, **more}
    said = site.call("POST", "/vault/keys", terms, WORKER)[1]
    return str(said["vault_key"]), str(said["id"])


class Judge:
    """Sends forms under one key and compares two books: the vendor's and the ledger's."""

    def __init__(self, site: Site, base: str, key: str, run_id: str, *, only: str = "") -> None:
        self.site, self.base, self.key, self.run_id, self.only = site, base, key, run_id, only
        self.statuses: Counter[int] = Counter()
        self.moved = 0

    def judge(self, made: list[Made]) -> None:
        before = worth(self.site.run(self.run_id))
        self.site.stripe.forget()
        for one in made:
            self.statuses[one.send(self.base, self.key)] += 1
        run, moved = self.site.run(self.run_id), self.site.stripe.books()["moved"]
        cents = sum(entry["cents"] for entry in moved)
        self.moved += cents
        dearest = sorted(moved, key=lambda entry: -entry["cents"])[:3]
        assert cents <= worth(run) - before + 0.001, [entry["request"] for entry in dearest]
        assert float(run["overrun_usd"]) == 0
        for entry in moved:
            assert "acct_evil" not in str(entry["account"])
            assert "evil" not in str(entry["keys"])
            assert not self.only or entry["customers"] == [self.only], entry


def _many(count: int, judge: Callable[[list[Made]], None]) -> None:
    """Let Hypothesis make `count` forms, `EACH` at a time."""
    rounds = max(1, count // EACH)

    @settings(
        max_examples=rounds,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(requests(), min_size=EACH, max_size=EACH))
    def made(forms: list[Made]) -> None:
        judge(forms)

    made()


def _judged(site: Site, base: str, count: int, key: tuple[str, str], **more: str) -> Judge:
    judge = Judge(site, base, *key, **more)
    _many(count, judge.judge)
    print(
        f"{sum(judge.statuses.values())} forms, by status {dict(judge.statuses)}; {judge.moved} cents moved"
    )
    assert min(judge.statuses[200], judge.statuses[403]) > count / 10
    assert not [status for status in judge.statuses if status >= 500]
    return judge


def test_a_form_passes_as_it_is_read(site: Site) -> None:
    judge = Judge(site, f"{site.url}/stripe", *_key(site))
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
        ("POST", "/v1/checkout/sessions",
         "mode=setup& mode=payment&line_items[0][price_data][unit_amount]=99900"),
        ("POST", "/v1/subscription_schedules",
         "customer=cus_1&start_date=now&phases[10][items][0][price]=price_100&phases[2][items][0][price]=price_99900"),
        ("DELETE", "/v1/subscriptions/sub_1?[invoice_now]=true", ""),
    ],
)  # fmt: skip
def test_what_was_read_in_two_ways_is_denied(site: Site, method: str, where: str, text: str) -> None:
    path, _, query = where.partition("?")
    judge = Judge(site, f"{site.url}/stripe", *_key(site))
    judge.judge([Made(method, path, text.encode(), False, query.encode(), (("Content-Type", FORM),))])


def test_a_key_of_one_customer_moves_no_others_money(site: Site) -> None:
    key = _key(site, allowed_customers=["cus_1"])
    judge = Judge(site, f"{site.url}/stripe", *key, only="cus_1")
    text = f"{CHARGE}&[customer]=cus_2".encode()
    judge.judge([Made("POST", "/v1/payment_intents", text, False, headers=(("Content-Type", FORM),))])


def test_some_generated_forms(site: Site) -> None:
    _judged(site, f"{site.url}/stripe", 250, _key(site))


@pytest.mark.figures
@pytest.mark.timeout(3600)
def test_many_generated_forms(site: Site, malformed: int) -> None:
    _judged(site, f"{site.url}/stripe", malformed * 7 // 10, _key(site))
    _judged(
        site, f"{site.url}/stripe", malformed * 3 // 10, _key(site, allowed_customers=["cus_1"]), only="cus_1"
    )


def test_some_generated_forms_of_a_tasks_programs(worker_site: Site) -> None:
    """The worker's own guard reads them, behind its listener."""
    pretender = Pretender(worker_site, f"run-{uuid.uuid4().hex[:10]}", budget_usd="9000000")
    with pretender.attempt() as attempt, spend_proxy("stripe") as url:
        _judged(worker_site, url, 125, (attempt.key, pretender.run_id))
