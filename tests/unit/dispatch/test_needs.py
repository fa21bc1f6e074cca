"""What tasks need of a day's budget that a run may pass: each goes into it, or beyond it, as a whole."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_patch.dispatch.needs import _beyond


def worst(amounts: list[int], room: int) -> int:
    """Return the most that goes beyond, over every order."""
    found = 0
    for order in itertools.permutations(amounts):
        left, beyond = room, 0
        for amount in order:
            if amount <= left:
                left -= amount
            else:
                beyond += amount
        found = max(found, beyond)
    return found


@given(amounts=st.lists(st.integers(1, 9), max_size=5), room=st.integers(0, 20))
def test_no_order_of_tasks_needs_more_beyond_the_day(amounts: list[int], room: int) -> None:
    assert worst(amounts, room) <= _beyond(amounts, room) <= sum(amounts)


@pytest.mark.parametrize(
    ("amounts", "room", "beyond"),
    [
        ([], 0, 0),
        ([5, 5], 10, 0),
        ([5, 5], 3, 10),
        ([5, 5], 7, 5),
        ([2, 3, 4], 5, 6),
        ([1] * 40 + [30], 20, 50),
    ],
)
def test_equal_ones_need_exactly_what_has_no_room(amounts: list[int], room: int, beyond: int) -> None:
    assert _beyond(amounts, room) == beyond
    assert worst(amounts[:5], room) <= beyond
