"""A fork waits for the ledger: it happens between transactions, and no connection crosses it.

SQLite keeps a process's locks in the process's own memory, for each file. A child that was forked in the
middle of a transaction would hold, by that memory, a lock that nobody will ever release, and fail every
write with "database is locked"; one that inherits a connection would share the lock of the parent's
(https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_).
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import peewee

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.process_state import at_fork

logger = logging.getLogger(__name__)

#: Seconds for which a fork waits: a transaction waits for another process's for 3, and is then short.
FORK_WAIT_S = 6.0
#: Seconds after which a fork is over for certain: its end may not have been heard.
FORK_S = FORK_WAIT_S + 4.0
_LOOK_S = 0.0005


class ForkGate:
    """Lets in any number of transactions, or forks. Made anew in a child.

    A signal's handler may raise in the midst of a fork, in the hooks here, too: it leaves nothing locked, and
    what it has kept from being noted is over after a time.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        #: The threads that fork, each until when that is waited for (`time.monotonic`).
        self.forking: dict[int, float] = {}
        self.mine = threading.local()
        #: A transaction did not end in time before the last fork.
        self.busy = False

    def is_open(self) -> bool:
        """Return whether no thread forks."""
        now = time.monotonic()
        return all(until <= now for until in tuple(self.forking.values()))


_gate = ForkGate()
_databases: weakref.WeakSet[peewee.SqliteDatabase] = weakref.WeakSet()
_forked_within = False


def watch(db: peewee.SqliteDatabase) -> None:
    """Close `db` before a fork; it is opened again by the next transaction."""
    with _gate.lock:
        _databases.add(db)


def enter() -> ForkGate:
    """Keep this process from forking until `leave`. Raises LedgerUnavailable in a spoilt child."""
    if _forked_within:
        raise LedgerUnavailable(
            "this process was forked in the middle of a transaction of the ledger and cannot use the file: "
            "let it be started again"
        )
    gate = _gate
    depth = getattr(gate.mine, "depth", 0)
    while True:
        with gate.lock:
            # Who is inside already goes on, or the fork that waits for it would wait for ever.
            if depth or gate.is_open():
                gate.inside += 1
                break
        time.sleep(_LOOK_S)
    gate.mine.depth = depth + 1
    return gate


def leave(gate: ForkGate) -> None:
    """Let forks happen again, as far as this thread keeps them; `gate` is what `enter` has returned."""
    gate.mine.depth -= 1
    if gate is _gate:  # Else this is a child that was forked meanwhile.
        with gate.lock:
            gate.inside -= 1


@contextmanager
def transaction() -> Iterator[None]:
    """Keep this process from forking during the block. Raises LedgerUnavailable in a spoilt child."""
    gate = enter()
    try:
        yield
    finally:
        leave(gate)


def close(db: peewee.SqliteDatabase) -> None:
    """Close a database; no fork happens in the middle of that."""
    if not _forked_within:  # Else nobody may touch what was inherited.
        with transaction():
            db.close()


def _before() -> None:
    gate, own = _gate, getattr(_gate.mine, "depth", 0)
    now = time.monotonic()
    gate.busy, gate.forking[threading.get_ident()] = True, now + FORK_S
    while not _closed(gate, own) and time.monotonic() < now + FORK_WAIT_S:
        time.sleep(_LOOK_S)


def _closed(gate: ForkGate, own: int) -> bool:
    """Close what must not cross a fork; return whether nothing more is to be waited for."""
    with gate.lock:
        if not gate.inside:
            for db in list(_databases):
                db.close()
            gate.busy = False
        return gate.inside <= own


def _after_in_parent() -> None:
    gate = _gate
    gate.forking.pop(threading.get_ident(), None)
    busy, gate.busy = gate.busy, False
    if busy:
        logger.warning("A process was forked in the middle of a ledger transaction; it cannot use the ledger")


def _after_in_child() -> None:
    global _gate, _forked_within
    _forked_within = _forked_within or _gate.busy
    _gate = ForkGate()


at_fork(_after_in_child, before=_before, in_parent=_after_in_parent)
