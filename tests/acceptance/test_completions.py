"""When a task has completed, and pays again when it is due again: as the vendor counts it."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support.combinations import combined
from tests.support.processes import free_port, wait_until
from tests.support.shapes import run_build
from tests.support.site import Site

PIPELINE = "tests.support.completing_pipeline"


def charged(site: Site) -> dict[str, int]:
    """Return how often the vendor moved money for each customer."""
    return dict(Counter(entry["customer"] for entry in site.stripe.books()["moved"]))


LOCAL = ("--local-scheduler",)


class TestTheVerdictIsLuigis:
    @combined("where workers", [(), LOCAL], ["1", "2"], chosen=[((), "2"), (LOCAL, "1"), (LOCAL, "2")])
    def test_a_task_whose_on_success_fails_has_not_completed(
        self, site: Site, where: tuple[str, ...], workers: str
    ) -> None:
        """The corrected list is another root, so another run: it pays only what was not paid."""
        out = site.folder / "out"
        (out / "break").touch()
        site.luigi("Fragiles", "--customers", "a", "--workers", workers, *where, module=PIPELINE)
        (out / "break").unlink()
        code, said = site.luigi(
            "Fragiles", "--customers", "a,b", "--workers", workers, *where, module=PIPELINE
        )
        assert code == 0, said
        assert charged(site) == {"a": 1, "b": 1}

    @combined("where workers", [(), LOCAL], ["1", "2"], chosen=[((), "1"), (LOCAL, "2")])
    def test_a_recurring_root_without_output_pays_each_day(
        self, site: Site, where: tuple[str, ...], workers: str
    ) -> None:
        for day in (1, 2, 3):
            code, said = site.luigi("Bare", "--workers", workers, *where, module=PIPELINE)
            assert (code, charged(site)) == (0, {"cus_bare": day}), said

    @combined("where workers", [(), LOCAL], ["1", "2"], chosen=[((), "2"), (LOCAL, "1")])
    def test_so_does_a_dependency_without_output(
        self, site: Site, where: tuple[str, ...], workers: str
    ) -> None:
        for day in (1, 2, 3):
            daily(site, "--workers", workers, *where)
            assert charged(site) == {"cus_bare": day}


def daily(site: Site, *args: str) -> None:
    """Let the root of a day complete, and be due again."""
    site.configure(worker={"check_unfulfilled_deps": "false"})
    code, said = site.luigi("Daily", *args, module=PIPELINE)
    assert code == 0, said
    (output,) = (site.folder / "out").glob("Daily*")
    output.unlink()


def overlapping(site: Site, name: str, first: int, *more: str, **env: str) -> subprocess.Popen[str]:
    """Start a worker of a root with four tasks, and wait until it has scheduled them and runs the first."""
    worker = site.worker("Overlap", "--first", str(first), *more, module=PIPELINE, GATE=name, **env)
    ready = site.folder / "out" / "ready"
    wait_until(lambda: ready.exists() and name in ready.read_text().split(), what=f"{name}'s first task")
    return worker


def let_end(site: Site, name: str, worker: subprocess.Popen[str]) -> None:
    """Open a worker's gate and wait for its end."""
    (site.folder / "out" / f"go-{name}").touch()
    said, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, said


class TestTwoSchedulersOneLedger:
    def test_what_overlapping_roots_share_is_paid_once(self, site: Site) -> None:
        """Each has scheduled its tasks before the other has completed any."""
        first = overlapping(site, "a", 0, "--local-scheduler")
        second = overlapping(site, "b", 1, "--local-scheduler")
        let_end(site, "a", first)
        let_end(site, "b", second)
        assert charged(site) == {f"cus_{n}": 1 for n in range(5)}

    def test_also_under_two_luigids(self, site: Site, tmp_path: Path) -> None:
        other = Site(tmp_path / "other", stripe=site.stripe, start=False)
        other.settings["spendguard"]["ledger_url"] = f"sqlite:///{site.ledger}"
        other.settings["scheduler"]["state_path"] = tmp_path / "other-state"
        other.configure()
        other.port = free_port()
        other.url = f"http://127.0.0.1:{other.port}"
        other.configure(core={"default_scheduler_url": other.url})
        other.start()
        try:
            first = overlapping(site, "a", 0)
            second = overlapping(other_with_out(other, site), "b", 1)
            let_end(site, "a", first)
            let_end(site, "b", second)
        finally:
            other.end()
        assert charged(site) == {f"cus_{n}": 1 for n in range(5)}

    def test_the_end_of_one_ends_no_attempt_of_the_others(self, site: Site) -> None:
        """Both have the same root, so the same run: it ends while the second one's tasks run."""
        first = overlapping(site, "a", 0, "--local-scheduler")
        second = overlapping(site, "b", 0, "--local-scheduler", "--workers", "4")
        let_end(site, "a", first)
        let_end(site, "b", second)
        assert charged(site) == {f"cus_{n}": 1 for n in range(4)}


