"""What a kill at one step leaves, where the rounds do not look at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.plans import Fault
from tests.faults.points import POINTS, WORKER
from tests.faults.rounds import PIPELINE, FaultySite


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySite]:
    with FaultySite(tmp_path / "site") as site:
        yield site


def test_a_run_whose_worker_could_not_end_it_ends_with_the_next_one(faulty: FaultySite) -> None:
    """It is named by its task: while it is open, the root's next time is answered by what it has paid."""
    [closing] = [point for point in POINTS if point.step == "close asked"]
    faulty.start()
    faulty.arm(Fault(WORKER, closing, 1, "kill"))
    submit = ("PayAll", "--of", "c", "--n", "1", "--workers", "2")
    faulty.luigi(*submit, module=PIPELINE)
    assert faulty.armed() == []
    [run] = faulty.call("GET", "/runs", token=None)[1]
    assert (run["state"], run["spent_usd"]) == ("active", "1.00")
    faulty.luigi(*submit, module=PIPELINE)
    [run] = faulty.call("GET", "/runs", token=None)[1]
    assert (run["state"], run["spent_usd"], faulty.stripe.moved()) == ("ended", "1.00", 100)
