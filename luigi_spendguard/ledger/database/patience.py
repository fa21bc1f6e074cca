"""A server that says nothing is not waited for for ever: its connection is cut off after a time.

Neither the server's own time-outs nor TCP's end a wait for one that is stopped, or whose machine answers in
place of it (https://www.postgresql.org/docs/current/libpq-connect.html, `tcp_user_timeout`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import psycopg

from luigi_spendguard.ledger.database.unreached import silent
from luigi_spendguard.process_state import at_fork, begin_thread

#: Seconds between two looks for what takes too long.
_LOOK_S = 0.25


class StandsStill(psycopg.OperationalError):
    """A server was not waited for any longer: it would not answer if it were asked again at once."""


class Connected(Protocol):
    """Has a socket."""

    def fileno(self) -> int:
        """Return its descriptor."""


class _Waits:
    """Who waits for a server now; safe under threads, made anew in a child."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.until: dict[int, tuple[float, int]] = {}
        self.is_watched = False
        self._number = 0
        #: Waits that were cut off.
        self._over: set[int] = set()

    def add(self, until: float, descriptor: int) -> int:
        """Take down a wait; return its number."""
        with self.lock:
            self._number += 1
            self.until[self._number] = (until, descriptor)
            begins, self.is_watched = not self.is_watched, True
        if begins:
            begin_thread(self._watch, "spendguard-patience")
        return self._number

    def remove(self, number: int) -> bool:
        """Forget a wait, whose descriptor may soon be another file's; return whether it was cut off."""
        with self.lock:
            self.until.pop(number, None)
            was_cut = number in self._over
            self._over.discard(number)
        return was_cut

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            now = time.monotonic()
            with self.lock:
                if not self.until:
                    self.is_watched = False
                    return
                for number, (until, descriptor) in self.until.items():
                    if until < now:
                        self._over.add(number)
                        cut(descriptor)


def cut(descriptor: int) -> None:
    """Cut a connection off, whoever waits for it."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as sock:
        sock.shutdown(socket.SHUT_RDWR)


_waits = _Waits()


def _renew() -> None:
    global _waits
    _waits = _Waits()


at_fork(_renew)


@contextmanager
def at_most(connection: Connected, seconds: float) -> Iterator[None]:
    """Cut off a connection where the block, which waits for its server, takes longer than that.

    Raises StandsStill where that has ended the block.
    """
    waits = _waits
    number = waits.add(time.monotonic() + seconds, connection.fileno())
    try:
        yield
    except psycopg.Error as error:
        if waits.remove(number):
            raise StandsStill(silent(seconds)) from error
        raise
    finally:
        waits.remove(number)
