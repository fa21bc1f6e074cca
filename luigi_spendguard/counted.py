"""How many of something, in words."""

from __future__ import annotations


def counted(number: int, one: str, several: str = "") -> str:
    """Return `1 call` or `2 calls`; `several`: where that is not `one` with an s."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"
