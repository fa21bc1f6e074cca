"""Waits that grow."""

from __future__ import annotations

from itertools import islice

from luigi_spendguard import backoff


def test_each_wait_is_twice_the_last_up_to_a_limit() -> None:
    assert list(islice(backoff.growing(*backoff.SOON), 6)) == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]
    assert list(islice(backoff.growing(*backoff.LATER), 7)) == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
