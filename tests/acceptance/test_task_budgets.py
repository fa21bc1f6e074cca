"""Budgets inside a run: a task's own, a family's, a vendor's; all that apply must have room."""

from __future__ import annotations

import threading

import pytest

from tests.acceptance.test_shapes import SHAPES, charged
from tests.support.processes import wait_until
from tests.support.shapes import run_build
from tests.support.site import Site


def test_max_cost_usd_bounds_the_tasks_own_calls(site: Site) -> None:
    _, out = site.luigi("Declared", "--customer", "c", "--amount", "150", "--cost", "1", module=SHAPES)
    assert site.stripe.posts() == []
    assert "the cap of $1.00 of task Declared_" in out
    assert "it asked for $1.50, more than its max_cost_usd has left" in out


def test_it_is_one_budget_over_retries_and_resubmissions(site: Site) -> None:
    again = ("Declared", "--customer", "c", "--cost", "1", "--amount")
    assert site.luigi(*again, "100", module=SHAPES)[0] == 0
    with_key = "build(Declared('c', cost='1', amount=100), Declared('d', cost='1', amount=101))"
    run_build(site.folder, site.environment(), with_key)
    assert charged(site) == {"c": 1}


@pytest.mark.parametrize("bad", ["-1", "lots", "1.0000001"])
def test_an_amount_that_is_none_refuses_the_task_and_names_it(site: Site, bad: str) -> None:
    _, out = site.luigi("Declared", "--customer", "c", f"--cost={bad}", module=SHAPES)
    assert site.stripe.posts() == []
    assert "Declared.max_cost_usd is not usable" in out


def test_what_is_counted_from_dispatch_on_is_never_more_than_the_cap(site: Site) -> None:
    """Eight workers ask at once; each task may cost $4 and costs $1: none is dispatched to be denied."""
    site.stripe.control(options={"latency": 0.3})
    args = ("List", "--n", "8", "--cost", "4", "--budget-usd", "11", "--workers", "8")
    code, out = site.luigi(*args, module=SHAPES)
    assert code == 0, out
    assert site.stripe.moved() == 800, "tasks wait for what others turn out not to need"
    assert all(call["verdict"] == "allowed" for call in site.calls(next(iter(_runs(site)))))


def test_a_task_that_cannot_fit_any_more_is_blocked_without_having_run(site: Site) -> None:
    code, out = site.luigi("List", "--n", "3", "--cost", "6", "--budget-usd", "7", module=SHAPES)
    assert code == 0, out
    assert site.stripe.moved() == 200, out  # 7 - 1 = 6 left for the second, then 5 for the third.
    assert "1 task blocked: cap of $7.00 reached, $2.00 spent, $5.00 remaining is not enough" in out


def test_a_count_is_released_when_the_worker_is_lost(unstarted: Site) -> None:
    site = unstarted
    site.restart(scheduler={"worker_disconnect_delay": 2, "prune_on_get_work": "true"})
    site.stripe.control(options={"latency": 20})
    lost = site.worker("List", "--n", "1", "--cost", "5", "--budget-usd", "6", "--run-id", "r", module=SHAPES)
    try:
        wait_until(lambda: bool(site.stripe.posts()), what="the call")
    finally:
        lost.kill()
        lost.communicate()
    site.stripe.control(options={"latency": 0})
    site.configure(worker={"keep_alive": "true", "wait_interval": 0.2})
    code, out = site.luigi("List", "--n", "2", "--first", "1", "--cost", "5", "--run-id", "r", module=SHAPES)
    assert code == 0, out
    # The lost task's $1 goes on counting, its other $4 are free again: one of the others fits, whichever
    # Luigi takes first.
    assert list(charged(site).values()) == [1], out


def _runs(site: Site) -> list[str]:
    return [run["run_id"] for run in site.call("GET", "/runs", token=None)[1]]


