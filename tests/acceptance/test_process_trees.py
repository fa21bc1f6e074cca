"""A task's processes end with it: when its run is revoked, and when they end by themselves without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.test_shapes import charged
from tests.acceptance.test_started import METHODS, started
from tests.support.combinations import further
from tests.support.processes import read_until, wait_until
from tests.support.site import SECRET, Site


def begun(site: Site, root: str, *more: str) -> subprocess.Popen[str]:
    """Start a pipeline of two worker processes."""
    (site.folder / "out" / "secret").write_text(SECRET)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.started", "fork", root, *more],
        cwd=site.folder,
        text=True,
        env=site.environment(STRIPE_BASE=site.stripe.url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def sleepers(site: Site) -> list[int]:
    path = site.folder / "out" / "naps"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def revoked(site: Site, worker: subprocess.Popen[str], when: Callable[[], bool]) -> str:
    """Revoke the run then; return what the worker said."""
    try:
        wait_until(when, what="the task's processes")
        assert site.call("DELETE", "/runs/nap")[0] == 200
        return worker.communicate(timeout=60)[0]  # By themselves they nap for five minutes.
    finally:
        worker.kill()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="asks /proc who is alive")
@pytest.mark.parametrize("method", METHODS)
def test_a_pool_ends_with_its_revoked_task(site: Site, method: str) -> None:
    worker = begun(site, "Napping", f"method={method}")
    said = revoked(site, worker, lambda: len(sleepers(site)) == 3)
    assert "the run is revoked" in said
    wait_until(lambda: not [pid for pid in sleepers(site) if is_alive(pid)], what="the end of the pool")


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="asks /proc who is alive")
def test_a_pool_that_does_not_care_is_killed_with_its_task(site: Site) -> None:
    site.configure(**{f"spendguard_{name}": {"timeout_s": 1} for name in ("stripe", "twilio", "resend")})
    worker = begun(site, "Napping", "method=fork", "deaf=True")
    said = revoked(site, worker, lambda: len(sleepers(site)) == 3)
    assert "it is killed" in said
    assert "the run is revoked" in said
    wait_until(lambda: not [pid for pid in sleepers(site) if is_alive(pid)], what="the end of the pool")


@pytest.mark.parametrize("method", [further(one) if one == "forkserver" else one for one in METHODS])
def test_a_call_under_way_in_a_pool_ends_first_and_is_booked(site: Site, method: str) -> None:
    worker = begun(site, "Charging", f"method={method}")
    try:
        with site.stripe.holding():
            wait_until(lambda: bool(site.stripe.posts()), what="the call")
            assert site.call("DELETE", "/runs/nap")[0] == 200
            read_until(worker, "is asked to end")
        worker.communicate(timeout=110)
    finally:
        worker.kill()
    assert charged(site) == {"c_0": 1}
    assert [call["state"] for call in site.calls("nap") if call["verdict"] == "allowed"] == ["settled"]


@pytest.mark.parametrize("root", ["Exits", "PlainExits"])
def test_a_task_whose_process_ends_without_a_word_has_failed(site: Site, root: str) -> None:
    said = started(site, "fork", root)
    assert "ended its process without a result" in said
    assert "1 failed" in said
    assert len(charged(site)) == 1
