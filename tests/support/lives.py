"""Lives a guarded call to its end, by what a test does for each of its effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luigi_spendguard.guard.effects import Effect, Life, advance
from luigi_spendguard.vendors import Reply


def lived(life: Life, act: Callable[[Effect], Any]) -> Reply:
    """Return the reply at the end of `life`. Raises what it raises."""
    value: Any = None
    error: BaseException | None = None
    while True:
        effect = advance(life, value, error)
        if isinstance(effect, Reply):
            return effect
        value, error = None, None
        try:
            value = act(effect)
        except Exception as caught:
            error = caught
