"""What the dispatch gate knows: which tasks belong to which runs, what is left of every budget.

Fed by the ledger's answers and rebuilt from it; nothing here decides. Amounts are micro-dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from luigi_spendguard.ledger.database import Row
from luigi_spendguard.ledger.snapshot import Changes, Figures
from scheduler_patch.dispatch.budgets import Counts
from scheduler_patch.dispatch.model import UNOPENED, Entry, Forecast, Hold, RunFigures


def _unheard(entry: Entry) -> None:
    """Nobody wants to hear of shared tasks."""


class Memory(Counts):
    """Tasks, runs and budgets as luigid remembers them."""

    #: Told of a task that another run needs, too, after it was dispatched for one.
    on_shared: Callable[[Entry], None] = staticmethod(_unheard)

    def __getstate__(self) -> dict[str, Any]:
        # Luigi sends a local scheduler to its children; who listens holds locks of this process.
        return {name: value for name, value in vars(self).items() if name != "on_shared"}

    def __init__(self) -> None:
        super().__init__()
        #: The scheduler is the worker's own: tasks are claimed in children, unheard here.
        self.local = False
        #: What the ledger knows of tasks that nobody has announced since luigid began.
        self.kept: dict[str, Entry] = {}
        #: Workers that are gone, their tasks' ends unheard: the ledger has to be told.
        self.vanished: set[str] = set()
        self.runs: dict[str, RunFigures] = {}
        self.names: dict[str, str] = {}
        #: Stands for the run of tasks of which nobody has said where they belong.
        self.nobody = RunFigures("", UNOPENED)
        self.paid: set[str] = set()
        #: Attempted batches: each member's task_id to all members in the batch's order.
        self.batches: dict[str, tuple[str, ...]] = {}
        #: Workers to be told that a run is revoked: each worker's runs.
        self.stopping: dict[str, set[str]] = {}
        #: Workers that are still scheduling, and the runs they have announced tasks of.
        self.announcing: dict[str, set[str]] = {}
        #: The tasks that each worker has announced without saying where they belong.
        self.lost: dict[str, set[str]] = {}
        self.averages: dict[str, int] = {}
        #: The runs that each worker has announced tasks of.
        self.runs_of: dict[str, set[str]] = {}

    def run(self, name: str | None) -> RunFigures | None:
        """Return a run by its run_id, or by the name of its root."""
        if name is None:
            return None
        return self.runs.get(name) or self.runs.get(self.names.get(name, ""))

    def _named(self, name: str) -> RunFigures:
        """Return a run by its run_id or name; one that nobody has opened yet is made here."""
        run = self.run(name)
        if run is None:
            run = self.runs[name] = RunFigures(name, UNOPENED)
        return run

    # Batches.

    def combine(self, task_id: str, members: list[str]) -> None:
        """Let a batch's combined task stand for its members: their run pays, their counts are its own.

        It may be one of them (`batch_method=max`), and then is their batch only while it runs.
        """
        entries = [self.entries[member] for member in members if member in self.entries]
        before = self.entries.get(task_id)
        one_of_them = before is not None and task_id in members
        if not entries or (before is not None and before.counted_in and (before.members or not one_of_them)):
            return  # A plain batch, or said twice.
        first = entries[0]
        if before is not None and one_of_them:
            combined = before
        else:
            combined = Entry(task_id, first.family, list(first.runs), pinned=first.pinned)
            combined.cost = self._together_cost(entries)
            combined.vendors = tuple(dict.fromkeys(v for entry in entries for v in entry.vendors))
        combined.members = tuple(members)
        self.entries[task_id] = combined
        counted, run = sum(entry.counted for entry in entries), self.run(first.pinned)
        for entry in entries:
            self.release(entry)
        self.count(run or self.nobody, combined, counted)
        for member in members:
            self.batches[member] = tuple(members)

    def declared(self, task_id: str) -> int | None:
        """Return what the members of a running batch say together; None: they do not, or it is none."""
        entry = self.entries.get(task_id)
        if entry is None or not entry.members:
            return None
        if task_id not in entry.members:
            return entry.cost
        return self._together_cost([self.entries[each] for each in entry.members if each in self.entries])

    def _together_cost(self, entries: list[Entry]) -> int | None:
        known = [entry.cost for entry in entries if entry.cost is not None]
        return sum(known) if len(known) == len(entries) else None

    def pass_on(self, task_id: str, members: Iterable[str]) -> None:
        """Let the members of a batch be held as their combined task was, which is no more."""
        combined = self.entries.get(task_id)
        for member in members:
            if combined is not None and member in self.entries:
                self.entries[member].hold = combined.hold
                self.entries[member].denied = combined.denied
        self.forget([task_id])

    # What tasks do.

    def join(
        self,
        task_id: str,
        run_id: str | None,
        worker: str,
        family: str,
        cost: int | None,
        announcing: bool,
        vendors: tuple[str, ...] = (),
    ) -> None:
        """Let a task belong to a run, as its worker says; None: which one is not known yet."""
        entry = self.entries.get(task_id)
        if entry is None:
            entry = self.entries[task_id] = self.kept.pop(task_id, Entry(task_id, family))
        entry.family = family or entry.family
        entry.vendors = vendors or entry.vendors
        own = entry.workers.setdefault(worker, {})
        if cost is not None and entry.left is not None and entry.cost is not None:
            entry.left = max(0, entry.left + cost - entry.cost)
        if announcing and cost is None and self.rules.single is None and entry.held_by("task"):
            entry.cost = entry.left = entry.hold = None  # It has no budget any more; else its claim will say.
        entry.cost = cost if cost is not None else entry.cost
        if announcing:
            self.announcing.setdefault(worker, set())
            entry.refused.pop(worker, None)  # It was submitted again.
        if run_id is None:
            if not own:
                self.lost.setdefault(worker, set()).add(task_id)
            return
        self.lost.get(worker, set()).discard(task_id)
        if run_id not in entry.runs:
            entry.runs.append(run_id)
            if entry.pinned is not None:
                self.on_shared(entry)  # It was dispatched before it was known to be this run's too.
        own[run_id] = None
        self.runs_of.setdefault(worker, set()).add(run_id)
        run = self._named(run_id)
        run.tasks[task_id] = None
        if announcing:
            self.announcing[worker].add(run_id)
            run.announcing.add(worker)

    def scheduled(self, worker: str) -> list[RunFigures]:
        """Take it that a worker has announced all it will for now; return its runs, with their forecasts."""
        found = []
        for run_id in self.announcing.pop(worker, ()):
            run = self.run(run_id)
            if run is not None:
                run.announcing.discard(worker)
                run.scheduled = True
                run.forecast = self._forecast(run)
                found.append(run)
        self.version += 1
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
            for entry in self.entries.values():
                for worker in gone & entry.refused.keys():
                    del entry.refused[worker]
        for worker in gone:
            self.stopping.pop(worker, None)
            self.runs_of.pop(worker, None)
            self.lost.pop(worker, None)
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
        entry.left = left if left is not None else entry.left
        if run is not None:
            # What it declares may be known only now, and so may be its run.
            self.count(run, entry, entry.need or 0)

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

    def declare(self, task_id: str, cost: int) -> None:
        """Take it that a task may cost so much, each member of a batch its share."""
        entry = self.entries.get(task_id)
        for each in (entry.members or (task_id,)) if entry is not None else ():
            if each in self.entries:
                share = -(-cost // (len(entry.members) or 1)) if entry is not None else cost
                self.entries[each].cost = max(self.entries[each].cost or 0, share)
        if entry is not None:
            entry.cost, entry.denied = entry.cost if task_id in entry.members else cost, True

    def stopped(self, task_id: str) -> None:
        """Release what was counted for a task: it runs no more."""
        entry = self.entries.get(task_id)
        if entry is not None:
            self.release(entry)
            entry.claimed_by = None
            if task_id in entry.members:  # It is a single task again, whose budget was its batch's.
                entry.members, entry.left = (), None

    def hold(self, task_id: str, scope: str, asked: int, part: str = "") -> None:
        """Block a task until `asked` fits what remains of that budget."""
        entry = self.entries.get(task_id)
        if entry is not None:
            entry.hold, entry.denied = Hold(scope, part, asked), True

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

    def pay(self, task_id: str) -> None:
        """Take it that a task, or every member of a batch, has paid."""
        entry = self.entries.get(task_id)
        self.paid.update((task_id, *(entry.members if entry is not None else ())))

    def free(self, task_id: str) -> None:
        """Block a task no more for what it was denied."""
        entry = self.entries.get(task_id)
        if entry is not None:
            entry.hold = None

    def ended(self, run_id: str, done: Iterable[str]) -> None:
        """Take it that a run has ended, with those of its tasks that have completed."""
        self.completed(done)
        self.runs.pop(run_id, None)

    def forget(self, gone: Iterable[str]) -> None:
        """Drop tasks that the scheduler has dropped."""
        for task_id in list(gone):
            self.stopped(task_id)
            entry = self.entries.pop(task_id, None)
            for worker in entry.workers if entry is not None else ():
                self.lost.get(worker, set()).discard(task_id)
            for run_id in entry.runs if entry is not None else ():
                run = self.run(run_id)
                if run is not None:
                    run.tasks.pop(task_id, None)
                    if not run.opened and not run.tasks:
                        self.runs.pop(run.run_id, None)

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
        if run is None or not run.opened:
            if "name" not in row or row["state"] == "ended":
                return  # An ended run's late answer.
            run = self._opened(row)
        if "name" in row and row["state"] != "ended":
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

    def _opened(self, row: Row) -> RunFigures:
        """Return the run of a row that is new here: the one that tasks have waited for, if they have."""
        run = RunFigures(row["run_id"])
        for key in (row["name"], row["run_id"]):
            waiting = self.runs.get(key)
            if waiting is not None and not waiting.opened:
                del self.runs[key]
                waiting.run_id, run = run.run_id, waiting
        self.runs[run.run_id] = run
        return run

    def hear(self, changes: Changes) -> None:
        """Take over what was done to the ledger since the last look, by other processes perhaps."""
        for figures in changes.runs:
            self.feed(figures)
        self.feed_day(changes.day, changes.seen, today=True)
        self.paid.update(changes.paid)
