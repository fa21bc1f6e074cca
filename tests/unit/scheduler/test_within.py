"""A worker that runs within a task never waits for the money that is set aside for that task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.protocol.operators import TopUpRequest
from scheduler_patch.service import operators
from tests.support.gates import blocked
from tests.support.luigids import Luigid


@pytest.fixture
def luigid(tmp_path: Path) -> Iterator[Luigid]:
    found = Luigid(tmp_path)
    found.run()
    found.add("outer", worker="w", cost="10")
    assert found.work("w") == "outer"
    yield found
    found.end()


def pending(luigid: Luigid, worker: str, *within: str) -> int:
    """Let a worker add a task of $1; return how many tasks it is told to wait for."""
    luigid.add("inner", worker=worker, cost="1")
    luigid.scheduler.add_worker(worker, [("spendguard_within", list(within)), ("first_task", "inner")])
    said = luigid.scheduler.get_work(worker=worker, host="h")
    assert said["task_id"] is None
    return int(said["n_pending_tasks"])


def test_it_is_blocked_and_told_why(luigid: Luigid) -> None:
    assert pending(luigid, "within", "outer") == 0
    why = blocked(luigid.scheduler, "within")["inner"]
    assert (why.run_id, why.code) == ("r", "within")


@pytest.mark.parametrize("within", [(), ("another",)])
def test_any_other_worker_waits(luigid: Luigid, within: tuple[str, ...]) -> None:
    assert pending(luigid, "beside", *within) == 1
    assert blocked(luigid.scheduler, "beside") == {}


def test_it_goes_on_once_the_run_has_more(luigid: Luigid) -> None:
    pending(luigid, "within", "outer")
    luigid.do(operators.top_up(luigid.service, TopUpRequest("r", "1")))
    assert luigid.work("within") == "inner"
