"""What has happened to money, for the log: one line each, a cap that is reached once until it is raised.

It reads what is committed behind everybody who writes it, so that other processes' changes are told too, and
stops nothing: where it fails, no call and no RPC does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

from luigi_spendguard.counted import counted
from luigi_spendguard.ledger import history
from luigi_spendguard.ledger.database import Row
from luigi_spendguard.ledger.history import Approval, Found
from luigi_spendguard.ledger.top_ups import amount_of
from luigi_spendguard.money import format_usd
from luigi_spendguard.protocol import DUPLICATE, command
from luigi_spendguard.protocol.commands import rounded, top_up
from luigi_spendguard.settings.policy import moment
from scheduler_patch.dispatch.budgets import BudgetState
from scheduler_patch.dispatch.words import spent_text
from scheduler_patch.service.denials import call_text, shows
from scheduler_patch.service.ledger import Books

logger = logging.getLogger(__name__)

#: Seconds between two looks, and for the last one.
LOOK_S, LAST_LOOK_S = 1.0, 5.0
#: A line, with its level.
_Line = tuple[int, str]


def _everything(row: Row) -> bool:
    """Log all that is in the ledger."""
    return True


class News:
    """Logs what is new in the books.

    Attributes:
        concerns: which of it is logged here: another process's log has the rest.

    """

    def __init__(self, books: Books, concerns: Callable[[Row], bool] = _everything) -> None:
        self._books = books
        self._concerns = concerns
        self._at: history.Position | None = None
        #: The caps that were said to be reached, until they are raised.
        self._reached: set[tuple[str, str, str]] = set()
        #: What was said to be denied, until something is approved: tasks are tried again.
        self._denied: set[tuple[str, ...]] = set()
        self._failed = False

    def take(self, books: Books) -> None:
        """Go on where this one was: the file is opened anew."""
        self._books = books

    async def tell(self) -> None:
        """Log what has happened since the last look."""
        ledger = self._books.opened
        if ledger is None or not self._began():
            return
        try:
            self._say(await asyncio.wrap_future(ledger.read(history.news, self._at)))
            self._failed = False
        except Exception as error:
            if not self._failed:
                logger.warning("What happens to money is not logged for now: %s", error)
            self._failed = True

    def finish(self) -> None:
        """Log what has happened since the last look, before the ledger is closed."""
        if self._books.opened is None or not self._began():
            return
        with suppress(Exception):
            self._say(self._books.look_last(history.news, LAST_LOOK_S, self._at))

    def _began(self) -> bool:
        self._at = self._at or self._books.began
        return self._at is not None

    def _say(self, found: Found) -> None:
        self._at = found.now
        for row in found.rows:
            if self._concerns(row):
                for level, text in self._lines(row, found):
                    logger.log(level, "%s", text)
        for text in self._pruned(found):
            logger.info("%s", text)
        for run_id in sorted(found.thawed):
            if self._concerns({"run_id": run_id}):
                logger.info("Run %s is thawed: it pays again", run_id)
        for text in self._doubts(found):
            logger.warning("%s", text)
        for text in self._too_small():
            logger.warning("%s", text)

    def _lines(self, row: Row, found: Found) -> Iterator[_Line]:
        kind = row["kind"]
        if kind in ("top_up", "set_cap"):
            self._reached.discard(_key(row))
        if kind == "approve":
            self._denied = {said for said in self._denied if said[0] != row["run_id"]}
        if kind == "cap":
            if _key(row) not in self._reached:
                self._reached.add(_key(row))
                yield logging.WARNING, _reached(row["run_id"], _budget(row), row["asked_micros"])
        elif kind == "denied":
            said = (row["run_id"], row["reason"], row["task_id"], row["operation"])
            if said not in self._denied:
                self._denied.add(said)
                yield logging.WARNING, _refused(row)
        elif kind == "prune":
            pass  # Said of all runs at once.
        elif kind == "audit_prune":
            yield logging.INFO, f"Pruned: blocks of the audit, by {row['actor'] or 'an operator'}"
        elif kind == "forget":  # Of no run.
            yield logging.INFO, f"Forgotten: {row['note']}, by {row['actor'] or 'an operator'}"
        elif kind in _TELL and (text := _TELL[kind](row)):
            actor = (row["actor"] or "an operator") if kind in _OPERATORS else ""
            yield logging.INFO, f"Run {row['run_id']}{text}" + (f", by {actor}" if actor else "")
        elif row["overrun_micros"] > 0:
            yield logging.ERROR, _overrun(row, frozen=row["run_id"] in found.now.frozen)

    def _pruned(self, found: Found) -> Iterator[str]:
        """Yield a line for each who has pruned: it may have been of very many runs."""
        runs: dict[str, set[str]] = {}
        for row in found.rows:
            if row["kind"] == "prune" and row["scope"] is None and self._concerns(row):
                runs.setdefault(row["actor"] or "an operator", set()).add(row["run_id"])
        for actor, pruned in runs.items():
            yield f"Pruned: calls and attempts of {counted(len(pruned), 'run')}, by {actor}"

    def _doubts(self, found: Found) -> Iterator[str]:
        """Yield a line for each run of which calls have become in doubt, with all that are if more are."""
        calls: dict[str, dict[str, int]] = {}
        for row in found.rows:
            if row["kind"] == "doubt" and row["first_doubt"] and self._concerns(row):
                calls.setdefault(row["run_id"], {})[row["call_id"]] = row["reserved_micros"] or 0
        for run_id, held in calls.items():
            number, (total, micros) = len(held), found.in_doubt.get(run_id, (0, 0))
            more, in_all = "", ""
            if total > number:
                more, in_all = " more", f"; in all {total} calls, {format_usd(micros)}"
            those = f"{number}{more} {'call is' if number == 1 else 'calls are'}"
            spent = f"{format_usd(sum(held.values()))} may have been spent{in_all}"
            yield (
                f"Run {run_id}: {those} in doubt, {spent}: "
                f"{command('calls', '--run', run_id, '--state', 'in_doubt')} shows them"
            )

    def _too_small(self) -> Iterator[str]:
        """Yield which caps keep tasks from being dispatched: those ask for no call."""
        short, self._books.state.short = self._books.state.short, {}
        for budget, lack in short.items():
            day = budget.scope == "day"
            run_id, scheduler = lack.run.run_id, self._books.scheduler
            key = (budget.scope, "" if day else run_id, budget.window if day else budget.part)
            if key in self._reached or budget.cap != lack.cap or not self._concerns({"run_id": run_id}):
                continue
            # At the moment of a look a task may be between its last payment and its end.
            if scheduler.is_kept_waiting(lack.task.task_id):
                self._reached.add(key)
                asked = scheduler.gate.needed(lack.run, lack.task, budget)
                if lack.task.need is None:  # The least that it may be, where others have cost more.
                    asked = max(asked, self._books.state.cost_so_far(lack.task.family) or 0)
                yield _reached(run_id, budget, asked)


def _refused(row: Row) -> str:
    """Return what is said of a call that was denied, and by no cap."""
    run_id, reason = row["run_id"], row["reason"]
    if reason == DUPLICATE or reason == "cap":
        return f"Run {run_id}: task {row['task_id']} is held: {row['message']}"
    text = f"Run {run_id}: {call_text(row)} was denied: {reason}: {row['message']}"
    return f"{text}; {shows(run_id, reason)} shows it"


def _key(row: Row) -> tuple[str, str, str]:
    """Return which budget a row is about."""
    return str(row["scope"]), str(row["subject"]), str(row["part"])


def _budget(row: Row) -> BudgetState:
    budget = BudgetState(row["scope"], row["part"], window=row["part"] if row["scope"] == "day" else "")
    budget.update(row, 0)
    return budget


def _reached(run_id: str, budget: BudgetState, asked: int) -> str:
    """Return that a cap is reached, and what lets pass what was asked of it, in micro-dollars."""
    # A call goes into the day's cap or beyond it, never both.
    lacks = asked if budget.scope == "day" else asked - budget.remaining
    raises = top_up(run_id, rounded(max(1, lacks)), budget.scope, budget.part)
    if budget.scope == "day":
        text = f"All runs together, {budget.window} (UTC): daily {spent_text(budget)}"
        return f"{text}; {raises} lets run {run_id} pass it"
    if budget.scope == "key_day":
        day = budget.part.rpartition(" ")[2]
        whose = f"a vault key's daily {spent_text(budget)} on {day} (UTC)"
    elif budget.scope == "key":
        whose = f"a vault key's {spent_text(budget)}"
    else:
        part = (
            "beyond the day, " if budget.scope == "beyond_day" else f"{budget.part}'s " if budget.part else ""
        )
        whose = part + spent_text(budget)
    return f"Run {run_id}: {whose}; {raises} raises it"


def _opened(row: Row) -> str:
    return f" is opened with a cap of {format_usd(row['more_micros'])}" if row["scope"] == "run" else ""


def _topped_up(row: Row) -> str:
    if row["scope"] is None:
        return " is topped up"
    of = "" if row["scope"] == "run" else f" of {row['part']}"
    if row["scope"] == "beyond_day":
        of = f" beyond the day's, on {row['part']} (UTC),"
    return f" is topped up by {format_usd(row['more_micros'])}: its cap{of} is {format_usd(row['cap'])}"


def _asked(row: Row) -> str:
    inside = row["note"].partition(" ")[2]
    return f"{format_usd(amount_of(row['note']))} {inside}"


def _approved(row: Row) -> str:
    said = Approval.of(row["note"])
    if said is None:
        return ": something is approved"
    amount = format_usd(said.micros)
    if said.duplicate_of:
        return f": task {said.task_id} may ask for {amount} beside call {said.duplicate_of}: approved"
    if said.task_id:
        return f": task {said.task_id} may cost {amount}: approved"
    unknown = f" and {counted(said.unknown, 'task')} of unknown cost" if said.unknown else ""
    return f": a forecast of {amount}{unknown} is approved"


def _revoked(row: Row) -> str:
    return f": vault key {row['note']} is revoked" if row["note"] else " is revoked"


def _issued(row: Row) -> str:
    caps = [
        f"{format_usd(micros)}{whole}"
        for micros, whole in ((row["run_cap_micros"], " in all"), (row["daily_cap_micros"], " a UTC day"))
        if micros is not None
    ]
    return (
        f": vault key {row['note']} is issued for {row['key_vendor']}, until {moment(row['expires_at'])}"
        + (f", with a cap of {' and '.join(caps)}" if caps else "")
    )


#: What is said of entries of the journal behind their run, "" where nothing is.
_TELL: dict[str, Callable[[Row], str]] = {
    "open": _opened,
    "close": lambda row: " has ended",
    "top_up": _topped_up,
    "ask_top_up": lambda row: f": a top-up of {_asked(row)} waits for a second operator",
    "withdraw_top_up": lambda row: f": a top-up of {_asked(row)} is withdrawn",
    "approve": _approved,
    "revoke": _revoked,
    "issue": _issued,
    "operator": lambda row: f": {call_text(row)} is resolved as {row['note']}",
}
#: Those that somebody has done.
_OPERATORS = ("top_up", "ask_top_up", "withdraw_top_up", "approve", "revoke", "issue", "operator")


def _overrun(row: Row, *, frozen: bool) -> str:
    run_id = row["run_id"]
    more = f"{call_text(row)} cost {format_usd(row['overrun_micros'])} more than was reserved"
    if not frozen:
        return f"Run {run_id}: {more}"
    raises = top_up(run_id, rounded(max(1, row["deficit"])))
    return f"Run {run_id} is frozen: {more}; {raises} lets it go on"
