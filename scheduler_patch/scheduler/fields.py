"""What workers say of vendor tasks in Luigi's own RPCs: of the types that we go by, else it is refused.

Those RPCs are open to anybody who reaches the port, and Luigi takes what it is told as it comes. What is said
of other tasks stays Luigi's own matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from luigi_spendguard.protocol.messages import BadMessage

_HALVES = re.compile("[\ud800-\udfff]")

#: What a field may be: how that is called, and whether a value is it.
Type = tuple[str, Callable[[Any], bool]]


def _is_text(value: Any) -> bool:
    """Return whether a value is a text that can be written: JSON has halves of characters, too."""
    return isinstance(value, str) and not _HALVES.search(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) and all(map(_is_text, value))


_TEXT: Type = "a text", _is_text
_TEXTS: Type = "a list of texts", _is_list
_OBJECT: Type = "an object", lambda value: isinstance(value, dict)
_NAME: Type = "a text of 1000 characters at the most", lambda value: _is_text(value) and len(value) <= 1000

#: Of `add_task`.
_LUIGIS = {
    **dict.fromkeys(("task_id", "worker", "family", "status", "batch_id"), _TEXT),
    **{"deps": _TEXTS, "new_deps": _TEXTS, "params": _OBJECT},
}
#: What guarded workers add to that. (Amounts and vendors that are none are nothing.)
_OURS = {
    "spendguard": {"run_id": _NAME, "yielded_by": _TEXT},
    "spendguard_blocked": dict.fromkeys(("reason", "run_id", "message", "budget", "part", "of_task"), _TEXT),
    "spendguard_root": {"name": _TEXT, "budget_usd": _TEXT, "tags": _OBJECT},
}


def check_task(added: Mapping[str, Any]) -> None:
    """Look that what `add_task` was told of a vendor task is what it must be. Raises BadMessage."""
    for name in ("task_id", "worker"):
        check_text(name, added.get(name))
    _check(added, _LUIGIS, "")


def check_text(name: str, value: Any) -> None:
    """Look that there is a text. Raises BadMessage."""
    if not _is_text(value):
        raise BadMessage(f"{name!r} must be {_TEXT[0]} where there are vendor tasks")


def check_ours(name: str, said: Any) -> None:
    """Look that a field of ours in `add_task` is what it must be. Raises BadMessage."""
    if isinstance(said, dict):
        _check(said, _OURS[name], f"{name}.")
    elif said is not None and not isinstance(said, bool):
        raise BadMessage(f"{name!r} must be an object")


def _check(said: Mapping[str, Any], types: Mapping[str, Type], prefix: str) -> None:
    for name, (what, holds) in types.items():
        if said.get(name) is not None and not holds(said[name]):
            raise BadMessage(f"'{prefix}{name}' of a vendor task must be {what}")


def text(value: Any) -> str:
    """Return what Luigi has kept of a task where it is a text, "" where it is none: said before we looked."""
    return value if _is_text(value) else ""
