"""Texts and mails under one cap, and to nobody twice, judged by the vendors' own books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.combinations import combined
from tests.support.processes import wait_until
from tests.support.site import Site
from tests.support.vendors import FakeResend, FakeTwilio

#: A cap of $1, and what a text or mail costs at the vendors: 100 of them.
MOST = 100
PRICE = "0.01"
#: To how many a mailing goes.
PEOPLE = 8
MODULE = "tests.support.racing_pipeline"

pytestmark = pytest.mark.timeout(1200)


class Vendors:
    """Both vendors, and a site whose workers or whose luigid has the secrets."""

    def __init__(self, folder: Path, gateway: bool) -> None:
        self.twilio = FakeTwilio(folder / "twilio", "--latency", "0.05")
        self.resend = FakeResend(folder / "resend", "--latency", "0.05")
        self.twilio.control(options={"sms_price": {"1": PRICE}, "send_delay": 0.1, "price_delay": 0.2})
        self.site = Site(
            folder / "site",
            twilio=self.twilio,
            resend=self.resend,
            gateway=gateway,
            spendguard={"default_cap_usd": 1},
            worker={"ping_interval": 0.5},
            spendguard_twilio={"sms_prices": f"1: {PRICE}", "sms_fees": "1: 0", "failed_price": 0},
            spendguard_resend={"email_price": PRICE},
        )

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


HERE, GATEWAY = "in-process", "gateway"
SITES, VENDORS = [HERE, GATEWAY], ["twilio", "resend"]


@pytest.fixture(scope="module")
def vendors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendors]:
    both = Vendors(tmp_path_factory.mktemp("races"), request.param == GATEWAY)
    yield both
    both.end()


def spent(vendors: Vendors, vendor: str, run_id: str) -> int:
    """Return how many the vendor has sent for a run, and check that our books say the same."""
    count = len(vendors.sent(vendor, f"{run_id} "))
    wait_until(lambda: vendors.site.run(run_id)["reserved_usd"] == "0.00", what="every call to end")
    assert vendors.site.run(run_id)["spent_usd"] == f"{count / 100:.2f}"
    return count


@pytest.mark.figures
@combined(
    "vendors vendor", SITES, VENDORS, indirect=["vendors"], chosen=[(HERE, "twilio"), (GATEWAY, "resend")]
)
def test_64_threads_send_exactly_what_the_cap_allows(vendors: Vendors, vendor: str, repeats: int) -> None:
    results = []
    for turn in range(max(1, repeats // 4)):
        run_id = f"threads-{vendor}-{turn}"
        code, out = vendors.site.luigi("ManyThreads", "--vendor", vendor, "--run-id", run_id, module=MODULE)
        assert code == 0, out
        results.append(spent(vendors, vendor, run_id))
    assert Counter(results) == {MOST: len(results)}


@pytest.mark.figures
@combined(
    "vendors vendor", SITES, VENDORS, indirect=["vendors"], chosen=[(HERE, "resend"), (GATEWAY, "twilio")]
)
def test_16_forked_processes_send_exactly_what_the_cap_allows(
    vendors: Vendors, vendor: str, repeats: int
) -> None:
    results = []
    for turn in range(max(1, repeats // 4)):
        run_id = f"forks-{vendor}-{turn}"
        (vendors.site.folder / "out" / f"go-{run_id}").touch()
        code, out = vendors.site.luigi(
            "Race", "--vendor", vendor, "--run-id", run_id, "--workers", "16", module=MODULE
        )
        assert code == 0, out
        results.append(spent(vendors, vendor, run_id))
    assert Counter(results) == {MOST: len(results)}


def mailed(vendors: Vendors, vendor: str, first: int, how: str) -> str:
    """Submit a mailing to `PEOPLE` until all its tasks are complete; return what the last worker said."""
    args = ["Mailing", "--vendor", vendor, "--first", str(first), "--n", str(PEOPLE), "--how", how]
    done = [f"SendAndDie_*{number}_{vendor}_*" for number in range(first, first + PEOPLE)]
    for _ in range(8):
        _, out = vendors.site.luigi(*args, "--workers", "4", module=MODULE)
        if all(list((vendors.site.folder / "out").glob(name)) for name in done):
            return out
    raise AssertionError(out)


def orders(vendors: Vendors, vendor: str, first: int) -> list[int]:
    """Return how many texts or mails the vendor sent to each that a mailing names."""
    return [len(vendors.sent(vendor, f"Your order {number} ")) for number in range(first, first + PEOPLE)]


@combined(
    "vendors vendor how",
    SITES,
    VENDORS,
    ["kill", "raise"],
    indirect=["vendors"],
    chosen=[
        (HERE, "twilio", "kill"),
        (HERE, "resend", "raise"),
        (GATEWAY, "twilio", "raise"),
        (GATEWAY, "resend", "kill"),
    ],
)
def test_every_task_sends_and_dies_and_nobody_gets_two(vendors: Vendors, vendor: str, how: str) -> None:
    first = {"kill": 100, "raise": 200}[how]
    out = mailed(vendors, vendor, first, how)
    tried = [vendors.site.folder / "out" / f"tried-{vendor}-{first + n}" for n in range(PEOPLE)]
    assert all(path.exists() for path in tried), out
    assert orders(vendors, vendor, first) == [1] * PEOPLE


@combined(
    "vendors vendor", SITES, VENDORS, indirect=["vendors"], chosen=[(HERE, "twilio"), (GATEWAY, "resend")]
)
def test_a_lost_reply_sends_nothing_twice(vendors: Vendors, vendor: str) -> None:
    """The vendor has sent it, the connection breaks, the task is tried again."""
    fake = vendors.twilio if vendor == "twilio" else vendors.resend
    match = {"twilio": "POST /api.twilio.com/*/Messages.json", "resend": "POST /emails"}[vendor]
    fake.fault("drop_after", match=match, times=3)
    mailed(vendors, vendor, 300, "raise")
    assert orders(vendors, vendor, 300) == [1] * PEOPLE
