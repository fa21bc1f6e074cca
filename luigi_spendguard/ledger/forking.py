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


class ForkGate:
    """Lets in any number of transactions, or forks. Made anew in a child."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.inside = 0
        self.forks = 0
        self.mine = threading.local()
        #: A transaction did not end in time before the last fork.
        self.busy = False


_gate = ForkGate()
_databases: weakref.WeakSet[peewee.SqliteDatabase] = weakref.WeakSet()
_forked_within = False


def watch(db: peewee.SqliteDatabase) -> None:
    """Close `db` before a fork; it is opened again by the next transaction."""
    with _gate.changed:
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
    with gate.changed:
        # Who is inside already goes on, or the fork that waits for it would wait for ever.
        while gate.forks and not depth:
            gate.changed.wait()
        gate.inside += 1
    gate.mine.depth = depth + 1
    return gate


def leave(gate: ForkGate) -> None:
    """Let forks happen again, as far as this thread keeps them; `gate` is what `enter` has returned."""
    gate.mine.depth -= 1
    if gate is _gate:  # Else this is a child that was forked meanwhile.
        with gate.changed:
            gate.inside -= 1
            if gate.forks:
                gate.changed.notify_all()


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
    limit = time.monotonic() + FORK_WAIT_S
    with gate.changed:
        gate.forks += 1
        while gate.inside > own and (left := limit - time.monotonic()) > 0:
            gate.changed.wait(left)
        gate.busy = gate.inside > 0
        if not gate.busy:
            for db in list(_databases):
                db.close()


def _after_in_parent() -> None:
    gate = _gate
    with gate.changed:
        gate.forks -= 1
        busy, gate.busy = gate.busy, False
        gate.changed.notify_all()
    if busy:
        logger.warning("A process was forked in the middle of a ledger transaction; it cannot use the ledger")


def _after_in_child() -> None:
    global _gate, _forked_within
    _forked_within = _forked_within or _gate.busy
    _gate = ForkGate()


at_fork(_after_in_child, before=_before, in_parent=_after_in_parent)
