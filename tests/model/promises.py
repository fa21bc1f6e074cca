"""What holds in every state of the model, and where it can always get to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.model.books import CAP, OPEN, WRONG, State

#: What must never happen; each is marked where it does.
MARKS = (
    "granted after a revoke",
    "granted to an earlier attempt",
    "granted under a key that is used up",
    "granted behind a tombstone",
    "sent after a revoke",
    "sent with nothing reserved",
    "voided by nobody's word",
    "a reply was dropped",
    "told that it is paid",
)


def unmarked(mark: str, s: State) -> bool:
    return mark not in s.marks


INVARIANTS: dict[str, Callable[[State], bool]] = {
    "no cap is passed": lambda s: s.spent + s.reserved <= CAP,
    "what is reserved is what is open": lambda s: s.reserved == sum(row.state in OPEN for row in s.rows),
    "a settle again changes nothing": lambda s: (
        s.spent + s.overrun == s.other + sum(row.state == "settled" for row in s.rows)
    ),
    "nobody is paid twice": lambda s: s.moved <= 1 or WRONG in s.marks,
    "what has moved is counted": lambda s: (
        s.moved <= s.reserved + s.spent + s.overrun - s.other or WRONG in s.marks
    ),
    "nothing is overrun but by an operator's mistake": lambda s: not s.overrun or WRONG in s.marks,
    **{f"never {mark}": partial(unmarked, mark) for mark in MARKS},
}


def is_over(s: State) -> bool:
    """Whether nothing is under way any more: from every state one of these can be reached."""
    waits = {"asking", "granted", "sent"} & {p.phase for p in s.processes}
    return not waits and all(row.state != "pending" for row in s.rows)
