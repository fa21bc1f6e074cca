"""What a kill at one step leaves, where the rounds do not look at it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.test_crashes import children_of
from tests.acceptance.test_spool import runs
from tests.faults.plans import Fault
from tests.faults.points import POINTS, WORKER
from tests.faults.rounds import PIPELINE
from tests.faults.site import FaultySite
from tests.support.processes import wait_until


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


def test_the_children_of_a_killed_worker_end_though_nobody_reads_their_results(faulty: FaultySite) -> None:
    """There is more of that than the pipe to their worker takes."""
    (faulty.folder / "out" / "fail").touch()
    faulty.start()
    with faulty.stripe.holding():
        worker = faulty.worker("PayAll", "--of", "c", "--n", "16", "--workers", "16", module=PIPELINE)
        reading = threading.Thread(target=worker.communicate)
        reading.start()
        wait_until(lambda: len(faulty.stripe.posts()) == 16, what="a call of each child")
        children = children_of(worker.pid)
        worker.kill()
    assert len(children) == 16
    try:
        wait_until(lambda: not any(map(runs, children)), what="the children's end")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        reading.join()
    assert faulty.stripe.moved() == 1600


def test_a_child_that_is_killed_as_it_tells_its_worker_much_keeps_nobody(faulty: FaultySite) -> None:
    """It is more than the pipe to its worker takes: a part of it would be there, and waited for the rest."""
    fail, said = faulty.folder / "out" / "fail", list[str]()
    fail.write_text("200_000")
    faulty.start()
    with faulty.stripe.holding():
        worker = faulty.worker("PayAll", "--of", "c", "--n", "2", "--workers", "2", module=PIPELINE)
        reading = threading.Thread(target=lambda: said.append(worker.communicate()[0]))
        reading.start()
        wait_until(lambda: len(faulty.stripe.posts()) == 2, what="a call of each child")
        children = children_of(worker.pid)
        os.kill(worker.pid, signal.SIGSTOP)  # It is busy.
    try:
        wait_until(lambda: any(map(has_told, children)), what="a result")
        for child in children:
            os.kill(child, signal.SIGKILL)
        os.kill(worker.pid, signal.SIGCONT)
        reading.join(60)
        assert not reading.is_alive(), "its worker waits for ever"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        reading.join()
    assert "This progress looks :(" in said[0]
    fail.unlink()
    faulty.wait_for_retries()
    assert ":)" in faulty.luigi("PayAll", "--of", "c", "--n", "2", "--workers", "2", module=PIPELINE)[1]
    assert faulty.stripe.moved() == 200


def has_told(pid: int) -> bool:
    """Return whether a process has ended, or a thread of its waits in the midst of a result."""
    try:
        threads = [path for path in Path(f"/proc/{pid}/task").glob("*/wchan") if path.parent.name != str(pid)]
        return not runs(pid) or any("pipe_write" in path.read_text() for path in threads)
    except OSError:
        return not runs(pid)
