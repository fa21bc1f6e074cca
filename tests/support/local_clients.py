"""Local schedulers' ways to a ledger, closed with the test: Python 3.13 warns of what is left open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from luigi_spendguard.config import Settings
from scheduler_patch.local import LocalLedgerClient
from scheduler_patch.scheduler import BudgetScheduler


@contextmanager
def local_clients(**options: Any) -> Iterator[Callable[[Settings], LocalLedgerClient]]:
    """Yield what makes a port of a scheduler of its own, with its `options`; all are closed at the end."""
    made: list[LocalLedgerClient] = []

    def make(settings: Settings) -> LocalLedgerClient:
        made.append(LocalLedgerClient(BudgetScheduler(**options), settings))
        return made[-1]

    try:
        yield make
    finally:
        for port in made:
            port.close()
