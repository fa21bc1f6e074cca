"""What the gate knows of a task and of a run, and what a run may come to, in micro-dollars.

Nothing here decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from luigi_spendguard.counted import counted
from luigi_spendguard.ledger.snapshot import Figures
from luigi_spendguard.money import format_usd
from scheduler_patch.dispatch.budgets import BudgetState


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
        for task, cost in _expected(run, tasks, averages):
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
            text += f" and {counted(self.unknown, 'task')} of unknown cost"
        return text


def _expected(
    run: RunState, tasks: Iterable[TaskState], averages: Mapping[str, int]
) -> Iterator[tuple[TaskState, int | None]]:
    """Yield tasks with what each may cost, as far as they say so or earlier runs tell; None: unknown.

    What has completed in the run costs nothing more there.
    """
    for task in tasks:
        if task.task_id in run.complete:
            continue
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
    def of(cls, run: RunState, tasks: Iterable[TaskState], averages: Mapping[str, int]) -> Parts:
        """Return what the forecast of a run with these tasks is made of."""
        single: dict[str, dict[str, int | None]] = {}
        for task, cost in _expected(run, tasks, averages):
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
#: That of a run whose root has completed: what workers have announced in it before goes on in it.
ENDED = "ended"


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
        complete: the tasks that have completed in it, wherever that was: what they do again repeats what they
            have paid, and costs nothing in this run.
        seen, figures_seen: the journal's last entry when its state, and its other figures, were read.
        version: counts up whenever a blocked task of it may have become free.

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
    complete: set[str] = field(default_factory=set)
    seen: int = 0
    figures_seen: int = 0
    version: int = 0
    _approved_text: str = ""

    @property
    def opened(self) -> bool:
        """Whether the ledger knows it."""
        return self.state != UNOPENED

    @property
    def is_over(self) -> bool:
        """Whether it has ended: then it pays only for those that have announced their tasks in it."""
        return self.state == ENDED

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


class Lack(NamedTuple):
    """What a budget was too small for, and what its cap was then."""

    run: RunState
    task: TaskState
    cap: int


@dataclass(frozen=True)
class Hold:
    """A task was denied: it stays blocked while `asked` exceeds what remains of that budget.

    Of the scope `duplicate` it is no budget: it waits beside call `part` of the task `beside`.
    `runs`: those that it belonged to then, where the budget is one inside a run: what it will ask of one that
    comes later nobody knows. Empty: whichever pays.
    """

    scope: str
    part: str
    asked: int
    beside: str = ""
    runs: tuple[str, ...] = ()

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
        asked: the runs that were to pay meanwhile, each of which has been asked.

    """

    rules: object
    facts: tuple[object, ...]
    budgets: Mapping[tuple[str, ...], tuple[str, int, int]]
    left: int | None
    asked: frozenset[str] = frozenset()

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


#: What a verdict may depend on, of what is kept of a task.
_TELLING = frozenset(
    (
        *(
            "runs",
            "workers",
            "cost",
            "left",
            "pinned",
            "claimed_for",
            "hold",
            "counted_in",
            "paid",
            "batch",
            "refused",
        ),
        *("vendors", "family"),
    )
)


@dataclass(eq=False)
class TaskState:
    """All that is known of a vendor task.

    Attributes:
        runs: the runs it belongs to, in the order in which they were announced.
        workers: which of them each worker has announced.
        announced: whether some worker has: Luigi knows it.
        cost: what it says it may cost; None: it does not say.
        left: what its own budget in the ledger has left, of its `cap`; None: it was never claimed.
        seen: the journal's last entry when `left` was read.
        vendors: the vendors that it says it calls.
        pinned: the run that it was last dispatched for, here: its retries are that one's.
        claimed_for: the run of its latest claim, wherever that was made: `left` and `hold` are of that one.
        counted: what is set aside for it in the budgets `counted_in`, while it runs.
        claimed_by: the guarded worker that runs it.
        resumed: the attempt of it that went on when luigid began, perhaps before another luigid; "": none.
        resumed_at: when that was heard, in seconds since the epoch; 0: when luigid began.
        heard: which claim of it was taken over last, by its place among all, and whether it had ended.
        paid: whether it has paid and not completed since: its calls are repeated, and cost nothing.
        members: the tasks of a batch, when this is its combined task.
        batch: the members, in their order, of the attempted batch that it comes back with.
        denied: whether the ledger has said what it denied, since the task was dispatched.
        refused: the workers that it came back from, blocked, and how things stood then.
        changed: where it is noted that something a verdict may depend on has become different.

    Lists and mappings of those are replaced, not changed, where that could make a verdict another one.

    """

    task_id: str
    family: str
    runs: list[str] = field(default_factory=list)
    workers: dict[str, dict[str, None]] = field(default_factory=dict)
    announced: bool = False
    cost: int | None = None
    left: int | None = None
    cap: int | None = None
    seen: int = 0
    pinned: str | None = None
    claimed_for: str | None = None
    hold: Hold | None = None
    counted: int = 0
    counted_in: list[BudgetState] = field(default_factory=list)
    claimed_by: str | None = None
    resumed: str = ""
    resumed_at: float = 0.0
    heard: tuple[int, bool] = (0, False)
    paid: bool = False
    members: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    denied: bool = False
    refused: dict[str, Outlook] = field(default_factory=dict)
    changed: set[str] | None = field(default=None, repr=False)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in _TELLING and self.changed is not None:
            self.changed.add(self.task_id)

    @property
    def need(self) -> int | None:
        """What it may still cost; None when that is not known."""
        return self.left if self.left is not None else self.cost

    @property
    def runs_here(self) -> bool:
        """Whether it was dispatched here and runs, as far as that is known: not what others have claimed."""
        return bool(self.counted_in) and not self.resumed

    @property
    def held_in(self) -> str | None:
        """The run in which its last call was made: what denied it was of that one."""
        return self.claimed_for or self.pinned

    def hold_in(self, run: RunState) -> Hold | None:
        """Return what has denied its last call, where that matters if this run pays; None: nothing."""
        hold = self.hold
        is_others = hold is not None and hold.runs and run.run_id and run.run_id not in hold.runs
        return None if is_others else hold

    def held_by(self, scope: str) -> bool:
        """Return whether a budget of that scope has denied its last call."""
        return self.hold is not None and self.hold.scope == scope

    def begin_anew(self) -> None:
        """Let nothing that it was claimed for before matter, if nobody runs it by now."""
        if self.claimed_by is None and not self.counted_in:
            self.pinned = self.claimed_for = self.left = self.cap = self.hold = None
            self.refused = {}
