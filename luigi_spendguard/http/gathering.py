"""`Gathering`: ends of an attempt's calls, which travel with what it says next, or by themselves soon after.

A task has the vendor's reply while the end of its call is still on its way. What the attempt asks for next is
decided behind that, in one transaction of the ledger: a call finds the object that the one before has opened.
"""

from __future__ import annotations

import json
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Literal, NamedTuple, TypeVar

from luigi_spendguard.process_state import at_fork, begin_thread
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.rpcs import FinishRequest

T = TypeVar("T")

#: Seconds for which an end waits for what is said next, and how an attempt ended for its process to end.
SOON_S, LEFT_S = 0.01, 0.1
#: Seconds for which a process that ends waits until what it has left was taken.
TAKEN_S = 2.0
#: Bytes of memory in which a process leaves ends: a longer one is said at once.
_SHARED, _LENGTH = 1 << 18, 8


class KeptEnd(NamedTuple):
    """How a call of that vault key's has ended."""

    key: str
    end: EndRequest


class LastWords:
    """What a process has not said yet of its attempt, in memory that it shares with the one that forks it.

    That one says it when the process has ended, or was killed.
    """

    def __init__(self) -> None:
        self._memory, self._reader = mmap.mmap(-1, _SHARED), os.getpid()

    @property
    def is_heard(self) -> bool:
        """Whether who is to say it is there: a child outlives a parent that is killed."""
        return self._reader in (os.getpid(), os.getppid())

    @property
    def is_taken(self) -> bool:
        """Whether nothing is left there."""
        return not any(self._memory[:_LENGTH])

    def write(self, ends: Sequence[EndRequest], outcome: str = "") -> bool:
        """Leave these, and nothing else; return whether they are not too long for that."""
        data = json.dumps([outcome, *(end.to_json() for end in ends)]).encode()
        fits = len(data) <= _SHARED - _LENGTH
        self._memory[:_LENGTH] = bytes(_LENGTH)  # First: it may be killed at any moment.
        if fits and (ends or outcome):
            self._memory[_LENGTH : _LENGTH + len(data)] = data
            self._memory[:_LENGTH] = len(data).to_bytes(_LENGTH, "big")
        return fits

    def read(self) -> tuple[tuple[EndRequest, ...], str]:
        """Return which ends were left, and how the attempt has ended; "": nobody has left that."""
        length = int.from_bytes(self._memory[:_LENGTH], "big")
        outcome, *ends = json.loads(self._memory[_LENGTH : _LENGTH + length] or '[""]')
        return tuple(map(EndRequest.from_json, ends)), outcome


class Gathered(NamedTuple):
    """What is on its way: ends, and, behind them, how their attempt ended."""

    ends: tuple[KeptEnd, ...] = ()
    last: FinishRequest | None = None


_NOTHING = Gathered()


