"""Whatever server reads a form: never more texts, calls and codes at Twilio than the ledger has."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from luigi_spendguard import spend_proxy
from tests.support.asking import ADMIN, WORKER
from tests.support.attempts import Pretender
from tests.support.fake_twilio_readings import CHANNEL, FIELDS, MINUTE, MMS, SCHEDULED, SMS, VERIFIED
from tests.support.forms import FORM, Made, requests
from tests.support.judge import Judge, issued, judged
from tests.support.site import Site
from tests.support.twilio_forms import API, QUIET, TO, TWILIO, VERIFY
from tests.support.vendors import FakeTwilioReadings

MESSAGE = "To=%2B14155550100&From=%2B15005550006&Body=Hello"
CALL = f"To=%2B14155550100&From=%2B15005550006&TimeLimit=60&Twiml={quote(QUIET)}"
MEDIA = "MediaUrl=https%3A%2F%2Fa.example%2F"


def _prices(prices: tuple[int, int]) -> str:
    return f"1: {prices[0] / 100}, *: {prices[1] / 100}"


def _site(folder: Path, *, gateway: bool) -> Iterator[tuple[Site, FakeTwilioReadings]]:
    said = {"admin_token": ADMIN, "worker_token": WORKER, "default_cap_usd": 10_000_000}
    prices = {
        "sms_prices": _prices(SMS),
        "sms_fees": "1: 0",
        "mms_prices": _prices(MMS),
        "mms_fees": "1: 0",
        "call_prices": f"{_prices(MINUTE)}, 1907: {MINUTE[0] / 100}",
        "verify_price": VERIFIED / 100,
        "channel_prices": f"whatsapp: {CHANNEL / 100}",
        "scheduling_price": SCHEDULED / 100,
        "lookup_prices": ", ".join(f"{name}: {cents / 100}" for name, cents in FIELDS.items()),
    }
    vendor = FakeTwilioReadings(folder / "vendor")
    with Site(folder, twilio=vendor, gateway=gateway, spendguard=said, spendguard_twilio=prices) as site:
        try:
            yield site, vendor
        finally:
            vendor.process.end()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    for site, vendor in _site(tmp_path_factory.mktemp("forms"), gateway=True):
        yield Judge(site, vendor, f"{site.url}/twilio", issued(site, "twilio"), agreed=True)


@pytest.mark.parametrize(
    ("path", "text", "cents"),
    [
        (f"{API}/Messages.json", MESSAGE, 1),
        (f"{API}/Messages.json", f"{MESSAGE}&{MEDIA}1&{MEDIA}2", 3),
        (f"{API}/Calls.json", CALL, 2),
        (f"{API}/Calls.json", CALL.replace("&TimeLimit=60", ""), 20),
        (f"{VERIFY}/Verifications", "To=%2B14155550100&Channel=sms", 6),
    ],
)
def test_a_form_passes_as_it_is_read(judge: Judge, path: str, text: str, cents: int) -> None:
    before = judge.moved
    judge.judge([Made("POST", path, text.encode(), False, headers=(("Content-Type", FORM),))])
    assert judge.moved - before == cents


@pytest.mark.parametrize(
    ("method", "where", "text"),
    [
        ("POST", f"{API}/Messages.json", f"{MESSAGE}&To=%2B2348012345678"),
        ("POST", f"{API}/Messages.json", f"{MESSAGE}&to=%2B2348012345678"),
        ("POST", f"{API}/Messages.json", f"{MESSAGE}&Body={'x' * 500}"),
        ("POST", f"{API}/Messages.json", f"{MESSAGE}&To%20=%2B2348012345678"),
        ("POST", f"{API}/Messages.json", f"{MESSAGE};To=%2B2348012345678"),
        ("POST", f"{API}/Messages.json?To=%2B2348012345678", MESSAGE),
        ("POST", f"{API}/Messages.json", f"\ufeff{MESSAGE}"),
        ("POST", f"{API}/Messages.json", MESSAGE.replace("%2B1415", "+1415")),
        ("POST", f"{API}/Calls.json", f"{CALL}&timelimit=14400"),
        ("POST", f"{API}/Calls.json?TimeLimit=14400", CALL.replace("&TimeLimit=60", "")),
        ("POST", f"{VERIFY}/Verifications", "To=%2B14155550100&Channel=sms&Channel=call"),
        ("GET", f"/lookups.twilio.com/v2/PhoneNumbers/{TO}?CountryCode=US;Fields=sim_swap", ""),
        ("GET", f"/lookups.twilio.com/v2/PhoneNumbers/{TO}?Fields=caller_name&fields=sim_swap", ""),
    ],
)
def test_what_was_read_in_two_ways_is_denied(judge: Judge, method: str, where: str, text: str) -> None:
    path, _, query = where.partition("?")
    before = judge.moved
    judge.judge([Made(method, path, text.encode(), False, query.encode(), (("Content-Type", FORM),))])
    assert judge.moved == before


def test_some_generated_forms(judge: Judge) -> None:
    judged(judge, requests(TWILIO), 250)


@pytest.mark.figures
@pytest.mark.timeout(3600)
def test_many_generated_forms(judge: Judge, malformed: int) -> None:
    judged(judge, requests(TWILIO), malformed)


def test_some_generated_forms_of_a_tasks_programs(tmp_path: Path) -> None:
    """The worker's own guard reads them, behind its listener."""
    for site, vendor in _site(tmp_path, gateway=False):
        pretender = Pretender(site, f"run-{uuid.uuid4().hex[:10]}", budget_usd="9000000")
        with pretender.attempt() as attempt, spend_proxy("twilio") as url:
            judge = Judge(site, vendor, url, (attempt.key, pretender.run_id), agreed=True)
            judged(judge, requests(TWILIO), 125)
