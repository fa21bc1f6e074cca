"""Pipelines whose children are forked, spawned or made by a forkserver: guarded, whatever the scheduler."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from statistics import median

import pytest

from tests.acceptance.test_shapes import charged
from tests.support.combinations import combined
from tests.support.site import SECRET, Site

METHODS = multiprocessing.get_all_start_methods()
KINDS = ["remote", "local", "gateway"]


def started(site: Site, method: str, root: str, *more: str, secret: str = SECRET) -> str:
    """Run a pipeline in a program of its own; return all that it said."""
    (site.folder / "out" / "secret").write_text(secret)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.started", method, root, *more],
        cwd=site.folder,
        timeout=120,
        env=site.environment(STRIPE_BASE=site.stripe.url),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def here(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(kind)
    with Site(folder, gateway=kind == "gateway", start=kind != "local") as site:
        yield site


@combined(
    "kind method",
    KINDS,
    METHODS,
    indirect=["kind"],
    chosen=[("remote", "fork"), ("local", "fork"), ("local", "spawn"), ("gateway", "forkserver")],
)
def test_plain_vendor_and_threaded_tasks(here: Site, kind: str, method: str) -> None:
    said = started(here, method, "All", *(["--local"] if kind == "local" else []))
    threads = {f"thread_x_{number}": 1 for number in range(3)}
    assert charged(here) == {"own_a": 1, "own_b": 1, **threads}, said
    assert "This progress looks :)" in said
    assert "_thread.lock" not in said


@combined("local workers", [True, False], ["1", "2"], chosen=[(True, "1"), (True, "2"), (False, "2")])
def test_many_builds_of_a_process_leave_nothing_behind(site: Site, local: bool, workers: str) -> None:
    said = started(site, "fork", "Vendor", "--builds", "15", "--workers", workers, *["--local"] * local)
    flat = [[int(n) for n in line.split()[1:]] for line in said.splitlines() if line.startswith("FLAT")]
    assert len(flat) == 15
    # The first builds make what stays for good (pools, imports); nothing is left behind by any later one. A
    # connection may be closed just then, so that a build shows less than is there as a rule.
    early = [median(column) for column in zip(*flat[2:8], strict=True)]
    late = [min(column) for column in zip(*flat[9:], strict=True)]
    assert all(after <= before for before, after in zip(early, late, strict=True)), f"threads, files: {flat}"
    assert len(charged(site)) == 15


NOTEBOOK = """
import asyncio, luigi
from tests.support.started import Vendor

async def cell():
    return luigi.build([Vendor(name)], local_scheduler=True, workers=workers)

for name, workers in (("one", 1), ("two", 2)):
    assert asyncio.run(cell())
"""


def test_a_build_where_an_event_loop_runs_ends(site: Site) -> None:
    """A notebook's cell and an asynchronous handler have a loop in their thread: it is not ours."""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        cwd=site.folder,
        env=site.environment(),
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert charged(site) == {"own_one": 1, "own_two": 1}


@combined(
    "kind method",
    KINDS,
    METHODS,
    indirect=["kind"],
    chosen=[("remote", "spawn"), ("local", "forkserver"), ("gateway", "fork")],
)
def test_the_children_of_an_attempt_are_its_own(here: Site, kind: str, method: str) -> None:
    """Their module imports nothing of this package, and has the vendor's secret from a file."""
    local = ["--local"] if kind == "local" else []
    said = started(here, "fork", "Pool", f"method={method}", "--workers", "1", *local)
    answers = (here.folder / "out" / "said").read_text()
    if kind == "gateway":  # The worker has no secret: any but the vault key is somebody else's.
        assert here.stripe.moved() == 0
        assert answers.count("a credential for stripe that is not") == 9, answers
        said = started(here, "fork", "Pool", f"method={method}", "--workers", "1", secret="")
        answers = (here.folder / "out" / "said").read_text()
    assert here.stripe.moved() == 300, said
    assert answers.count("charged") == 3
    assert answers.count("BudgetExceeded") == 6, answers


@combined(
    "early method",
    [False, True],
    METHODS,
    chosen=[(False, "fork"), (False, "spawn"), (False, "forkserver"), (True, "forkserver")],
)
def test_the_children_of_a_plain_task_spend_nothing(site: Site, method: str, early: bool) -> None:
    """Also those of a forkserver that is older than the pipeline."""
    started(site, "fork", "PlainPool", f"method={method}", "--workers", "1", *["--early"] * early)
    answers = (site.folder / "out" / "said").read_text()
    assert site.stripe.posts() == []
    assert answers.count("outside any vendor task") == 9, answers


def test_a_forkserver_that_is_older_than_the_pipeline_makes_guarded_children(site: Site) -> None:
    said = started(site, "fork", "Pool", "method=forkserver", "--workers", "1", "--early")
    assert site.stripe.moved() == 300, said
