"""Operations and endpoints that no table of a vendor's knows: who names one has misspelt it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import NamedTuple

#: Tokens of an allowlist's pattern, as `fnmatch` has them, and of a table's line.
_PATTERN, _LINE = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|."), re.compile(r"\{id\}|.")
#: How alike a name has to be to be named, and how many are.
_ALIKE, _MOST = 0.6, 3
#: A pattern with more of them is not judged: that would take long.
_MOST_STARS = 8


class Known(NamedTuple):
    """What a vendor's tables know.

    Attributes:
        operations: lines such as `POST /v1/refunds/{id}` by name; addresses that do the same have one.
        spellings: what else a line may be written as.

    """

    vendor: str
    operations: Mapping[str, tuple[str, ...]]
    spellings: Mapping[str, tuple[str, ...]] = {}

    def lacks(self, named: str, reading: tuple[str, ...], unpriced: Collection[str] = ()) -> str:
        """Return that an entry of an allowlist, or of prices, is none of these, with the nearest; "" for one
        that is, or may be: a GET, or an operation whose last word is in `reading`, only reads, and is in no
        table. `unpriced`: see `nearest`.
        """
        method, blank, _ = named.partition(" ")
        if not blank:
            if named in self.operations or named.rpartition(".")[2] in reading:
                return ""
            return self._none("operation", named, self.operations, unpriced)
        lines = [
            line for lines in self.operations.values() for line in lines if line.startswith(f"{method} ")
        ]
        if method == "GET" or any(
            overlaps(named, one) for line in lines for one in self.spellings.get(line, (line,))
        ):
            return ""
        return self._none("endpoint", named, lines)

    def _none(self, what: str, named: str, known: Iterable[str], unpriced: Collection[str] = ()) -> str:
        why = f"{named[:100]!r} is no {what} of {self.vendor}'s that is known"
        return why + nearest(named, known, unpriced)


def nearest(named: str, known: Iterable[str], unpriced: Collection[str] = ()) -> str:
    """Return which of what is known may have been meant, as the end of a sentence; "" where none may.

    `unpriced`: operations that whoever names one in `prices` is told to take no price there.
    """
    near = difflib.get_close_matches(named, list(known), n=_MOST, cutoff=_ALIKE)
    near = [f"{one} (which takes no fixed price)" if one in unpriced else one for one in near]
    there = " or ".join(filter(None, [", ".join(near[:-1]), *near[-1:]]))
    return f": did you mean {there}?" if near else ""


def overlaps(pattern: str, line: str) -> bool:
    """Return whether a request may match both: an allowlist's pattern, and a table's line with `{id}`s."""
    if pattern.count("*") > _MOST_STARS:
        return True
    begin, fixed = re.split(r"[*?\[]", pattern)[0], line.partition("{")[0]
    if not (begin.startswith(fixed) or fixed.startswith(begin)):
        return False
    wanted, listed = _PATTERN.findall(pattern), _LINE.findall(line)

    @cache
    def meet(at: int, on: int) -> bool:
        if at == len(wanted):
            return on == len(listed)
        one = wanted[at]
        if one == "*":
            return meet(at + 1, on) or (on < len(listed) and meet(at, on + 1))
        if on == len(listed):
            return False
        if listed[on] == "{id}":
            return one != "/" and (meet(at + 1, on + 1) or meet(at + 1, on))
        return (len(one) > 1 or one in ("?", listed[on])) and meet(at + 1, on + 1)

    return meet(0, 0)
