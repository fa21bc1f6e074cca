"""What stock `get_work` is shown instead of all pending tasks: those that it may choose, and the counts.

Luigi's own code still chooses, by its own rules, and counts what runs (Luigi 3.8, `get_work` and
`count_pending`); it is not shown what could make no difference to it. The gate has looked at what it may hand
out itself, and at some of each kind of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from luigi.scheduler import SimpleTaskState, Worker
from luigi.task_status import FAILED, PENDING, RUNNING

from scheduler_patch.dispatch import READY, Gate, Verdict
from scheduler_patch.dispatch.kinds import TaskKind, TaskKinds
from scheduler_patch.scheduler.index import PLAIN, Counts, Queue, Rank, ReadyIndex


class Choice:
    """The ready tasks of a scheduler, with what the gate says of them."""

    def __init__(self, state: Any, gate: Gate) -> None:
        # In the order in which they became pending, as Luigi has them.
        pending = state.get_active_tasks_by_status(PENDING)
        others = (task for task in state.get_active_tasks() if task.status != PENDING)
        self.index = ReadyIndex(chain(pending, others))
        #: Workers that still hold tasks that Luigi has dropped: it goes on to count them.
        self.stale = {
            worker.id
            for worker in state.get_active_workers()
            if any(state.get_task(task.id) is not task for task in worker.tasks)
        }
        self._state, self._gate = state, gate
        self._kinds = TaskKinds()
        self._rules: object = None
        #: For whom the gate has looked, and what it said of single tasks: once each.
        self._who: str | None = None
        self._judged: dict[str, Verdict] = {}

    # What changes.

    def refresh(self, task: Any) -> None:
        """Take over what has become of a task: whoever changes one says so here."""
        self.index.refresh(task)
        if task.id in self._gate.state.tasks:
            self._gate.state.changed.add(task.id)

    def drop(self, task_ids: Iterable[str]) -> None:
        """Forget tasks that Luigi is about to drop; its workers may go on to count them."""
        for task_id in task_ids:
            task = self._state.get_task(task_id)
            workers = self._state.get_active_workers() if task is not None else ()
            self.stale.update(worker.id for worker in workers if task in worker.tasks)
            self.index.drop(task_id)

    def lose(self, workers: Iterable[str], tasks: Iterable[Any]) -> None:
        """Take it that workers are gone, or disabled: these tasks are theirs no more."""
        for task in tasks:
            self.index.refresh(task)
        for worker in workers:
            self.index.forget(worker)
            self.stale.discard(worker)

    # What the gate says.

    def look(self, worker: str | None) -> None:
        """Have the gate look at the pending vendor tasks: at some of each kind, and at each that is alone."""
        known = self._gate.state
        self._who, self._judged = worker, {}
        if known.rules is not self._rules:
            self._rules = known.rules
            known.changed.update(known.tasks)
        while known.changed:  # A local scheduler's ledger speaks in a thread of its own.
            self._sort(known.changed.pop())
        for kind, peers in self._kinds.groups.items():
            before = peers.affordable
            for task_id in peers.judge(self._verdict_anew if kind.refused else self.verdict):
                self.index.block(task_id, is_blocked=not self._kinds.is_free(task_id))
            # What would be READY, or was, may have to wait for a change of its own.
            for task_id in peers.up_to(max(before, peers.affordable)) if kind.refused else ():
                self.index.block(task_id, is_blocked=self.verdict(task_id).is_blocked)
        for task_id in self._kinds.alone:
            self.index.block(task_id, is_blocked=self.verdict(task_id).is_blocked)

    def verdict(self, task_id: str) -> Verdict:
        """Return the verdict on a task, as all stood at the last look."""
        verdict = self._judged.get(task_id)
        if verdict is None:
            verdict = self._judged[task_id] = self._gate.verdict(task_id, self._who)
        return verdict

    def _verdict_anew(self, task_id: str) -> Verdict:
        return self._gate.verdict_anew(task_id, self._who)

    def _sort(self, task_id: str) -> None:
        """Have a task among its like: it has changed."""
        vendor_task, task = self._gate.state.tasks.get(task_id), self._state.get_task(task_id)
        if vendor_task is None or task is None or task.status != PENDING:
            self._kinds.take(task_id)
            self.index.assign(task_id, PLAIN)
            self.index.block(task_id, is_blocked=False)
        else:
            self.index.assign(task_id, self._kinds.put(vendor_task, self._gate.state))
            self.index.block(task_id, is_blocked=not self._kinds.is_free(task_id))

    def verdicts(self, worker: str) -> dict[str, Verdict]:
        """Return the verdict on each of a worker's ready vendor tasks: of those that are alike once."""
        self.look(worker)
        found = dict[str, Verdict]()
        for kind, tasks in self.index.queues.get(worker, {}).items():
            if kind is not PLAIN:
                self._judge(kind, [task.id for task in tasks.values()], found)
        return found

    def _judge(self, kind: object, task_ids: list[str], found: dict[str, Verdict]) -> None:
        """Add the verdicts on tasks of a kind."""
        peers = self._kinds.groups[kind] if isinstance(kind, TaskKind) else None
        if not isinstance(kind, TaskKind) or peers is None or (kind.refused and peers.affordable >= 0):
            found.update((task_id, self.verdict(task_id)) for task_id in task_ids)
        elif peers.verdict is not None:
            found.update(dict.fromkeys(task_ids, peers.verdict))
        else:
            alike = dict[int, Verdict]()
            for task_id in task_ids:
                amount = self._kinds.amount(task_id)
                if amount not in alike:
                    alike[amount] = self.verdict(task_id)
                found[task_id] = alike[amount]

    # What Luigi is shown.

    def candidates(self, worker: AskingWorker, *, own: bool) -> list[Any]:
        """Return the tasks of which `get_work` may choose one, and those that change what it chooses.

        Where no resources are needed that is the first that may run, with those that may join its batch.
        `own`: it looks at the worker's own tasks alone, which need none.
        """
        index = self.index
        if index.laden_ready and not own:
            running = self._state.get_active_tasks_by_status(RUNNING)
            return [*index.in_order(), *running]
        best = self._best(worker)
        if best is None:
            return []
        batched, _ = SimpleTaskState.get_batcher(self._state, worker.id, best.family)
        if not batched or not best.is_batchable():
            return [best]
        # As they stand: of equals Luigi lets join what stands behind the first that this worker may have.
        mates = self._ready(worker.id if own else None)
        return [task for task in mates if task is best or task.family == best.family]

    def _ready(self, worker: str | None) -> list[Any]:
        """Return all ready tasks (of a worker), in the order in which they became pending."""
        return [task for task in self.index.in_order() if worker is None or worker in task.workers]

    def _best(self, worker: AskingWorker) -> Any:
        """Return the first ready task that a worker may have, None for none."""
        first: tuple[Rank, Any] | None = None
        for queue in self._queues(worker):
            for kind, tasks in queue.items():
                if isinstance(kind, TaskKind) and self._kinds.groups[kind].affordable < 0:
                    continue
                for rank, task in tasks.items():
                    if first is not None and rank >= first[0]:
                        break
                    if self._admits(kind, task.id):
                        first = rank, task
                        break
        return None if first is None else first[1]

    def _queues(self, worker: AskingWorker) -> Iterator[Queue]:
        yield self.index.queues.get(worker.id, {})
        if worker.assists:
            yield self.index.runnable

    def _admits(self, kind: object, task_id: str) -> bool:
        if isinstance(kind, TaskKind) and not self._kinds.is_affordable(task_id):
            return False
        return kind is PLAIN or self.verdict(task_id) is READY


