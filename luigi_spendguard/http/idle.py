"""`Idle`: connections that wait for their next request, for seconds."""

from __future__ import annotations

import select
import time
import weakref
from collections import deque
from dataclasses import dataclass
from socket import socket

from luigi_spendguard.http.channel import Channel
from luigi_spendguard.http.destination import Destination
from luigi_spendguard.process_state import at_fork

#: Seconds after which a connection is not used again: what stands between (a NAT, a load balancer) forgets
#: one sooner or later, and a call that may not be repeated would be in doubt. Longer than a grant is good
#: for, so that a connection whose grant was too old is still there for the next one.
FRESH_S = 3.0


@dataclass(frozen=True)
class Line:
    """A connection that is ready for a request, and the bytes on it."""

    socket: socket
    channel: Channel

    def close(self) -> None:
        """Close it."""
        self.socket.close()


class Idle:
    """The connections of one process, for any of its threads; a forked child begins without any."""

    def __init__(self) -> None:
        self._lines: dict[Destination, deque[tuple[float, Line]]] = {}
        # A child has copies of the parent's: replies would be mixed up. The parent's stay open.
        at_fork(self.close)
        self._closed = weakref.finalize(self, _close, self._lines)

    def take(self, to: Destination) -> Line | None:
        """Return a connection that was used, or made, seconds ago, and on which nothing has arrived since."""
        lines = self._lines.get(to)
        while lines:
            try:
                since, line = lines.pop()
            except IndexError:  # Another thread's.
                break
            if time.monotonic() - since <= FRESH_S and _open(line):
                return line
            line.close()
        return None

    def keep(self, to: Destination, line: Line) -> None:
        """Keep a connection, and close those that have waited for too long."""
        lines = self._lines.setdefault(to, deque())
        lines.append((time.monotonic(), line))
        _pruned(lines)

    def prune(self) -> bool:
        """Close what has waited for too long; return whether anything still waits."""
        for lines in list(self._lines.values()):
            _pruned(lines)
        return any(self._lines.values())

    def close(self) -> None:
        """Close all."""
        _close(self._lines)


def _pruned(lines: deque[tuple[float, Line]]) -> None:
    while lines:
        try:
            oldest = lines.popleft()
        except IndexError:  # Another thread's.
            break
        if time.monotonic() - oldest[0] <= FRESH_S:
            lines.appendleft(oldest)
            break
        oldest[1].close()


def _close(lines: dict[Destination, deque[tuple[float, Line]]]) -> None:
    for waiting in list(lines.values()):
        while waiting:
            waiting.pop()[1].close()
    lines.clear()


def _open(line: Line) -> bool:
    """Return whether nothing has arrived but what TLS says for itself, such as the tickets of a new session:
    neither the end nor what answers no request.
    """
    waiting = select.poll()
    waiting.register(line.socket, select.POLLIN)
    try:
        while waiting.poll(0):
            data = line.socket.recv(1 << 16)
            if not data or line.channel.unasked(data):
                return False
    except OSError:
        return False
    return True
