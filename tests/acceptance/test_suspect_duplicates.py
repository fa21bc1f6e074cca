"""A corrected amount of a task without `payment_key` waits for somebody to look, by the vendor's books."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_crashes import children_of, kill
from tests.acceptance.test_money_log import lines
from tests.support.processes import wait_until
from tests.support.site import Site


@pytest.fixture(params=["worker", "gateway"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    rules = {"suspect_duplicates": None}  # As luigi.cfg has it that says nothing.
    with Site(tmp_path / "site", gateway=request.param == "gateway", spendguard=rules) as site:
        yield site


def moved(site: Site) -> list[int]:
    """Return what the vendor has charged, in its order."""
    return [entry["amount"] for entry in site.stripe.books()["moved"]]


def charge(site: Site, amount: int, *more: str) -> str:
    return site.luigi("Charge", "--customer", "a", "--amount", str(amount), *more)[1]


def died(site: Site, amount: int, *more: str) -> None:
    """Let a task charge, and die."""
    (site.folder / "out" / "die").touch()
    charge(site, amount, *more)
    (site.folder / "out" / "die").unlink()


def waiting(site: Site) -> tuple[str, dict[str, str]]:
    """Return the run that is held, and the task of it that waits."""
    runs = site.call("GET", "/runs", token=None)[1]
    [run_id] = [run["run_id"] for run in runs if run["status"] == "held"]
    [task] = site.run(run_id)["awaiting_approval"]
    return run_id, task


def test_it_is_held_with_both_calls_named_until_it_is_approved(guarded: Site) -> None:
    died(guarded, 2700)
    said = charge(guarded, 2600)
    assert moved(guarded) == [2700], said
    run_id, task = waiting(guarded)
    assert (task["cost_usd"], task["duplicate_task_id"].startswith("Charge_2700")) == ("26.00", True)
    assert task["duplicate_of"] in said
    assert f"--duplicate-of {task['duplicate_of']}" in said
    [denied] = guarded.calls(run_id)
    assert denied["verdict"] == "denied:duplicate"
    assert guarded.calls(run_id) == guarded.call("GET", "/calls?verdict=denied:duplicate")[1]
    assert denied["id"] in denied["message"]
    assert task["duplicate_of"] in denied["message"]
    assert "tasks blocked" in said or "1 task blocked" in said
    approve = ("approve", run_id, "--task", task["task_id"], "--duplicate-of", task["duplicate_of"])
    code, _, problem = guarded.cli(*approve, "--cost", "26.01")
    assert (code != 0, "look at it again" in problem) == (True, True)
    shown = guarded.cli("run", run_id)[1]
    assert shown.count("--duplicate-of") == 1
    assert "may have made the same payment; once " in shown
    said_where_it_is_held(guarded, run_id, said, shown)
    code, answered, problem = guarded.cli(*approve, "--cost", "26")
    assert code == 0, problem
    assert task["duplicate_of"] in answered
    approval = {"task_id": task["task_id"], "usd": "26.00", "duplicate_of": task["duplicate_of"]}
    assert (guarded.run(run_id)["status"], guarded.run(run_id)["approvals"]) == ("active", [approval])
    assert f"{task['task_id']}: $26.00 beside call {task['duplicate_of']}" in guarded.cli("run", run_id)[1]
    said = charge(guarded, 2600)
    assert moved(guarded) == [2700, 2600], said
    assert guarded.run(run_id)["status"] == "ended"


def said_where_it_is_held(site: Site, run_id: str, summary: str, shown: str) -> None:
    """Everywhere that it is held it is said that it charges as well once the first task has completed."""
    [task], [denied] = site.run(run_id)["awaiting_approval"], site.calls(run_id)
    other = task["duplicate_task_id"]
    warning = f"once {other} has completed, this one charges as well"
    assert warning in summary.partition("===== Luigi Execution Summary =====")[2]
    assert warning in shown
    assert task["warning"].startswith(warning)
    for told in (summary, shown, task["warning"]):
        assert "if it is the same one, corrected, take it out of the pipeline before that" in told
    assert f"take this task out of the pipeline before {other} completes" in denied["message"]
    [logged] = lines(site, "is held")
    assert f"Run {run_id}: task {task['task_id']} is held: call {denied['id']}" in logged
    assert "and charges as well" in logged


def test_it_waits_no_more_when_the_other_task_has_completed(site: Site) -> None:
    died(site, 2700)
    site.configure(spendguard={"on_blocked": "wait"})
    worker = site.worker("Charge", "--customer", "a", "--amount", "2600")
    try:
        wait_until(
            lambda: any(run["status"] == "held" for run in site.call("GET", "/runs")[1]), what="holding"
        )
        site.configure(spendguard={"on_blocked": None})
        charge(site, 2700)
        said, _ = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert worker.returncode == 0, said
    assert moved(site) == [2700, 2600]


def test_so_it_is_held_after_luigid_was_killed(site: Site) -> None:
    with site.stripe.holding():
        worker = site.worker("Charge", "--customer", "a", "--amount", "2700", "--workers", "2")
        wait_until(lambda: bool(site.stripe.posts()), what="sending")
        [child] = children_of(worker.pid)
        kill(child)
        worker.communicate(timeout=60)
    charge(site, 2600)
    run_id, task = waiting(site)
    assert site.luigid is not None
    site.luigid.kill()
    site.start()
    charge(site, 2600)
    assert waiting(site) == (run_id, task)
    wait_until(lambda: moved(site) == [2700], what="executing the killed child's call")


def test_with_a_local_scheduler_it_is_held_as_well(site: Site) -> None:
    died(site, 2700, "--local-scheduler")
    said = charge(site, 2600, "--local-scheduler")
    assert moved(site) == [2700]
    assert "--duplicate-of" in said
    charge(site, 2700, "--local-scheduler")
    assert "This progress looks :)" in charge(site, 2600, "--local-scheduler")
    assert moved(site) == [2700, 2600]


@pytest.mark.parametrize(("suspects", "said"), [("warn", True), ("off", False)])
def test_it_may_be_said_alone(unstarted: Site, suspects: str, said: bool) -> None:
    unstarted.configure(spendguard={"suspect_duplicates": suspects})
    unstarted.start()
    died(unstarted, 2700)
    assert ("it may be the same payment" in charge(unstarted, 2600)) is said
    assert moved(unstarted) == [2700, 2600]


PAYING = "tests.support.paying_pipeline"


def test_an_approval_lets_pass_what_it_was_given_for_alone(guarded: Site) -> None:
    """What the other task did before the call beside which it was given may be another operation."""
    shares = ("PayShares", "--run-id", "again", "--amount", "2600")
    (guarded.folder / "out" / "die").touch()
    guarded.luigi("PayShares", module=PAYING)
    (guarded.folder / "out" / "die").unlink()
    assert moved(guarded) == [2700, 2000, 500]
    guarded.luigi(*shares, module=PAYING)
    for amounts in ([2600], [2600, 2000], [2600, 2000, 500]):
        run_id, task = waiting(guarded)
        shown = ("--task", task["task_id"], "--cost", task["cost_usd"])
        assert guarded.cli("approve", run_id, *shown, "--duplicate-of", task["duplicate_of"])[0] == 0
        said = guarded.luigi(*shares, module=PAYING)[1]
        assert moved(guarded) == [2700, 2000, 500, *amounts], said


class TestOfTasksThatSayWhatTheyPayFor:
    @pytest.mark.parametrize(
        ("first", "corrected"),
        [
            (("--customer", "a"), ("--customer", "b")),
            (("--amount", "2700", "--own", "charge"), ("--amount", "2600", "--own", "charge")),
            (("--order", "Zo\u00eb", "--amount", "2700"), ("--order", "Zoe\u0308", "--amount", "2600")),
        ],
        ids=["customer", "idempotency key with the amount", "other code points"],
    )
    def test_what_is_corrected_beside_the_amount_charges_once(
        self, guarded: Site, first: tuple[str, ...], corrected: tuple[str, ...]
    ) -> None:
        (guarded.folder / "out" / "die").touch()
        guarded.luigi("PayOrder", "--order", "17", *first, module=PAYING)
        (guarded.folder / "out" / "die").unlink()
        [charged] = moved(guarded)
        _, said = guarded.luigi("PayOrder", "--order", "17", *corrected, module=PAYING)
        assert moved(guarded) == [charged], said
        assert "payment_key" in said

    def test_a_key_with_the_clock_in_it_does_not_charge_twice(self, guarded: Site) -> None:
        out = guarded.folder / "out"
        (out / "clock").write_text("30")
        (out / "die").touch()
        guarded.luigi("PayByClock", module=PAYING)
        (out / "die").unlink()
        (out / "clock").write_text("1")
        said = guarded.luigi("PayByClock", module=PAYING)[1]
        assert moved(guarded) == [100], said
        assert "under another payment_key" in said
        (out / "clock").write_text("30")
        code, said = guarded.luigi("PayByClock", module=PAYING)
        assert (code, moved(guarded)) == (0, [100]), said


@pytest.mark.parametrize("where", [(), ("--local-scheduler", "--workers", "2")], ids=["luigid", "local"])
def test_what_a_task_yields_of_its_own_family_is_not_suspect(site: Site, where: tuple[str, ...]) -> None:
    code, said = site.luigi("PayPart", "--customer", "a", "--parts", "2", *where, module=PAYING)
    assert (code, moved(site)) == (0, [102, 101, 100]), said
    assert "This progress looks :)" in said


class TestAtOnce:
    """Workers that start at the same moment: one charges, whichever it is, the others wait."""

    def test_tasks_that_say_nothing(self, guarded: Site) -> None:
        charges = [("Charge", "--customer", "a", "--amount", str(amount)) for amount in (2700, 2600, 2500)]
        self.one_of(guarded, charges, "tests.support.pipelines")

    def test_tasks_of_one_payment_for_several_customers(self, guarded: Site) -> None:
        self.one_of(guarded, [("PayOrder", "--order", "17", "--customer", one) for one in "abc"], PAYING)

    def one_of(self, site: Site, tasks: list[tuple[str, ...]], module: str) -> None:
        site.stripe.control(options={"held": True})
        workers = [site.worker(*task, module=module) for task in tasks]
        # Not only denied: a worker that still looks when the payment's task completes may charge as well.
        wait_until(lambda: sum(one.poll() is not None for one in workers) == 2, what="two that wait")
        site.stripe.control(options={"held": False})
        said = [worker.communicate(timeout=120)[0] for worker in workers]
        assert len(moved(site)) == 1, said
        assert sum("--duplicate-of" in one for one in said) == 2
        assert sum("This progress looks :)" in one for one in said) == 1
