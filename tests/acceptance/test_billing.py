"""The main job with the real `luigi` command: spend the cap exactly, block, top up, revoke, resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.combinations import further
from tests.support.processes import wait_until
from tests.support.site import Site


@pytest.fixture(params=["worker", "gateway"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site whose workers have the secret, and one whose luigid has it: nothing of this differs."""
    with Site(tmp_path / "site", gateway=request.param == "gateway") as site:
        yield site


#: What has little to do with who has the secret is proved in one of both, by turns.
HERE = pytest.mark.parametrize("site", ["worker", further("gateway")], indirect=True)
THERE = pytest.mark.parametrize("site", [further("worker"), "gateway"], indirect=True)


@pytest.mark.both_engines
def test_exactly_the_cap_is_spent_and_everything_else_finishes(site: Site) -> None:
    code, out = site.luigi("Billing", "--n", "30", "--budget-usd", "10", "--workers", "4")
    assert site.stripe.moved() == 1000, out
    assert code == 0, out
    outputs = {path.name.split("_")[0] for path in (site.folder / "out").iterdir()}
    assert outputs == {"Charge", "Report"}
    [run] = site.call("GET", "/runs", token=None)[1]
    assert (run["cap_usd"], run["spent_usd"], run["reserved_usd"], run["remaining_usd"]) == (
        "10.00",
        "10.00",
        "0.00",
        "0.00",
    )
    allowed = [call for call in site.calls(run["run_id"]) if call["verdict"] == "allowed"]
    assert len(allowed) == 10
    assert {call["family"] for call in allowed} == {"Charge"}
    assert all(call["params"]["customer"] == call["target"] for call in allowed)
    assert site.rpc("task_list", status="FAILED", upstream_status="") == {}
    waiting = site.rpc("task_list", status="PENDING", upstream_status="").values()
    assert [task["name"] for task in waiting].count("Charge") == 20


@THERE
def test_a_single_worker_in_process_is_guarded_too(site: Site) -> None:
    code, out = site.luigi("Billing", "--n", "8", "--budget-usd", "5", "--workers", "1")
    assert (code, site.stripe.moved()) == (0, 500), out


@HERE
def test_a_keep_alive_worker_does_not_hang_on_blocked_tasks(site: Site) -> None:
    site.configure(worker={"keep_alive": "true"})
    code, out = site.luigi("Billing", "--n", "8", "--budget-usd", "5", "--workers", "2", timeout=60)
    assert (code, site.stripe.moved()) == (0, 500), out


@THERE
def test_the_summary_counts_blocked_tasks_as_not_run(site: Site) -> None:
    site.configure(retcode={"not_run": 25, "task_failed": 30, "missing_data": 20})
    code, out = site.luigi("Billing", "--n", "4", "--budget-usd", "2", "--workers", "2")
    assert code == 25, out
    assert "* 2 tasks blocked: cap of $2.00 reached, $2.00 spent (run Billing_" in out
    assert "failed" not in out
    assert "Traceback" not in out


@HERE
def test_a_call_that_does_not_fit_is_named_with_cap_spent_and_asked(site: Site) -> None:
    code, out = site.luigi("Charge", "--customer", "c", "--amount", "10001")
    assert (code, site.stripe.posts()) == (0, []), out
    assert "the cap of $100.00 of run Charge_10001_c" in out
    assert "has no room for $100.01: $0.00 spent, $0.00 reserved, $100.00 remaining" in out
    assert "failed" not in out


@THERE
def test_topping_up_frees_blocked_tasks_of_a_waiting_worker(site: Site) -> None:
    site.configure(spendguard={"on_blocked": "wait"})
    worker = site.worker("Billing", "--n", "12", "--budget-usd", "5", "--workers", "3", "--run-id", "nightly")
    try:
        wait_until(lambda: site.stripe.moved() == 500, what="spending the cap")
        site.until_answered("spend_blocked")
        assert worker.poll() is None
        assert site.stripe.moved() == 500
        code, out, err = site.cli("top-up", "nightly", "3")
        assert (code, err) == (0, ""), err
        assert "$8.00" in out
        wait_until(lambda: site.stripe.moved() == 800, what="resuming")
        assert site.cli("top-up", "nightly", "4")[0] == 0
        out, _ = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert (worker.returncode, site.stripe.moved()) == (0, 1200), out


@HERE
def test_a_waiting_worker_ends_when_its_run_is_revoked(site: Site) -> None:
    site.configure(spendguard={"on_blocked": "wait"})
    worker = site.worker("Billing", "--n", "6", "--budget-usd", "3", "--workers", "2", "--run-id", "nightly")
    try:
        wait_until(lambda: site.stripe.moved() == 300, what="spending the cap")
        code, out, err = site.cli("revoke", "nightly")
        assert code == 0, err
        assert "revoked" in out
        out, _ = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert site.stripe.moved() == 300
    assert site.run("nightly")["state"] == "revoked"


