"""How forked children end: asked to, killed, or out of time; and what their worker then says of them."""

from __future__ import annotations

import subprocess
import sys

from tests.acceptance.test_shapes import SHAPES, charged
from tests.acceptance.test_stopping import ended, lines
from tests.support.processes import read_until, wait_until
from tests.support.site import Site

TROUBLED = "tests.support.troubled"


def test_a_revoke_that_reaches_a_child_before_its_claim_blocks_the_task(site: Site) -> None:
    """A local scheduler knows that the task was dispatched: its child still looks for its inputs."""
    site.configure(spendguard={"forecast": "off"})
    worker = site.worker(
        "AfterSlowInput", "--run-id", "r", "--workers", "2", "--local-scheduler", module=TROUBLED
    )
    wait_until(lambda: len(set(lines(site, "asked"))) == 2, what="the child")
    assert site.call("DELETE", "/runs/r")[0] == 200
    read_until(worker, "is asked to end")
    (site.folder / "out" / "go").touch()
    out = ended(worker)
    assert "1 task blocked: the run is revoked" in out
    assert "died unexpectedly" not in out
    assert charged(site) == {}


def test_a_killed_tasks_next_attempt_fails_on_its_own_account(site: Site) -> None:
    """Killed for a revoked run, the task that both roots need runs again for the other's, and fails."""
    site.configure(spendguard_stripe={"timeout_s": 1})
    code = "import luigi; luigi.build([DeafRoot(run_id='r1'), OtherDeafRoot(run_id='r2')], workers=2)"
    with subprocess.Popen(
        [sys.executable, "-c", f"from tests.support.troubled import *\n{code}"],
        cwd=site.folder,
        text=True,
        env=site.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    ) as worker:
        wait_until(lambda: bool(lines(site, "deaf")), what="the task")
        (first,) = [run_id for run_id in ("r1", "r2") if site.calls(run_id)]
        site.call("DELETE", f"/runs/{first}")
        try:
            out = ended(worker)
        finally:
            worker.kill()
    assert "it is killed" in out
    assert len(lines(site, "deaf")) == 2
    assert "1 failed" in out.split("===== Luigi Execution Summary =====")[1], out


def test_a_task_that_was_killed_is_not_taken_for_failed_when_it_runs_again(site: Site) -> None:
    """Luigi says more than once that a child is dead, and reads the rest when the next one is at work."""
    (site.folder / "out" / "kill-cus_1").touch()
    args = ("--customer", "cus_1", "--workers", "2", "--local-scheduler", "--worker-keep-alive")
    code, out = site.luigi("Charge", *args, module="tests.support.twice_dead_pipeline")
    assert code == 0, out
    with site.books() as books:
        ends = [row["outcome"] for row in books.all("SELECT outcome FROM claim ORDER BY rowid")]
    assert ends == ["died", "completed"], out
    assert charged(site) == {"cus_1": 1}


def test_the_call_of_a_task_that_is_out_of_time_is_in_doubt_at_once(site: Site) -> None:
    """Luigi ends it by itself (`[worker] timeout`); else its call would be pending for 82 s."""
    site.configure(worker={"timeout": 4})
    site.stripe.fault("hang", seconds=20)
    _, out = site.luigi("List", "--n", "1", "--run-id", "r", "--workers", "2", module=SHAPES)
    assert "timed out after 4 seconds" in out
    (call,) = site.calls("r")
    assert (call["state"], call["reserved_usd"]) == ("in_doubt", "1.00")
