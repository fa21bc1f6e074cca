"""Every shape of pipeline: each call belongs to the right run and is paid once, by the vendor's own books."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.combinations import combined
from tests.support.processes import wait_until
from tests.support.shapes import run_build
from tests.support.site import Site

SHAPES = "tests.support.shapes"


def charged(site: Site) -> dict[str, int]:
    """Return how often the vendor moved money for each customer."""
    found: dict[str, int] = {}
    for entry in site.stripe.books()["moved"]:
        found[entry["customer"]] = found.get(entry["customer"], 0) + 1
    return found


def spent(site: Site) -> dict[str, str]:
    return {run["run_id"]: run["spent_usd"] for run in site.call("GET", "/runs", token=None)[1]}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dependency_of_two_roots_is_paid_once_and_shown_in_both(site: Site, workers: int) -> None:
    done = run_build(
        site.folder, site.environment(), f"build(RootA(run_id='a'), RootB(run_id='b'), workers={workers})"
    )
    assert done.returncode == 0, done.stderr
    assert charged(site) == {"shared": 1, "only_a": 1, "only_b": 1}
    assert spent(site) == {"a": "2.00", "b": "1.00"}
    shown = {run_id: site.run(run_id)["shared_tasks"] for run_id in "ab"}
    assert shown["a"] == shown["b"]
    assert [(task["paid_by"], task["runs"]) for task in shown["a"]] == [("a", ["a", "b"])]


def test_a_dependency_of_two_workers_is_paid_by_the_run_it_was_dispatched_for(site: Site) -> None:
    site.stripe.control(options={"held": True})
    first = site.worker("RootA", "--run-id", "a", "--workers", "2", module=SHAPES)
    wait_until(lambda: any("=shared" in post["body"] for post in site.stripe.posts()), what="the call")
    second = site.worker("RootB", "--run-id", "b", module=SHAPES)
    wait_until(lambda: bool(site.run("a")["shared_tasks"]), what="the second root")
    site.stripe.control(options={"held": False})
    out = "".join(worker.communicate(timeout=120)[0] for worker in (first, second))
    assert (first.returncode, second.returncode) == (0, 0), out
    assert charged(site) == {"shared": 1, "only_a": 1, "only_b": 1}, out
    assert spent(site) == {"a": "2.00", "b": "1.00"}
    shown = {run_id: site.run(run_id)["shared_tasks"] for run_id in "ab"}
    assert shown["a"] == shown["b"]
    assert [(task["paid_by"], task["runs"]) for task in shown["a"]] == [("a", ["a", "b"])]


@pytest.mark.parametrize("workers", ["1", "3"])
def test_yielded_tasks_belong_to_the_run_and_calls_before_the_yield_are_replayed(
    site: Site, workers: str
) -> None:
    code, out = site.luigi("YieldsMany", "--workers", workers, module=SHAPES)
    assert code == 0, out
    assert charged(site) == {f"{when}_{n}": 1 for when in ("before", "yielded", "after") for n in "01"}
    (run,) = site.call("GET", "/runs", token=None)[1]
    assert (run["root_family"], run["spent_usd"]) == ("YieldsMany", "6.00")


def test_parallel_scheduling(site: Site) -> None:
    code, out = site.luigi("List", "--n", "6", "--parallel-scheduling", "--workers", "2", module=SHAPES)
    assert code == 0, out
    assert site.stripe.moved() == 600
    assert list(spent(site).values()) == ["6.00"]


def test_vendors_that_are_known_late_keep_nothing_from_being_scheduled(site: Site) -> None:
    code, out = site.luigi("LateVendors", module=SHAPES)
    assert (code, charged(site)) == (0, {"whom": 1}), out
    assert "vendors of LateVendors() are not known yet: " in out


class TestWhatHasNothingToRun:
    """A wrapper or an external task spends nothing, whatever its family is called."""

    @combined(
        "root local",
        ["paying.PayAll", "MixedIn"],
        [False, True],
        chosen=[("paying.PayAll", False), ("MixedIn", True)],
    )
    def test_a_wrapper_completes_at_the_exact_cap(self, site: Site, root: str, local: bool) -> None:
        site.restart(spendguard={"vendor_tasks": "paying.*", "default_cap_usd": 2})
        (site.folder / "out" / "listed").touch()
        code, out = site.luigi(root, *(["--local-scheduler"] if local else []), module=SHAPES)
        assert (code, charged(site)) == (0, {"a": 1, "b": 1})
        assert "Vendor tasks are blocked" not in out
        assert "This progress looks :)" in out

    def test_an_external_task_that_is_asked_for_again_is_missing_and_not_blocked(self, site: Site) -> None:
        again = {"retry_external_tasks": "true"}
        site.restart(spendguard={"vendor_tasks": "paying.*", "default_cap_usd": 0}, worker=again)
        _, out = site.luigi("paying.PayAll", module=SHAPES)
        assert "1 failed:\n    - 1 paying.Listed()" in out
        assert "Vendor tasks are blocked" not in out


class TestAssistants:
    """An assistant has a root of its own, of another family; nothing of the owner's is ever its."""

    @pytest.fixture
    def assistant(self, site: Site) -> Iterator[subprocess.Popen[str]]:
        site.configure(worker={"keep_alive": "true"})
        process = site.worker("--assistant", "Plain", "--name", "own", "--workers", "2", module=SHAPES)
        wait_until(
            lambda: "assistant" in str(site.call("POST", "/api/worker_list", {}, token=None)), what="it"
        )
        yield process
        os.killpg(process.pid, signal.SIGKILL)  # Its children hold its output open.
        process.communicate()

    def owns(self, site: Site) -> dict[str, str]:
        """Return the families of the runs' roots, with what each has spent."""
        return {r["root_family"]: r["spent_usd"] for r in site.call("GET", "/runs", token=None)[1]}

    @pytest.mark.usefixtures("assistant")
    def test_the_owning_run_pays_what_a_plain_task_yields_there(self, site: Site) -> None:
        # The owner schedules, and runs nothing itself: when the first task is yielded, no run is open.
        site.luigi("YieldsMany", "--workers", "0", module=SHAPES)
        wait_until(lambda: site.stripe.moved() == 600, seconds=60, what="everything")
        assert charged(site) == {f"{when}_{n}": 1 for when in ("before", "yielded", "after") for n in "01"}
        (run,) = site.call("GET", "/runs", token=None)[1]
        assert (run["root_family"], run["root_task_id"].split("_")[0]) == ("YieldsMany", "YieldsMany")
        wait_until(lambda: self.owns(site) == {"YieldsMany": "6.00"}, what="the last end")

    @pytest.mark.usefixtures("assistant")
    def test_it_has_the_name_and_the_budget_that_its_root_asks_for(self, site: Site) -> None:
        env = {"SPENDGUARD_RUN_ID": "monday"}
        args = ("Assisted", "--budget-usd", "1.50", "--workers", "0")
        site.luigi(*args, module=SHAPES, **env)
        wait_until(lambda: site.stripe.moved() == 100, seconds=60, what="what it can pay")
        wait_until(lambda: self.owns(site) == {"Assisted": "1.00"}, what="its end")
        run = site.run("monday")
        assert (run["root_family"], run["cap_usd"], run["spent_usd"]) == ("Assisted", "1.50", "1.00")

    @pytest.mark.usefixtures("assistant")
    def test_its_own_roots_end_is_not_the_end_of_what_it_runs_for_others(self, site: Site) -> None:
        out = site.folder / "out"
        site.configure(worker={"keep_alive": "false"})  # Else the owner waits for what has failed.
        (out / "die").touch()
        site.luigi("YieldsDies", "--workers", "0", module=SHAPES)
        wait_until((out / "charged").exists, seconds=60, what="the charge")
        # Meanwhile a root of the assistant's own name completes, at another worker.
        site.luigi("Plain", "--name", "own", module=SHAPES)
        (out / "go").touch()
        wait_until((out / "died").exists, what="the death of the task")
        (out / "die").unlink()
        code, said = site.luigi("YieldsDies", module=SHAPES)
        assert code == 0, said
        assert charged(site) == {"dies_d": 1}
        assert self.owns(site) == {"YieldsDies": "1.00"}


