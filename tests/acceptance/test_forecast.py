"""Forecast and approval: the accident costs nothing, and an approval is bound to what was shown."""

from __future__ import annotations

import sqlite3

import pytest

from tests.acceptance.test_shapes import SHAPES, charged
from tests.support.processes import wait_until
from tests.support.site import Site


@pytest.fixture
def holding(unstarted: Site) -> Site:
    unstarted.restart(spendguard={"forecast": "hold"})
    return unstarted


def the_run(site: Site, which: int = 0) -> dict[str, object]:
    return site.call("GET", "/runs", token=None)[1][which]


def test_a_forecast_over_the_cap_costs_nothing_until_it_is_approved(holding: Site) -> None:
    args = ("List", "--n", "20", "--run-id", "r", "--budget-usd", "5")
    code, out = holding.luigi(*args, "--workers", "4", module=SHAPES)
    assert (code, holding.stripe.posts()) == (0, []), out
    assert "20 tasks blocked: the forecast of $20.00 exceeds the cap of $5.00" in out
    run = holding.run("r")
    assert (run["forecast_usd"], run["approved_usd"]) == ("20.00", None)
    assert holding.cli("approve", "r", "--forecast", "19")[0] == 1
    code, said, _ = holding.cli("approve", "r")
    assert code == 2, said
    assert holding.cli("approve", "r", "--forecast", "20")[0] == 0
    holding.luigi(*args, "--workers", "4", module=SHAPES)
    assert holding.stripe.moved() == 500, "an approval raises no cap"


