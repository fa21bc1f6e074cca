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

#: Seconds for which an end waits for what is said next.
SOON_S = 0.01
#: Bytes of memory in which a process leaves ends: a longer one is said at once.
_SHARED, _LENGTH = 1 << 18, 8


class KeptEnd(NamedTuple):
    """How a call of that vault key's has ended."""

    key: str
    end: EndRequest


class LastWords:
    """Ends that a process has not said yet, in memory that it shares with the one that forks it.

    That one says them when the process was killed.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SHARED)

    def write(self, ends: Sequence[KeptEnd]) -> bool:
        """Leave these, and nothing else; return whether they are not too long for that."""
        data = json.dumps([[one.key, one.end.to_json()] for one in ends]).encode()
        fits = len(data) <= _SHARED - _LENGTH
        self._memory[:_LENGTH] = bytes(_LENGTH)  # First: it may be killed at any moment.
        if fits and ends:
            self._memory[_LENGTH : _LENGTH + len(data)] = data
            self._memory[:_LENGTH] = len(data).to_bytes(_LENGTH, "big")
        return fits

    def read(self) -> list[KeptEnd]:
        """Return what was left."""
        length = int.from_bytes(self._memory[:_LENGTH], "big")
        left = json.loads(self._memory[_LENGTH : _LENGTH + length] or "[]")
        return [KeptEnd(key, EndRequest.from_json(end)) for key, end in left]


class Gathering:
    """The ends of this process that are on their way; safe under threads.

    `say` delivers some, now or later, and raises nothing but what interrupts it.
    """

    def __init__(self, say: Callable[[tuple[KeptEnd, ...]], None]) -> None:
        self._say = say
        self._renew()
        # What a child calls is asked for behind what has ended here.
        at_fork(self._renew, before=self.share)

    def _renew(self) -> None:
        """Begin without what is the parent's, and gather nothing: nobody says that a child has ended."""
        self._changed = threading.Condition()
        self._waiting: list[KeptEnd] = []
        self._taken: tuple[KeptEnd, ...] = ()
        self._words: LastWords | None = None
        self._sender: threading.Thread | None = None
        self._blocks = self._under_way = 0
        self._shared = False

    @contextmanager
    def block(self, words: LastWords | None = None) -> Iterator[None]:
        """Gather the ends of the block, and say what is left of them when it ends.

        `words`: where they stand meanwhile, for who outlives this process.
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
            self.say_all()

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
            if self._sender is None:
                self._sender = threading.Thread(target=self._work, name="spendguard-ends", daemon=True)
                self._sender.start()
            self._changed.notify_all()
        return True

    @contextmanager
    def taken(self) -> Iterator[tuple[KeptEnd, ...]]:
        """Say in the block what is on its way; nothing else is said meanwhile. What raises puts it back."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._taken, self._waiting = tuple(self._waiting), []
            taken = self._taken
        if not taken:
            yield taken
            return
        try:
            yield taken
        except BaseException:
            with self._changed:
                self._waiting[:0] = taken
            raise
        finally:
            with self._changed:
                self._taken = ()
                self._leave()
                self._changed.notify_all()

    def _leave(self) -> bool:
        return self._words is None or self._words.write([*self._taken, *self._waiting])

    def say_all(self) -> None:
        """Say what is on its way."""
        with self.taken() as taken:
            if taken:
                self._say(taken)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
            time.sleep(SOON_S)
            self.say_all()
