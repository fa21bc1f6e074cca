"""What is left of every budget, and what is counted in it for tasks that were dispatched.

Amounts are micro-dollars. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from scheduler_patch.dispatch.model import Entry, Pot, RunFigures


@dataclass
class Rules:
    """What luigi.cfg says about dispatching: see `luigi_spendguard.config.SETTINGS`."""

    forecast: str = "off"
    growth: Decimal = Decimal(3)
    single: int | None = None
    shadow: bool = False
    vendor_tasks: tuple[str, ...] = ()
    kill: bool = True
    #: `daily_cap_usd`, `[spendguard_family_caps]` and each vendor's `run_cap_usd`.
    day: int | None = None
    families: Mapping[str, int] = field(default_factory=dict)
    vendors: Mapping[str, int] = field(default_factory=dict)

    def cap(self, scope: str, part: str) -> int | None:
        """Return the cap of a family or of a vendor inside any run, None where there is none."""
        return (self.families if scope == "family" else self.vendors).get(part)


class Counts:
    """Budgets as luigid remembers them, and what running tasks may still take from them."""

    def __init__(self) -> None:
        self.rules = Rules()
        self.entries: dict[str, Entry] = {}
        self._day: Pot | None = None
        self._over = ""
        #: Counts up whenever a blocked task may have become free.
        self.version = 0

    @property
    def day(self) -> Pot | None:
        """Today's budget of all runs; whole until the ledger says otherwise, None where no cap is set."""
        if self.rules.day is None:
            return None  # The ledger may have one of before: no call takes from it.
        if self._day is None:
            self._day = Pot("day", "", cap=self.rules.day, remaining=self.rules.day)
        return self._day

    def feed_day(self, budget: Mapping[str, object] | None, seen: int = 0, *, today: bool = False) -> None:
        """Take over today's budget; None: nothing was reserved today, so its whole cap is there.

        The tasks counted in it run on into the new day. What a late answer says of a day before is not
        today's, unless the ledger says that it is `today`: a clock may be set back. `seen`: the journal's
        last entry when it was read.
        """
        if self._day is not None and seen < self._day.seen:
            return
        if budget is None:
            if self._day is not None and self.rules.day is not None:
                self._over = max(self._over, self._day.window)
                self._day.refill(self.rules.day)
            return
        window = str(budget["part"])
        if today and window <= self._over:
            self._over = ""
        if today and self._day is not None:
            self._day.window = min(window, self._day.window)
        if window <= self._over or (self._day is not None and window < self._day.window):
            return
        if self._day is None:
            self._day = Pot("day", "")
        self._day.window = window
        self._day.update(budget, seen)

    def pots(self, run: RunFigures, entry: Entry) -> Iterator[Pot]:
        """Return the budgets that a task's calls take from if this run pays: those that luigi.cfg names now.

        The ledger takes from the same ones (`taking.link_budgets`); it may have others of before.
        """
        if run.opened:
            yield run.pots["run", ""]
        if self.day is not None:
            yield self.day
        if not run.run_id:
            return  # Nobody knows which run it is.
        keys = [("family", entry.family), *(("vendor", vendor) for vendor in entry.vendors)]
        if entry.hold is not None and entry.hold.scope in ("family", "vendor"):
            keys.append(entry.hold.key)
        for key in dict.fromkeys(keys):
            cap = self.rules.cap(*key)
            if cap is None:
                continue
            if key not in run.pots:  # The ledger makes it with its first reservation.
                run.pots[key] = Pot(*key, cap=cap, remaining=cap)
            yield run.pots[key]

    def count(self, run: RunFigures, entry: Entry, amount: int) -> None:
        """Set aside what a dispatched task may cost, in every budget it may take it from."""
        self.release(entry)
        entry.counted, entry.counted_in = amount, list(self.pots(run, entry))
        for pot in entry.counted_in:
            pot.counted += amount
            pot.running += 1

    def release(self, entry: Entry) -> None:
        """Set nothing aside for a task any more."""
        for pot in entry.counted_in:
            pot.counted -= entry.counted
            pot.running -= 1
        self.version += bool(entry.counted_in)
        entry.counted, entry.counted_in = 0, []

    def draw(self, task_id: str, left: int, seen: int | None = None) -> None:
        """Take over what a task's own budget has left; what its calls have taken is counted no more.

        `seen`: the journal's last entry when that was read; None: just now.
        """
        entry = self.entries.get(task_id)
        if entry is None or (seen is not None and seen < entry.seen):
            return
        entry.left, entry.seen = left, entry.seen if seen is None else seen
        self.version += 1
        over = entry.counted - left
        if entry.counted_in and over > 0:
            entry.counted = left
            for pot in entry.counted_in:
                pot.counted -= over
