"""A task that waits beside another one's call: until that has completed, or somebody has looked."""

from __future__ import annotations

import pytest

from scheduler_patch.dispatch import READY, Gate, Verdict, batches, endings, holds, workers
from scheduler_patch.dispatch.model import Announcement
from scheduler_patch.dispatch.reasons import reason_of
from tests.support.gates import fed


@pytest.fixture
def gate() -> Gate:
    """A gate with task `b` held beside call `c1` of task `a`, and come back from its worker."""
    gate = Gate()
    fed(gate)
    workers.join(gate.state, "b", "r1", "w", Announcement("V"))
    gate.started("b", "r1", "w")
    holds.hold(gate.state, "b", "duplicate", 26_000_000, "c1", "a")
    endings.stopped(gate.state, "b")
    gate.came_back("b", "w")
    return gate


def test_it_says_beside_which_call_and_how_it_passes(gate: Gate) -> None:
    assert (gate.verdict("b", "w"), Verdict.DUPLICATE.is_held) == (Verdict.DUPLICATE, True)
    reason = reason_of(gate, "b", Verdict.DUPLICATE)
    assert reason is not None
    assert "$26.00, and call c1 of a may have made the same payment" in reason.text
    assert "spendguard approve r1 --task b --cost 26.00 --duplicate-of c1" in reason.advice


def test_more_money_does_not_free_it(gate: Gate) -> None:
    fed(gate, 5000, seen=9)
    assert gate.verdict("b", "w") is Verdict.DUPLICATE


def test_the_other_tasks_completion_does(gate: Gate) -> None:
    seen = gate.state.version
    endings.completed(gate.state, ["x"])
    assert gate.verdict("b", "w") is Verdict.DUPLICATE
    endings.completed(gate.state, ["a"])
    assert (gate.verdict("b", "w"), gate.state.version > seen) == (READY, True)
    assert gate.state.beside == {}


def test_so_does_an_approval(gate: Gate) -> None:
    holds.look_again(gate.state, "b")
    assert gate.verdict("b", "w") is READY


def test_and_submitting_it_again(gate: Gate) -> None:
    workers.join(gate.state, "b", "r1", "w", Announcement("V", scheduling=False))
    assert gate.verdict("b", "w") is Verdict.DUPLICATE
    workers.join(gate.state, "b", "r1", "w", Announcement("V", scheduling=True))
    workers.scheduled(gate.state, "w")
    assert gate.verdict("b", "w") is READY


def test_the_members_of_a_batch_wait_together(gate: Gate) -> None:
    workers.join(gate.state, "c", "r1", "w", Announcement("V"))
    holds.look_again(gate.state, "b")
    batches.combine(gate.state, "b_c", ["b", "c"])
    holds.hold(gate.state, "b_c", "duplicate", 1, "c1", "a")
    batches.split(gate.state, "b_c", ["b", "c"])
    assert [gate.verdict(one) for one in "bc"] == [Verdict.DUPLICATE] * 2
    holds.look_again(gate.state, "c")
    assert [gate.verdict(one) for one in "bc"] == [READY] * 2
