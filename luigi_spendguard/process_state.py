"""Blocks that overlap in several threads: the first puts something in place, the last puts it back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Blocks:
    """Counts the blocks that are open.

    Attributes:
        lock: held while a block begins or ends; a forked child has a new one, as nobody there could let
            go of the parent's.

    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._open = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.lock = threading.Lock()

    @contextmanager
    def block(self, begin: Callable[[bool], object], end: Callable[[bool], object]) -> Iterator[None]:
        """Call `begin` before a block, with whether it is the first, and `end` after it: the last?"""
        with self.lock:
            begin(not self._open)
            self._open += 1
        try:
            yield
        finally:
            with self.lock:
                self._open -= 1
                end(not self._open)
