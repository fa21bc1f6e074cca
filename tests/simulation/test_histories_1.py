"""A thousand histories, which keep every promise; in two files, so that two processes share them."""

from __future__ import annotations

from tests.simulation.histories import many


def test_no_history_breaks_a_promise() -> None:
    """More of them: `make chaos`; one alone: `python -m tests.simulation --seed N`."""
    assert many(1, 1000, float("inf"), jobs=1) == (1000, None, "")
