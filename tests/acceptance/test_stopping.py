"""Revoke stops for real: running forked tasks end, their call in flight first; others are untouched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.test_shapes import SHAPES, charged
from tests.support.processes import read_until, wait_until
from tests.support.shapes import run_build
from tests.support.site import Site


def lines(site: Site, name: str) -> list[str]:
    path = site.folder / "out" / name
    return path.read_text().splitlines() if path.exists() else []


def ended(worker: subprocess.Popen[str], seconds: float = 100) -> str:
    out, _ = worker.communicate(timeout=seconds)
    return out


def test_running_forked_tasks_end_and_are_blocked_not_failed(site: Site) -> None:
    site.configure(worker={"keep_alive": "true"})
    worker = site.worker(
        "Several", "--family", "Slow", "--names", "a,b", "--run-id", "r", "--workers", "2", module=SHAPES
    )
    wait_until(lambda: len(lines(site, "slow")) == 2, what="both tasks")
    begun = time.monotonic()
    assert site.call("DELETE", "/runs/r")[0] == 200
    out = ended(worker)
    assert time.monotonic() - begun < 60, "by themselves they end after 120 s"
    assert "2 tasks blocked: the run is revoked" in out
    assert "failed" not in out.split("===== Luigi Execution Summary =====")[1]
    assert site.stripe.moved() == 200
    assert not [line for line in lines(site, "events") if line.startswith("failure")]
    assert len([line for line in lines(site, "events") if line.startswith("task_blocked Slow")]) == 2


def test_the_call_in_flight_ends_first_and_is_booked(site: Site) -> None:
    args = ("Several", "--family", "Calling", "--names", "a", "--run-id", "r", "--workers", "2")
    with site.stripe.holding():
        worker = site.worker(*args, module=SHAPES)
        wait_until(lambda: bool(site.stripe.posts()), what="the call")
        assert site.call("DELETE", "/runs/r")[0] == 200
        read_until(worker, "is asked to end")
    ended(worker)
    assert charged(site) == {"calling_a": 1}
    (call,) = site.calls("r")
    assert (call["state"], call["spent_usd"]) == ("settled", "1.00")
    assert lines(site, "ended")[-1].endswith("KeyRevoked")


def test_one_that_does_not_care_is_killed_after_a_grace(site: Site) -> None:
    site.configure(spendguard_stripe={"timeout_s": 1})
    worker = site.worker(
        "Several",
        "--family",
        "Slow",
        "--names",
        "a",
        "--run-id",
        "r",
        "--workers",
        "2",
        "--Slow-stubborn",
        module=SHAPES,
    )
    wait_until(lambda: bool(lines(site, "slow")), what="the task")
    site.call("DELETE", "/runs/r")
    out = ended(worker)
    assert "it is killed" in out
    assert "1 task blocked: the run is revoked" in out
    assert "failed" not in out.split("===== Luigi Execution Summary =====")[1]


def test_another_run_on_the_same_worker_is_untouched(site: Site) -> None:
    code = "build(Several('Slow', 'a', run_id='r1'), Several('Charge', 'x', run_id='r2'), Plain(), workers=2)"
    environment = site.environment()
    worker = subprocess.Popen(
        [sys.executable, "-c", f"from tests.support.shapes import *\n{code}"],
        cwd=site.folder,
        text=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    wait_until(lambda: bool(lines(site, "slow")), what="the task")
    site.call("DELETE", "/runs/r1")
    out = ended(worker)
    assert charged(site) == {"slow_a": 1, "x": 1}, out
    assert list((site.folder / "out").glob("Plain_*")), out


def test_an_in_process_task_is_denied_at_its_next_call(site: Site) -> None:
    with site.stripe.holding():
        worker = site.worker("YieldsOne", "--name", "n", module=SHAPES)
        wait_until(lambda: bool(site.stripe.posts()), what="the call")
        run_id = site.call("GET", "/runs", token=None)[1][0]["run_id"]
        site.call("DELETE", f"/runs/{run_id}")
    out = ended(worker)
    assert charged(site) == {"before_n": 1}
    assert "the run is revoked" in out


def test_with_kill_on_revoke_off_a_running_task_goes_on_without_calls(unstarted: Site) -> None:
    site = unstarted
    site.restart(spendguard={"kill_on_revoke": "false"})
    worker = site.worker(
        "Several", "--family", "Slow", "--names", "a", "--run-id", "r", "--workers", "2", module=SHAPES
    )
    wait_until(lambda: bool(lines(site, "slow")), what="the task")
    site.call("DELETE", "/runs/r")
    site.until_answered("ping", 4)  # By which it is told of revoked runs whose tasks are to be ended.
    assert worker.poll() is None
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()


def test_a_worker_is_told_again_when_luigid_was_restarted_meanwhile(site: Site) -> None:
    worker = site.worker(
        "Several", "--family", "Slow", "--names", "a", "--run-id", "r", "--workers", "2", module=SHAPES
    )
    wait_until(lambda: bool(lines(site, "slow")), what="the task")
    assert site.luigid is not None
    worker.send_signal(signal.SIGSTOP)
    site.call("DELETE", "/runs/r")
    site.luigid.kill()
    site.start()
    worker.send_signal(signal.SIGCONT)
    ended(worker)
    assert site.stripe.moved() == 100


def test_a_local_schedulers_tasks_end_when_another_process_revokes_the_run(site: Site) -> None:
    worker = site.worker(
        "Several",
        "--family",
        "Slow",
        "--names",
        "a",
        "--run-id",
        "r",
        "--workers",
        "2",
        "--local-scheduler",
        module=SHAPES,
    )
    wait_until(lambda: bool(lines(site, "slow")), what="the task")
    assert site.call("DELETE", "/runs/r")[0] == 200
    assert "the run is revoked" in ended(worker)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_revoked_run_is_not_dispatched_by_any_old_door(site: Site, workers: int) -> None:
    (Path(site.folder) / "out" / "die").touch()
    site.luigi("Billing", "--n", "2", "--run-id", "r", "--workers", str(workers))
    (Path(site.folder) / "out" / "die").unlink()
    site.call("DELETE", "/runs/r")
    tasks = site.rpc("task_list", status="", upstream_status="")
    for task_id in tasks:
        for door in ("re_enable_task", "forgive_failures"):
            site.rpc(door, task_id=task_id)
    site.wait_for_retries()
    site.rpc("prune")
    site.luigi("Billing", "--n", "2", "--run-id", "r", "--workers", str(workers))
    done = run_build(site.folder, site.environment(), "build(Several('Charge', 'cus_0,cus_1', run_id='r'))")
    assert done.returncode == 0
    assert site.stripe.moved() == 200
