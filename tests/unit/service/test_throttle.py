"""Wrong tokens and keys are counted by address; the count is bounded, and nobody else pays for it."""

from __future__ import annotations

from scheduler_patch.service.shares import LIMIT, REMEMBERED, WINDOW_S, Throttle


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_peer_that_shows_too_many_wrong_ones_is_told_so_and_others_are_not() -> None:
    throttle = Throttle(Clock())
    assert not any(throttle.was_wrong("10.0.0.1") for _ in range(LIMIT))
    assert throttle.was_wrong("10.0.0.1")
    assert not throttle.was_wrong("10.0.0.2")
    assert throttle.failed == LIMIT + 2


def test_it_is_over_after_a_while() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(LIMIT):
        throttle.was_wrong("10.0.0.1")
    clock.now += WINDOW_S + 1
    assert not throttle.was_wrong("10.0.0.1")


def test_so_many_peers_are_remembered_and_no_more() -> None:
    throttle = Throttle(Clock())
    for number in range(REMEMBERED + 50):
        throttle.was_wrong(str(number))
    assert len(throttle._wrong) == REMEMBERED
