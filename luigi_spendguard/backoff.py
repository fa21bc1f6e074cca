"""How long to wait before something is tried again: twice as long each time, up to a limit."""

from __future__ import annotations

from collections.abc import Iterator

#: Seconds: the first wait and the longest, while somebody waits for the answer.
SOON = (0.05, 0.5)
#: The same for what is done in the background, and must not be lost.
LATER = (0.2, 5.0)


def growing(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield how many seconds to wait, without end."""
    wait_s = first_s
    while True:
        yield wait_s
        wait_s = min(longest_s, wait_s * 2)