def other_with_out(other: Site, site: Site) -> Site:
    """Let the workers of another site write where the first one's do."""
    (other.folder / "out").rmdir()
    (other.folder / "out").symlink_to(site.folder / "out")
    return other


class TestWhoeverCompletesTheRoot:
    """Its run ends, so that what is due again is paid again and is not met by yesterday's answers."""

    def test_another_workers_task_that_needs_it(self, site: Site) -> None:
        first = overlapping(site, "a", 0, "--n", "2")
        second = site.worker("Above", "--n", "2", module=PIPELINE, GATE="b")
        ready = site.folder / "out" / "ready"
        wait_until(lambda: ready.read_text().split() == ["a", "b"], what="the second one's task")
        let_end(site, "a", first)
        let_end(site, "b", second)
        assert charged(site) == {"cus_0": 1, "cus_1": 1}
        assert {run["state"] for run in runs(site)} == {"ended"}
        for output in (site.folder / "out").glob("Shared*"):
            output.unlink()
        code, said = site.luigi("Overlap", "--first", "0", "--n", "2", module=PIPELINE, GATE="a")
        assert (code, charged(site)) == (0, {"cus_0": 2, "cus_1": 2}), said

    @pytest.mark.parametrize("local", [False, True])
    def test_a_batch_of_several(self, site: Site, local: bool) -> None:
        done = run_build(
            site.folder,
            site.environment(),
            f"from {PIPELINE} import Month\n"
            f"build(Month('a'), Month('b'), workers=1, local_scheduler={local})",
        )
        assert done.returncode == 0, done.stderr
        assert (site.folder / "out" / "months").read_text().split() in (["a,b"], ["b,a"])
        assert charged(site) == {"a": 1, "b": 1}
        assert [run["state"] for run in runs(site)] == ["ended", "ended"]


def runs(site: Site) -> list[dict[str, str]]:
    """Return all runs as the API shows them."""
    status, found = site.call("GET", "/runs", token=None)
    assert status == 200
    return found


class TestTheWordIsLost:
    """The worker's main process is killed when Luigi has heard DONE and the ledger has not."""

    def test_it_pays_once_and_the_next_day_again(self, site: Site) -> None:
        # For so long the call of the killed worker may be under way.
        site.restart(spendguard_stripe={"timeout_s": 5}, worker={"check_unfulfilled_deps": "false"})
        code, _ = site.luigi("Daily", "--workers", "2", module=PIPELINE, KILL_BEFORE_TELLING="1")
        assert (code, charged(site)) == (-9, {"cus_bare": 1})
        for payments in (1, 2, 3):
            daily(site, "--workers", "2")
            assert charged(site) == {"cus_bare": payments}

    def test_a_root_does_too(self, site: Site) -> None:
        code, _ = site.luigi("Bare", module=PIPELINE, KILL_BEFORE_TELLING="1")
        assert (code, charged(site)) == (-9, {"cus_bare": 1})
        for payments in (1, 2):
            code, said = site.luigi("Bare", module=PIPELINE)
            assert (code, charged(site)) == (0, {"cus_bare": payments}), said

    def test_a_corrected_list_does_not_pay_again(self, site: Site) -> None:
        code, _ = site.luigi("Fragiles", "--customers", "a", module=PIPELINE, KILL_BEFORE_TELLING="1")
        assert (code, charged(site)) == (-9, {"a": 1})
        for output in (site.folder / "out").glob("Fragile_*"):
            output.unlink()
        code, said = site.luigi("Fragiles", "--customers", "a,b", module=PIPELINE)
        assert code == 0, said
        assert charged(site) == {"a": 1, "b": 1}
