"""What the gate knows of a task, a run and a budget. Amounts are micro-dollars; nothing here decides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from luigi_spendguard.ledger.snapshot import Figures
from luigi_spendguard.money import format_usd


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


@dataclass(frozen=True)
class Forecast:
    """What a run may have cost at its end, in micro-dollars, known before its first vendor task runs.

    Attributes:
        known: what is spent and reserved already, and what the tasks still to come may cost.
        estimated: the part of it that is the average of earlier runs: those tasks declare nothing.
        unknown: how many tasks declare nothing and have no earlier runs.

    """

    known: int
    estimated: int = 0
    unknown: int = 0

    @classmethod
    def of(cls, run: RunState, tasks: Iterable[TaskState], averages: Mapping[str, int]) -> Forecast:
        """Return what a run comes to with these tasks; `averages`: what one of each family has cost."""
        known, estimated, unknown = run.own_budget.spent + run.own_budget.reserved, 0, 0
        for task, cost in _expected(tasks, averages):
            if cost is None:
                unknown += 1
            elif task.need is None:
                estimated += cost
            else:
                known += cost
        return cls(known + estimated, estimated, unknown)

    def __str__(self) -> str:
        text = format_usd(self.known)
        if self.estimated:
            text += f" ({format_usd(self.estimated)} of it estimated from earlier runs)"
        if self.unknown:
            text += f" and {self.unknown} tasks of unknown cost"
        return text


def _expected(
    tasks: Iterable[TaskState], averages: Mapping[str, int]
) -> Iterator[tuple[TaskState, int | None]]:
    """Yield tasks with what each may cost, as far as they say so or earlier runs tell; None: unknown."""
    for task in tasks:
        if task.need is not None:
            yield task, task.need
        elif not task.paid:  # What it declares nothing about, it has paid.
            yield task, averages.get(task.family)


#: A forecast of more tasks is remembered by family alone.
MAX_PARTS = 5000


@dataclass(frozen=True)
class Parts:
    """What a forecast is made of.

    Attributes:
        families: of each task family the number of its tasks, their cost in micro-dollars, and how many are
            of unknown cost.
        tasks: of each family what each of its tasks may cost (None: unknown); None: they are too many.

    """

    families: Mapping[str, tuple[int, int, int]]
    tasks: Mapping[str, Mapping[str, int | None]] | None

    @classmethod
    def of(cls, tasks: Iterable[TaskState], averages: Mapping[str, int]) -> Parts:
        """Return what the forecast of a run with these tasks is made of."""
        single: dict[str, dict[str, int | None]] = {}
        for task, cost in _expected(tasks, averages):
            single.setdefault(task.family, {})[task.task_id] = cost
        families = {
            family: (len(costs), sum(cost or 0 for cost in costs.values()), list(costs.values()).count(None))
            for family, costs in single.items()
        }
        return cls(families, single if sum(map(len, single.values())) <= MAX_PARTS else None)

    def to_json(self) -> str:
        """Return it as the ledger keeps it with an approval."""
        return json.dumps({"families": self.families, "tasks": self.tasks})

    @classmethod
    def from_json(cls, text: str) -> Parts | None:
        """Return what the ledger has kept; None: nothing."""
        if not text:
            return None
        kept = json.loads(text)
        return cls({family: tuple(one) for family, one in kept["families"].items()}, kept["tasks"])


@dataclass(frozen=True)
class Growth:
    """By how much a family's part of a forecast has grown since it was approved.

    Attributes:
        cost: in micro-dollars.
        unknown: more tasks of unknown cost.
        tasks: the tasks that are new, or dearer; empty where they were too many to be remembered.
        number: how many those are.

    """

    family: str
    cost: int
    unknown: int
    number: int
    tasks: tuple[str, ...] = ()


def grown(now: Parts, before: Parts) -> list[Growth]:
    """Return what of a forecast has grown, by family; tasks that completed do not make up for it."""
    found = []
    for family, (number, cost, unknown) in sorted(now.families.items()):
        if now.tasks is None or before.tasks is None:
            earlier = before.families.get(family, (0, 0, 0))
            change = Growth(family, cost - earlier[1], unknown - earlier[2], max(0, number - earlier[0]))
        else:
            then = before.tasks.get(family, {})
            more = {
                task_id: one
                for task_id, one in now.tasks[family].items()
                if task_id not in then or (one or 0) > (then[task_id] or 0)
            }
            rise = sum((one or 0) - (then.get(task_id) or 0) for task_id, one in more.items())
            change = Growth(family, rise, list(more.values()).count(None), len(more), tuple(more))
        if change.cost > 0 or change.unknown > 0:
            found.append(change)
    return found


#: The state of a run that tasks belong to by its name and that nobody has opened yet.
UNOPENED = "unopened"


@dataclass(eq=False)
class RunState:
    """A run.

    Attributes:
        run_id: its id; of an unopened one the name; "" for the run that nobody has named.
        last: what the last run of the same root family came to; None: there was none.
        approved: the most that an operator lets its forecast be, with so many tasks of unknown cost
            (`approved_unknown`); what the forecast was made of then (`approved_parts`, None: not known).
        announcing: workers that are still scheduling tasks of it.
        scheduled: whether some worker has scheduled a root of it completely.
        seen, figures_seen: the journal's last entry when its state, and its other figures, were read.

    """

    run_id: str
    state: str = "active"
    root_family: str = ""
    budgets: dict[tuple[str, str], BudgetState] = field(
        default_factory=lambda: {("run", ""): BudgetState("run", "")}
    )
    forecast: Forecast | None = None
    approved: int | None = None
    approved_unknown: int = 0
    approved_parts: Parts | None = None
    last: int | None = None
    approvals: dict[str, int] = field(default_factory=dict)
    announcing: set[str] = field(default_factory=set)
    scheduled: bool = False
    tasks: dict[str, None] = field(default_factory=dict)
    seen: int = 0
    figures_seen: int = 0
    _approved_text: str = ""

    @property
    def opened(self) -> bool:
        """Whether the ledger knows it."""
        return self.state != UNOPENED

    @property
    def own_budget(self) -> BudgetState:
        """The budget of the run as a whole."""
        return self.budgets["run", ""]

    def copy(self) -> RunState:
        """Return another one whose state and budgets are changed alone."""
        return replace(self, budgets={key: replace(budget) for key, budget in self.budgets.items()})

    def budget(self, scope: str, part: str) -> BudgetState:
        """Return a budget of the run, empty when it was not known."""
        return self.budgets.setdefault((scope, part), BudgetState(scope, part))

    def update(self, figures: Figures) -> None:
        """Take over the ledger's row, unless it was read before what is known."""
        row = figures.run
        if figures.seen >= self.seen:
            self.state, self.seen = row["state"], figures.seen
        if "name" not in row or figures.seen < self.figures_seen:
            return
        self.figures_seen = figures.seen
        if figures.approvals is not None:
            self.approvals = dict(figures.approvals)
        self.root_family, self.last = row["root_family"], row["last_micros"]
        self.approved, self.approved_unknown = row["approved_micros"], row["approved_unknown"] or 0
        if (text := row.get("approved_forecast") or "") != self._approved_text:
            self._approved_text, self.approved_parts = text, Parts.from_json(text)
        if self.forecast is None and row["forecast_micros"] is not None:
            self.forecast = Forecast(row["forecast_micros"], row["estimated_micros"], row["unknown_tasks"])
            self.scheduled = True


