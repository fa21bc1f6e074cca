"""What has happened to money, for luigid's log: one line each, a cap that is reached once.

It reads the journal behind everybody who writes it, so that other processes' changes are told too, and what
it cannot read stops nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger import history
from luigi_spendguard.ledger.database import Row
from luigi_spendguard.money import format_usd
from luigi_spendguard.protocol import command
from scheduler_patch.dispatch.model import BudgetState
from scheduler_patch.dispatch.reasons import spent_text
from scheduler_patch.service import LedgerService

logger = logging.getLogger(__name__)

#: Seconds between two looks.
LOOK_S = 1.0
#: What an approval was of: a task's cost, its call beside another one's, else the forecast (`ledger.runs`).
_APPROVED = re.compile(r"(?P<task>.*) (?P<micros>[0-9]+)(?: duplicate of (?P<call>\S+)| .*)?")


class News:
    """Tells what is new in the books of a service."""

    def __init__(self, service: LedgerService) -> None:
        self._service = service
        #: The journal's last entry that is no news: of a ledger that is still to be made, none.
        self._seen = service.seen
        #: The cap at which each budget was reached when that was told.
        self._reached: dict[tuple[str, str, str], int] = {}

    async def tell(self) -> None:
        """Log what has happened since the last look. Never raises for want of a ledger."""
        try:
            found = await self._service.read(history.news, self._seen)
        except LedgerUnavailable:
            return  # Whoever needs it says so.
        if found is None:
            return
        self._seen, entries = found
        for line in _lines(entries):
            logger.info("%s", line)
        for line in _doubts(entries):
            logger.warning("%s", line)
        for line in self._caps():
            logger.warning("%s", line)

    def _caps(self) -> Iterator[str]:
        """Yield which caps have been reached since that was said, or since they were raised."""
        state = self._service.state
        runs = [run for run in state.runs.values() if run.opened and run.state in ("active", "frozen")]
        budgets = [(run.run_id, budget) for run in runs for budget in run.budgets.values()]
        if (day := state.day) is not None:
            budgets.append(("", day))
        denied, state.denied = state.denied, set()
        known = {(run_id, *budget.key): budget for run_id, budget in budgets}
        for name in [name for name in self._reached if name not in known]:
            del self._reached[name]
        for (run_id, scope, part), budget in known.items():
            full = budget.cap > 0 and budget.remaining <= 0
            if not full and ("" if scope == "day" else run_id, scope, part) not in denied:
                continue
            if self._reached.get((run_id, scope, part)) == budget.cap:
                continue
            self._reached[run_id, scope, part] = budget.cap
            yield _reached(run_id, budget)


def _reached(run_id: str, budget: BudgetState) -> str:
    if budget.scope == "day":
        return f"All runs together, {budget.window}: daily {spent_text(budget)}"
    whose = f"{budget.part}'s " if budget.part else "beyond the day, " if budget.scope == "beyond_day" else ""
    top_up = f"; {command('top-up', run_id, 'USD')} raises it" if budget.scope == "run" else ""
    return f"Run {run_id}: {whose}{spent_text(budget)}{top_up}"


def _lines(entries: Iterable[Row]) -> Iterator[str]:
    """Yield a line for each change that people or workers have made."""
    for row in entries:
        run, kind = f"Run {row['run_id']}", row["kind"]
        if kind == "open" and row["scope"] == "run":
            yield f"{run} is opened with a cap of {format_usd(row['cap_micros'])}"
        elif kind == "top_up" and row["scope"] is not None:
            of = "" if row["scope"] == "run" else f" of {row['part']}"
            yield (
                f"{run} is topped up by {format_usd(row['cap_micros'])}: its cap{of} is "
                f"{format_usd(row['own_micros'])}"
            )
        elif kind == "approve":
            yield f"{run}: {_approved(row['note'])}"
        elif kind == "revoke":
            yield f"{run}: vault key {row['note']} is revoked" if row["note"] else f"{run} is revoked"
        elif kind == "issue":
            yield f"{run}: vault key {row['note']} is issued"
        elif kind == "operator":
            yield f"{run}: call {row['call_id']} is resolved by an operator: {row['note']}"
        elif kind == "close":
            yield f"{run} has ended"


def _approved(note: str) -> str:
    found = _APPROVED.fullmatch(note)
    if found is None:
        return "approved"
    amount = format_usd(int(found["micros"]))
    if found["call"]:
        return f"task {found['task']} may ask for {amount} beside call {found['call']}: approved"
    return f"task {found['task']} may cost {amount}: approved" if found["task"] else f"{amount} is approved"


def _doubts(entries: Iterable[Row]) -> Iterator[str]:
    """Yield a line for each run of which calls have become in doubt."""
    calls: dict[str, Mapping[str, int]] = {}
    for row in entries:
        if row["kind"] == "doubt":
            calls[row["run_id"]] = {**calls.get(row["run_id"], {}), row["call_id"]: row["held_micros"] or 0}
    for run_id, held in calls.items():
        those = "1 call is" if len(held) == 1 else f"{len(held)} calls are"
        yield (
            f"Run {run_id}: {those} in doubt, {format_usd(sum(held.values()))} may have been spent: "
            f"{command('calls', '--run', run_id, '--state', 'in_doubt')} shows them"
        )
