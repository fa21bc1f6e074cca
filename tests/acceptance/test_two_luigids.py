"""Two luigids before one ledger: one cap, one word of a revoke, and work that goes on when one dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.site import FakeStripe, Site

CAP_MINOR = 100_00
TOKEN = "admin-token-of-both-luigids"


class Pair:
    """Two sites with one ledger and one vendor."""

    def __init__(self, folder: Path, *, gateway: bool = False) -> None:
        self.stripe = FakeStripe(folder / "vendor", "--latency", "0.02")
        own = {"admin_token": TOKEN}
        self.one = Site(folder / "one", stripe=self.stripe, gateway=gateway, spendguard=own)
        self.two = Site(folder / "two", stripe=self.stripe, gateway=gateway, start=False, spendguard=own)
        self.two.configure(spendguard={"ledger_url": self.one.settings["spendguard"]["ledger_url"]})
        self.two.start()
        for site in (self.one, self.two):
            site.token = lambda: TOKEN  # type: ignore[method-assign]

    def end(self) -> None:
        """End both, and the vendor."""
        self.one.end()
        self.two.end()
        self.stripe.process.end()


@pytest.fixture(params=[False, True], ids=["worker", "gateway"])
def pair(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path, gateway=request.param)
    yield made
    made.end()


@pytest.mark.figures
def test_workers_of_both_spend_exactly_the_cap(pair: Pair, repeats: int) -> None:
    for turn in range(max(1, repeats // 3)):
        before, run_id = pair.stripe.moved(), f"both-{turn}"
        workers = []
        for site in (pair.one, pair.two):
            (site.folder / "out" / f"go-{run_id}").touch()
            for half in "ab":
                names = ",".join(f"{site.folder.name}{half}{n}" for n in range(4))
                workers.append(site.worker("Race", "--names", names, "--run-id", run_id, "--workers", "4"))
        for worker in workers:
            out, _ = worker.communicate(timeout=120)
            assert worker.returncode == 0, out
        assert pair.stripe.moved() - before == CAP_MINOR
        for site in (pair.one, pair.two):
            run = site.run(run_id)
            assert (run["spent_usd"], run["reserved_usd"], run["overrun_usd"]) == ("100.00", "0.00", "0.00")


def test_when_a_revoke_at_one_has_answered_the_other_sends_nothing(pair: Pair) -> None:
    worker = pair.one.worker("ManyThreads", "--run-id", "stop")
    wait_until(lambda: pair.stripe.moved() >= 300, what="some calls")
    status, said = pair.two.call("DELETE", "/runs/stop")
    sent = len(pair.stripe.posts())
    assert (status, said["state"]) == (200, "revoked")
    time.sleep(1.5)
    assert len(pair.stripe.posts()) == sent
    worker.communicate(timeout=60)
    assert len(pair.stripe.posts()) == sent


def test_a_top_up_at_one_frees_what_waits_at_the_other(pair: Pair) -> None:
    pair.one.configure(spendguard={"on_blocked": "wait"})
    worker = pair.one.worker("Billing", "--n", "3", "--budget-usd", "2", "--run-id", "r")
    wait_until(lambda: pair.stripe.moved() == 200, what="the cap")
    wait_until(lambda: pair.two.run("r")["remaining_usd"] == "0.00", what="the other's books")
    assert pair.two.call("POST", "/runs/r/top_up", {"usd": "1"})[0] == 200
    begun = time.monotonic()
    wait_until(lambda: pair.stripe.moved() == 300, what="the third")
    assert time.monotonic() - begun < 20
    out, _ = worker.communicate(timeout=60)
    assert "This progress looks :)" in out


def test_work_goes_on_at_the_other_when_one_is_killed(pair: Pair) -> None:
    """What was at the vendor is not paid again, and what was in doubt is settled by the next attempt."""
    for site in (pair.one, pair.two):  # Whose sender is gone is known after the vendor's time-out.
        site.restart(spendguard_stripe={"timeout_s": 2}, core={"rpc_retry_wait": 1, "rpc_retry_attempts": 1})
    submit = ("Billing", "--n", "4", "--run-id", "r", "--workers", "2")
    with pair.stripe.holding():
        # Its tasks have nobody to tell how their calls end, and give that up at last.
        worker = pair.one.worker(*submit, IMPATIENT="1")
        wait_until(lambda: len(pair.stripe.posts()) >= 2, what="calls under way")
        before = {request["body"] for request in pair.stripe.posts()}
        assert pair.one.luigid is not None
        pair.one.luigid.kill()
        killed = time.monotonic()
        other = pair.two.worker(*submit)
        wait_until(lambda: {request["body"] for request in pair.stripe.posts()} > before, what="other calls")
        print(f"work went on {time.monotonic() - killed:.2f} s after the kill")  # Shown by `pytest -s`.
        worker.kill()
        worker.communicate(timeout=60)
    out, _ = other.communicate(timeout=60)
    for _ in range(20):
        if "This progress looks :)" in out:
            break
        pair.two.wait_for_retries()
        time.sleep(0.5)
        out = pair.two.luigi(*submit)[1]
    assert "This progress looks :)" in out, out
    assert (pair.stripe.moved(), pair.two.run("r")["spent_usd"]) == (400, "4.00")
