"""How the processes of a task hear that its run was revoked: a signal, obeyed between vendor calls.

The worker sends it to its child, and that to what it has started by `multiprocessing`, and so on. The child's
task ends with KeyRevoked; its own children, which have no task to end, end themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.process_state import at_fork, begin_thread

#: Sent by the worker to its child; Luigi uses SIGUSR1 itself. None where there are no such signals.
SIGNAL: Any = getattr(signal, "SIGUSR2", None)

#: Seconds that a running event loop has to end before it is asked again.
AGAIN_S = 2.0
#: Seconds that a task has to clean up in, once it was told and no vendor call of it is in flight.
CLEAN_UP_S = 10.0
#: The exit status of a process that was ended because the run is revoked.
ENDED = 77


_in_flight = 0
_idle: Callable[[], None] | None = None
_lock = threading.Lock()


def _begin_anew() -> None:
    global _lock, _in_flight
    _lock, _in_flight = threading.Lock(), 0


at_fork(_begin_anew)


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
def held_back() -> Iterator[None]:
    """Let a child that is started in the block begin with the signal held back.

    It could not obey before it has claimed its task and made ready: the signal's default is to kill. What
    is sent meanwhile arrives once `interruptible` is ready for it.
    """
    if SIGNAL is None:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_on() -> None:
    """Tell the processes that this one has started by `multiprocessing`.

    Tasks of a build within the task are their own worker's to end.
    """
    for child in multiprocessing.active_children():
        if child.pid is not None and not hasattr(child, "claim_id"):
            with contextlib.suppress(OSError):
                os.kill(child.pid, SIGNAL)


def _ask_oneself() -> None:
    os.kill(os.getpid(), SIGNAL)  # To the main thread, whichever thread's call has ended.


def obey_as_child() -> None:
    """Let this process, a child of a task's, end when it is told: once no vendor call of it is in flight."""
    if SIGNAL is None or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(SIGNAL, _obey_as_child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})


def _obey_as_child(number: int, frame: FrameType | None) -> None:
    _pass_on()
    on_idle(_ask_oneself)
    if not in_flight():
        os._exit(ENDED)


@contextmanager
def interruptible(run_id: str, quiet: Callable[[], bool] | None = None) -> Iterator[None]:
    """Raise KeyRevoked in the block when the worker asks for it: once no vendor call is in flight.

    For a worker's children only, whose main thread runs the task; afterwards the signal is ignored, so that
    it cannot end a child that is handing over its result. One that does not end then (a thread of it sleeps)
    is ended after CLEAN_UP_S, as soon as it is `quiet`: nothing of it is being written to others.
    """
    if SIGNAL is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()
    ends = False
    again: threading.Timer | None = None

    def end() -> None:
        time.sleep(CLEAN_UP_S)
        while in_flight() or not (quiet and quiet()):
            time.sleep(0.2)
        os._exit(ENDED)

    def obey(number: int, frame: FrameType | None) -> None:
        nonlocal again, ends
        if os.getpid() != own:  # A child that it has forked; told, perhaps, before any hook of the fork ran.
            _obey_as_child(number, frame)
            return
        _pass_on()
        on_idle(_ask_oneself)
        if in_flight():
            return
        if quiet is not None and not ends:
            ends = True
            begin_thread(end, "spendguard-end")
        if asyncio._get_running_loop() is not None:
            # What is raised inside a callback of the loop is only logged: ask again until the loop ends.
            again = threading.Timer(AGAIN_S, os.kill, (own, SIGNAL))
            again.daemon = True
            again.start()
        raise denial("revoked", f"run {run_id} was revoked while this task ran", {"run_id": run_id})

    signal.signal(SIGNAL, obey)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
        yield
    finally:
        signal.signal(SIGNAL, signal.SIG_IGN)
        if again is not None:
            again.cancel()
            again.join()
        on_idle(None)
