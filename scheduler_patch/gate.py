"""`Gate`: decides in O(1) whether a vendor task may be dispatched now.

No SQL and no logging here: `verdict` is asked for every candidate task of every `get_work`.
"""

from __future__ import annotations

from scheduler_patch.entries import Entry, RunFigures
from scheduler_patch.memory import Memory

#: Verdicts that are no reasons to be blocked: it may run now; it may once others have ended.
READY, WAIT = "", "wait"
#: Reasons that nothing frees a task of: its run, or its own vault key, is revoked.
FOR_GOOD = ("revoked", "key")


class Gate(Memory):
    """Decides by what luigid remembers; a reason to be blocked is what `reasons.py` has a text for."""

    def verdict(self, task_id: str, worker: str | None = None) -> str:
        """Return READY, WAIT, or the reason for which the task is blocked."""
        entry = self.entries.get(task_id)
        if entry is None:
            return READY
        found = WAIT if self.rules.forecast == "hold" and "" in entry.runs else READY
        for run in self._candidates(entry, worker):
            here = self._in(run, entry)
            if here == READY:
                return READY
            if not found or here == WAIT:
                found = here
        return found

    def allows(self, task_id: str, worker: str | None = None) -> bool:
        """Return whether the task may be dispatched now; a plain task always may."""
        return self.verdict(task_id, worker) == READY

    def is_blocked(self, task_id: str) -> bool:
        """Return whether only an operator, or money that comes back, lets the task run."""
        return self.verdict(task_id) not in (READY, WAIT)

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
        if entry is None:
            return None
        candidates = self._candidates(entry, worker)
        ready = [run for run in candidates if self._in(run, entry) == READY]
        chosen = next(iter(ready or candidates), None)
        return chosen.run_id if chosen is not None else None

    def _candidates(self, entry: Entry, worker: str | None) -> list[RunFigures]:
        """Return the runs that may pay, best first: the pinned one, then the worker's own.

        What has paid, or is running, stays with its run; a retry that has not may be another's if its own
        run cannot pay any more.
        """
        pinned = self.run(entry.pinned)
        stays = entry.task_id in self.paid or bool(entry.counted_in)
        if pinned is not None and pinned.state != "revoked" and stays:
            return [pinned]
        own = entry.workers.get(worker, ()) if worker is not None else ()
        names = dict.fromkeys([*([entry.pinned] if pinned is not None else []), *own, *entry.runs])
        return [run for name in names if (run := self.run(name)) is not None]

    def _in(self, run: RunFigures, entry: Entry) -> str:
        """Return the verdict on a task if this run were to pay for it."""
        if run.state == "revoked":
            return "revoked"
        if entry.hold is not None and entry.hold.scope == "key" and entry.pinned == run.run_id:
            return "key"
        if self.rules.forecast == "hold":
            if run.announcing:
                return WAIT
            if not run.scheduled or self.is_held(run):
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
        paid = entry.task_id in self.paid
        if run.state == "frozen" and not paid:
            return "frozen"
        waiting = False
        for pot in self._pots(run, entry):
            need = hold.asked if hold is not None and (hold.scope, hold.part) == pot.key else 0
            if not paid:
                need = max(need, 1 if entry.need is None else entry.need)
            if need > pot.remaining:
                return "cap" if pot.scope == "run" else pot.scope
            waiting = waiting or (need > pot.remaining - pot.counted and not entry.counted_in)
        return WAIT if waiting else READY

    def excess(self, run: RunFigures) -> str:
        """Return why a run's forecast is too much, "" when it is not (or is not known)."""
        forecast = run.forecast
        if forecast is None or (run.approved is not None and forecast.known <= run.approved):
            return ""
        if forecast.known > run.pots["run", ""].cap:
            return "cap"
        if run.last and forecast.known > self.rules.growth * run.last:
            return "growth"
        return ""

    def is_held(self, run: RunFigures) -> bool:
        """Return whether a run waits for an approval of its forecast."""
        return self.rules.forecast == "hold" and bool(self.excess(run))

    def joins(self, first: str, run_id: str | None, taken: int, task_id: str) -> bool:
        """Return whether a task may be batched with `first`, for whose batch `taken` is set aside already.

        Members have one run, and an attempted batch comes back with the members it had.
        """
        entry = self.entries.get(task_id)
        if entry is None or run_id is None:
            return entry is None and first not in self.entries
        if self.batches.get(first) != self.batches.get(task_id):
            return False
        run = self.runs.get(run_id)
        if run is None or run not in self._candidates(entry, None) or self._in(run, entry) != READY:
            return False
        if task_id in self.paid or self.rules.shadow:
            return True
        need = 1 if entry.need is None else entry.need
        return all(need <= pot.remaining - pot.counted - taken for pot in self._pots(run, entry))

    def started(self, task_id: str, run_id: str | None, worker: str | None = None) -> None:
        """Pin a dispatched task to the run that pays for it, and count what it may cost."""
        entry = self.entries.get(task_id)
        if entry is None or entry.counted_in:
            return
        entry.pinned = run_id or self.paying_run(task_id, worker) or entry.pinned
        run = self.run(entry.pinned)
        if self.local:
            entry.claimed_by = worker
        if run is not None:
            self._count(run, entry, entry.need or 0)

    def hold_as_reported(self, task_id: str) -> None:
        """Block a task that its worker calls blocked; until its budget grows, if nothing better is known."""
        entry = self.entries.get(task_id)
        run = self.run(entry.pinned) if entry is not None else None
        if run is not None and self._in(run, self.entries[task_id]) in (READY, WAIT):
            self.hold(task_id, "run", run.pots["run", ""].remaining + 1)
