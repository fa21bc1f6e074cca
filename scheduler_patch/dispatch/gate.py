"""`Gate`: decides in O(1) whether a vendor task may be dispatched now.

No SQL and no logging here: `verdict` is asked for every candidate task of every `get_work`. Which run pays is
decided once, when a task is dispatched. A task that came back blocked is not dispatched to the same worker
again before something has changed that may change the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scheduler_patch.dispatch.model import Entry, Forecast, Outlook, Pot, RunFigures
from scheduler_patch.dispatch.state import Memory

#: Verdicts that are no reasons to be blocked: it may run now; it may once others have ended.
READY, WAIT = "", "wait"
#: Reasons that nothing frees a task of: its run, or its own vault key, is revoked.
FOR_GOOD = ("revoked", "key")


def _nobody(worker: str) -> tuple[str, ...]:
    """Return that a worker runs within no task."""
    return ()


def _always_due(task_id: str, worker: str | None) -> bool | None:
    """Return that a batch's member is due: nobody knows better."""
    return True


class Gate(Memory):
    """Decides by what luigid remembers; a reason to be blocked is what `reasons.py` has a text for."""

    def __init__(self) -> None:
        super().__init__()
        #: Whether nothing but the gate keeps a task from a worker; None: it cannot come back.
        self.due: Callable[[str, str | None], bool | None] = _always_due
        #: The tasks within which a worker runs: they wait for it.
        self.within: Callable[[str], tuple[str, ...]] = _nobody

    def verdict(self, task_id: str, worker: str | None = None) -> str:
        """Return READY, WAIT, or the reason for which the task is blocked."""
        entry = self.entries.get(task_id)
        if entry is None:
            return READY
        found = self._alone(entry, worker)
        if found == READY and task_id in self.batches:
            found = self._together(task_id, worker)
        return "refused" if found == READY and entry.refused and self._was_refused(entry, worker) else found

    def _alone(self, entry: Entry, worker: str | None) -> str:
        """Return the verdict on a task, whatever batch it was in."""
        found = READY
        for run in self._candidates(entry, worker):
            here = self._in(run, entry)
            if here == READY:
                return READY
            if here == WAIT and worker is not None and self._waits_for_itself(run, entry, worker):
                here = "within"
            if not found or here == WAIT:
                found = here
        return found

    def _together(self, task_id: str, worker: str | None) -> str:
        """Return the verdict on a task of an attempted batch, which comes back with the members it had.

        When one of them cannot come back, the others are free: their calls are refused where they may be
        repetitions.
        """
        found = READY
        for mate in self.batches[task_id]:
            due = mate == task_id or self.due(mate, worker)
            if due is None:
                return READY
            entry = self.entries.get(mate)
            if not due or (entry is not None and self._alone(entry, worker) != READY):
                found = "batch"
        return found

    def allows(self, task_id: str, worker: str | None = None) -> bool:
        """Return whether the task may be dispatched now; a plain task always may."""
        return self.verdict(task_id, worker) == READY

    def is_blocked(self, task_id: str, worker: str | None = None) -> bool:
        """Return whether only an operator, or money that comes back, lets the task run."""
        return self.verdict(task_id, worker) not in (READY, WAIT)

    def is_stopped(self, task_id: str) -> bool:
        """Return whether the run that a running task was dispatched for is revoked."""
        entry = self.entries.get(task_id)
        run = self.run(entry.pinned) if entry is not None else None
        return run is not None and run.state == "revoked"

    def is_revoked(self, task_id: str) -> bool:
        """Return whether every run that could pay for the task is revoked."""
        return self.verdict(task_id) in FOR_GOOD

    def paying_run(self, task_id: str, worker: str | None = None) -> str | None:
        """Return the run that a task is (or would now be) dispatched for."""
        entry = self.entries.get(task_id)
        return None if entry is None else self._payer(entry, worker).run_id or None

    def _payer(self, entry: Entry, worker: str | None) -> RunFigures:
        candidates = self._candidates(entry, worker)
        return next((run for run in candidates if self._in(run, entry) == READY), candidates[0])

    def _candidates(self, entry: Entry, worker: str | None) -> list[RunFigures]:
        """Return the runs that may pay, best first: the pinned one, then the worker's own, else `nobody`.

        What has paid, or is running, stays with its run; a retry that has not may be another's if its own
        run cannot pay any more. A run that nobody has opened pays for nothing while one is known that is
        open, and never for a task that its worker has announced for other runs: its claim would not use it.
        """
        pinned = self.run(entry.pinned)
        stays = entry.task_id in self.paid or bool(entry.counted_in)
        if pinned is not None and pinned.state != "revoked" and stays:
            return [pinned]
        own = entry.workers.get(worker, ()) if worker is not None else ()
        names = dict.fromkeys([*([entry.pinned] if pinned is not None else []), *own, *entry.runs])
        found = [run for name in names if (run := self.run(name)) is not None]
        if alive := [run for run in found if run.opened and run.state != "revoked"]:
            return alive
        mine = [self.run(name) for name in own] or found
        may_open = [run for run in found if not run.opened and run in mine]
        return may_open or [run for run in found if run.opened] or found or [self.nobody]

    def pinned_run(self, task_id: str) -> RunFigures | None:
        """Return the run that a task was dispatched for, None where that is not known."""
        entry = self.entries.get(task_id)
        return None if entry is None else self.run(entry.pinned)

    # What came back blocked.

    def came_back(self, task_id: str, worker: str | None) -> None:
        """Take it that a task was blocked at a worker: there it waits until that answer may be another.

        Where the run that was to pay may not pay any more, another one has yet to be asked.
        """
        entry = self.entries.get(task_id)
        if entry is None or worker is None:
            return
        asked = self.run(entry.pinned)
        if asked is None or asked in self._candidates(entry, worker):
            entry.refused[worker] = self._outlook(entry, worker)

    def _was_refused(self, entry: Entry, worker: str | None) -> bool:
        """Return whether nothing has changed since a task came back from a worker (None: from all of its)."""
        if worker is None:
            return all(self._was_refused(entry, each) for each in entry.workers or entry.refused)
        before = entry.refused.get(worker)
        if before is None:
            return False
        if not self._outlook(entry, worker).better_than(before):
            return True
        del entry.refused[worker]
        return False

    def _outlook(self, entry: Entry, worker: str) -> Outlook:
        """Return what the answer to a task's next attempt depends on."""
        runs = self._candidates(entry, worker)
        pots = [(run.run_id, pot) for run in runs for pot in self.pots(run, entry)]
        return Outlook(
            self.rules,
            (*((run.run_id, run.state, run.approvals.get(entry.task_id)) for run in runs), entry.cost),
            {(run_id, *pot.key): (pot.window, pot.cap, pot.remaining) for run_id, pot in pots},
            entry.left,
        )

    def _in(self, run: RunFigures, entry: Entry) -> str:
        """Return the verdict on a task if this run were to pay for it."""
        if run.state == "revoked":
            return "revoked"
        if entry.hold is not None and entry.hold.scope == "key" and entry.pinned == run.run_id:
            return "key"
        if run is self.nobody and any(worker in self.announcing for worker in entry.workers):
            return WAIT  # Its worker is about to say, or what leads to it will.
        if self.rules.forecast == "hold":
            if run.announcing:
                return WAIT
            if not run.opened or not run.scheduled or self.is_held(run):
                return "forecast"
        single = self.rules.single
        if single is not None and (entry.cost or 0) > max(single, run.approvals.get(entry.task_id, 0)):
            return "approval"
        if self.rules.shadow:
            return READY
        return self._affords(run, entry)

    def _affords(self, run: RunFigures, entry: Entry) -> str:
        hold = entry.hold
        if hold is not None and hold.scope == "task" and entry.left is not None and hold.asked > entry.left:
            return "task"
        if run.state == "frozen" and entry.task_id not in self.paid:
            return "frozen"
        lacking = self.lacking(run, entry)
        if lacking is not None:
            return "cap" if lacking.scope == "run" else lacking.scope
        waits = not entry.counted_in and any(
            need > pot.remaining - pot.counted for pot, need in self._needs(run, entry)
        )
        return WAIT if waits else READY

    def _waits_for_itself(self, run: RunFigures, entry: Entry, worker: str) -> bool:
        """Return whether what a task waits for is set aside for the tasks within which its worker runs."""
        above = [self.entries[task_id] for task_id in self.within(worker) if task_id in self.entries]
        return bool(above) and any(
            need > pot.remaining - sum(each.counted for each in above if pot in each.counted_in)
            for pot, need in self._needs(run, entry)
        )

    def lacking(self, run: RunFigures, entry: Entry) -> Pot | None:
        """Return the budget that cannot pay for a task, whatever running tasks give back; None: all can."""
        return next((pot for pot, need in self._needs(run, entry) if need > pot.attainable), None)

    def _needs(self, run: RunFigures, entry: Entry) -> Iterator[tuple[Pot, int]]:
        """Yield every budget of a task with what it needs of it; repeating what was paid costs nothing."""
        hold, paid = entry.hold, entry.task_id in self.paid
        for pot in self.pots(run, entry):
            asked = hold.asked if hold is not None and hold.key == pot.key else 0
            yield pot, asked if paid else max(asked, self._need(entry, pot))

    def _need(self, entry: Entry, pot: Pot) -> int:
        """Return what a task needs of a budget; of several vendors' it is not known which one gets it."""
        shared = pot.scope == "vendor" and len(entry.vendors) > 1
        return 1 if entry.need is None else min(entry.need, 1) if shared else entry.need

    def excess(self, run: RunFigures) -> str:
        """Return why a run's forecast is too much, "" when it is not (or is not known)."""
        forecast = run.forecast
        if forecast is None or self._is_approved(run, forecast):
            return ""
        if forecast.known > run.pots["run", ""].cap:
            return "cap"
        if run.last and forecast.known > self.rules.growth * run.last:
            return "growth"
        return ""

    def _is_approved(self, run: RunFigures, forecast: Forecast) -> bool:
        """Return whether an operator has let pass at least what the forecast says, in both its parts."""
        return (
            run.approved is not None
            and forecast.known <= run.approved
            and forecast.unknown <= run.approved_unknown
        )

    def is_held(self, run: RunFigures) -> bool:
        """Return whether a run waits for an approval of its forecast."""
        return self.rules.forecast == "hold" and bool(self.excess(run))

    def joins(self, first: str, run_id: str | None, taken: int, task_id: str) -> bool:
        """Return whether a task may be batched with `first`, for whose batch `taken` is set aside already.

        Members have one run, and what has paid comes back as it was: alone, or with the members it had.
        """
        entry = self.entries.get(task_id)
        if entry is None or first not in self.entries:
            return entry is None and first not in self.entries
        before = self.batches.get(first)
        if before != self.batches.get(task_id) or (before is None and {first, task_id} & self.paid):
            return False
        run = self.run(run_id) or self.nobody
        if run not in self._candidates(entry, None) or self._in(run, entry) != READY:
            return False
        if task_id in self.paid or self.rules.shadow:
            return True
        return all(
            self._need(entry, pot) <= pot.remaining - pot.counted - taken for pot in self.pots(run, entry)
        )

    def started(self, task_id: str, run_id: str | None, worker: str | None = None) -> None:
        """Pin a dispatched task to the run that pays for it, and count what it may cost."""
        entry = self.entries.get(task_id)
        if entry is None or entry.counted_in:
            return
        entry.pinned = run_id or self.paying_run(task_id, worker) or entry.pinned
        entry.denied = False
        if self.local:
            entry.claimed_by = worker
        self.count(self.run(entry.pinned) or self.nobody, entry, entry.need or 0)

    def hold_as_reported(self, task_id: str) -> None:
        """Block a task that its worker calls blocked; until its budget grows, if nothing better is known."""
        entry = self.entries.get(task_id)
        run = self.run(entry.pinned) if entry is not None else None
        if entry is None or entry.denied or run is None or not run.opened:
            return
        if self._in(run, entry) in (READY, WAIT):
            self.hold(task_id, "run", run.pots["run", ""].remaining + 1)
