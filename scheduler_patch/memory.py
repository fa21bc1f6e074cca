"""What the dispatch gate knows: which tasks belong to which runs, what is left of every budget.

Fed by the ledger's answers and rebuilt from it; nothing here decides. Amounts are micro-dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from luigi_spendguard.ledger.figures import Figures
from luigi_spendguard.ledger.news import Changes
from scheduler_patch.entries import Entry, Hold, Pot, RunFigures
from scheduler_patch.forecast import Forecast


@dataclass
class Rules:
    """What luigi.cfg says about dispatching: see `luigi_spendguard.config.SETTINGS`."""

    forecast: str = "off"
    growth: Decimal = Decimal(3)
    single: int | None = None
    shadow: bool = False
    vendor_tasks: tuple[str, ...] = ()
    kill: bool = True


def _nobody(entry: Entry) -> None:
    """Nobody wants to hear of shared tasks."""


class Memory:
    """Tasks, runs and budgets as luigid remembers them."""

    #: Told of a task that another run needs, too, after it was dispatched for one.
    on_shared: Callable[[Entry], None] = staticmethod(_nobody)

    def __getstate__(self) -> dict[str, Any]:
        # Luigi sends a local scheduler to its children; who listens holds locks of this process.
        return {name: value for name, value in vars(self).items() if name != "on_shared"}

    def __init__(self) -> None:
        self.rules = Rules()
        #: The scheduler is the worker's own: tasks are claimed in children, unheard here.
        self.local = False
        self.entries: dict[str, Entry] = {}
        #: What the ledger knows of tasks that nobody has announced since luigid began.
        self.kept: dict[str, Entry] = {}
        #: Workers that are gone, their tasks' ends unheard: the ledger has to be told.
        self.vanished: set[str] = set()
        self.runs: dict[str, RunFigures] = {}
        self.names: dict[str, str] = {}
        self.day: Pot | None = None
        #: The newest UTC day that was heard of.
        self.newest_day = ""
        self.paid: set[str] = set()
        #: Attempted batches: each member's task_id to all members in the batch's order.
        self.batches: dict[str, tuple[str, ...]] = {}
        #: Workers to be told that a run is revoked: each worker's runs.
        self.stopping: dict[str, set[str]] = {}
        #: Workers that are still scheduling, and the runs they have announced tasks of.
        self.announcing: dict[str, set[str]] = {}
        self.averages: dict[str, int] = {}
        #: The runs that each worker has announced tasks of.
        self.runs_of: dict[str, set[str]] = {}
        #: Counts up whenever a blocked task may have become free.
        self.version = 0

    def run(self, name: str | None) -> RunFigures | None:
        """Return a run by its run_id, or by the name of its root."""
        if name is None:
            return None
        return self.runs.get(name) or self.runs.get(self.names.get(name, ""))

    def _pots(self, run: RunFigures, entry: Entry) -> Iterable[Pot]:
        yield run.pots["run", ""]
        if self.day is not None:
            yield self.day
        for key in (("family", entry.family), entry.hold.key if entry.hold is not None else ("", "")):
            pot = run.pots.get(key)
            if pot is not None and pot.scope != "run":
                yield pot

    # Batches.

    def combine(self, task_id: str, members: list[str]) -> None:
        """Let a batch's combined task stand for its members: their run pays, their counts are its own."""
        entries = [self.entries[member] for member in members if member in self.entries]
        if not entries or (task_id in self.entries and self.entries[task_id].counted_in):
            return  # A plain batch, or said twice.
        first, known = entries[0], [entry.cost for entry in entries if entry.cost is not None]
        combined = Entry(task_id, first.family, list(first.runs), pinned=first.pinned, members=tuple(members))
        combined.cost = sum(known) if len(known) == len(entries) else None
        self.entries[task_id] = combined
        combined.counted_in = first.counted_in
        for entry in entries:
            combined.counted += entry.counted
            entry.counted, entry.counted_in = 0, []
        for member in members:
            self.batches[member] = tuple(members)

    def pass_on(self, task_id: str, members: Iterable[str]) -> None:
        """Let the members of a batch be held as their combined task was, which is no more."""
        combined = self.entries.get(task_id)
        for member in members:
            if combined is not None and member in self.entries:
                self.entries[member].hold = combined.hold
        self.forget([task_id])

    # What tasks do.

    def join(
        self, task_id: str, run_id: str, worker: str, family: str, cost: int | None, announcing: bool
    ) -> None:
        """Let a task belong to a run, as its worker says."""
        entry = self.entries.get(task_id)
        if entry is None:
            entry = self.entries[task_id] = self.kept.pop(task_id, Entry(task_id, family))
        entry.family = family or entry.family
        if run_id not in entry.runs:
            entry.runs.append(run_id)
            if entry.pinned is not None:
                self.on_shared(entry)  # It was dispatched before it was known to be this run's too.
        entry.workers.setdefault(worker, {})[run_id] = None
        self.runs_of.setdefault(worker, set()).add(run_id)
        if cost is not None and entry.left is not None and entry.cost is not None:
            entry.left = max(0, entry.left + cost - entry.cost)
        entry.cost = cost if cost is not None else entry.cost
        run = self.run(run_id)
        if run is not None:
            run.tasks[task_id] = None
        if announcing:
            self.announcing.setdefault(worker, set()).add(run_id)
            if run is not None:
                run.announcing.add(worker)

    def scheduled(self, worker: str) -> list[RunFigures]:
        """Take it that a worker has announced all it will; return its runs, with their forecasts."""
        found = []
        for run_id in self.announcing.pop(worker, ()):
            run = self.run(run_id)
            if run is not None:
                run.announcing.discard(worker)
                run.scheduled = True
                run.forecast = self._forecast(run)
                found.append(run)
        return found

    def _forecast(self, run: RunFigures) -> Forecast:
        pot = run.pots["run", ""]
        known, estimated, unknown = pot.spent + pot.reserved, 0, 0
        for entry in (self.entries[task_id] for task_id in run.tasks if task_id in self.entries):
            if entry.need is not None:
                known += entry.need
            elif entry.task_id in self.paid:
                continue  # What it declares nothing about, it has paid.
            elif entry.family in self.averages:
                estimated += self.averages[entry.family]
            else:
                unknown += 1
        return Forecast(known + estimated, estimated, unknown)

    def gone(self, workers: Iterable[str]) -> None:
        """Forget workers: what they were still scheduling will not be completed by them."""
        gone = set(workers)
        if gone:
            self.vanished |= gone & {entry.claimed_by for entry in self.entries.values() if entry.claimed_by}
        for worker in gone:
            self.stopping.pop(worker, None)
            self.runs_of.pop(worker, None)
            for run_id in self.announcing.pop(worker, ()):
                run = self.run(run_id)
                if run is not None:
                    run.announcing.discard(worker)

    def claimed(self, task_id: str, run_id: str, worker: str, family: str, left: int | None) -> None:
        """Take it that a worker runs a task for a run, under a budget of its own that has `left`."""
        entry = self.entries.get(task_id)
        if entry is None:
            entry = self.entries[task_id] = Entry(task_id, family, [run_id])
        entry.pinned, entry.claimed_by = run_id, worker
        run = self.run(run_id)
        if run is not None and not entry.counted_in:
            self.count(run, entry, left or 0)
        if left is not None:
            self.draw(task_id, left)

    def to_stop(self, worker: str) -> dict[str, list[str]]:
        """Return the revoked runs that a worker has not acknowledged, with its tasks of each."""
        runs = self.stopping.get(worker)
        if not runs:
            return {}
        mine = [entry for entry in self.entries.values() if entry.claimed_by == worker]
        found = {run_id: [e.task_id for e in mine if e.pinned == run_id] for run_id in runs}
        self.stopping[worker] = {run_id for run_id, tasks in found.items() if tasks}
        return {run_id: tasks for run_id, tasks in found.items() if tasks}

    def acknowledged(self, worker: str, run_id: str) -> None:
        """Take it that a worker knows of a revoked run."""
        self.stopping.get(worker, set()).discard(run_id)

    def stop(self, run_id: str) -> None:
        """Let the workers that run tasks of a run be told to end them."""
        for entry in self.entries.values():
            if self.rules.kill and entry.pinned == run_id and entry.claimed_by is not None:
                self.stopping.setdefault(entry.claimed_by, set()).add(run_id)

    def approve(self, run_id: str, task_id: str, amount: int, left: int | None) -> None:
        """Let a task of a run cost up to `amount`; its own budget then has `left`."""
        run, entry = self.run(run_id), self.entries.get(task_id)
        if run is not None:
            run.approvals[task_id] = amount
        if entry is not None and left is not None:
            entry.left = left
        self.version += 1

    def count(self, run: RunFigures, entry: Entry, amount: int) -> None:
        """Set an amount aside for a task in every budget that applies."""
        entry.counted, entry.counted_in = amount, list(self._pots(run, entry))
        for pot in entry.counted_in:
            pot.counted += amount

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

    def stopped(self, task_id: str) -> None:
        """Release what was counted for a task: it runs no more."""
        entry = self.entries.get(task_id)
        if entry is not None:
            for pot in entry.counted_in:
                pot.counted -= entry.counted
            self.version += bool(entry.counted_in)
            entry.counted, entry.counted_in, entry.claimed_by = 0, [], None

    def hold(self, task_id: str, scope: str, asked: int, part: str = "") -> None:
        """Block a task until `asked` fits what remains of that budget."""
        entry = self.entries.get(task_id)
        if entry is not None:
            entry.hold = Hold(scope, part, asked)

    def declare(self, task_id: str, cost: int) -> None:
        """Take it that a task may cost so much, whatever it says."""
        entry = self.entries.get(task_id)
        if entry is not None:
            entry.cost = max(entry.cost or 0, cost)

    def done(self, task_id: str) -> None:
        """Forget a task that is done."""
        if task_id in self.entries:
            if self.local:  # A child has finished its claim, unheard here.
                self.completed([task_id, *self.batches.get(task_id, ())])
            for member in self.batches.pop(task_id, ()):
                self.batches.pop(member, None)
            self.forget([task_id])

    def completed(self, tasks: Iterable[str]) -> None:
        """Take it that tasks have completed: should they run again, they pay like any other."""
        self.paid.difference_update(tasks)

    def forget(self, gone: Iterable[str]) -> None:
        """Drop tasks that the scheduler has dropped."""
        for task_id in list(gone):
            self.stopped(task_id)
            entry = self.entries.pop(task_id, None)
            for run_id in entry.runs if entry is not None else ():
                run = self.run(run_id)
                if run is not None:
                    run.tasks.pop(task_id, None)

    def put_away(self, task_id: str) -> None:
        """Drop a task that the scheduler does not know; should it come back, its run is still known."""
        entry = self.entries.get(task_id)
        self.forget([task_id])
        if entry is not None and entry.pinned is not None:
            entry.runs, entry.workers = [], {}
            self.kept[task_id] = entry

    # What the ledger says.

    def feed(self, figures: Figures) -> None:
        """Take over a run's figures."""
        row, seen = figures.run, figures.seen
        run = self.runs.get(row["run_id"])
        if run is None:
            if "name" not in row or row["state"] == "ended":
                return  # An ended run's late answer.
            run = self.runs[row["run_id"]] = RunFigures(row["run_id"])
            self.names[row["name"]] = row["run_id"]
        was = run.state
        run.update(figures)
        if run.state == "revoked" and was != "revoked":
            self.stop(run.run_id)
        self.version += 1
        for budget in figures.budgets:
            if budget["scope"] == "day":
                self.feed_day(budget, seen)
            elif budget["scope"] != "task":
                run.pot(budget["scope"], budget["part"]).update(budget, seen)
            elif (entry := self.entries.get(budget["part"])) is not None and entry.pinned == run.run_id:
                self.draw(entry.task_id, budget["remaining_micros"], seen)
        if run.state == "ended":
            self.runs.pop(run.run_id)

    def feed_day(self, budget: dict[str, object] | None, seen: int = 0) -> None:
        """Take over today's budget of all runs; a new day starts with its whole cap.

        What ends after midnight brings the figures of the day before, which nothing is taken from any more.
        """
        if self.day is not None and seen < self.day.seen:
            return
        if budget is None:
            self.day = None
            return
        window = str(budget["part"])
        if window < self.newest_day:
            return
        self.newest_day = window
        if self.day is None or self.day.window != window:
            self.day = Pot("day", "", window=window)
            self._move_counts(self.day)
        self.day.update(budget, seen)

    def _move_counts(self, day: Pot) -> None:
        for entry in self.entries.values():
            if any(pot.scope == "day" for pot in entry.counted_in):
                entry.counted_in = [day if pot.scope == "day" else pot for pot in entry.counted_in]
                day.counted += entry.counted

    def hear(self, changes: Changes) -> None:
        """Take over what was done to the ledger since the last look, by other processes perhaps."""
        for figures in changes.runs:
            self.feed(figures)
        self.feed_day(changes.day, changes.seen)
        self.paid.update(changes.paid)
