"""What the gate remembers of what has paid, of costs declared late, of days, and of workers that are gone."""

from __future__ import annotations

import pytest

from luigi_spendguard.ledger.snapshot import Start
from scheduler_patch.dispatch import READY, Gate, Verdict, batches, endings, workers
from scheduler_patch.dispatch.feed import begin, draw, end_run, feed_day, pay
from scheduler_patch.dispatch.model import Announcement
from tests.support.gates import day, fed


@pytest.fixture
def gate() -> Gate:
    made = Gate()
    fed(made)
    return made


def join(gate: Gate, task_id: str, cost: int | None = None) -> None:
    workers.join(gate.state, task_id, "r1", "w", Announcement("V", cost))


def test_what_has_paid_alone_joins_no_batch(gate: Gate) -> None:
    for task_id in ("paid", "new", "other"):
        join(gate, task_id, 1)
    assert gate.joins("new", "r1", 1, "other")
    pay(gate.state, "paid")
    assert not gate.joins("paid", "r1", 0, "new")
    assert not gate.joins("new", "r1", 1, "paid")


def test_a_batch_that_has_paid_comes_back_with_its_members(gate: Gate) -> None:
    for task_id in ("a", "b", "new"):
        join(gate, task_id, 1)
    batches.attempt(gate.state, "ab")
    for task_id in "ab":
        pay(gate.state, task_id)
    assert gate.joins("a", "r1", 0, "b")
    assert not gate.joins("a", "r1", 0, "new")


def test_a_batch_that_was_attempted_before_luigid_began_comes_back_with_its_members() -> None:
    gate = Gate()
    begin(gate.state, Start(1, batches=[["a", "b"]]))
    fed(gate)
    for task_id in ("a", "b", "new"):
        join(gate, task_id, 1)
    assert gate.joins("a", "r1", 0, "b")
    assert not gate.joins("a", "r1", 0, "new")


def test_a_cost_that_is_declared_late_adds_nothing_to_what_the_ledger_knows(gate: Gate) -> None:
    join(gate, "a")
    draw(gate.state, "a", 50, cap=50)
    join(gate, "a", 50)
    assert gate.state.tasks["a"].need == 50
    join(gate, "a", 70)
    assert gate.state.tasks["a"].need == 70
    assert gate.verdict("a") == READY


def test_a_late_answer_of_yesterday_does_not_bring_its_budget_back(gate: Gate) -> None:
    day(gate, 1000, window="2026-11-25")
    day(gate, 0, window="2026-11-24")
    assert gate.state.day is not None
    assert (gate.state.day.window, gate.state.day.remaining) == ("2026-11-25", 1000)
    gate.state.rules.day = 1000
    feed_day(gate.state, None)
    for late in ("2026-11-24", "2026-11-25"):
        day(gate, 0, window=late)
        assert gate.state.day.remaining == 1000, "nothing was reserved today"


def test_counts_follow_into_a_day_that_nothing_was_known_of_for_a_moment(gate: Gate) -> None:
    day(gate, 1000, window="2026-11-24")
    join(gate, "a", 400)
    gate.started("a", "r1")
    feed_day(gate.state, None)
    day(gate, 1000, window="2026-11-25")
    assert gate.state.day is not None
    assert gate.state.day.counted == 400
    endings.stopped(gate.state, "a")
    assert gate.state.day.counted == 0


def test_of_a_worker_that_is_gone_nothing_is_kept(gate: Gate) -> None:
    """A blocked task is submitted again by one worker after the other, for as long as it is blocked."""
    for number in range(3):
        workers.join(gate.state, "a", "r1", f"w{number}", Announcement("V", 5000, scheduling=True))
        workers.scheduled(gate.state, f"w{number}")
        gate.came_back("a", f"w{number}")
        workers.lose_workers(gate.state, [f"w{number}"])
    task = gate.state.tasks["a"]
    assert (task.workers, task.refused, task.runs) == ({}, {}, ["r1"])
    assert (gate.state.runs_of, gate.state.announcing, gate.state.unplaced) == ({}, {}, {})


def test_a_task_that_came_back_from_the_worker_that_is_left_is_refused_to_all(gate: Gate) -> None:
    for worker in ("gone", "w"):
        workers.join(gate.state, "a", "r1", worker, Announcement("V", 1))
    workers.lose_workers(gate.state, ["gone"])
    gate.started("a", "r1", "w")
    endings.stopped(gate.state, "a")
    gate.came_back("a", "w")
    assert gate.verdict("a") is Verdict.REFUSED


@pytest.mark.parametrize("how", ["closed here", "closed elsewhere"])
def test_of_a_run_that_has_ended_nothing_is_kept(gate: Gate, how: str) -> None:
    """Roots with a date come every day, each with a run of its own."""
    workers.join(gate.state, "a", "day", "w", Announcement("V"))
    fed(gate, run_id="day~2", name="day")
    endings.done(gate.state, "a")
    if how == "closed here":
        end_run(gate.state, "day~2", ["a"])
    else:
        fed(gate, run_id="day~2", name="day", state="ended")
    assert set(gate.state.runs) == set(gate.state.names) == {"r1"}
    assert gate.state.runs_of == {"w": {"day~2"}}
