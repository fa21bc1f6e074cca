"""Failed attempts to authenticate are counted, and who fails too often has to wait."""

from __future__ import annotations

from scheduler_patch.throttle import LIMIT, WINDOW_S, Throttle


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def failing(throttle: Throttle, peer: str = "10.0.0.1", times: int = LIMIT) -> None:
    for _ in range(times):
        assert not throttle.is_limited(peer, "wrong")
        throttle.was_wrong(peer)


def test_a_peer_that_fails_too_often_waits_and_others_do_not() -> None:
    throttle = Throttle(Clock())
    failing(throttle)
    assert throttle.is_limited("10.0.0.1", "the right one, seen for the first time")
    assert not throttle.is_limited("10.0.0.2", "wrong")
    assert throttle.failed == LIMIT


def test_what_was_right_before_is_always_tried() -> None:
    throttle = Throttle(Clock())
    throttle.was_right("known")
    failing(throttle)
    assert not throttle.is_limited("10.0.0.1", "known")


def test_it_is_over_after_a_while() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    failing(throttle)
    clock.now += WINDOW_S + 1
    assert not throttle.is_limited("10.0.0.1", "wrong")
