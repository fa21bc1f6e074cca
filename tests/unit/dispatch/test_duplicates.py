"""A task that waits beside another one's call: until that has completed, or somebody has looked."""

from __future__ import annotations

import pytest

from scheduler_patch.dispatch import READY, Gate, Verdict
from scheduler_patch.dispatch.model import Announcement
from scheduler_patch.dispatch.reasons import reason_of
from tests.support.gates import fed


@pytest.fixture
def gate() -> Gate:
    """A gate with task `b` held beside call `c1` of task `a`, and come back from its worker."""
    gate = Gate()
    fed(gate)
    gate.state.join("b", "r1", "w", Announcement("V"))
    gate.started("b", "r1", "w")
    gate.state.hold("b", "duplicate", 26_000_000, "c1", "a")
    gate.state.stopped("b")
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
    gate.state.completed(["x"])
    assert gate.verdict("b", "w") is Verdict.DUPLICATE
    gate.state.completed(["a"])
    assert (gate.verdict("b", "w"), gate.state.version > seen) == (READY, True)
    assert gate.state.beside == {}


def test_so_does_an_approval(gate: Gate) -> None:
    gate.state.look_again("b")
    assert gate.verdict("b", "w") is READY


def test_and_submitting_it_again(gate: Gate) -> None:
    gate.state.join("b", "r1", "w", Announcement("V", scheduling=False))
    assert gate.verdict("b", "w") is Verdict.DUPLICATE
    gate.state.join("b", "r1", "w", Announcement("V", scheduling=True))
    gate.state.scheduled("w")
    assert gate.verdict("b", "w") is READY


def test_the_members_of_a_batch_wait_together(gate: Gate) -> None:
    gate.state.join("c", "r1", "w", Announcement("V"))
    gate.state.look_again("b")
    gate.state.combine("b_c", ["b", "c"])
    gate.state.hold("b_c", "duplicate", 1, "c1", "a")
    gate.state.split("b_c", ["b", "c"])
    assert [gate.verdict(one) for one in "bc"] == [Verdict.DUPLICATE] * 2
    gate.state.look_again("c")
    assert [gate.verdict(one) for one in "bc"] == [READY] * 2
