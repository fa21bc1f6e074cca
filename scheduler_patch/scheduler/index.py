"""What of Luigi's tasks may be handed out, and how many are pending: kept by each change, not looked for.

Stock `get_work` sorts and reads every pending task at each call, and `count_pending` walks what each of
them requires (Luigi 3.8, `scheduler.py`). Here a task stands in a queue of each of its workers from the
change that made it ready to the one that ends that, and the counts move with it. Nothing here decides:
Luigi's own code chooses among the few tasks that it could choose.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

from luigi.scheduler import STATUS_TO_UPSTREAM_MAP
from luigi.task_status import DISABLED, DONE, FAILED, PENDING, RUNNING
from sortedcontainers import SortedDict

#: The kind of tasks that the gate has no say in.
PLAIN: Hashable = None
#: Where a task stands among others: by priority, by age, and as they became pending.
Rank = tuple[float, float, int]


class _Place(NamedTuple):
    """Where a ready task stands."""

    rank: Rank
    kind: Hashable
    workers: tuple[str, ...]
    #: Whether an assistant may have it, whoever has added it.
    runnable: bool
    #: Whether it needs resources.
    laden: bool


class _Entry:
    """A task as the index has it; a change is what has become different since."""

    __slots__ = (
        *("counted", "deps", "disabled_deps", "is_blocked", "is_disabled", "is_done", "kind", "laden"),
        *("missing", "order", "place", "task"),
    )

    def __init__(self, task: Any) -> None:
        self.task = task
        self.deps: frozenset[str] = frozenset()
        #: How many of these are not DONE or not known, and how many are disabled.
        self.missing = self.disabled_deps = 0
        #: Disabled: or blocked, or waiting for a task that is.
        self.is_done = self.is_disabled = self.is_blocked = False
        self.kind: Hashable = PLAIN
        #: When it became pending, among all; 0: it is not.
        self.order = 0
        self.place: _Place | None = None
        #: The workers for which it is counted, and for which it is pending and needs resources.
        self.counted: tuple[str, ...] = ()
        self.laden: tuple[str, ...] = ()


#: Ready tasks by rank, those of one kind apart.
Queue = dict[Hashable, "SortedDict[Rank, Any]"]


class Counts:
    """What `count_pending` says of a worker: pending and failed tasks that are not disabled upstream."""

    __slots__ = ("last", "pending", "unique")

    def __init__(self) -> None:
        #: All of them; those that are this worker's alone; those that it was the last to add.
        self.pending = self.unique = self.last = 0


class ReadyIndex:
    """Queues of ready tasks and counts of pending ones, for each worker.

    Whoever changes a task calls `refresh` (or `drop`) with it: the one way in. It costs O(log n); and what
    the task requires, where that has changed, or what waits for it, where it has become DONE or disabled.
    """

    def __init__(self, tasks: Iterable[Any] = ()) -> None:
        self._entries: dict[str, _Entry] = {}
        #: Who requires a task, known or not.
        self._above: dict[str, dict[str, None]] = {}
        self.queues: dict[str, Queue] = defaultdict(dict)
        #: What assistants may have.
        self.runnable: Queue = {}
        self.ready: dict[str, Any] = {}
        self.counts: dict[str, Counts] = defaultdict(Counts)
        #: How many ready tasks need resources; how many pending ones of each worker do.
        self.laden_ready = 0
        self.laden: Counter[str] = Counter()
        #: Pending and running tasks whose priority is no number: what Luigi makes of that is Luigi's.
        self.odd: set[str] = set()
        #: What the gate blocks.
        self.blocked: set[str] = set()
        self._cyclic: set[str] = set()
        self._vague: set[str] = set()
        self._order = 0
        for task in tasks:
            self.refresh(task)

    @property
    def is_unsure(self) -> bool:
        """Whether Luigi's counts depend on the order in which it walks: then the walk is Luigi's, too.

        Of a task that requires itself by way of others it reads what it has not found out yet; of one that is
        neither pending nor done (UNKNOWN: its `complete()` raised) it asks for what that requires only where
        it comes by a second time (Luigi 3.8, `_upstream_status`).
        """
        return bool(self._cyclic or self._vague)

    def in_order(self) -> list[Any]:
        """Return the ready tasks in the order in which they became pending: Luigi's among equals."""
        return sorted(self.ready.values(), key=lambda task: self._entries[task.id].order)

    def refresh(self, task: Any) -> None:
        """Take over what a task has become."""
        entry = self._entries.get(task.id)
        if entry is None:
            entry = self._entries[task.id] = _Entry(task)
            self._depend(entry)
        elif entry.deps != task.deps:
            self._depend(entry)
        self._follow(entry)

    def drop(self, task_id: str) -> None:
        """Forget a task that Luigi has dropped; others may still require it."""
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return
        self._stand(entry, None)
        self._count(entry, ())
        self._load(entry, ())
        self.odd.discard(task_id)
        self.blocked.discard(task_id)
        for dep in entry.deps:
            self._free(dep, task_id)
        self._vague.discard(task_id)
        self._cyclic = {each for each in self._cyclic if self._requires_itself(each)}
        for waiting in self._tell(entry, done=False, disabled=False):
            self._follow(waiting)

    def forget(self, worker: str) -> None:
        """Drop what is empty of a worker that has no tasks any more."""
        for kept in (self.queues, self.counts, self.laden):
            kept.pop(worker, None)

    def assign(self, task_id: str, kind: Hashable) -> None:
        """Let a task be of a kind, which the gate judges together."""
        entry = self._entries.get(task_id)
        if entry is not None and entry.kind != kind:
            entry.kind = kind
            self._follow(entry)

    def block(self, task_id: str, *, is_blocked: bool) -> None:
        """Take it that the gate blocks a pending task: it and what waits for it are as if disabled."""
        entry = self._entries.get(task_id)
        if entry is not None and entry.is_blocked != is_blocked:
            entry.is_blocked = is_blocked
            _put(self.blocked, task_id, is_blocked)
            self._follow(entry)

    def _depend(self, entry: _Entry) -> None:
        """Take over what a task requires."""
        task_id, now = entry.task.id, frozenset(entry.task.deps)
        gone = entry.deps - now
        for dep in gone:
            self._free(dep, task_id)
        for dep in now - entry.deps:
            self._above.setdefault(dep, {})[task_id] = None
        entry.deps = now
        self._cyclic.add(task_id)
        for each in (*self._cyclic,) if gone else (task_id,):
            if not self._requires_itself(each):
                self._cyclic.discard(each)
        known = [self._entries[dep] for dep in now if dep in self._entries]
        entry.missing = len(now) - sum(dep.is_done for dep in known)
        entry.disabled_deps = sum(dep.is_disabled for dep in known)

    def _below(self, task_id: str) -> Iterable[str]:
        entry = self._entries.get(task_id)
        return () if entry is None else entry.deps

    def _requires_itself(self, task_id: str) -> bool:
        """Return whether a task requires itself, by way of others: looked for downwards and upwards in turn.

        So it costs no more than the smaller side: of a task that is new, one is mostly empty.
        """

        def upwards(each: str) -> Iterable[str]:
            return self._above.get(each, ())

        walks = [(beyond, list(beyond(task_id)), set(beyond(task_id))) for beyond in (self._below, upwards)]
        while all(stack for _, stack, _ in walks):
            for beyond, stack, seen in walks:
                each = stack.pop()
                if each == task_id:
                    return True
                news = [one for one in beyond(each) if one not in seen]
                seen.update(news)
                stack.extend(news)
        return False

    def _free(self, dep: str, task_id: str) -> None:
        above = self._above[dep]
        del above[task_id]
        if not above:
            del self._above[dep]

    def _follow(self, first: _Entry) -> None:
        """Have a task where it belongs now, and whatever waits for it."""
        stack = [first]
        while stack:
            entry = stack.pop()
            status = entry.task.status
            is_stuck = status == PENDING and (entry.is_blocked or entry.disabled_deps > 0)
            stack += self._tell(entry, done=status == DONE, disabled=is_stuck or status == DISABLED)
            is_vague = status != DONE and status not in STATUS_TO_UPSTREAM_MAP
            _put(self._vague, entry.task.id, is_vague and entry.disabled_deps > 0)
            self._place(entry)

    def _tell(self, entry: _Entry, *, done: bool, disabled: bool) -> list[_Entry]:
        """Return what waits for a task, after it was told what that has become, if that is news."""
        by_done, by_disabled = done - entry.is_done, disabled - entry.is_disabled
        if not by_done and not by_disabled:
            return []
        entry.is_done, entry.is_disabled = done, disabled
        waiting = [self._entries[task_id] for task_id in self._above.get(entry.task.id, ())]
        for each in waiting:
            each.missing -= by_done
            each.disabled_deps += by_disabled
        return waiting

    def _place(self, entry: _Entry) -> None:
        task, status = entry.task, entry.task.status
        is_pending = status == PENDING
        is_odd = not _is_number(task.priority)
        _put(self.odd, task.id, is_odd and (is_pending or status == RUNNING))
        workers = tuple(task.workers) if is_pending or status == FAILED else ()
        self._count(entry, () if entry.is_disabled else workers)
        self._load(entry, workers if is_pending and task.resources else ())
        if not is_pending:
            entry.order = 0
        elif not entry.order:
            self._order += 1
            entry.order = self._order
        if not is_pending or entry.missing:
            self._stand(entry, None)
            return
        self._stand(
            entry,
            _Place(
                (0 if is_odd else -task.priority, task.time, entry.order),
                entry.kind,
                workers,
                bool(task.runnable),
                bool(task.resources),
            ),
        )

    def _stand(self, entry: _Entry, place: _Place | None) -> None:
        """Have a task stand there in the queues and nowhere else; None: it is not ready."""
        before, task = entry.place, entry.task
        if before == place:
            return
        if before is not None:
            for queue in self._queues(before):
                of_kind = queue[before.kind]
                del of_kind[before.rank]
                if not of_kind:
                    del queue[before.kind]
            del self.ready[task.id]
            self.laden_ready -= before.laden
        if place is not None:
            for queue in self._queues(place):
                if place.kind not in queue:
                    queue[place.kind] = SortedDict()
                queue[place.kind][place.rank] = task
            self.ready[task.id] = task
            self.laden_ready += place.laden
        entry.place = place

    def _queues(self, place: _Place) -> Iterator[Queue]:
        for worker in place.workers:
            yield self.queues[worker]
        if place.runnable:
            yield self.runnable

    def _count(self, entry: _Entry, workers: tuple[str, ...]) -> None:
        if entry.counted == workers:
            return
        for by, those in ((-1, entry.counted), (1, workers)):
            for worker in those:
                counts = self.counts[worker]
                counts.pending += by
                counts.unique += by * (len(those) == 1)
                counts.last += by * (those[-1] == worker)
        entry.counted = workers

    def _load(self, entry: _Entry, workers: tuple[str, ...]) -> None:
        if entry.laden != workers:
            self.laden.subtract(entry.laden)
            self.laden.update(workers)
            entry.laden = workers


def _put(those: set[str], task_id: str, is_in: bool) -> None:
    """Have a task in a set, or not."""
    (those.add if is_in else those.discard)(task_id)


def _is_number(priority: Any) -> bool:
    return isinstance(priority, (int, float)) and priority == priority
