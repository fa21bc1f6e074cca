"""Results of tasks on their way from a child: long ones go beside Luigi's queue, each says whose it is.

A child that is killed while it writes a long one into the queue's pipe leaves a part of it there, and the
queue's lock taken: its worker would read on, and all other children would wait, for ever.

Luigi puts the failure of a dead child there each time that it looks, until it has read the first (Luigi 3.8,
`Worker._purge_children`). The next attempt must not be taken for failed by what is left of that: nobody would
say how its calls have ended.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

from luigi_spendguard.worker import preload

#: Bytes that a pipe takes whole or not at all, less those that say how many they are.
_WHOLE = select.PIPE_BUF - 4
_numbers = itertools.count()


class Aside(NamedTuple):
    """Where a result is: in whose file, and which of its bytes."""

    task_id: str
    number: int
    begin: int
    length: int


class Own(NamedTuple):
    """A result, and whose it is."""

    task_id: str
    number: int
    result: Any


class LongResults:
    """A file without a name, shared by a child and the worker that forks it. Raises OSError."""

    def __init__(self, task_id: str) -> None:
        self._task_id, self._number, self._length = task_id, next(_numbers), 0
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file).atexit = False

    def keep(self, data: bytes) -> Aside:
        """Write a result, and return what stands for it. Raises OSError."""
        aside = Aside(self._task_id, self._number, self._length, len(data))
        while data:
            written = os.pwrite(self._file, data, self._length)
            self._length, data = self._length + written, data[written:]
        return aside

    def own(self, result: Any) -> Own:
        """Return a result of this child as one that no other's is taken for."""
        return Own(self._task_id, self._number, result)

    def find(self, aside: Aside | Own) -> Any:
        """Return the result that this stands for; None where it is another process's."""
        if aside.number != self._number:
            return None
        if isinstance(aside, Own):
            return aside.result
        return ForkingPickler.loads(os.pread(self._file, aside.length, aside.begin))


class ShortResults:
    """A child's end of Luigi's queue, into which nothing goes that is long."""

    def __init__(self, queue: Any, long: LongResults) -> None:
        self._queue, self._long = queue, long

    def put(self, item: Any) -> None:
        """Hand a result to the worker."""
        own: Aside | Own = self._long.own(item)
        if len(bytes(ForkingPickler.dumps(own))) > _WHOLE:
            with contextlib.suppress(OSError):  # The disk is full: it goes as under any Luigi.
                own = self._long.keep(bytes(ForkingPickler.dumps(item)))
        self._queue.put(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


class Results:
    """The worker's result queue, remembering which task the last result was of."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self.last: str | None = None
        # While its worker takes some (else it can be pickled, for a child that is spawned):
        #: Hears of each result, task_id and status.
        self.arrived: Callable[[str, str], None] | None = None
        #: Returns the long results of the process that runs a task, if there is one.
        self.kept_of: Callable[[str], LongResults | None] | None = None

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next result as Luigi's queue does; its first item is the task_id."""
        while True:
            item = self._queue.get(*args, **kwargs)
            if isinstance(item, (Aside, Own)):
                kept = self.kept_of(item.task_id) if self.kept_of is not None else None
                item = kept.find(item) if kept is not None else None
            if isinstance(item, preload.Loaded):
                preload.take(item)
            elif item is not None:  # Else of a process that was given up: Luigi passes such a result over.
                break
        self.last = item[0]
        if self.arrived is not None:
            self.arrived(item[0], item[1])
        return item

    def put(self, item: Any) -> None:
        """Say that a task has failed, for its child, which is dead or out of time."""
        kept = self.kept_of(item[0]) if self.kept_of is not None else None
        self._queue.put(item if kept is None else kept.own(item))

    def __getattr__(self, name: str) -> Any:
        # Not yet there while it is unpickled; how the queue is pickled is not how this is (Python 3.10 asks).
        if name == "_queue" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._queue, name)
