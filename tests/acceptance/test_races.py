"""The cap under races, judged by the vendor's own books: exactly $100, every time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.site import FakeStripe, Site

CAP_MINOR = 100_00

pytestmark = [pytest.mark.figures, pytest.mark.timeout(1200)]


def running(folder: Path, gateway: bool) -> Iterator[Site]:
    stripe = FakeStripe(folder / "vendor", "--latency", "0.05")
    with Site(folder / "site", stripe=stripe, gateway=gateway, worker={"ping_interval": 0.5}) as site:
        yield site
    stripe.process.end()


@pytest.fixture(scope="module")
def races(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from running(tmp_path_factory.mktemp("races"), gateway=False)


@pytest.fixture(scope="module")
def relayed(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose luigid is the gateway: the workers hold no secret."""
    yield from running(tmp_path_factory.mktemp("relayed"), gateway=True)


def spent(site: Site, run_id: str, vendor_before: int) -> int:
    """Return what the vendor counted for a run, and check that our books say the same."""
    moved = site.stripe.moved() - vendor_before
    run = site.run(run_id)
    assert run["reserved_usd"] == "0.00"
    assert float(run["spent_usd"]) * 100 == moved
    return moved


def threads(site: Site, repeats: int) -> Counter[int]:
    results = []
    for turn in range(repeats):
        before = site.stripe.moved()
        code, out = site.luigi("ManyThreads", "--run-id", f"threads-{turn}")
        assert code == 0, out
        results.append(spent(site, f"threads-{turn}", before))
    return Counter(results)


def forks(site: Site, repeats: int) -> Counter[int]:
    names = ",".join(str(n) for n in range(16))
    results = []
    for turn in range(repeats):
        before = site.stripe.moved()
        run_id = f"forks-{turn}"
        (site.folder / "out" / f"go-{run_id}").touch()
        code, out = site.luigi("Race", "--names", names, "--run-id", run_id, "--workers", "16")
        assert code == 0, out
        results.append(spent(site, run_id, before))
    return Counter(results)


def test_64_threads_spend_exactly_the_cap(races: Site, repeats: int) -> None:
    assert threads(races, repeats) == {CAP_MINOR: repeats}


def test_16_forked_processes_spend_exactly_the_cap(races: Site, repeats: int) -> None:
    assert forks(races, repeats) == {CAP_MINOR: repeats}


def test_64_threads_spend_exactly_the_cap_through_the_gateway(relayed: Site, repeats: int) -> None:
    turns = max(1, repeats // 4)
    assert threads(relayed, turns) == {CAP_MINOR: turns}


def test_16_forked_processes_spend_exactly_the_cap_through_the_gateway(relayed: Site, repeats: int) -> None:
    turns = max(1, repeats // 4)
    assert forks(relayed, turns) == {CAP_MINOR: turns}


def test_4_worker_processes_spend_exactly_the_cap(races: Site, repeats: int) -> None:
    results = []
    for turn in range(repeats):
        before = races.stripe.moved()
        run_id = f"workers-{turn}"
        workers = [
            races.worker(
                "Race", "--names", ",".join(f"{w}{n}" for n in range(4)), "--run-id", run_id, "--workers", "4"
            )
            for w in "abcd"
        ]
        (races.folder / "out" / f"go-{run_id}").touch()
        for worker in workers:
            out, _ = worker.communicate(timeout=120)
            assert worker.returncode == 0, out
        results.append(spent(races, run_id, before))
    assert Counter(results) == {CAP_MINOR: repeats}


def test_no_request_reaches_the_vendor_after_revoke_has_answered(races: Site, repeats: int) -> None:
    names = ",".join(str(n) for n in range(8))
    cap_usd = 100_000  # More than they can charge until it is revoked, however busy the machine.
    late, revoked = [], []
    for turn in range(repeats):
        run_id = f"revoke-{turn}"
        before = races.stripe.moved()
        (races.folder / "out" / f"go-{run_id}").touch()
        submit = ("Race", "--names", names, "--run-id", run_id, "--workers", "8")
        worker = races.worker(*submit, "--budget-usd", str(cap_usd))
        wait_until(lambda before=before: races.stripe.moved() - before >= 1500, what="charging")
        status, answer = races.call("DELETE", f"/runs/{run_id}")
        answered = time.monotonic()
        assert (status, answer["state"]) == (200, "revoked")
        worker.communicate(timeout=120)
        late += [r for r in races.stripe.posts() if r["time"] > answered]
        revoked.append(answer["calls_under_way"])
        assert races.stripe.moved() - before < cap_usd * 100, "the race was over before it was revoked"
        wait_until(lambda run_id=run_id: races.run(run_id)["reserved_usd"] == "0.00")
    assert late == []
    assert len(revoked) == repeats
