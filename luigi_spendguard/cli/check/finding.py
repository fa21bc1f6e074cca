"""What `spendguard check` says, line by line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any


class Grade(Enum):
    """How a line is to be taken, the best first."""

    #: So it will be.
    OK = "ok"
    #: Who knows was not asked, or has not seen it yet.
    UNKNOWN = "unknown"
    #: It may be a mistake; whether it is cannot be known here.
    LOOK = "look"
    #: Until it is mended, vendor tasks may fail, be denied, or run under other caps than were meant.
    MISSING = "MISSING"


@dataclass(frozen=True)
class Finding:
    """One line of the check.

    Attributes:
        subject: the one thing that it is about.
        detail: shown with `--verbose` alone.

    """

    subject: str
    text: str
    grade: Grade = Grade.OK
    detail: bool = False

    def __str__(self) -> str:
        return f"{self.grade.value:8}{self.subject}: {self.text}"

    def unless(self, doubts: Iterable[Doubt | None]) -> Finding:
        """Return the line with what is doubtful of it; the worst of that is its grade."""
        there = [one for one in doubts if one is not None]
        worst = max([self.grade, *(one.grade for one in there)], key=list(Grade).index)
        return replace(self, text="; ".join([self.text, *(one.text for one in there)]), grade=worst)


@dataclass(frozen=True)
class Doubt:
    """What may be wrong with a setting, and how sure that is."""

    text: str
    grade: Grade


def said_once(found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings; nothing is `ok`, or unknown, of which something worse is said."""
    found, order = list(found), list(Grade)
    worst: dict[str, int] = {}
    for one in found:
        worst[one.subject] = max(worst.get(one.subject, 0), order.index(one.grade))
    least = order.index(Grade.LOOK)
    yield from (one for one in found if order.index(one.grade) >= min(least, worst[one.subject]))


def not_reloaded(who: str, told: Mapping[str, Any]) -> Iterator[Finding]:
    """Say that who decides could not take over its luigi.cfg; one of before does not tell."""
    if refused := told.get("not_reloaded"):
        text = f"not reloaded since {refused['since']}, what was read before is in force: {refused['why']}"
        yield Finding(f"luigi.cfg of {who}", text, Grade.MISSING)


def audit_stopped(told: Mapping[str, Any]) -> Iterator[Finding]:
    """Say why luigid does not seal the audit; one of before does not tell."""
    if why := told.get("audit_stopped"):
        yield Finding("audit", f"it is not sealed: {why}", Grade.MISSING)


def unasked(found: Iterable[Finding], why: str) -> Iterator[Finding]:
    """Yield findings about which the one who decides has said nothing; `why` is "" where it has."""
    for one in found:
        ok = one.grade is Grade.OK and not one.detail
        yield replace(one, text=f"{one.text}; {why}", grade=Grade.UNKNOWN) if ok and why else one