@pytest.mark.parametrize("workers", ["1", "3"])
class TestLocalScheduler:
    def test_exactly_the_cap_is_spent_and_the_rest_is_blocked(self, site: Site, workers: str) -> None:
        code, out = site.luigi(
            "Billing", "--n", "8", "--budget-usd", "5", "--local-scheduler", "--workers", workers
        )
        assert (code, site.stripe.moved()) == (0, 500), out
        assert "* 3 tasks blocked: cap of $5.00 reached, $5.00 spent" in out
        assert (site.folder / "out" / "Report__99914b932b").exists()

    def test_a_task_that_charged_and_died_does_not_charge_again(self, site: Site, workers: str) -> None:
        local = ("--local-scheduler", "--workers", workers)
        (site.folder / "out" / "die").touch()
        site.luigi("Billing", "--n", "3", *local)
        (site.folder / "out" / "die").unlink()
        code, out = site.luigi("Billing", "--n", "3", *local)
        assert (code, site.stripe.moved()) == (0, 300), out

    def test_yielded_tasks(self, site: Site, workers: str) -> None:
        code, out = site.luigi("YieldsMany", "--local-scheduler", "--workers", workers, module=SHAPES)
        assert (code, site.stripe.moved()) == (0, 600), out

    def test_a_pipeline_without_vendor_tasks_makes_no_ledger(self, site: Site, workers: str) -> None:
        code, _ = site.luigi("Plain", "--local-scheduler", "--workers", workers, module=SHAPES)
        assert code == 0
        assert not site.ledger.exists()


