"""`Forecast`: what a run's vendor tasks say they may cost, known before the first one runs."""

from __future__ import annotations

from dataclasses import dataclass

from luigi_spendguard.money import format_usd


@dataclass(frozen=True)
class Forecast:
    """What a run may have cost at its end, in micro-dollars.

    Attributes:
        known: what is spent and reserved already, and what the tasks still to come may cost.
        estimated: the part of it that is the average of earlier runs: those tasks declare nothing.
        unknown: how many tasks declare nothing and have no earlier runs.

    """

    known: int
    estimated: int = 0
    unknown: int = 0

    def __str__(self) -> str:
        text = format_usd(self.known)
        if self.estimated:
            text += f" ({format_usd(self.estimated)} of it estimated from earlier runs)"
        if self.unknown:
            text += f" and {self.unknown} tasks of unknown cost"
        return text