@dataclass(frozen=True)
class Hold:
    """A task was denied: it stays blocked while `asked` exceeds what remains of that budget.

    Of the scope `duplicate` it is no budget: it waits beside call `part` of the task `beside`.
    """

    scope: str
    part: str
    asked: int
    beside: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Scope and part of the budget."""
        return self.scope, self.part


@dataclass(frozen=True)
class Outlook:
    """What the answer to an attempt depends on, as it was when the attempt came back blocked.

    Attributes:
        rules: what luigi.cfg says; read again, it is another object.
        facts: the runs that may pay, their states and what an operator has approved, what the task declares.
        budgets: window, cap and what remains of each of their budgets.
        left: what remains of the task's own.

    """

    rules: object
    facts: tuple[object, ...]
    budgets: Mapping[tuple[str, ...], tuple[str, int, int]]
    left: int | None

    def better_than(self, before: Outlook) -> bool:
        """Return whether an attempt may end otherwise than before: less money alone lets nothing pass."""
        if (
            self.rules is not before.rules
            or self.facts != before.facts
            or self.budgets.keys() != before.budgets.keys()
        ):
            return True
        if self.left != before.left and (self.left is None or before.left is None or self.left > before.left):
            return True
        return any(
            (window, cap) != before.budgets[key][:2] or remaining > before.budgets[key][2]
            for key, (window, cap, remaining) in self.budgets.items()
        )


@dataclass(frozen=True)
class Announcement:
    """What is said of a vendor task.

    Attributes:
        family: its task family; "": not said.
        cost: what it may cost; None: it does not say.
        vendors: the vendors that it says it calls.
        scheduling: whether its worker goes on to announce others.

    """

    family: str
    cost: int | None = None
    vendors: tuple[str, ...] = ()
    scheduling: bool = False


@dataclass(eq=False)
class TaskState:
    """All that is known of a vendor task.

    Attributes:
        runs: the runs it belongs to, in the order in which they were announced.
        workers: which of them each worker has announced.
        cost: what it says it may cost; None: it does not say.
        left: what its own budget in the ledger has left; None: it was never claimed.
        seen: the journal's last entry when `left` was read.
        vendors: the vendors that it says it calls.
        pinned: the run that it was last dispatched for.
        counted: what is set aside for it in the budgets `counted_in`, while it runs.
        claimed_by: the guarded worker that runs it.
        paid: whether it has paid and not completed since: its calls are repeated, and cost nothing.
        members: the tasks of a batch, when this is its combined task.
        batch: the members, in their order, of the attempted batch that it comes back with.
        denied: whether the ledger has said what it denied, since the task was dispatched.
        refused: the workers that it came back from, blocked, and how things stood then.

    """

    task_id: str
    family: str
    runs: list[str] = field(default_factory=list)
    workers: dict[str, dict[str, None]] = field(default_factory=dict)
    cost: int | None = None
    left: int | None = None
    seen: int = 0
    pinned: str | None = None
    hold: Hold | None = None
    counted: int = 0
    counted_in: list[BudgetState] = field(default_factory=list)
    claimed_by: str | None = None
    paid: bool = False
    members: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    denied: bool = False
    refused: dict[str, Outlook] = field(default_factory=dict)

    @property
    def need(self) -> int | None:
        """What it may still cost; None when that is not known."""
        return self.left if self.left is not None else self.cost

    @property
    def paid_by(self) -> tuple[str, ...]:
        """The run that it was dispatched for; while that is not known, all that it belongs to."""
        return (self.pinned,) if self.pinned else tuple(self.runs)

    def held_by(self, scope: str) -> bool:
        """Return whether a budget of that scope has denied its last call."""
        return self.hold is not None and self.hold.scope == scope
