"""What the dispatch gate remembers of tasks that have paid, of costs declared late, and of days."""

from __future__ import annotations

import pytest

from scheduler_patch.dispatch import READY, Gate
from scheduler_patch.dispatch.feed import draw, feed_day, pay
from scheduler_patch.dispatch.model import Announcement
from tests.support.gates import day, fed


@pytest.fixture
def gate() -> Gate:
    made = Gate()
    fed(made)
    return made


def join(gate: Gate, task_id: str, cost: int | None = None) -> None:
    gate.state.join(task_id, "r1", "w", Announcement("V", cost))


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
    gate.state.attempt("ab")
    for task_id in "ab":
        pay(gate.state, task_id)
    assert gate.joins("a", "r1", 0, "b")
    assert not gate.joins("a", "r1", 0, "new")


def test_a_cost_that_is_declared_late_adds_nothing_to_what_the_ledger_knows(gate: Gate) -> None:
    join(gate, "a")
    draw(gate.state, "a", 50)
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
    gate.state.stopped("a")
    assert gate.state.day.counted == 0
