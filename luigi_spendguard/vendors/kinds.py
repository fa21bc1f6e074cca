"""Of which kind a request is, by a vendor's own rules."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Kinds:
    """Rules of a kind and what a request's line has to match as a whole; the first that matches decides.

    Restrictive rules match in any letter case, so that none can be written around; free ones only as they
    stand.
    """

    def __init__(self, rules: Sequence[tuple[str, str]]) -> None:
        self._rules = [
            (kind, re.compile(text, 0 if kind == "free" else re.IGNORECASE)) for kind, text in rules
        ]

    def of(self, line: str) -> str:
        """Return the kind of `line`, "unpriced" for what is in no rule."""
        return next((kind for kind, pattern in self._rules if pattern.fullmatch(line)), "unpriced")
