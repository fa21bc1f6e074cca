"""Of when, and of which run, a report is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.queries import check_run
from luigi_spendguard.protocol.messages import BadMessage
from luigi_spendguard.settings.policy import BadPeriod, check_period

DAY_MS = 86_400_000
#: Rows of a report at the most.
MOST = 10_000
#: Later than any moment, in milliseconds since the epoch.
END = 2**62


@dataclass(frozen=True)
class ReportPeriod:
    """Of when, and of which run, a report is.

    Attributes:
        since, until: milliseconds since the epoch; from then on, and before then; None: without that end.
        run_id: of this run alone; None: of all.

    """

    since: int | None = None
    until: int | None = None
    run_id: str | None = None

    @property
    def ends(self) -> tuple[int, int]:
        """Both ends, in milliseconds since the epoch."""
        return self.since or 0, END if self.until is None else self.until

    def shown(self) -> dict[str, Any]:
        """Return what a report says of its period."""
        return {"since": self.since, "until": self.until, "run_id": self.run_id}

    def check(self, tx: Tx) -> None:
        """Raise BadMessage for a period that is none; NotFound."""
        try:
            check_period(self.since, self.until, tx.now())
        except BadPeriod as error:
            raise BadMessage(str(error)) from None
        if self.run_id is not None:
            check_run(tx, self.run_id)


def day_of(number: int) -> str:
    """Return the UTC day with that number since the epoch, such as `2026-11-24`."""
    return datetime.fromtimestamp(number * 86_400, timezone.utc).strftime("%Y-%m-%d")