def test_hold_holds_what_it_cannot_compare_with_a_cap(holding: Site) -> None:
    """The ledger cannot be written while the root is scheduled, so its run is not open."""
    holding.luigi("Charge", "--customer", "c")
    args = ("List", "--n", "20", "--run-id", "r", "--budget-usd", "5", "--workers", "2")
    with sqlite3.connect(holding.ledger, isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        code, out = holding.luigi(*args, module=SHAPES)
        db.execute("ROLLBACK")
    db.close()
    assert (code, holding.stripe.moved()) == (0, 100), out
    assert "20 tasks blocked: its run is not open" in out
    _, out = holding.luigi(*args, module=SHAPES)
    assert "the forecast of $20.00 exceeds the cap of $5.00" in out
    assert holding.run("r")["forecast_usd"] == "20.00"
    assert holding.stripe.moved() == 100


def test_one_that_fits_is_not_held(holding: Site) -> None:
    code, out = holding.luigi("List", "--n", "5", "--budget-usd", "5", "--workers", "3", module=SHAPES)
    assert (code, holding.stripe.moved()) == (0, 500), out


def test_a_first_run_of_which_nobody_knows_the_cost_is_not_held(holding: Site) -> None:
    """As `concepts.md` says: its cap alone bounds it."""
    code, out = holding.luigi("Billing", "--n", "8", "--budget-usd", "5", "--workers", "2")
    assert (code, holding.stripe.moved()) == (0, 500), out
    assert (the_run(holding)["forecast_usd"], the_run(holding)["unknown_tasks"]) == ("0.00", 8)


def test_two_hundred_that_become_two_thousand_are_held(holding: Site) -> None:
    """The last run of the family came to $4; this one says $40, well within its cap."""
    holding.luigi("List", "--n", "4", "--run-id", "monday", module=SHAPES)
    code, out = holding.luigi(
        "List", "--n", "40", "--first", "10", "--run-id", "tuesday", "--workers", "4", module=SHAPES
    )
    assert (code, holding.stripe.moved()) == (0, 400), out
    assert "the forecast of $40.00 is far above the last run's $4.00" in out
    # A held run is no precedent.
    _, out = holding.luigi("List", "--n", "41", "--first", "10", "--run-id", "wednesday", module=SHAPES)
    assert holding.stripe.moved() == 400
    holding.call("POST", "/runs/wednesday/approve", {"usd": "41"})
    _, out = holding.luigi(
        "List", "--n", "41", "--first", "10", "--run-id", "wednesday", "--workers", "4", module=SHAPES
    )
    assert holding.stripe.moved() == 4500, out


def test_attempts_that_the_vendor_refused_do_not_halve_what_the_next_run_may_cost(holding: Site) -> None:
    holding.restart(spendguard={"forecast": "warn"})
    holding.stripe.fault("status", status=400, times=5)
    for moved in (0, 500):
        code, out = holding.luigi("Billing", "--n", "5", "--budget-usd", "5")
        assert holding.stripe.moved() == moved, out
    assert "This progress looks :)" in out
    holding.restart(spendguard={"forecast": "hold"})
    code, out = holding.luigi("Billing", "--n", "5", "--first", "5", "--budget-usd", "4")
    assert (code, holding.stripe.moved()) == (0, 500), out
    assert "the forecast of $5.00" in out


def test_what_a_killed_worker_had_paid_does_not_make_the_next_forecasts_dearer(holding: Site) -> None:
    """Its children end well, and nobody is left to say that their tasks have completed."""
    holding.luigi("Billing", "--n", "3", "--first", "10", "--budget-usd", "3")
    (holding.folder / "out" / "wait").touch()
    args = ("Billing", "--n", "8", "--budget-usd", "8", "--workers", "4")
    worker = holding.worker(*args)
    wait_until(lambda: holding.stripe.moved() == 700, what="charging")
    worker.kill()
    (holding.folder / "out" / "wait").unlink()
    worker.communicate(timeout=60)  # Until its children have ended, too.
    code, out = holding.luigi(*args)
    assert (code, holding.stripe.moved()) == (0, 1100), out
    _, out = holding.luigi("Billing", "--n", "8", "--first", "20", "--budget-usd", "8", "--workers", "4")
    assert holding.stripe.moved() == 1900, out


def test_a_forecast_that_has_grown_since_it_was_approved_is_held_again(holding: Site) -> None:
    holding.luigi("List", "--n", "6", "--run-id", "r", "--budget-usd", "5", module=SHAPES)
    holding.call("POST", "/runs/r/approve", {"usd": "6"})
    _, out = holding.luigi("List", "--n", "9", "--run-id", "r", module=SHAPES)
    assert holding.stripe.posts() == [], out
    status, said = holding.call("POST", "/runs/r/approve", {"usd": "6"})
    assert (status, said["error"]) == (409, "conflict")
    assert "is $9.00 now" in said["message"]


def test_an_approval_is_bound_to_the_unknown_tasks_as_well(holding: Site) -> None:
    holding.luigi("Mixed", "--declared", "1", "--unknown", "0", "--run-id", "monday", module=SHAPES)
    args = ("Mixed", "--run-id", "r", "--declared", "5", "--unknown")
    _, out = holding.luigi(*args, "3", module=SHAPES)
    assert "the forecast of $4.00 and 3 tasks of unknown cost is far above the last run's $1.00" in out
    status, said = holding.call("POST", "/runs/r/approve", {"usd": "4"})
    assert (status, "and 3 tasks of unknown cost now" in said["message"]) == (409, True)
    code, shown, err = holding.cli("approve", "r")
    assert (code, "--forecast 4.00 --unknown-tasks 3" in shown + err) == (2, True)
    assert holding.cli("approve", "r", "--forecast", "4", "--unknown-tasks", "3")[0] == 0
    moved = holding.stripe.moved()
    _, out = holding.luigi(*args, "20", module=SHAPES)
    assert (holding.stripe.moved(), "20 tasks of unknown cost" in out) == (moved, True), out


def test_warn_says_so_and_goes_on(site: Site) -> None:
    code, out = site.luigi("List", "--n", "8", "--run-id", "r", "--budget-usd", "5", module=SHAPES)
    assert (code, site.stripe.moved()) == (0, 500), out
    assert site.luigid is not None
    assert "Run r may cost $8.00; its cap is $5.00" in site.luigid.text()
    assert site.run("r")["forecast_usd"] == "8.00"


def test_tasks_that_declare_nothing_are_estimated_from_earlier_runs_or_unknown(site: Site) -> None:
    site.luigi("Billing", "--n", "3")
    run = the_run(site)
    assert (run["forecast_usd"], run["estimated_usd"], run["unknown_tasks"]) == ("0.00", "0.00", 3)
    site.luigi("Billing", "--n", "5", "--first", "10")
    run = the_run(site)
    assert (run["forecast_usd"], run["estimated_usd"], run["unknown_tasks"]) == ("5.00", "5.00", 0)


def test_yielded_tasks_are_held_when_they_make_it_too_much(holding: Site) -> None:
    holding.luigi("YieldsMany", "--n", "1", module=SHAPES)  # $3, of which the average is known now.
    before = charged(holding)
    _, out = holding.luigi("YieldsMany", "--n", "30", module=SHAPES)
    assert charged(holding) == before, out
    assert "is far above the last run's" in out


def test_a_list_that_grows_during_the_run_is_held_when_that_is_too_much(holding: Site) -> None:
    """Luigi adds what a root is missing at its end: two customers have become fifty."""
    args = ("Growing", "--to", "50", "--run-id", "r", "--budget-usd", "10")
    _, out = holding.luigi(*args, module="tests.support.troubled")
    assert (holding.stripe.moved(), holding.run("r")["forecast_usd"]) == (200, "50.00"), out
    assert "48 tasks blocked: the forecast of $50.00 exceeds the cap of $10.00" in out


def test_the_forecast_survives_a_restart_of_luigid(holding: Site) -> None:
    args = ("List", "--n", "20", "--run-id", "r", "--budget-usd", "5")
    holding.luigi(*args, module=SHAPES)
    assert holding.luigid is not None
    holding.luigid.kill()
    holding.start()
    assert holding.run("r")["forecast_usd"] == "20.00"
    assert holding.call("POST", "/runs/r/approve", {"usd": "20"})[0] == 200
    holding.luigi(*args, "--workers", "4", module=SHAPES)
    assert holding.stripe.moved() == 500


class TestSingleTasks:
    @pytest.fixture
    def careful(self, unstarted: Site) -> Site:
        unstarted.restart(spendguard={"approve_above_usd": 10})
        return unstarted

    def test_one_above_the_threshold_waits_without_a_worker_slot(self, careful: Site) -> None:
        code, out = careful.luigi("List", "--n", "2", "--cost", "11", "--run-id", "r", module=SHAPES)
        assert (code, careful.stripe.posts()) == (0, []), out
        assert "a single task may cost $10.00 without an approval, this one may cost $11.00" in out

    def test_it_runs_when_it_is_approved_for_what_it_may_cost(self, careful: Site) -> None:
        args = ("List", "--n", "2", "--cost", "11", "--run-id", "r")
        _, out = careful.luigi(*args, module=SHAPES)
        task = next(word.strip("`") for word in out.split() if word.startswith("Declared_"))
        code, _, err = careful.cli("approve", "r", "--task", task, "--cost", "10.50")
        assert (code, "may cost $11.00 now" in err) == (1, True)
        code, out, err = careful.cli("approve", "r", "--forecast", "22")
        assert (code, "nothing of the forecast of run r has to be approved" in err) == (1, True), out
        code, _, err = careful.cli("approve", "r")
        assert (code, f"spendguard approve r --task {task} --cost 11.00" in err) == (1, True), err
        code, _, err = careful.cli("approve", "r", "--task", task, "--cost", "11")
        assert code == 0, err
        careful.luigi(*args, module=SHAPES)
        assert careful.stripe.moved() == 100

    def test_one_that_declares_nothing_may_spend_no_more_either(self, careful: Site) -> None:
        args = ("Charge", "--customer", "c", "--amount", "1100")
        _, out = careful.luigi(*args)
        assert careful.stripe.posts() == []
        assert "it asked for $11.00, more than a single task may spend without an approval" in out
        run_id = str(the_run(careful)["run_id"])
        body = {"usd": "11", "task_id": careful.calls(run_id)[0]["task_id"]}
        assert careful.call("POST", f"/runs/{run_id}/approve", body)[0] == 200
        careful.luigi(*args)
        assert careful.stripe.moved() == 1100

    def test_one_that_says_so_only_when_it_is_claimed_waits_as_well(self, careful: Site) -> None:
        code, out = careful.luigi("LateCost", module=SHAPES)
        assert (code, careful.stripe.posts()) == (0, []), out
        assert not (careful.folder / "out" / "late").exists()
        assert "a single task may cost $10.00 without an approval, this one may cost $50.00" in out
        run_id = str(the_run(careful)["run_id"])
        assert careful.cli("approve", run_id, "--task", run_id, "--cost", "50")[0] == 0
        code, out = careful.luigi("LateCost", module=SHAPES)
        assert (code, careful.stripe.moved()) == (0, 5000), out


def test_approvals_are_read_strictly(site: Site) -> None:
    site.luigi("Charge", "--customer", "c")
    path = f"/runs/{the_run(site)['run_id']}/approve"
    bad: list[dict[str, object]] = [
        {},
        {"usd": 20},
        {"usd": "-1"},
        {"usd": "20", "who": "me"},
        {"usd": "20", "unknown_tasks": "3"},
        {"usd": "20", "unknown_tasks": True},
        {"usd": "20", "unknown_tasks": -1},
        {"usd": "20", "unknown_tasks": 3, "task_id": "t"},
    ]
    answered = [(body, site.call("POST", path, body)[0]) for body in bad]
    assert answered == [(body, 400) for body in bad]
    assert site.call("POST", path, {"usd": "20"})[0] == 409
    assert site.call("POST", "/runs/nope/approve", {"usd": "20"})[0] == 404
    assert site.call("POST", path, {"usd": "1"}, token=None)[0] in (401, 403)
