"""Budgets as the gate knows them, and the rules that make them, in micro-dollars; nothing here decides."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any


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


@dataclass(eq=False)
class BudgetState:
    """A budget: what remains of it, and what is counted for tasks that were dispatched.

    Attributes:
        running: how many running tasks it is counted for.
        lent: what shadow mode has lent beyond the cap.
        window: the UTC day of a day's budget.
        seen: the journal's last entry when the figures were read.

    """

    scope: str
    part: str
    cap: int = 0
    spent: int = 0
    reserved: int = 0
    remaining: int = 0
    overrun: int = 0
    counted: int = 0
    running: int = 0
    lent: int = 0
    window: str = ""
    seen: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Scope and part."""
        return self.scope, self.part

    @property
    def held_as(self) -> tuple[str, str]:
        """What a denial by it is remembered as: what is beyond the day's cap is of the day."""
        return ("day", "") if self.scope == "beyond_day" else self.key

    @property
    def room(self) -> int:
        """What is left for tasks that are not dispatched yet; below 0 where more is gone than the cap."""
        return self.cap - self.spent - self.reserved - self.overrun - self.counted

    def raise_by(self, amount: int) -> None:
        """Have a cap that is higher by `amount`, as after a top-up."""
        self.cap += amount
        self.remaining = max(0, self.cap - self.spent - self.reserved - self.overrun)

    @property
    def attainable(self) -> int:
        """What may remain of it when the running tasks' calls give back all that they have reserved."""
        back = self.reserved if self.running else 0
        return max(self.remaining, min(self.remaining + back, self.cap - self.spent))

    def has_more_than(self, before: BudgetState) -> bool:
        """Return whether something may fit in that did not fit in before."""
        return (
            (self.window, self.cap) != (before.window, before.cap)
            or self.remaining > before.remaining
            or self.attainable > before.attainable
        )

    def refill(self, cap: int) -> None:
        """Be whole again: nothing of it is spent or reserved."""
        self.cap = self.remaining = cap
        self.spent = self.reserved = self.overrun = self.lent = 0

    def update(self, row: Mapping[str, Any], seen: int) -> None:
        """Take over the ledger's row, unless it was read before what is known."""
        if seen < self.seen:
            return
        self.seen = seen
        self.cap, self.lent = row["cap_micros"] - row["shadow_micros"], row["shadow_micros"]
        self.spent, self.reserved = row["spent_micros"], row["reserved_micros"]
        self.overrun = row["overrun_micros"]
        self.remaining = row["remaining_micros"]


class Today:
    """The budget of all runs together on the present UTC day."""

    def __init__(self) -> None:
        self._budget: BudgetState | None = None
        #: The last day that is known to be over.
        self._over = ""

    def budget(self, cap: int | None) -> BudgetState | None:
        """Return the day's budget; whole until the ledger says otherwise, None where no cap is set."""
        if cap is None:
            return None  # The ledger may have one of before: no call takes from it.
        if self._budget is None:
            self._budget = BudgetState("day", "", cap=cap, remaining=cap)
        return self._budget

    @property
    def window(self) -> str:
        """The present UTC day, "" while the ledger has said nothing of it."""
        window = "" if self._budget is None else self._budget.window
        return window if window > self._over else ""

    def copy(self) -> Today:
        """Return another one that is changed alone."""
        other = copy(self)
        other._budget = None if self._budget is None else replace(self._budget)
        return other

    def update(self, row: Mapping[str, Any] | None, seen: int, cap: int | None, *, is_today: bool) -> None:
        """Take over the ledger's row; None: nothing was reserved today, so all of `cap` is there.

        The tasks counted in it run on into the new day. What a late answer says of a day before is not
        today's, unless the ledger says that it `is_today`: a clock may be set back. `seen`: the journal's
        last entry when it was read.
        """
        budget = self._budget
        if budget is not None and seen < budget.seen:
            return
        if row is None:
            if budget is not None and cap is not None:
                self._over = max(self._over, budget.window)
                budget.refill(cap)
            return
        window = str(row["part"])
        if is_today and window <= self._over:
            self._over = ""
        if is_today and budget is not None:
            budget.window = min(window, budget.window)
        if window <= self._over or (budget is not None and window < budget.window):
            return
        if budget is None:
            budget = self._budget = BudgetState("day", "")
        budget.window = window
        budget.update(row, seen)