def test_a_resubmitted_run_resumes_after_a_top_up_and_charges_nobody_twice(site: Site) -> None:
    submit = ("Billing", "--n", "8", "--budget-usd", "5", "--workers", "2", "--run-id", "nightly")
    site.luigi(*submit)
    assert site.stripe.moved() == 500
    site.luigi(*submit)
    assert site.stripe.moved() == 500
    assert site.cli("top-up", "nightly", "10")[0] == 0
    code, out = site.luigi(*submit)
    assert (code, site.stripe.moved()) == (0, 800), out
    customers = [entry["customer"] for entry in site.stripe.books()["moved"]]
    assert len(set(customers)) == len(customers) == 8


def test_a_corrected_list_in_another_run_charges_nobody_twice(site: Site) -> None:
    (site.folder / "out" / "die").touch()
    site.luigi("Billing", "--n", "6", "--workers", "2")
    assert site.stripe.moved() == 600
    # (a) The same list again: same root, same run.
    site.stripe.control(options={"idempotency": "ignore"})
    site.luigi("Billing", "--n", "6", "--workers", "2")
    assert site.stripe.moved() == 600
    # (b) A corrected list: another root, another run.
    (site.folder / "out" / "die").unlink()
    code, out = site.luigi("Billing", "--n", "4", "--workers", "2")
    assert (code, site.stripe.moved()) == (0, 600), out
    assert "nothing was sent" in out
    code, out = site.luigi("Billing", "--n", "9", "--workers", "2")
    assert (code, site.stripe.moved()) == (0, 900), out
    customers = [entry["customer"] for entry in site.stripe.books()["moved"]]
    assert sorted(customers) == [f"cus_{i}" for i in range(9)]


def test_a_recurring_pipeline_that_completed_pays_again_when_it_is_due_again(site: Site) -> None:
    code, out = site.luigi("Recurring")
    assert (code, site.stripe.moved()) == (0, 100), out
    site.luigi("Recurring")
    assert site.stripe.moved() == 100  # Not due: complete.
    for output in (site.folder / "out").iterdir():
        output.unlink()
    code, out = site.luigi("Recurring")
    assert (code, site.stripe.moved()) == (0, 200), out
    names = [run["run_id"] for run in site.call("GET", "/runs", token=None)[1]]
    assert names[0] == names[1] + "~2"


def test_a_task_that_yields_runs_again_from_the_top_and_pays_once(site: Site) -> None:
    code, out = site.luigi("Yielding", "--customer", "cus_y", "--workers", "1")
    assert code == 0, out
    customers = [entry["customer"] for entry in site.stripe.books()["moved"]]
    assert sorted(customers) == ["cus_y", "cus_y_yielded"]


def test_a_task_that_paid_and_died_is_dispatched_at_the_cap(site: Site) -> None:
    (site.folder / "out" / "die").touch()
    site.luigi("Billing", "--n", "3", "--budget-usd", "3", "--workers", "1", "--run-id", "r")
    assert site.stripe.moved() == 300
    (site.folder / "out" / "die").unlink()
    code, out = site.luigi("Billing", "--n", "3", "--budget-usd", "3", "--workers", "1", "--run-id", "r")
    assert (code, site.stripe.moved()) == (0, 300), out
    assert len(list((site.folder / "out").glob("Charge_*"))) == 3


@THERE
def test_a_family_named_in_luigi_cfg_is_a_vendor_task_without_the_mixin(site: Site) -> None:
    site.configure(spendguard={"vendor_tasks": "Nothing, ByPat*"})
    code, out = site.luigi("ByPattern")
    assert (code, site.stripe.moved()) == (0, 100), out


@HERE
@pytest.mark.parametrize("root", [("PlainCaller",), ("InRequires",)])
def test_spending_outside_vendor_tasks_is_denied_and_the_error_names_the_fix(
    site: Site, root: tuple[str, ...]
) -> None:
    _, out = site.luigi(*root, module="tests.support.reading", STRIPE_BASE=site.stripe.url)
    assert site.stripe.posts() == []
    assert "VendorTask" in out


@THERE
def test_reading_outside_vendor_tasks_passes(site: Site) -> None:
    code, out = site.luigi(
        "PlainCaller", "--read-only", module="tests.support.reading", STRIPE_BASE=site.stripe.url
    )
    assert code == 0, out
    assert [r["path"] for r in site.stripe.books()["requests"]] == ["/v1/balance"]