_NONE = Counts()


class AskingWorker(Worker):
    """A worker as `get_work` and `count_pending` see it that ask for it: its tasks come from a `Choice`."""

    #: Beside the attributes of Luigi's own worker, which both have.
    __slots__ = ("_choice", "_has_looked", "_who", "assists")
    _choice: Choice
    _has_looked: bool
    _who: str | None
    assists: bool

    @classmethod
    def of(cls, worker: Any, choice: Choice, who: str | None, *, assists: bool = False) -> AskingWorker:
        """Return a view of Luigi's own worker: what is changed here is changed there.

        `who`: for whom the gate looks at its tasks; None: for any worker. `assists`: it may be handed tasks
        of others, now.
        """
        view = cls.__new__(cls)
        object.__setattr__(view, "__dict__", worker.__dict__)
        view._choice, view._who, view._has_looked, view.assists = choice, who, False, assists
        return view

    def _looked(self) -> Choice:
        """Return the choice after the gate has looked: once, since nothing changes meanwhile."""
        if not self._has_looked:
            self._choice.look(self._who)
            self._has_looked = True
        return self._choice

    def candidates(self, *, own: bool) -> list[Any]:
        """See `Choice.candidates`."""
        return self._looked().candidates(self, own=own)

    def verdicts(self) -> dict[str, Verdict]:
        """See `Choice.verdicts`."""
        return self._choice.verdicts(self.id)

    def verdict(self, task_id: str) -> Verdict:
        """See `Choice.verdict`."""
        return self._looked().verdict(task_id)

    def blocked(self) -> Iterable[str]:
        """Return what is blocked, where Luigi's walk counts."""
        index = self._looked().index
        return index.blocked if index.is_unsure else ()

    def counts(self) -> dict[str, int]:
        """Return the counts of `count_pending`, under Luigi's names; none where Luigi's walk has counted."""
        index = self._looked().index
        if index.is_unsure:
            return {}
        counts = index.counts.get(self.id, _NONE)
        return {
            "n_pending_tasks": counts.pending,
            "n_unique_pending": counts.unique,
            "n_pending_last_scheduled": counts.last,
        }

    def get_tasks(self, state: Any, *statuses: str) -> Iterable[Any]:
        """Return what may make a difference; pending and failed tasks are counted otherwise."""
        if statuses == (PENDING, RUNNING):
            return self.candidates(own=True)
        if statuses == (PENDING, FAILED) and not self._looked().index.is_unsure:
            return ()
        tasks: Iterable[Any] = super().get_tasks(state, *statuses)
        return tasks

    def is_trivial_worker(self, state: Any) -> bool:
        return not self.assistant and not self._choice.index.laden[self.id]
