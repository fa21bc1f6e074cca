"""`Verdict`: may a task be dispatched now, and if not, for which of the reasons that there are."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Verdict(str, Enum):
    """What the gate says of a task. Its values go over the wire, and `reasons.py` has texts for them."""

    #: It may run now.
    READY = ""
    #: It may once others have ended.
    WAIT = "wait"
    # All others: it is blocked.
    REVOKED = "revoked"
    KEY = "key"
    FORECAST = "forecast"
    APPROVAL = "approval"
    FROZEN = "frozen"
    CAP = "cap"
    DAY = "day"
    FAMILY = "family"
    VENDOR = "vendor"
    TASK = "task"
    BATCH = "batch"
    WITHIN = "within"
    REFUSED = "refused"

    __str__ = str.__str__
    __hash__ = str.__hash__

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)

    @property
    def is_blocked(self) -> bool:
        """Whether only an operator, or money that comes back, lets the task run."""
        return self is not READY and self is not WAIT

    @property
    def is_final(self) -> bool:
        """Whether nothing frees the task of it: its run, or its own vault key, is revoked."""
        return self is Verdict.REVOKED or self is Verdict.KEY

    @property
    def is_held(self) -> bool:
        """Whether an approval alone ends it."""
        return self is Verdict.FORECAST or self is Verdict.APPROVAL


#: Looked up once: every candidate of every `get_work` is compared with them.
READY, WAIT = Verdict.READY, Verdict.WAIT
#: The verdict on a task when a budget of that scope cannot pay for it.
LACKING = {
    "run": Verdict.CAP,
    "day": Verdict.DAY,
    "family": Verdict.FAMILY,
    "vendor": Verdict.VENDOR,
}


def blocked(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return which tasks are blocked."""
    return [task_id for task_id, one in verdicts.items() if one is not READY and one is not WAIT]


class Excess(Enum):
    """Why a forecast is too much."""

    CAP = "cap"
    GROWTH = "growth"