class TestSubBudgets:
    @pytest.fixture
    def site(self, unstarted: Site) -> Site:
        return unstarted

    def test_a_family_has_its_own_cap_inside_any_run(self, site: Site) -> None:
        site.restart(spendguard_family_caps={"Charge": 3})
        code, out = site.luigi("Billing", "--n", "5", "--workers", "2")
        assert (code, site.stripe.moved()) == (0, 300), out
        assert "Charge's cap of $3.00 reached, $3.00 spent" in out
        assert "2.00 --family Charge` frees them, if they cost what others have, in this run" in out
        assert "it is set in [spendguard_family_caps]" in out

    def test_raising_it_in_luigi_cfg_frees_the_blocked(self, site: Site) -> None:
        site.restart(spendguard_family_caps={"Charge": 3})
        site.luigi("Billing", "--n", "5")
        site.restart(spendguard_family_caps={"Charge": 4})
        site.luigi("Billing", "--n", "5")
        assert site.stripe.moved() == 400

    def test_a_vendor_has_its_own_cap_inside_any_run(self, site: Site) -> None:
        site.restart(spendguard_stripe={"run_cap_usd": 2})
        code, out = site.luigi("Billing", "--n", "5", "--workers", "2")
        assert (code, site.stripe.moved()) == (0, 200), out
        assert "stripe's cap of $2.00 reached, $2.00 spent" in out

    def test_what_a_vendors_cap_cannot_pay_is_not_dispatched_to_be_denied(self, site: Site) -> None:
        site.restart(spendguard_stripe={"run_cap_usd": 2})
        _, out = site.luigi("Billing", "--n", "8", "--run-id", "r")
        assert (site.stripe.moved(), len(site.calls("r"))) == (200, 2), out
        assert "6 tasks blocked: stripe's cap of $2.00 reached" in out

    def test_nor_is_what_a_family_or_a_day_can_never_pay(self, site: Site) -> None:
        site.restart(spendguard_family_caps={"Declared": 3})
        args = ("List", "--n", "2", "--cost", "5")
        _, out = site.luigi(*args, "--run-id", "a", module=SHAPES)
        assert "2 tasks blocked: Declared's cap of $3.00 reached" in out
        site.restart(spendguard_family_caps={"Declared": None}, spendguard={"daily_cap_usd": 4})
        _, out = site.luigi(*args, "--run-id", "b", module=SHAPES)
        assert "2 tasks blocked: daily cap of $4.00 reached" in out
        assert (site.stripe.posts(), site.calls("a"), site.calls("b")) == ([], [], [])

    def test_all_runs_share_a_day(self, site: Site) -> None:
        site.restart(spendguard={"daily_cap_usd": 5})
        for first in ("0", "10"):
            _, out = site.luigi("Billing", "--n", "4", "--first", first)
        assert site.stripe.moved() == 500
        assert "daily cap of $5.00 reached, $5.00 spent" in out

    def test_the_smallest_of_them_holds_for_many_threads_and_the_others_lose_nothing(
        self, site: Site
    ) -> None:
        site.restart(
            spendguard={"daily_cap_usd": 40},
            spendguard_stripe={"run_cap_usd": 30},
            spendguard_family_caps={"ManyThreads": 20},
        )
        code, out = site.luigi("ManyThreads", "--threads", "16", "--run-id", "r")
        assert (code, site.stripe.moved()) == (0, 2000), out
        run = site.run("r")
        assert (run["spent_usd"], run["reserved_usd"]) == ("20.00", "0.00")
        spent = [(b["scope"], b["spent_usd"], b["reserved_usd"]) for b in run["budgets"]]
        assert spent == [(scope, "20.00", "0.00") for scope in ("family", "vendor", "day")]


def test_several_workers_in_one_run_end_with_the_cap_and_none_hangs(site: Site) -> None:
    site.stripe.control(options={"latency": 0.1})
    outs: list[str] = []

    def work(first: int) -> None:
        args = (
            "List",
            "--n",
            "6",
            "--first",
            str(first),
            "--cost",
            "2",
            "--run-id",
            "r",
            "--budget-usd",
            "10",
        )
        outs.append(site.luigi(*args, "--workers", "2", module=SHAPES)[1])

    workers = [threading.Thread(target=work, args=(first,)) for first in (0, 10, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert len(outs) == 3
    # The last dollar is too little for another task that says $2.
    assert site.stripe.moved() == 900


@pytest.mark.parametrize(
    "cap",
    [
        ("spendguard_family_caps", "Charge"),
        ("spendguard_stripe", "run_cap_usd"),
        ("spendguard", "daily_cap_usd"),
    ],
)
def test_a_cap_that_was_taken_out_of_luigi_cfg_blocks_nothing(unstarted: Site, cap: tuple[str, str]) -> None:
    site = unstarted
    section, key = cap
    site.restart(**{section: {key: "1.50"}})
    args = ("Mixed", "--declared", "0", "--unknown", "2", "--run-id", "r")
    out = site.luigi(*args, module=SHAPES)[1]
    assert site.stripe.moved() == 100, out
    assert "1 task blocked" in out
    site.restart(**{section: {key: None}})
    code, out = site.luigi(*args, module=SHAPES)
    assert (code, site.stripe.moved()) == (0, 200), out
    assert "blocked" not in out
