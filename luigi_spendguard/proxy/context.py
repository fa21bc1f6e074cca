"""Which vendor task a call belongs to: the attempt that this thread runs, or the only one there is."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import denial
from luigi_spendguard.port import LedgerPort
from luigi_spendguard.proxy.unanswered import Unanswered
from luigi_spendguard.redaction import Secret


@dataclass(frozen=True)
class Attempt:
    """One execution of a vendor task's `run()`, with the vault key it was given.

    Attributes:
        served: the vendors whose calls luigid's gateway guards.
        unanswered: the calls that a gateway was sent and has not answered.

    """

    claim_id: str
    run_id: str
    task_id: str
    family: str
    key: str = field(repr=False)
    client: LedgerPort
    settings: Settings = field(repr=False)
    served: frozenset[str] = frozenset()
    unanswered: Unanswered = field(default_factory=Unanswered, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", Secret(self.key))


class _Outside:
    """Marks a thread that runs a plain task or schedules: it belongs to no vendor task."""


_OUTSIDE = _Outside()
_current: ContextVar[Attempt | _Outside | None] = ContextVar("spendguard_attempt", default=None)
_active: dict[str, Attempt] = {}
_known_keys: set[str] = set()
_workers = 0
_in_flight = 0
_idle: Callable[[], None] | None = None
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock, _in_flight
    _lock, _in_flight = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def current() -> Attempt | None:
    """Return the attempt that this thread's calls belong to, None outside any vendor task.

    Raises SpendDenied (`scope`) in a thread without context while several vendor tasks run.
    """
    attempt = _current.get()
    if isinstance(attempt, Attempt):
        return attempt
    if attempt is _OUTSIDE or not _active:
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


@contextmanager
def running(attempt: Attempt) -> Iterator[None]:
    """Let this thread, and threads without context, belong to `attempt`."""
    with _lock:
        _active[attempt.claim_id] = attempt
        _known_keys.add(attempt.key)
    token = _current.set(attempt)
    try:
        yield
    finally:
        _current.reset(token)
        with _lock:
            _active.pop(attempt.claim_id, None)


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
    """Let this thread belong to no vendor task (a plain task, scheduling)."""
    token = _current.set(_OUTSIDE)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def worker_running() -> Iterator[None]:
    """Count a Luigi worker of this process."""
    enter_worker()
    try:
        yield
    finally:
        leave_worker()


def enter_worker() -> None:
    """Count one more Luigi worker in this process."""
    global _workers
    with _lock:
        _workers += 1


def leave_worker() -> None:
    """Count one Luigi worker less."""
    global _workers
    with _lock:
        _workers -= 1


def is_vault_key(text: str) -> bool:
    """Return whether `text` is a vault key that was given to a task of this process."""
    return text in _known_keys


#: Luigi's modules that are on the stack while a pipeline's module is imported or its tasks are run.
_LUIGI = {"luigi.worker", "luigi.interface", "luigi.cmdline_parser", "luigi.cmdline", "luigi.retcodes"}


def inside_luigi() -> bool:
    """Return whether this is part of a pipeline: a worker runs here, or Luigi is on the stack."""
    return _workers > 0 or on_stack(_LUIGI)


def on_stack(modules: set[str]) -> bool:
    """Return whether a function of one of `modules` is being called in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") in modules:
            return True
        frame = frame.f_back
    return False
