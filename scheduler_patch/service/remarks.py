"""What is said loudly of a luigi.cfg that is read: no cap is enforced, a price is misspelt."""

from __future__ import annotations

import logging

from luigi_spendguard.config import Settings, vendor_in_force

logger = logging.getLogger(__name__)


def say_mode(settings: Settings, before: Settings | None = None) -> None:
    """Say where no cap is enforced, and where caps are again that were not; `before`: what held until now."""
    if settings.caps.shadow:
        logger.warning(
            "[spendguard] mode = shadow: NO CAP IS ENFORCED. What a cap would have denied is recorded and "
            "let through; set mode = enforce and reload luigi.cfg to let caps hold"
        )
    elif before is not None and before.caps.shadow:
        logger.info("[spendguard] mode = enforce: caps are enforced again, from now on")


def say_problems(settings: Settings) -> None:
    """Say what is wrong with the vendors' sections, whoever has their secrets: one file may be for all; and
    where two operators are needed and there are not two.
    """
    if problem := settings.lacks_operators(at_luigid=True):
        logger.warning("%s", problem)
    for vendor in settings.vendors:
        for problem in vendor_in_force(settings.vendor(vendor))["problems"]:
            logger.warning("%s", problem)