class TestBatches:
    def test_a_batch_has_one_claim_and_one_budget_and_each_member_is_charged_once(self, site: Site) -> None:
        code, out = site.luigi("Batches", "--parts", "a,b,c,d", "--run-id", "r", module=SHAPES)
        assert code == 0, out
        assert charged(site) == {f"batch_{part}": 1 for part in "abcd"}
        with site.books() as books:
            claims = books.all("SELECT members, max_cost_micros FROM claim ORDER BY claimed_at")
        assert [(len(claim["members"].split(",")), claim["max_cost_micros"]) for claim in claims] == [
            (3, 3_000_000),
            (1, 1_000_000),
        ]

    def test_an_attempted_batch_comes_back_with_the_same_members_and_pays_once(self, site: Site) -> None:
        out_folder = site.folder / "out"
        (out_folder / "die").touch()
        site.luigi("Batches", "--parts", "b,c", "--run-id", "r", module=SHAPES)
        (out_folder / "die").unlink()
        site.wait_for_retries()
        # A member that ranks before them would otherwise join the batch.
        code, out = site.luigi("Batches", "--parts", "a,b,c,d", "--run-id", "r", module=SHAPES)
        assert code == 0, out
        assert charged(site) == {f"batch_{part}": 1 for part in "abcd"}
        attempts = (out_folder / "batches").read_text().splitlines()
        assert attempts[0] == "b,c" or attempts[0] == "c,b"
        assert attempts[0] in attempts[1:]

    def test_it_does_so_after_luigid_has_lost_its_state(self, site: Site) -> None:
        out_folder = site.folder / "out"
        (out_folder / "die").touch()
        site.luigi("Batches", "--parts", "b,c", "--run-id", "r", module=SHAPES)
        assert site.luigid is not None
        site.luigid.kill()
        (out_folder / "die").unlink()
        site.start()
        code, out = site.luigi("Batches", "--parts", "a,b,c,d", "--run-id", "r", module=SHAPES)
        assert code == 0, out
        assert charged(site) == {f"batch_{part}": 1 for part in "abcd"}

    def test_one_that_cannot_come_back_goes_on_with_its_members(self, site: Site) -> None:
        out_folder = site.folder / "out"
        (out_folder / "die").touch()
        site.luigi("Batches", "--parts", "b,c", "--run-id", "r", module=SHAPES)
        (out_folder / "die").unlink()
        first = charged(site)
        (member,) = (name.removeprefix("batch_") for name in first)
        (out_folder / f"part-{'b' if member == 'c' else 'c'}").touch()  # The other one is complete now.
        site.wait_for_retries()
        code, out = site.luigi("Batches", "--parts", f"{member},d", "--run-id", "r", module=SHAPES)
        assert code == 0, out
        assert charged(site) == {f"batch_{member}": 1, "batch_d": 1}

    @pytest.mark.parametrize("run_id", ["r", ""], ids=["the-same-run", "another-run"])
    def test_one_whose_receipts_were_written_in_part_comes_back_smaller(
        self, site: Site, run_id: str
    ) -> None:
        out_folder = site.folder / "out"
        (out_folder / "die-after-two").touch()
        site.luigi("Batches", "--parts", "a,b,c", "--run-id", "r", module=SHAPES)
        (out_folder / "die-after-two").unlink()
        assert sum(charged(site).values()) == 2
        site.wait_for_retries()
        code, out = site.luigi("Batches", "--parts", "a,b,c", "--run-id", run_id, module=SHAPES)
        assert code == 0, out
        assert charged(site) == {f"batch_{part}": 1 for part in "abc"}

    def test_members_of_different_runs_never_share_a_batch(self, site: Site) -> None:
        roots = "build(Batches('a,b', run_id='r1'), Batches('c,d', run_id='r2'))"
        done = run_build(site.folder, site.environment(), roots)
        assert done.returncode == 0, done.stderr
        batches = {
            frozenset(line.split(",")) for line in (site.folder / "out" / "batches").read_text().splitlines()
        }
        assert batches == {frozenset("ab"), frozenset("cd")}
        assert spent(site) == {"r1": "2.00", "r2": "2.00"}

    def test_a_blocked_batch_leaves_no_ghost_and_runs_after_a_top_up(self, site: Site) -> None:
        code, out = site.luigi(
            "Batches", "--parts", "a,b,c", "--run-id", "r", "--budget-usd", "2", module=SHAPES
        )
        assert site.stripe.moved() <= 200
        assert "blocked" in out
        site.call("POST", "/runs/r/top_up", {"usd": "5"})
        code, out = site.luigi("Batches", "--parts", "a,b,c", "--run-id", "r", module=SHAPES)
        assert code == 0, out
        assert charged(site) == {f"batch_{part}": 1 for part in "abc"}


