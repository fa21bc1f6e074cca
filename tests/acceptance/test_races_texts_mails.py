"""Texts and mails under one cap, and to nobody twice, judged by the vendors' own books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.site import Site
from tests.support.vendors import FakeResend, FakeTwilio

#: A cap of $1, and what a text or mail costs at the vendors: 100 of them.
MOST = 100
PRICE = "0.01"
MODULE = "tests.support.racing_pipeline"

pytestmark = pytest.mark.timeout(1200)


class Vendors:
    """Both vendors, and a site whose workers or whose luigid has the secrets."""

    def __init__(self, folder: Path, gateway: bool) -> None:
        self.twilio = FakeTwilio(folder / "twilio", "--latency", "0.05")
        self.resend = FakeResend(folder / "resend", "--latency", "0.05")
        self.twilio.control(options={"sms_price": {"1": PRICE}, "send_delay": 0.1, "price_delay": 0.2})
        self.site = Site(
            folder / "site", twilio=self.twilio, resend=self.resend, gateway=gateway,
            spendguard={"default_cap_usd": 1}, worker={"ping_interval": 0.5},
            spendguard_twilio={"sms_prices": f"1: {PRICE}", "sms_fees": "1: 0", "failed_price": 0},
            spendguard_resend={"email_price": PRICE},
        )  # fmt: skip

    def sent(self, vendor: str, mark: str) -> list[str]:
        """Return to whom texts with `mark` in them, or mails, went, by the vendor's books."""
        if vendor == "twilio":
            return [one["to"] for one in self.twilio.sent() if mark in one["body"]]
        mails = [r for r in self.resend.posts() if mark in r["body"]]
        keys = {request["key"] for request in mails}
        return [to for one in self.resend.sent() if one["key"] in keys for to in one["recipients"]]

    def end(self) -> None:
        self.site.end()
        self.twilio.process.end()
        self.resend.process.end()


@pytest.fixture(scope="module", params=[False, True], ids=["in-process", "gateway"])
def vendors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendors]:
    both = Vendors(tmp_path_factory.mktemp("races"), request.param)
    yield both
    both.end()


def spent(vendors: Vendors, vendor: str, run_id: str) -> int:
    """Return how many the vendor has sent for a run, and check that our books say the same."""
    count = len(vendors.sent(vendor, f"{run_id} "))
    wait_until(lambda: vendors.site.run(run_id)["reserved_usd"] == "0.00", 20, "every call to end")
    assert vendors.site.run(run_id)["spent_usd"] == f"{count / 100:.2f}"
    return count


@pytest.mark.figures
@pytest.mark.parametrize("vendor", ["twilio", "resend"])
def test_64_threads_send_exactly_what_the_cap_allows(vendors: Vendors, vendor: str, repeats: int) -> None:
    results = []
    for turn in range(max(1, repeats // 4)):
        run_id = f"threads-{vendor}-{turn}"
        code, out = vendors.site.luigi(
            "ManyThreads", "--vendor", vendor, "--run-id", run_id, module=MODULE
        )  # fmt: skip
        assert code == 0, out
        results.append(spent(vendors, vendor, run_id))
    assert Counter(results) == {MOST: len(results)}


@pytest.mark.figures
@pytest.mark.parametrize("vendor", ["twilio", "resend"])
def test_16_forked_processes_send_exactly_what_the_cap_allows(
    vendors: Vendors, vendor: str, repeats: int
) -> None:
    results = []
    for turn in range(max(1, repeats // 4)):
        run_id = f"forks-{vendor}-{turn}"
        (vendors.site.folder / "out" / f"go-{run_id}").touch()
        code, out = vendors.site.luigi(
            "Race", "--vendor", vendor, "--run-id", run_id, "--workers", "16", module=MODULE
        )  # fmt: skip
        assert code == 0, out
        results.append(spent(vendors, vendor, run_id))
    assert Counter(results) == {MOST: len(results)}


def mailed(vendors: Vendors, vendor: str, n: int, how: str) -> str:
    """Submit a mailing until all its tasks are complete; return what the last worker said."""
    args = ["Mailing", "--vendor", vendor, "--n", str(n), "--how", how, "--workers", "4"]
    for _ in range(8):
        _, out = vendors.site.luigi(*args, module=MODULE)
        if len(list((vendors.site.folder / "out").glob(f"SendAndDie_*{vendor}*"))) == n:
            return out
    raise AssertionError(out)


@pytest.mark.parametrize("how", ["kill", "raise"])
@pytest.mark.parametrize("vendor", ["twilio", "resend"])
def test_every_task_sends_and_dies_and_nobody_gets_two(vendors: Vendors, vendor: str, how: str) -> None:
    first = {"kill": 0, "raise": 20}[how]
    out = mailed(vendors, vendor, first + 10, how)
    assert len(list((vendors.site.folder / "out").glob(f"tried-{vendor}-*"))) == first + 10, out
    per_person = Counter(vendors.sent(vendor, "Your order"))
    assert len(per_person) == first + 10
    assert set(per_person.values()) == {1}


@pytest.mark.parametrize("vendor", ["twilio", "resend"])
def test_a_lost_reply_sends_nothing_twice(vendors: Vendors, vendor: str) -> None:
    """The vendor has sent it, the connection breaks, the task is tried again."""
    fake = vendors.twilio if vendor == "twilio" else vendors.resend
    match = {"twilio": "POST /api.twilio.com/*/Messages.json", "resend": "POST /emails"}[vendor]
    fake.fault("drop_after", match=match, times=3)
    mailed(vendors, vendor, 43, "raise")
    per_person = Counter(vendors.sent(vendor, "Your order"))
    assert len(per_person) == 43
    assert set(per_person.values()) == {1}
