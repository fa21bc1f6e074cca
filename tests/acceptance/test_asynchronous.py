"""An asyncio program inside `run()`: the cap holds to the cent, in the worker's process and in a fork."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import read_until, wait_until
from tests.support.site import Site


def lines(folder: Path) -> list[str]:
    return (folder / "out" / "asynchronous").read_text().split()


@pytest.mark.parametrize("workers", [1, 2])
def test_fifty_calls_at_once_spend_the_cap_and_no_more(unstarted: Site, workers: int) -> None:
    site = unstarted
    site.restart(spendguard_caps={"Asynchronous": 30})
    code, out = site.luigi("Asynchronous", "--run-id", "r", "--workers", str(workers))
    assert code == 0, out
    said = lines(site.folder)
    assert (said.count("succeeded"), said.count("denied")) == (30, 20)
    assert site.stripe.moved() == 3000
    assert len({entry["customer"] for entry in site.stripe.books()["moved"]}) == 30
    run = site.run("r")
    assert (run["spent_usd"], run["reserved_usd"], run["remaining_usd"]) == ("30.00", "0.00", "0.00")
    verdicts = [call["verdict"] for call in site.calls("r")]
    assert (verdicts.count("allowed"), verdicts.count("denied:cap")) == (30, 20)


def test_revoke_lets_the_calls_of_an_event_loop_end_first(site: Site) -> None:
    with site.stripe.holding():
        worker = site.worker("InFlight", "--run-id", "r", "--workers", "2")
        wait_until(lambda: len(site.stripe.posts()) == 5, what="the calls")
        assert site.call("DELETE", "/runs/r")[0] == 200
        read_until(worker, "is asked to end")
    out, _ = worker.communicate(timeout=60)  # By itself it would go on for two minutes.
    assert (site.folder / "out" / "ended").read_text().split() == ["KeyRevoked"], out
    assert site.stripe.moved() == 500
    assert [(call["state"], call["spent_usd"]) for call in site.calls("r")] == [("settled", "1.00")] * 5
