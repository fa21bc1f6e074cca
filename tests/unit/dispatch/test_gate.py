"""The dispatch gate's decisions: counts, forecasts, approvals, membership; fed as the ledger feeds it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from luigi_spendguard.ledger.snapshot import Figures
from scheduler_patch.dispatch import READY, WAIT, Gate, batches, endings, holds, workers
from scheduler_patch.dispatch.budgets import Rules
from scheduler_patch.dispatch.feed import approve, claimed, draw, feed, feed_day, pay
from scheduler_patch.dispatch.model import Announcement
from scheduler_patch.dispatch.reasons import reason_of
from tests.support.gates import budget, day, fed

RUN_ROW = {
    "name": "r1",
    "state": "active",
    "root_family": "Root",
    "last_micros": None,
    "estimated_micros": 0,
    "approved_micros": None,
    "approved_unknown": None,
    "forecast_micros": None,
    "unknown_tasks": 0,
}


@pytest.fixture
def gate() -> Gate:
    made = Gate()
    fed(made)
    return made


def join(
    gate: Gate,
    task_id: str,
    cost: int | None = None,
    run_id: str = "r1",
    worker: str = "w",
    announcing: bool = False,
    vendors: tuple[str, ...] = (),
) -> None:
    workers.join(gate.state, task_id, run_id, worker, Announcement("V", cost, vendors, announcing))


def reserved(gate: Gate, spent: int, pending: int, cap: int = 1000) -> None:
    """Feed a run with calls under way."""
    row = budget("run", "", cap, cap - spent - pending, spent) | {"reserved_micros": pending}
    fed(gate, cap - spent - pending, cap=cap, budgets=(row,))


class TestCounts:
    def test_a_cost_is_counted_from_dispatch_on(self, gate: Gate) -> None:
        join(gate, "a", 600)
        join(gate, "b", 600)
        gate.started("a", "r1")
        assert gate.verdict("b") == WAIT
        endings.stopped(gate.state, "a")
        assert gate.verdict("b") == READY

    def test_what_does_not_fit_even_without_counts_is_blocked(self, gate: Gate) -> None:
        join(gate, "a", 1001)
        assert gate.verdict("a") == "cap"
        fed(gate, 1001)
        assert gate.verdict("a") == READY

    def test_the_count_is_drawn_down_by_the_tasks_calls(self, gate: Gate) -> None:
        join(gate, "a", 600)
        join(gate, "b", 600)
        gate.started("a", "r1")
        fed(gate, 800)
        draw(gate.state, "a", 400)
        assert gate.state.runs["r1"].own_budget.counted == 400
        assert gate.verdict("b") == WAIT
        draw(gate.state, "a", 200)
        assert gate.verdict("b") == READY

    def test_a_count_is_released_once(self, gate: Gate) -> None:
        join(gate, "a", 600)
        gate.started("a", "r1")
        for _ in range(2):
            endings.stopped(gate.state, "a")
        endings.forget(gate.state, ["a"])
        assert gate.state.runs["r1"].own_budget.counted == 0

    def test_a_count_is_taken_in_the_day_and_the_family_too(self, gate: Gate) -> None:
        fed(gate, budgets=(budget("family", "V", 500, 500),))
        day(gate, 700, cap=700)
        join(gate, "a", 400)
        join(gate, "b", 200)
        gate.started("a", "r1")
        assert gate.verdict("b") == WAIT
        endings.stopped(gate.state, "a")
        day(gate, 100, cap=700)
        assert gate.verdict("b") == "day"
        day(gate, 700, cap=700)
        fed(gate, budgets=(budget("family", "V", 500, 100),))
        assert gate.verdict("b") == "family"

    def test_a_new_day_takes_the_counts_over(self, gate: Gate) -> None:
        day(gate, 700, cap=700)
        join(gate, "a", 400)
        gate.started("a", "r1")
        day(gate, 700, cap=700, window="2026-11-25")
        assert gate.state.day is not None
        assert gate.state.day.counted == 400
        endings.stopped(gate.state, "a")
        assert gate.state.day.counted == 0

    def test_what_has_paid_is_dispatched_whatever_it_may_still_cost(self, gate: Gate) -> None:
        join(gate, "a", 600)
        pay(gate.state, "a")
        fed(gate, 0)
        assert gate.verdict("a") == READY

    def test_it_waits_while_calls_under_way_may_give_back_what_it_needs(self, gate: Gate) -> None:
        join(gate, "a", 600)
        join(gate, "b", 600)
        gate.started("a", "r1")
        assert gate.verdict("b") == WAIT
        reserved(gate, 0, 600)
        draw(gate.state, "a", 0)
        assert gate.verdict("b") == WAIT, "a decline would free it"
        endings.stopped(gate.state, "a")
        assert gate.verdict("b") == "cap", "what is in doubt is not given back"
        gate.started("a", "r1")
        reserved(gate, 600, 0)
        assert gate.verdict("b") == "cap"

    def test_what_is_declared_only_when_it_is_claimed_is_counted_then(self, gate: Gate) -> None:
        join(gate, "a")
        join(gate, "b", 600)
        gate.started("a", "r1")
        assert gate.verdict("b") == READY
        claimed(gate.state, "a", "r1", "w", "V", (600, 600))
        assert gate.verdict("b") == WAIT
        endings.stopped(gate.state, "a")
        assert (gate.verdict("b"), gate.state.runs["r1"].own_budget.counted) == (READY, 0)


class TestConfiguredBudgets:
    """The ledger makes them with their first reservation; the gate knows them from luigi.cfg."""

    def test_a_familys_cap_is_known_before_it_has_spent(self, gate: Gate) -> None:
        gate.state.rules.families = {"V": 300}
        join(gate, "a", 500)
        join(gate, "b", 300)
        join(gate, "c", 300)
        assert (gate.verdict("a"), gate.verdict("b")) == ("family", READY)
        gate.started("b", "r1")
        assert gate.verdict("c") == WAIT
        reason = reason_of(gate, "a", gate.verdict("a"))
        assert reason is not None
        assert "V's cap of $0.0003 reached" in reason.text

    @pytest.mark.parametrize("scope", ["family", "vendor", "day"])
    def test_one_that_luigi_cfg_has_no_more_blocks_nothing(self, gate: Gate, scope: str) -> None:
        rules, caps = gate.state.rules, {"V": 300, "stripe": 300}
        rules.families, rules.vendors, rules.day = caps, caps, 300
        join(gate, "a", vendors=("stripe",))
        part = {"family": "V", "vendor": "stripe"}.get(scope, "")
        if scope == "day":
            day(gate, 0, cap=300)
        else:
            fed(gate, budgets=(budget(scope, part, 300, 0),))
        holds.hold(gate.state, "a", scope, 400, part)
        assert gate.verdict("a") == scope
        rules.families, rules.vendors, rules.day = {}, {}, None
        assert gate.verdict("a") == READY

    def test_a_task_that_declares_nothing_any_more_is_not_held_by_what_it_declared(self, gate: Gate) -> None:
        join(gate, "a", 300)
        gate.started("a", "r1")
        claimed(gate.state, "a", "r1", "w", "V", (0, 300))
        holds.hold(gate.state, "a", "task", 400)
        endings.stopped(gate.state, "a")
        assert gate.verdict("a") == "task"
        join(gate, "a", None, announcing=True)
        workers.scheduled(gate.state, "w")
        assert gate.verdict("a") == READY

    def test_so_is_a_vendors(self, gate: Gate) -> None:
        gate.state.rules.vendors = {"stripe": 200}
        join(gate, "a", 300, vendors=("stripe",))
        join(gate, "b", 300, vendors=("twilio",))
        join(gate, "c", 300)
        assert [gate.verdict(task_id) for task_id in "abc"] == ["vendor", READY, READY]
        fed(gate, budgets=(budget("vendor", "stripe", 200, 0),))
        join(gate, "d", vendors=("stripe",))
        join(gate, "e", 300, vendors=("stripe", "twilio"))
        assert (gate.verdict("d"), gate.verdict("e")) == ("vendor", "vendor")
        reason = reason_of(gate, "d", gate.verdict("d"))
        assert reason is not None
        assert (reason.text[:17], reason.advice) == (
            "stripe's cap of $",
            "`spendguard top-up r1 0.01 --vendor stripe` frees it to try, in this run; it is set in "
            "[spendguard_stripe] run_cap_usd",
        )

    def test_a_task_of_two_vendors_needs_all_of_neither(self, gate: Gate) -> None:
        gate.state.rules.vendors = {"stripe": 200}
        join(gate, "a", 300, vendors=("stripe", "twilio"))
        assert gate.verdict("a") == READY

    def test_so_is_the_days(self, gate: Gate) -> None:
        gate.state.rules.day = 300
        join(gate, "a", 500)
        assert gate.verdict("a") == "day"

    def test_counts_go_on_in_a_day_in_which_nothing_was_reserved_yet(self, gate: Gate) -> None:
        gate.state.rules.day = 700
        day(gate, 0, cap=700)
        join(gate, "a", 400)
        join(gate, "b", 400)
        gate.started("a", "r1")
        assert gate.verdict("b") == "day"
        feed_day(gate.state, None)
        assert gate.verdict("b") == WAIT
        day(gate, 0, cap=700)  # A late answer about yesterday.
        assert gate.verdict("b") == WAIT
        day(gate, 100, cap=700, window="2026-11-25")
        assert gate.verdict("b") == "day"
        day(gate, 700, cap=700)
        assert gate.verdict("b") == "day"
        endings.stopped(gate.state, "a")
        assert gate.state.day is not None
        assert (gate.state.day.counted, gate.state.day.running) == (0, 0)


class TestUnopenedRuns:
    """Tasks belong to a run by its name before anybody has opened it."""

    def test_they_may_be_claimed_and_the_attempt_opens_it(self, gate: Gate) -> None:
        join(gate, "a", 600, "new")
        join(gate, "b", 600, "new")
        assert (gate.verdict("a"), gate.paying_run("a")) == (READY, "new")
        gate.started("a", "new")
        fed(gate, run_id="new")
        claimed(gate.state, "a", "new", "w", "V", None)
        assert gate.verdict("b") == WAIT
        endings.stopped(gate.state, "a")
        assert gate.state.runs["new"].own_budget.counted == 0

    def test_hold_holds_them_until_it_is_open(self, gate: Gate) -> None:
        gate.state.rules.forecast = "hold"
        join(gate, "a", 600, "new", announcing=True)
        assert gate.verdict("a") == WAIT
        assert workers.scheduled(gate.state, "w")
        assert gate.verdict("a") == "forecast"
        reason = reason_of(gate, "a", gate.verdict("a"))
        assert reason is not None
        assert "its run is not open" in reason.text
        fed(gate, run_id="new", cap=500)
        assert gate.verdict("a") == "forecast"
        fed(gate, run_id="new", cap=600)
        assert gate.verdict("a") == READY

    def test_one_may_be_opened_under_a_later_id(self, gate: Gate) -> None:
        join(gate, "a", run_id="new")
        row = {
            "run_id": "new~2",
            "name": "new",
            "state": "active",
            "root_family": "",
            "last_micros": None,
            "approved_micros": None,
            "approved_unknown": None,
            "forecast_micros": None,
            "estimated_micros": 0,
            "unknown_tasks": 0,
        }
        feed(gate.state, Figures(row, [budget("run", "", 0, 0)]))
        assert (gate.verdict("a"), gate.paying_run("a"), "new" in gate.state.runs) == ("cap", "new~2", False)

    def test_the_days_budget_bounds_them(self, gate: Gate) -> None:
        day(gate, 500)
        join(gate, "a", 600, "new")
        join(gate, "b", None, "new")
        assert (gate.verdict("a"), gate.verdict("b")) == ("day", READY)
        day(gate, 0)
        assert gate.verdict("b") == "day"

    def test_they_are_forgotten_with_their_last_task(self, gate: Gate) -> None:
        join(gate, "a", run_id="new")
        endings.forget(gate.state, ["a"])
        assert list(gate.state.runs) == ["r1"]

    def test_a_task_that_belongs_nowhere_waits_while_that_may_be_said(self, gate: Gate) -> None:
        workers.join(gate.state, "a", None, "w", Announcement("V", scheduling=True))
        assert gate.verdict("a") == WAIT
        workers.scheduled(gate.state, "w")
        assert (gate.verdict("a"), gate.paying_run("a")) == (READY, None)
        day(gate, 0)
        assert gate.verdict("a") == "day"
        day(gate, 1000)
        gate.state.rules.forecast = "hold"
        assert gate.verdict("a") == "forecast"
        reason = reason_of(gate, "a", gate.verdict("a"))
        assert reason is not None
        assert reason.run_id == "unknown"

    def test_batch_mates_have_equal_runs_known_or_not(self, gate: Gate) -> None:
        for task_id in "ab":
            workers.join(gate.state, task_id, None, "w", Announcement("V"))
        join(gate, "c", run_id="new")
        join(gate, "d", run_id="new")
        assert gate.joins("a", None, 0, "b")
        assert gate.joins("c", "new", 0, "d")
        assert not gate.joins("a", None, 0, "c")
        assert not gate.joins("c", "new", 0, "a")


class TestSharedTasks:
    def test_the_dispatching_workers_run_pays(self, gate: Gate) -> None:
        fed(gate, run_id="r2")
        join(gate, "a")
        join(gate, "a", run_id="r2", worker="w2")
        assert gate.paying_run("a", "w2") == "r2"
        assert gate.paying_run("a", "w") == "r1"

    def test_a_retry_stays_with_the_run_it_was_dispatched_for(self, gate: Gate) -> None:
        fed(gate, run_id="r2")
        join(gate, "a")
        join(gate, "a", run_id="r2", worker="w2")
        gate.started("a", None, "w2")
        endings.stopped(gate.state, "a")
        assert gate.paying_run("a", "w") == "r2"

    def test_another_run_pays_when_it_cannot_and_nothing_was_paid(self, gate: Gate) -> None:
        fed(gate, run_id="r2")
        join(gate, "a")
        join(gate, "a", run_id="r2")
        gate.started("a", "r1")
        endings.stopped(gate.state, "a")
        fed(gate, 0)
        assert (gate.verdict("a"), gate.paying_run("a")) == (READY, "r2")
        pay(gate.state, "a")
        assert gate.paying_run("a") == "r1"

    @pytest.mark.parametrize("scope", ["run", "family", "task"])
    def test_what_one_run_was_asked_for_does_not_bind_another_that_comes_later(
        self, gate: Gate, scope: str
    ) -> None:
        gate.state.rules = Rules(families={"V": 1000})
        join(gate, "a", 700, announcing=True)
        gate.started("a", "r1")
        claimed(gate.state, "a", "r1", "w", "V", (700, 700))
        holds.hold(gate.state, "a", scope, 5000, "V" if scope == "family" else "")
        endings.stopped(gate.state, "a")
        join(gate, "a", 700, announcing=True)
        assert gate.verdict("a") == ("cap" if scope == "run" else scope), "its own run was submitted again"
        fed(gate, run_id="r2")
        join(gate, "a", 700, "r2", worker="w2", announcing=True)
        assert (gate.verdict("a", "w2"), gate.paying_run("a", "w2")) == (READY, "r2")

    def test_a_revoked_run_leaves_it_to_the_other(self, gate: Gate) -> None:
        fed(gate, run_id="r2")
        join(gate, "a")
        join(gate, "a", run_id="r2")
        gate.started("a", "r1")
        fed(gate, state="revoked")
        assert gate.is_stopped("a")
        endings.stopped(gate.state, "a")
        assert gate.paying_run("a") == "r2"
        fed(gate, run_id="r2", state="revoked")
        assert gate.verdict("a") == "revoked"


class TestBatches:
    def test_members_join_while_there_is_room_for_all(self, gate: Gate) -> None:
        for task_id in "abc":
            join(gate, task_id, 400)
        assert gate.joins("a", "r1", 400, "b")
        assert not gate.joins("a", "r1", 800, "c")
        pay(gate.state, "c")
        assert not gate.joins("a", "r1", 400, "c"), "what has paid alone comes back alone"
        batches.attempt(gate.state, "ac")
        assert gate.joins("a", "r1", 800, "c"), "its repeated calls cost nothing"

    def test_so_do_those_that_say_nothing_while_there_is_any(self, gate: Gate) -> None:
        for task_id in "ab":
            join(gate, task_id)
        assert gate.joins("a", "r1", 999, "b")
        assert not gate.joins("a", "r1", 1000, "b")

    def test_what_others_are_counted_for_is_no_room(self, gate: Gate) -> None:
        join(gate, "running", 500)
        gate.started("running", "r1")
        for task_id in "ab":
            join(gate, task_id, 300)
        assert not gate.joins("a", "r1", 300, "b")
        endings.stopped(gate.state, "running")
        assert gate.joins("a", "r1", 300, "b")


class TestForecasts:
    @pytest.fixture
    def holding(self, gate: Gate) -> Gate:
        gate.state.rules.forecast = "hold"
        return gate

    def test_nothing_is_dispatched_before_scheduling_is_complete(self, holding: Gate) -> None:
        join(holding, "a", 10, announcing=True)
        assert holding.verdict("a") == WAIT
        (run,) = workers.scheduled(holding.state, "w")
        assert run.forecast is not None
        assert (run.forecast.known, holding.verdict("a")) == (10, READY)

    def test_a_worker_lost_while_scheduling_leaves_it_blocked_not_waiting(self, holding: Gate) -> None:
        join(holding, "a", 10, announcing=True)
        workers.lose_workers(holding.state, ["w"])
        assert holding.verdict("a") == "forecast"
        reason = reason_of(holding, "a", holding.verdict("a"))
        assert reason is not None
        assert "not scheduled completely" in reason.text

    def test_one_over_the_cap_waits_for_an_approval_of_that_amount(self, holding: Gate) -> None:
        for task_id in "abc":
            join(holding, task_id, 400, announcing=True)
        workers.scheduled(holding.state, "w")
        assert holding.verdict("a") == "forecast"
        fed(holding, approved=1199)
        assert holding.verdict("a") == "forecast"
        fed(holding, approved=1200)
        assert holding.verdict("a") == READY

    def test_an_approval_covers_the_unknown_tasks_that_were_shown(self, holding: Gate) -> None:
        fed(holding, last=10)
        for number in range(3):
            join(holding, f"unknown{number}", announcing=True)
        join(holding, "a", 40, announcing=True)
        workers.scheduled(holding.state, "w")
        fed(holding, last=10, approved=40)
        assert holding.verdict("a") == "forecast"
        fed(holding, last=10, approved=40, approved_unknown=3)
        assert holding.verdict("a") == READY
        join(holding, "unknown3", announcing=True)
        workers.scheduled(holding.state, "w")
        assert holding.verdict("a") == "forecast"

    def test_one_far_above_the_last_run_is_held(self, holding: Gate) -> None:
        fed(holding, last=100)
        join(holding, "a", 300, announcing=True)
        workers.scheduled(holding.state, "w")
        assert holding.verdict("a") == READY
        join(holding, "b", 1, announcing=True)
        workers.scheduled(holding.state, "w")
        assert holding.verdict("a") == "forecast"
        holding.state.rules.growth = Decimal(4)
        assert holding.verdict("a") == READY

    def test_what_is_not_declared_is_estimated_or_unknown_or_paid_already(self, holding: Gate) -> None:
        holding.state.averages["V"] = 50
        for task_id in "ab":
            join(holding, task_id, announcing=True)
        pay(holding.state, "b")
        workers.join(holding.state, "c", "r1", "w", Announcement("Other", scheduling=True))
        (run,) = workers.scheduled(holding.state, "w")
        assert run.forecast is not None
        assert (run.forecast.known, run.forecast.estimated, run.forecast.unknown) == (50, 50, 1)
        assert str(run.forecast) == (
            "$0.00005 ($0.00005 of it estimated from earlier runs) and 1 task of unknown cost"
        )

    def test_a_single_task_above_the_threshold_waits_for_its_own_approval(self, gate: Gate) -> None:
        gate.state.rules.single = 100
        join(gate, "a", 101)
        join(gate, "b", 100)
        assert (gate.verdict("a"), gate.verdict("b")) == ("approval", READY)
        approve(gate.state, "r1", "a", 101, None)
        assert gate.verdict("a") == READY
        join(gate, "a", 102)
        assert gate.verdict("a") == "approval"

    def test_so_does_one_that_says_so_only_when_it_is_claimed(self, gate: Gate) -> None:
        gate.state.rules.single = 100
        join(gate, "a")
        gate.started("a", "r1")
        holds.declare(gate.state, "a", 500)
        gate.hold_as_reported("a")
        endings.stopped(gate.state, "a")
        assert gate.verdict("a") == "approval"
        approve(gate.state, "r1", "a", 500, None)
        assert gate.verdict("a") == READY


class TestStopping:
    def test_a_worker_is_told_until_it_has_acknowledged(self, gate: Gate) -> None:
        join(gate, "a")
        gate.started("a", "r1")
        claimed(gate.state, "a", "r1", "w", "V", None)
        fed(gate, state="revoked")
        for _ in range(2):
            assert workers.to_stop(gate.state, "w") == {"r1": ["a"]}
        workers.acknowledged(gate.state, "w", "r1")
        assert workers.to_stop(gate.state, "w") == {}

    def test_a_task_that_has_ended_is_not_told_of(self, gate: Gate) -> None:
        join(gate, "a")
        claimed(gate.state, "a", "r1", "w", "V", None)
        fed(gate, state="revoked")
        endings.stopped(gate.state, "a")
        assert workers.to_stop(gate.state, "w") == {}

    def test_nobody_is_told_where_that_is_switched_off(self, gate: Gate) -> None:
        gate.state.rules.kill = False
        claimed(gate.state, "a", "r1", "w", "V", None)
        fed(gate, state="revoked")
        assert workers.to_stop(gate.state, "w") == {}


def test_an_ended_run_is_forgotten_and_its_late_answers_are_harmless(gate: Gate) -> None:
    late = {"run_id": "r1", "state": "ended"}
    feed(gate.state, Figures(late, []))
    assert gate.state.runs == {}
    feed(gate.state, Figures(late, []))
    assert gate.state.runs == {}


class TestOrder:
    """What was read earlier may arrive later: a look at the ledger races with answers of its writer."""

    def test_an_older_state_or_budget_changes_nothing(self, gate: Gate) -> None:
        join(gate, "a")
        fed(gate, 0, state="revoked", seen=7)
        fed(gate, 500, seen=6)
        assert (gate.state.runs["r1"].state, gate.state.runs["r1"].own_budget.remaining) == ("revoked", 0)

    def test_each_budget_is_as_new_as_its_own_figures(self, gate: Gate) -> None:
        late = budget("family", "V", 500, 400)
        feed(gate.state, Figures({"run_id": "r1", "state": "active"}, [budget("run", "", 1000, 700)], 7))
        fed(gate, 1000, budgets=(late,), approved=9, seen=6)
        run = gate.state.runs["r1"]
        assert (run.own_budget.remaining, run.budgets["family", "V"].remaining) == (700, 400)
        assert run.approved == 9, "only the state and the one budget were newer"

    def test_an_older_day_does_not_come_back(self, gate: Gate) -> None:
        day(gate, 700, window="2026-11-25", seen=7)
        day(gate, 10, seen=6)
        feed_day(gate.state, None, 6)
        assert gate.state.day is not None
        assert (gate.state.day.window, gate.state.day.remaining) == ("2026-11-25", 700)

    def test_what_a_task_has_left_is_of_its_own_run_and_not_older(self, gate: Gate) -> None:
        fed(gate, run_id="r2")
        join(gate, "a", 600)
        gate.started("a", "r1")
        for run_id, left, seen in (("r1", 100, 7), ("r1", 300, 6), ("r2", 50, 8)):
            state = {"run_id": run_id, "state": "active"}
            feed(gate.state, Figures(state, [budget("task", "a", 600, left)], seen))
        assert (gate.state.tasks["a"].left, gate.state.runs["r1"].own_budget.counted) == (100, 100)

    def test_approvals_are_those_of_the_newer_figures(self, gate: Gate) -> None:
        row = {**RUN_ROW, "run_id": "r1"}
        feed(gate.state, Figures(row, [], 7, {"a": 12}))
        feed(gate.state, Figures(row, [], 6, {"a": 10}))
        assert gate.state.runs["r1"].approvals == {"a": 12}


def test_an_ended_runs_late_change_does_not_take_its_name_back(gate: Gate) -> None:
    feed(gate.state, Figures({**RUN_ROW, "run_id": "r1~2"}, [], 5))
    feed(gate.state, Figures({**RUN_ROW, "run_id": "r1", "state": "ended"}, [], 6))
    found = gate.state.run("r1")
    assert found is not None
    assert found.run_id == "r1~2"


def test_shadow_mode_lets_pass_what_only_a_cap_blocks(gate: Gate) -> None:
    gate.state.rules.shadow = True
    join(gate, "a", 5000)
    assert gate.verdict("a") == READY
    fed(gate, state="revoked")
    assert gate.verdict("a") == "revoked"


class TestOneRulePays:
    """The gate dispatches a task for a run that its claim will use, and decides it once."""

    def test_an_unopened_run_pays_for_nothing_while_an_open_one_is_known(self, gate: Gate) -> None:
        join(gate, "a", 600, "never", worker="wrong")
        join(gate, "a", 600)
        assert {gate.paying_run("a", worker) for worker in ("wrong", "w", None)} == {"r1"}
        fed(gate, 0)
        assert {gate.verdict("a", worker) for worker in ("wrong", "w", None)} == {"cap"}

    def test_a_revoked_one_leaves_it_to_its_own_worker(self, gate: Gate) -> None:
        join(gate, "a", 600, "never", worker="other")
        join(gate, "a", 600)
        fed(gate, state="revoked")
        assert gate.verdict("a", "w") == "revoked"
        assert (gate.verdict("a", "other"), gate.paying_run("a", "other")) == (READY, "never")
        assert gate.verdict("a", "assistant") == READY


class TestWhatCameBack:
    def test_is_not_dispatched_to_that_worker_before_something_has_changed(self, gate: Gate) -> None:
        join(gate, "a", 100)
        join(gate, "a", 100, worker="w2")
        gate.came_back("a", "w")
        assert (gate.verdict("a", "w"), gate.verdict("a", "w2"), gate.verdict("a")) == (
            "refused",
            READY,
            READY,
        )
        reason = reason_of(gate, "a", gate.verdict("a", "w"), "w")
        assert reason is not None
        assert "its last attempt was blocked" in reason.text
        gate.came_back("a", "w2")
        assert gate.verdict("a") == "refused"

    def test_another_run_of_that_worker_is_asked_once_too(self, gate: Gate) -> None:
        fed(gate, run_id="r2")
        for run_id in ("r1", "r2"):
            join(gate, "a", run_id=run_id)

        def denied(run_id: str, scope: str, part: str = "") -> None:
            assert (gate.verdict("a", "w"), gate.paying_run("a", "w")) == (READY, run_id)
            gate.started("a", run_id, "w")
            claimed(gate.state, "a", run_id, "w", "V", None)
            holds.hold(gate.state, "a", scope, 700, part)
            endings.stopped(gate.state, "a")
            gate.came_back("a", "w")

        gate.state.rules = Rules(vendors={"stripe": 600})
        fed(gate, 500, cap=500)
        first = gate.state.run("r1")
        assert first is not None
        gate.state.inside(first, "vendor", "stripe")
        first.budgets["vendor", "stripe"].cap = first.budgets["vendor", "stripe"].remaining = 1000
        denied("r1", "run")
        denied("r2", "vendor", "stripe")
        assert (gate.verdict("a", "w"), gate.paying_run("a", "w")) == ("refused", "r1")
        fed(gate, 700, cap=700)
        denied("r1", "run")
        assert gate.verdict("a", "w") != READY

    @pytest.mark.parametrize("how", ["top-up", "approval", "rules", "submitted", "run", "worker"])
    def test_is_freed_by_whatever_may_change_the_answer(self, gate: Gate, how: str) -> None:
        join(gate, "a", 100)
        gate.came_back("a", "w")
        fed(gate, 900, cap=1000)
        assert gate.verdict("a", "w") == "refused", "less money lets nothing pass"
        if how == "top-up":
            fed(gate, 1001, cap=2000)
        elif how == "approval":
            approve(gate.state, "r1", "a", 100, None)
        elif how == "rules":
            gate.state.rules = Rules()
        elif how == "submitted":
            join(gate, "a", 100, announcing=True)
        elif how == "run":
            fed(gate, run_id="r2")
            join(gate, "a", 100, "r2", worker="w2")
        else:
            workers.lose_workers(gate.state, ["w"])
        assert gate.verdict("a", "w") == READY
        assert gate.verdict("a", "w") == READY
