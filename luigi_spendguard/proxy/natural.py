"""Our errors as an SDK's own: classes that are caught by both names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_classes: dict[tuple[type, type, str], type[Any]] = {}


def both(ours: type[Exception], natural: type[Exception], sdk: str) -> type[Any]:
    """Return the class, named after `sdk`, that is caught both as `ours` and as the SDK's `natural`.

    Its instances can be pickled: a task's process pool hands them on.
    """
    known = (ours, natural, sdk)
    if known not in _classes:

        def reduced(self: Exception) -> tuple[Any, ...]:
            return _unpickled, (known, self.args, vars(self))

        body = {"__module__": __name__, "__reduce__": reduced}
        _classes[known] = type(f"{sdk}{ours.__name__}", (ours, natural), body)
    return _classes[known]


def _unpickled(known: tuple[Any, Any, str], args: tuple[Any, ...], state: Mapping[str, Any]) -> Exception:
    made = both(*known)
    error: Exception = made.__new__(made, *args)
    vars(error).update(state)
    return error


def not_sent(vendor: str, error: Exception) -> str:
    """Return the text for a call that never left."""
    return f"could not connect to {vendor}, nothing was sent: {error}"


def not_answered(vendor: str, error: Exception) -> str:
    """Return the text for a call whose exchange broke after its first byte."""
    return (
        f"no reply from {vendor} ({type(error).__name__}): the call may have been executed, and counts as in "
        "doubt until that is known"
    )
