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


def asked_for(retry_after: str, otherwise_s: float, longest_s: float) -> float:
    """Return for how many seconds a server's `Retry-After` asks, up to `longest_s`; `otherwise_s` where that
    says no such number.
    """
    try:
        asked = float(retry_after)
    except ValueError:
        return otherwise_s
    return min(max(asked, 0.0), longest_s) if asked == asked else otherwise_s
