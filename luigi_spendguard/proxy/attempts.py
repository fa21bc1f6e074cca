"""Which vendor task a call belongs to, and whether it is made in a pipeline at all.

A call belongs to the attempt that its thread runs, or that started its thread, or to the only one there is.
A pipeline is where a Luigi worker runs, and whatever has been started there: a worker marks its process's
environment, which children of any start method inherit, and the threads that its tasks start stay marked.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from typing import Any

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import denial
from luigi_spendguard.http.ledger_client import LedgerClient
from luigi_spendguard.proxy import environment
from luigi_spendguard.proxy.unanswered import Unanswered
from luigi_spendguard.redaction import Secret


@dataclass(frozen=True)
class Attempt:
    """One execution of a vendor task's `run()`, with the vault key it was given.

    Attributes:
        served: the vendors whose calls luigid's gateway guards.
        unanswered: the calls that a gateway was sent and has not answered.
        handed_down: another process runs it, and has started this one: that one's listener, "" without one.

    """

    claim_id: str
    run_id: str
    task_id: str
    family: str
    key: str = field(repr=False)
    client: LedgerClient
    settings: Settings = field(repr=False)
    served: frozenset[str] = frozenset()
    unanswered: Unanswered = field(default_factory=Unanswered, compare=False)
    handed_down: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", Secret(self.key))


class _Outside:
    """Marks a thread that runs a plain task or schedules: it belongs to no vendor task.

    `inherited`: so do the threads that it starts meanwhile.
    """

    ended = False

    def __init__(self, *, inherited: bool = True) -> None:
        self.inherited = inherited


#: Stands for an attempt that is over.
_LEFT = _Outside()

#: What a worker puts into its environment, and its children find in theirs: "1", and while a vendor task runs
#: what a program needs to belong to it, as JSON (`programs.py`).
MARK = "SPENDGUARD_PIPELINE"

#: Where a task's programs find the tasks within which they run, outermost first.
WITHIN = "SPENDGUARD_WITHIN"

_current: ContextVar[Attempt | _Outside | None] = ContextVar("spendguard_attempt", default=None)
#: The tasks whose attempts this process, and this thread, were begun in.
_begun_within = tuple(os.environ.get(WITHIN, "").split())
_within: ContextVar[tuple[str, ...]] = ContextVar("spendguard_within", default=())
_active: dict[str, Attempt] = {}
_known_keys: set[str] = set()
_workers = 0
#: The mark that this process has found when it began.
_found = os.environ.get(MARK)
#: This process was started within a pipeline: whatever becomes of its environment.
_descends = _found is not None
#: The open listeners of this process, behind which all vendors stand.
_listeners: list[str] = []
#: Memory that forked children share: it tells those that are older than the worker that one runs now.
_beacon = mmap.mmap(-1, 1)
_beacons_above: tuple[mmap.mmap, ...] = ()
_in_flight = 0
_idle: Callable[[], None] | None = None
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock, _in_flight, _beacon, _beacons_above
    _lock, _in_flight = threading.Lock(), 0
    # What runs in a child is nobody's pipeline but its own.
    _beacon, _beacons_above = mmap.mmap(-1, 1), (*_beacons_above, _beacon)
    _beacon[0] = _workers > 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def current() -> Attempt | None:
    """Return the attempt that this thread's calls belong to, None outside any vendor task.

    Raises SpendDenied (`scope`) in a thread without context while several vendor tasks run.
    """
    owner = _owner()
    if isinstance(owner, Attempt):
        return owner
    if owner is not None or not _active:
        return None
    running = all_running()
    if len(running) > 1:
        raise denial(
            "scope",
            "this thread cannot be told to belong to one of the vendor tasks that run in this process: "
            "start it with contextvars.copy_context().run, or run the tasks in processes of their own "
            "(workers > 1)",
        )
    return running[0] if running else None


def _owner() -> Attempt | _Outside | None:
    """Return what this thread runs, or what started it while that lasts.

    A thread that an attempt has left behind is nobody's: what it calls is denied, whatever runs now (another
    run would pay for one that is revoked). Those of pools run what they are given: see `watch_threads`.
    """
    own = _current.get()
    if own is not None:
        return own
    begun_by: Attempt | _Outside | None = getattr(threading.current_thread(), _BEGUN_BY, None)
    if isinstance(begun_by, Attempt):
        return begun_by if begun_by.claim_id in _active else _LEFT
    return None if begun_by is None or begun_by.ended else begun_by


@contextmanager
def running(attempt: Attempt, *, everywhere: bool = False) -> Iterator[None]:
    """Let this thread, and threads without context, belong to `attempt`; `everywhere`: only the latter."""
    with _lock:
        _active[attempt.claim_id] = attempt
        _known_keys.add(attempt.key)
        _tell_programs()
    token = None if everywhere else _current.set(attempt)
    above = _within.set((*_within.get(), attempt.task_id)) if token is not None else None
    try:
        yield
    finally:
        if token is not None and above is not None:
            _within.reset(above)
            _current.reset(token)
        with _lock:
            _active.pop(attempt.claim_id, None)
            _tell_programs()


def _tell_programs() -> None:
    within = dict.fromkeys((*_begun_within, *(attempt.task_id for attempt in _active.values())))
    if within:
        os.environ[WITHIN] = " ".join(within)
    else:
        os.environ.pop(WITHIN, None)
    _set_mark()


def within() -> tuple[str, ...]:
    """Return the tasks that cannot end before what this thread does has ended: it was begun within them."""
    owner = _owner()
    own = (owner.task_id,) if isinstance(owner, Attempt) else ()
    return tuple(dict.fromkeys((*_begun_within, *_within.get(), *own)))


@contextmanager
def listening(url: str) -> Iterator[None]:
    """Let the programs that a vendor task of this process starts in the block call vendors at `url`."""
    with _lock:
        _listeners.append(url)
        _set_mark()
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(url)
            _set_mark()


def _set_mark() -> None:
    """Say in the environment what it is now. The lock is held."""
    attempts = list(_active.values())
    if attempts:
        os.environ[MARK] = Secret(_handed_down(attempts[-1]))
    elif _workers or _descends:
        os.environ[MARK] = _found or "1"
    else:
        os.environ.pop(MARK, None)


def _handed_down(attempt: Attempt) -> str:
    said = {
        "claim": attempt.claim_id,
        "run": attempt.run_id,
        "task": attempt.task_id,
        "family": attempt.family,
        "key": str(attempt.key),
        "scheduler": getattr(attempt.client, "address", None),
        "served": sorted(attempt.served),
        "listener": _listeners[-1] if _listeners else attempt.handed_down,
    }
    return json.dumps(said)


def all_running() -> list[Attempt]:
    """Return the attempts that run in this process."""
    with _lock:
        return list(_active.values())


def in_flight() -> int:
    """Return how many vendor calls of this process are under way."""
    return _in_flight


@contextmanager
def calling() -> Iterator[None]:
    """Count a vendor call of this process while it is under way."""
    global _in_flight
    with _lock:
        _in_flight += 1
    try:
        yield
    finally:
        with _lock:
            _in_flight -= 1
        if _idle is not None and not _in_flight:
            _idle()


def on_idle(act: Callable[[], None] | None) -> None:
    """Let `act` be called whenever the last vendor call under way has ended."""
    global _idle
    _idle = act


@contextmanager
def outside() -> Iterator[None]:
    """Let this thread belong to no vendor task (a plain task, scheduling), nor those that it starts."""
    block = _Outside()
    token = _current.set(block)
    try:
        yield
    finally:
        block.ended = True
        _current.reset(token)


@contextmanager
def worker_running() -> Iterator[None]:
    """Count a Luigi worker of this process; what its thread calls by itself (`requires()`, `complete()`,
    events, `on_success`) is no vendor task's, whatever runs beside it.

    Threads that are started there are nobody's: they may be of a pool that a vendor task will use.
    """
    enter_worker()
    token = _current.set(_Outside(inherited=False))
    try:
        yield
    finally:
        _current.reset(token)
        leave_worker()


def enter_worker() -> None:
    """Count one more Luigi worker in this process, and mark what it starts, which finds no secret."""
    global _workers
    with _lock:
        environment.worker_runs()
        _workers += 1
        _beacon[0] = 1
        _set_mark()


def leave_worker() -> None:
    """Count one Luigi worker less; the last one takes its mark along, and the secrets are there again."""
    global _workers
    with _lock:
        _workers -= 1
        _beacon[0] = _workers > 0
        _set_mark()
        if not _workers:
            environment.no_worker_runs()


def descend() -> None:
    """Take this process for one that was started within a pipeline: a worker runs here, and never ends."""
    global _descends, _found
    _descends, _found = True, "1"
    enter_worker()


def in_pipeline() -> bool:
    """Return whether this call is made in a pipeline: a worker runs here, or has started this process or
    this thread.
    """
    return (
        _workers > 0
        or _descends
        or MARK in os.environ
        or _current.get() is not None
        or any(beacon[0] for beacon in _beacons_above)
        or hasattr(threading.current_thread(), _BEGUN_BY)
    )


def is_vault_key(text: str) -> bool:
    """Return whether `text` is a vault key that was given to a task of this process."""
    return text in _known_keys


#: The attribute of a thread that says what has started it.
_BEGUN_BY = "_spendguard_begun_by"
#: What gives work to threads of pools; its first argument is called there.
_POOLS = (
    (ThreadPoolExecutor, "submit"),
    *((ThreadPool, name) for name in ("apply_async", "_map_async", "imap", "imap_unordered")),
)
_start: Callable[[threading.Thread], None] | None = None
_gave: dict[tuple[Any, str], Any] = {}


def watch_threads() -> None:
    """Let every thread know from now on which task has started it, or given it work; once is enough.

    (Contexts are not inherited by threads before Python 3.14, and never by those of a pool.)
    """
    global _start
    if _start is not None:
        return
    stock = _start = threading.Thread.start

    @functools.wraps(stock)
    def start(self: threading.Thread, *args: Any, **kwargs: Any) -> None:
        owner = _giver()
        if owner is not None and not (isinstance(owner, _Outside) and not owner.inherited):
            setattr(self, _BEGUN_BY, owner)
        stock(self, *args, **kwargs)

    setattr(threading.Thread, "start", start)  # noqa: B010  # the one seam that all threads pass
    for pool, name in _POOLS:
        _gave[pool, name] = vars(pool).get(name)
        setattr(pool, name, _carrying(getattr(pool, name)))


def _giver() -> Attempt | _Outside | None:
    """Return whose the threads and the work are that this thread starts or gives."""
    return _current.get() or getattr(threading.current_thread(), _BEGUN_BY, None)


def _carrying(stock: Any) -> Any:
    @functools.wraps(stock)
    def give(self: Any, *args: Any, **kwargs: Any) -> Any:
        owner = _giver()
        if owner is not None and args:
            args = (functools.partial(_as_given, owner, args[0]), *args[1:])
        return stock(self, *args, **kwargs)

    return give


def _as_given(owner: Attempt | _Outside, act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    token = _current.set(owner)
    try:
        return act(*args, **kwargs)
    finally:
        _current.reset(token)


def leave_threads() -> None:
    """Let threads be started, and given work, as ever."""
    global _start
    if _start is not None:
        setattr(threading.Thread, "start", _start)  # noqa: B010  # its own again
        _start = None
    for (pool, name), own in _gave.items():
        if own is None:
            delattr(pool, name)
        else:
            setattr(pool, name, own)
    _gave.clear()
