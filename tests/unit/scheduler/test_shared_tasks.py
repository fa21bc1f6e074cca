"""A task that two workers need is shown as shared in both of their runs, whenever the second one comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.luigids import Luigid


@pytest.fixture
def luigid(tmp_path: Path) -> Iterator[Luigid]:
    made = Luigid(tmp_path)
    for run_id in ("r", "r2", "r3"):
        made.run(run_id)
    yield made
    made.end()


def shared(luigid: Luigid, *run_ids: str) -> None:
    """Assert that exactly these runs show the one task, paid by `r`."""
    for run_id in ("r", "r2", "r3"):
        found = [(t["paid_by"], t["runs"]) for t in luigid.shown(run_id)["shared_tasks"]]
        assert found == ([("r", list(run_ids))] if run_id in run_ids else []), run_id


def test_one_that_comes_before_it_is_claimed(luigid: Luigid) -> None:
    luigid.add("a")
    luigid.work()
    luigid.add("a", "r2", "w2")
    luigid.claim("a")
    shared(luigid, "r", "r2")


def test_one_that_comes_while_it_runs(luigid: Luigid) -> None:
    luigid.add("a")
    luigid.work()
    luigid.claim("a")
    luigid.add("a", "r2", "w2")
    shared(luigid, "r", "r2")
    luigid.add("a", "r3", "w3")
    shared(luigid, "r", "r2", "r3")


def test_one_that_comes_between_two_attempts(luigid: Luigid) -> None:
    luigid.add("a")
    luigid.work()
    luigid.fail(luigid.claim("a"))
    luigid.add("a", "r2", "w2")
    luigid.scheduler.forgive_failures(task_id="a")
    assert luigid.work("w2") == "a"
    assert luigid.claim("a", "w2").run_id == "r"
    shared(luigid, "r", "r2")


def test_one_that_needs_a_member_of_a_running_batch(luigid: Luigid) -> None:
    luigid.scheduler.add_task_batcher(worker="w", task_family="V", batched_args=["p"], max_batch_size=2)
    for task_id in ("a", "b"):
        luigid.add(task_id, params={"p": task_id}, batchable=True)
    reply = luigid.scheduler.get_work(worker="w", host="h")
    luigid.scheduler.add_task(
        task_id="ab",
        worker="w",
        family="V",
        batch_id=reply["batch_id"],
        status="RUNNING",
        params={"p": "a,b"},
    )
    luigid.claim("ab")
    luigid.add("b", "r2", "w2")
    shared(luigid, "r", "r2")
