"""A run that has ended goes on at the gate for the workers that announced tasks in it, for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.protocol.rpcs import CloseRunRequest, OpenRunRequest
from scheduler_patch.dispatch import READY, workers
from scheduler_patch.service import operators
from tests.support.luigids import USD, Luigid

R = "R_1"


@pytest.fixture
def luigid(tmp_path: Path) -> Iterator[Luigid]:
    made = Luigid(tmp_path, forecast="hold")
    submitted(made, "w")
    yield made
    made.end()


def submitted(luigid: Luigid, worker: str, *tasks: str, of: str | None = None) -> str:
    """Let a worker open the root's run and announce tasks in it, or in run `of`; return the run."""
    run_id: str = of or luigid.do(luigid.service.open_run(OpenRunRequest(R, True, "R", R))).run_id
    for task_id in tasks or ("a",):
        luigid.add(task_id, run_id, worker, "3")
    luigid.scheduler.add_worker(worker, [("first_task", "a")])
    return run_id


def done(luigid: Luigid) -> None:
    assert luigid.work() == "a"
    luigid.scheduler.add_task(task_id="a", worker="w", status="DONE")


def close(luigid: Luigid) -> None:
    assert luigid.do(luigid.service.close_run(CloseRunRequest(R, R, "once"))).closed


def test_its_tasks_run_and_count_in_it(luigid: Luigid) -> None:
    close(luigid)
    assert luigid.work() == "a"
    attempt = luigid.claim("a")
    assert (attempt.run_id, luigid.counted(R)) == (R, 3 * USD)
    assert luigid.call(attempt, 3).verdict == "allowed"
    assert luigid.shown(R)["spent_usd"] == "3.00"


def test_a_revoke_holds_them(luigid: Luigid) -> None:
    close(luigid)
    luigid.do(operators.revoke(luigid.service, R))
    assert luigid.gate.verdict("a", "w") == "revoked"
    assert luigid.work() is None


@pytest.mark.parametrize("revoked", [False, True], ids=["ended", "revoked since"])
def test_the_next_submission_is_another_run(luigid: Luigid, revoked: bool) -> None:
    close(luigid)
    if revoked:
        luigid.do(operators.revoke(luigid.service, R))
    assert submitted(luigid, "later") == f"{R}~2"
    assert luigid.gate.paying_run("a", "later") == f"{R}~2"
    assert luigid.gate.paying_run("a", "w") == (f"{R}~2" if revoked else R)
    assert luigid.work("later") == "a"
    assert luigid.claim("a", "later").run_id == f"{R}~2"


def test_what_the_root_completes_next_ends_the_next_run(luigid: Luigid) -> None:
    close(luigid)
    submitted(luigid, "later", "b")
    luigid.scheduler.add_task(task_id=R, worker="later", family="R")
    reply = luigid.scheduler.get_work(worker="later", host="h", current_tasks=["b"])
    while reply["task_id"] != R:
        reply = luigid.scheduler.get_work(worker="later", host="h", current_tasks=["b"])
    assert reply["spendguard_roots"] == {R: f"{R}~2"}


def test_it_is_forgotten_with_the_last_task(luigid: Luigid) -> None:
    close(luigid)
    assert R in luigid.gate.state.runs
    done(luigid)
    assert R not in luigid.gate.state.runs


def test_it_is_forgotten_with_the_last_worker(luigid: Luigid) -> None:
    close(luigid)
    workers.lose_workers(luigid.gate.state, ["w"])
    assert R not in luigid.gate.state.runs


def test_what_is_yielded_after_that_goes_on_in_it_too(luigid: Luigid) -> None:
    close(luigid)
    done(luigid)
    submitted(luigid, "w", "b", of=R)
    assert luigid.work() == "b"
    attempt = luigid.claim("b")
    assert (attempt.run_id, luigid.call(attempt, 3).verdict) == (R, "allowed")


@pytest.mark.parametrize("opened", [False, True], ids=["no run", "the next run"])
def test_a_worker_without_the_plugin_means_the_next_run(luigid: Luigid, opened: bool) -> None:
    """It only knows the root's name, which is the first run's id."""
    close(luigid)
    if opened:
        submitted(luigid, "later", "b")
    luigid.gate.state.rules.vendor_tasks = ("V",)
    luigid.scheduler.add_task(task_id="s", worker="stock", family="V")
    luigid.scheduler.add_task(task_id=R, worker="stock", family="R", deps=["s"])
    luigid.scheduler.add_worker("stock", [("first_task", R)])
    assert luigid.gate.state.run(R) is not None
    assert luigid.gate.verdict("s", "stock") == (READY if opened else "forecast")
    assert luigid.gate.paying_run("s", "stock") == (f"{R}~2" if opened else R)
    if opened:
        assert luigid.work("stock") == "s"
        assert luigid.claim("s", "stock").run_id == f"{R}~2"


@pytest.mark.parametrize("ends", ["before", "meanwhile"])
def test_it_is_known_after_a_restart(luigid: Luigid, ends: str) -> None:
    if ends == "before":
        close(luigid)
    luigid.scheduler.dump()
    if ends == "meanwhile":
        close(luigid)
    luigid.service.close()
    luigid.start(load=True)
    assert luigid.work() == "a"
    assert luigid.claim("a").run_id == R
