"""With what is handed out luigid names the roots among it, each with the run that ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.protocol.rpcs import CloseRunRequest, OpenRunRequest
from tests.support.luigids import Luigid


@pytest.fixture
def luigid(tmp_path: Path) -> Iterator[Luigid]:
    made = Luigid(tmp_path)
    yield made
    made.end()


def opened(luigid: Luigid, root: str) -> str:
    """Open the run of a root that has no run_id."""
    run_id: str = luigid.do(luigid.service.open_run(OpenRunRequest(root, True, "Root", root))).run_id
    return run_id


def handed_out(luigid: Luigid, **tasks: Any) -> dict[str, str | None] | None:
    """Let a worker add plain tasks; return the roots that the first reply names."""
    for task_id, said in tasks.items():
        luigid.scheduler.add_task(task_id=task_id, worker="w", family="Root", **said)
    roots: dict[str, str | None] | None = luigid.scheduler.get_work(worker="w", host="h").get(
        "spendguard_roots"
    )
    return roots


def test_the_run_that_a_root_has_now(luigid: Luigid) -> None:
    opened(luigid, "root")
    luigid.do(luigid.service.close_run(CloseRunRequest("root", "root", None)))
    assert opened(luigid, "root") == "root~2"
    assert handed_out(luigid, root={}) == {"root": "root~2"}


def test_each_of_a_batch(luigid: Luigid) -> None:
    luigid.scheduler.add_task_batcher(worker="w", task_family="Root", batched_args=["p"])
    for root in ("a", "c"):
        opened(luigid, root)
    batched = {task_id: {"params": {"p": task_id}, "batchable": True} for task_id in "abc"}
    assert handed_out(luigid, **batched) == {"a": "a", "c": "c"}


def test_one_that_nobody_has_opened_yet(luigid: Luigid) -> None:
    luigid.add("root", "root")
    assert handed_out(luigid) == {"root": None}


def test_nothing_of_what_is_no_root(luigid: Luigid) -> None:
    opened(luigid, "root")
    assert handed_out(luigid, plain={}) is None
