"""`Gathering`: ends of an attempt's calls, which travel with what it says next, or by themselves soon after.

A task has the vendor's reply while the end of its call is still on its way. What the attempt asks for next is
decided behind that, in one transaction of the ledger: a call finds the object that the one before has opened.
"""

from __future__ import annotations

import json
import mmap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from luigi_spendguard.process_state import at_fork
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.protocol.rpcs import FinishRequest

#: Seconds for which an end waits for what is said next, and how an attempt ended for its process to end.
SOON_S, LEFT_S = 0.01, 0.1
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
        self._memory = mmap.mmap(-1, _SHARED)

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
    """The ends of this process that are on their way; safe under threads.

    `say` delivers some, now or later, and raises nothing but what interrupts it.
    """

    def __init__(self, say: Callable[[Gathered], None]) -> None:
        self._say = say
        self._renew()
        # What a child calls is asked for behind what has ended here.
        at_fork(self._renew, before=self.share)

    def _renew(self) -> None:
        """Begin without what is the parent's, and gather nothing: nobody says that a child has ended."""
        self._changed = threading.Condition()
        self._waiting: list[KeptEnd] = []
        self._last: FinishRequest | None = None
        self._taken = _NOTHING
        self._words: LastWords | None = None
        self._sender: threading.Thread | None = None
        self._blocks = self._under_way = 0
        self._shared = False
        #: When it is said by itself, in seconds of the monotonic clock; None: nothing waits.
        self._due: float | None = None

    @contextmanager
    def block(self, words: LastWords | None = None) -> Iterator[None]:
        """Gather the ends of the block, and say what is left of them when it ends.

        `words`: where they stand meanwhile, for who outlives this process; and also after the block, where
        `leave` was called in it.
        """
        with self._changed:
            self._shared = self._shared and self._blocks > 0
            self._blocks += 1
            self._words = words
        try:
            yield
        finally:
            with self._changed:
                self._blocks -= 1
            self.flush()

    def share(self) -> None:
        """Gather no more in this block: another process calls vendors, behind nothing of this one's."""
        self._shared = True
        self.say_all()

    def begin(self) -> None:
        """Count a call that was granted."""
        with self._changed:
            self._under_way += 1

    def put(self, told: KeptEnd) -> bool:
        """Take an end along; return whether that is done, and it need not be said.

        It is not where other calls are under way: they would wait for each other's messages.
        """
        with self._changed:
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
        with self._changed:
            if self._words is None or self._shared:
                return False
            self._last = last
            if not self._leave():
                self._last = None
                self._leave()
                return False
            self._say_in(LEFT_S)
        return True

    def _say_in(self, wait_s: float) -> None:
        self._due = time.monotonic() + wait_s
        if self._sender is None:
            self._sender = threading.Thread(target=self._work, name="spendguard-ends", daemon=True)
            self._sender.start()
        self._changed.notify_all()

    @contextmanager
    def taken(self) -> Iterator[Gathered]:
        """Say in the block what is on its way; nothing else is said meanwhile. What raises puts it back."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == _NOTHING)
            self._taken = taken = Gathered(tuple(self._waiting), self._last)
            self._waiting, self._last, self._due = [], None, None
        if taken == _NOTHING:
            yield taken
            return
        try:
            yield taken
        except BaseException:
            with self._changed:
                self._waiting[:0] = taken.ends
                self._last = taken.last
                self._say_in(SOON_S)
            raise
        finally:
            with self._changed:
                self._taken = _NOTHING
                self._leave()
                self._changed.notify_all()

    def _leave(self) -> bool:
        if self._words is None:
            return True
        last = self._last or self._taken.last
        ends = [one.end for one in (*self._taken.ends, *self._waiting)]
        return self._words.write(ends, last.outcome if last is not None else "")

    def flush(self) -> None:
        """Say what is on its way, unless it was left."""
        with self._changed:
            left = self._last is not None
        if not left:
            self.say_all()

    def say_all(self) -> None:
        """Say what is on its way."""
        with self.taken() as taken:
            if taken != _NOTHING:
                self._say(taken)

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._due is None or self._due > time.monotonic():
                    self._changed.wait(None if self._due is None else self._due - time.monotonic())
            self.say_all()