class Gathering:
    """The ends of this process that are on their way; safe under threads, and where a signal interrupts it.

    An end stands in one list from its call's end until it was said. A handler may raise anywhere (a task's
    alarm), or call a vendor or fork itself: then something is said twice, which changes nothing, and nobody
    waits for ever.

    `say` delivers some, now or later, and raises nothing but what interrupts it.
    """

    def __init__(self, say: Callable[[Gathered], None]) -> None:
        self._say = say
        self._renew()
        # What a child calls is asked for behind what has ended here.
        at_fork(self._renew, before=self.share)

    def _renew(self) -> None:
        """Begin without what is the parent's, and gather nothing: nobody says that a child has ended."""
        # Not a Condition: a handler that raises in the midst of Python's own would leave it locked.
        self._lock = threading.RLock()
        #: Held while something is said: nothing else is.
        self._saying = threading.RLock()
        self._waiting: list[KeptEnd] = []
        self._last: FinishRequest | None = None
        self._words: LastWords | None = None
        #: Tells the thread that says what waits that something is due; None: to end.
        self._sender: queue.SimpleQueue[Literal[True] | None] | None = None
        #: When that is (`time.monotonic`), and whether the thread looks: it is not woken for each end.
        self._due, self._looks = 0.0, False
        self._blocks = self._under_way = 0
        self._shared = False

    @contextmanager
    def block(self, words: LastWords | None = None) -> Iterator[None]:
        """Gather the ends of the block, and say what is left of them when it ends.

        `words`: where they stand meanwhile, for who outlives this process; and also after the block, where
        `leave` was called in it.
        """
        with self._lock:
            self._shared = self._shared and self._blocks > 0
            self._blocks += 1
            self._words = words
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
            self.flush()
            self._dismiss()

    def share(self) -> None:
        """Gather no more in this block: another process calls vendors, behind nothing of this one's."""
        with self._lock:
            self._shared = True
        self.say_all()

    def begin(self) -> None:
        """Count a call that was granted."""
        with self._lock:
            self._under_way += 1

    def put(self, told: KeptEnd) -> bool:
        """Take an end along; return whether that is done, and it need not be said.

        It is not where other calls are under way: they would wait for each other's messages.
        """
        with self._lock:
            self._under_way = max(0, self._under_way - 1)
            if self._under_way or self._shared or not self._blocks:
                return False
            self._waiting.append(told)
            if not self._leave():
                self._waiting.pop()
                self._leave()
                return False
            self._say_in(SOON_S)
        return True

    def leave(self, last: FinishRequest) -> bool:
        """Leave to who outlives this process how its attempt has ended; return whether that is done.

        It is said here soon where this process goes on: Luigi asks the task whether it is complete.
        """
        with self._lock:
            if self._words is None or self._shared or not self._words.is_heard:
                return False
            self._last = last
            if not self._leave():
                self._last = None
                self._leave()
                return False
            self._say_in(LEFT_S)
        return True

    def hand_over(self) -> None:
        """Wait, as this process ends, until what was left is taken; where it is not soon, it is said here.

        Who is to take it may wait for luigid meanwhile, and be killed.
        """
        words, limit = self._words, time.monotonic() + TAKEN_S
        if words is None or self._last is None:
            return
        self._say_in(TAKEN_S)
        while self._last is not None and words.is_heard and time.monotonic() < limit:
            if words.is_taken:
                with self._lock:
                    self._waiting, self._last = [], None
                return
            time.sleep(0.005)
        self.say_all()

    def _say_in(self, wait_s: float) -> None:
        with self._lock:
            self._due = time.monotonic() + wait_s
            if self._sender is None:
                sender = queue.SimpleQueue[Literal[True] | None]()
                sender.put(True)
                begin_thread(partial(self._work, sender), "spendguard-ends")
                self._sender, self._looks = sender, True
            elif not self._looks:
                self._looks = True
                self._sender.put(True)

    def say_with(self, say: Callable[[Gathered], T]) -> T:
        """Have `say` say what is on its way; return its answer. Where it raises, that waits as before.

        Nothing else is said meanwhile; where nothing is on its way, nobody waits.
        """
        with self._saying:
            gathered = Gathered(tuple(self._waiting), self._last)
            if gathered != _NOTHING:
                try:
                    answer = say(gathered)
                except BaseException:
                    self._say_in(SOON_S)
                    raise
                self._was_said(gathered)
                return answer
        return say(_NOTHING)

    def _was_said(self, gathered: Gathered) -> None:
        said = set(map(id, gathered.ends))
        with self._lock:
            self._waiting = [one for one in self._waiting if id(one) not in said]
            if self._last is gathered.last:
                self._last = None
            self._leave()

    def _leave(self) -> bool:
        if self._words is None:
            return True
        last = self._last
        return self._words.write([one.end for one in self._waiting], last.outcome if last is not None else "")

    def flush(self) -> None:
        """Say what is on its way, unless it was left."""
        if self._last is None:
            self.say_all()

    def say_all(self) -> None:
        """Say what is on its way."""
        if self._waiting or self._last is not None:
            self.say_with(lambda gathered: self._say(gathered) if gathered != _NOTHING else None)

    def _dismiss(self) -> None:
        """End the thread, where it has nothing to say any more."""
        with self._lock:
            sender = self._sender
            if sender is not None and not (self._blocks or self._waiting or self._last):
                self._sender = None
                sender.put(None)

    def _work(self, told: queue.SimpleQueue[Literal[True] | None]) -> None:
        while told.get():
            while (left_s := self._due - time.monotonic()) > 0:  # What is said last holds.
                with suppress(queue.Empty):
                    if told.get(timeout=left_s) is None:
                        return
            with self._lock:
                if self._sender is told:
                    self._looks = False
                else:  # Who began this thread was interrupted, and has another one.
                    told.put(None)
            self.say_all()