class TestBatchesWithTheTaskIdOfAMember:
    """`batch_method=max`: Luigi's own way to let the newest of several days do the work of all."""

    @pytest.mark.parametrize("lost", [False, True], ids=["luigid-lives", "luigid-is-killed"])
    @pytest.mark.parametrize("run_id", ["r", ""], ids=["the-same-run", "another-run"])
    def test_one_that_has_charged_and_died_charges_once_and_again_when_it_is_due(
        self, site: Site, run_id: str, lost: bool
    ) -> None:
        out_folder = site.folder / "out"
        (out_folder / "die").touch()
        site.luigi("Days", "--n", "3", "--run-id", "r", module=SHAPES)
        (out_folder / "die").unlink()
        if lost:
            assert site.luigid is not None
            site.luigid.kill()
            site.start()
        else:
            site.wait_for_retries()
        code, out = site.luigi("Days", "--n", "3", "--run-id", run_id, module=SHAPES)
        assert code == 0, out
        assert charged(site) == {"newest": 1}
        assert (out_folder / "newest-ran").read_text().split() == ["3", "3"]
        code, out = site.luigi("Days", "--n", "5", "--run-id", run_id, module=SHAPES)
        assert code == 0, out
        assert charged(site) == {"newest": 2}

    def test_it_has_one_claim_with_all_its_members(self, site: Site) -> None:
        site.luigi("Days", "--n", "3", module=SHAPES)
        with site.books() as books:
            [claim] = books.all("SELECT members, max_cost_micros FROM claim")
        assert (len(claim["members"].split(",")), claim["max_cost_micros"]) == (3, 3_000_000)

    def test_a_top_up_frees_one_that_is_blocked(self, site: Site) -> None:
        budget = ("--run-id", "r", "--budget-usd", "0.50")
        site.luigi("Days", "--n", "3", *budget, module=SHAPES)
        assert charged(site) == {}
        site.call("POST", "/runs/r/top_up", {"usd": "5"})
        code, out = site.luigi("Days", "--n", "3", *budget, module=SHAPES)
        assert code == 0, out
        assert charged(site) == {"newest": 1}
