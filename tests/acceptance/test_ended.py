"""A run that has ended while a worker still has tasks of it: those go on, and an operator's word holds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_two_luigids import Pair
from tests.support.processes import wait_until
from tests.support.site import Site

MODULE = "tests.support.outrun"
Ended = Callable[..., tuple[Site, Any, str]]


def ended_at(here: Site, there: Site) -> tuple[subprocess.Popen[str], str]:
    """Let the root of a worker before `here` be complete when it is submitted `there`: its run ends."""
    out = here.folder / "out"
    env = {"module": MODULE, "OUT_DIR": str(out)}
    worker = here.worker("Outrun", ME="first", **env)
    wait_until((out / "began-first").exists, what="the first worker")
    (out / "root").touch()
    code, said = there.luigi("Outrun", ME="second", **env)
    assert code == 0, said
    (run,) = there.call("GET", "/runs")[1]
    assert run["state"] == "ended"
    return worker, run["run_id"]


def has_heard(here: Site, there: Site) -> None:
    """Wait until one luigid's gate has heard of all that the other has written until now."""
    marker = {"name": "marker", "root_family": "M", "root_task_id": "M_1", "by_task_id": False}
    assert there.call("POST", "/api/spend_open_run", {**marker, "budget_usd": None})[0] == 200
    wait_until(lambda: here.run("marker")["expected_usd"] is not None, what="the other luigid's news")


def go_on(site: Site, worker: subprocess.Popen[str], me: str = "first") -> str:
    """Let a worker go on to its vendor tasks; return what it said until its end."""
    (site.folder / "out" / f"go-{me}").touch()
    try:
        return worker.communicate(timeout=60)[0]
    except subprocess.TimeoutExpired:
        worker.terminate()
        raise AssertionError(f"the worker hangs: {worker.communicate()[0][-3000:]}") from None


def submitted_again(site: Site) -> str:
    """Let the root be incomplete, run it, and return its run."""
    for path in (site.folder / "out").iterdir():
        if not path.name.startswith("go-"):
            path.unlink()
    code, said = site.luigi("Outrun", module=MODULE, ME="first")
    assert code == 0, said
    last: str = site.call("GET", "/runs")[1][0]["run_id"]
    return last


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Ended]:
    sites: list[Site] = []

    def start(**settings: object) -> tuple[Site, subprocess.Popen[str], str]:
        sites.append(site := Site(tmp_path / "site", spendguard=settings))
        return site, *ended_at(site, site)

    yield start
    for site in sites:
        site.end()


def test_a_revoke_holds_for_who_has_tasks_of_it(ended: Ended) -> None:
    site, worker, run_id = ended()
    code, out, err = site.cli("revoke", run_id)
    assert (code, err) == (0, "")
    assert "Its root had completed: what is submitted after that opens another run." in out
    go_on(site, worker)
    assert (site.stripe.moved(), site.run(run_id)["state"]) == (0, "revoked")
    assert site.call("POST", f"/runs/{run_id}/top_up", {"usd": "1"})[0] == 409
    assert submitted_again(site) == f"{run_id}~2"
    assert site.stripe.moved() == 500
    code, out, _ = site.cli("revoke", run_id)
    assert code == 0
    assert f"is run {run_id}~2 by now: `spendguard revoke '{run_id}~2'` ends that one, too." in out
    assert site.run(f"{run_id}~2")["state"] == "ended"


@pytest.mark.parametrize("restarted", [False, True], ids=["luigid lives", "luigid is restarted"])
def test_what_was_announced_before_goes_on_in_it(ended: Ended, restarted: bool) -> None:
    site, worker, run_id = ended(forecast="hold", on_blocked="wait")
    if restarted:
        site.restart()
    said = go_on(site, worker)
    assert (site.stripe.moved(), site.run(run_id)["spent_usd"]) == (500, "5.00"), said
    assert [run["run_id"] for run in site.call("GET", "/runs")[1]] == [run_id]


def test_its_cap_holds_and_can_be_raised(ended: Ended) -> None:
    site, worker, run_id = ended(default_cap_usd="2", on_blocked="wait")
    (site.folder / "out" / "go-first").touch()
    wait_until(lambda: site.run(run_id)["blocked_tasks"] == {"cap": 3}, what="the cap")
    assert (site.stripe.moved(), site.run(run_id)["state"]) == (200, "ended")
    code, out, err = site.cli("top-up", run_id, "3")
    assert (code, err) == (0, ""), out
    assert "Freed 3 of 3 blocked tasks." in out
    go_on(site, worker)
    assert (site.stripe.moved(), site.run(run_id)["spent_usd"]) == (500, "5.00")


@pytest.mark.both_engines
@pytest.mark.parametrize("revoked", [False, True], ids=["goes on", "revoked"])
def test_of_a_run_that_has_ended_before_another_luigid(tmp_path: Path, revoked: bool) -> None:
    pair = Pair(tmp_path, gateway=False)
    try:
        for site in (pair.one, pair.two):
            site.restart(spendguard={"forecast": "hold", "on_blocked": "wait"})
        worker, run_id = ended_at(pair.one, pair.two)
        if revoked:
            assert pair.two.call("DELETE", f"/runs/{run_id}")[0] == 200
        has_heard(pair.one, pair.two)
        said = go_on(pair.one, worker)
        assert pair.stripe.moved() == (0 if revoked else 500), said
        assert [run["state"] for run in pair.in_list(run_id)] == ["revoked" if revoked else "ended"] * 2
    finally:
        pair.end()
