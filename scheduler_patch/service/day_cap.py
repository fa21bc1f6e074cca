"""`DayCap`: whether other processes of one ledger go by another `daily_cap_usd`. The smaller holds."""

from __future__ import annotations

import logging

from luigi_spendguard.ledger.database import Row
from luigi_spendguard.ledger.following import other_day_cap
from luigi_spendguard.money import Micros, format_usd

logger = logging.getLogger(__name__)


class DayCap:
    """What was seen, and said, of the cap that today's budget has in the ledger."""

    def __init__(self) -> None:
        self._said: Micros | None = None
        self._seen: tuple[str, int] | None = None

    def begin(self, before: Row | None, now: Row | None, cap: Micros | None) -> None:
        """Take what luigi.cfg has made of it, and say which cap it had `before`; `cap`: luigi.cfg's."""
        self._said, self._seen = None, _place_of(now)
        if (other := other_day_cap(before, cap or Micros(0))) is None:
            return
        here = "not set here, so what is let through here is not counted there"
        logger.warning(
            "Today's budget of all runs had a cap of %s, by luigi.cfg of before, or by another luigid, "
            "gateway or local worker of this ledger: [spendguard] daily_cap_usd is %s. Let all that share a "
            "ledger have the same: of several, the smallest holds",
            format_usd(other),
            here if cap is None else f"{format_usd(cap)} from now on",
        )

    def is_passed(self, today: Row | None, cap: Micros | None) -> bool:
        """Return whether another process has a greater one than `cap`, luigi.cfg's here; say so once."""
        if cap is None or (other := other_day_cap(today, cap)) is None:
            return False
        seen, self._seen = self._seen, _place_of(today)
        # What is counted may have kept it from being lower, and be less by now: nobody has raised that.
        is_anothers = other < cap or seen is None or self._seen is None or seen < self._seen
        if is_anothers and other != self._said:
            self._said = other
            logger.warning(
                "[spendguard] daily_cap_usd is %s here and %s at another luigid, gateway or local worker of "
                "this ledger: the smaller holds for all runs together. Let all have the same",
                format_usd(cap),
                format_usd(other),
            )
        return other > cap


def _place_of(today: Row | None) -> tuple[str, int] | None:
    return None if today is None else (str(today["part"]), int(today["cap_micros"]))
