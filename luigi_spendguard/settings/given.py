"""What the files of luigi.cfg say, setting by setting, and what of that has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: The most characters of a value that are shown.
_LONGEST = 200


@dataclass(frozen=True)
class Given:
    """One setting as it stands in the files.

    Attributes:
        text: how it is written there; None: it is secret, or may be.
        default: what holds where it is not set; "": nothing does, or no short word says it.

    """

    value: Any = field(repr=False)
    text: str | None = None
    default: str = ""


def changes(before: Mapping[str, Given], now: Mapping[str, Given]) -> Iterator[str]:
    """Yield what has changed, by its name (`[section] key`) and by values that are no secret."""
    for name in dict.fromkeys([*before, *now]):
        was, has = before.get(name), now.get(name)
        if (was and was.value) == (has and has.value) and (was is None) == (has is None):
            continue
        known = was or has
        if known is None or known.text is None:
            yield f"{name} changed"
        elif was is None and not known.default:
            yield f"{name} set to {_shown(has, '')}"
        else:
            yield f"{name} changed from {_shown(was, known.default)} to {_shown(has, known.default)}"


def _shown(one: Given | None, default: str) -> str:
    if one is None or one.text is None:
        return f"{default} (not set)" if default else "not set"
    text = " ".join(one.text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
