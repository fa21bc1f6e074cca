"""How a forked child hears that its run was revoked: a signal, obeyed between vendor calls."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from luigi_spendguard.errors import denial
from luigi_spendguard.proxy import context

#: Sent by the worker to its child; Luigi uses SIGUSR1 itself. None where there are no such signals.
SIGNAL: Any = getattr(signal, "SIGUSR2", None)

#: Seconds that a running event loop has to end before it is asked again.
AGAIN_S = 2.0


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


@contextmanager
def interruptible(run_id: str) -> Iterator[None]:
    """Raise KeyRevoked in the block when the worker asks for it: once no vendor call is in flight.

    For forked children only, whose main thread runs the task; afterwards the signal is ignored, so that
    it cannot end a child that is handing over its result.
    """
    if SIGNAL is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False
    again: threading.Timer | None = None

    def obey(number: int, frame: FrameType | None) -> None:
        nonlocal asked, again
        asked = True
        if not context.in_flight():
            if asyncio._get_running_loop() is not None:
                # What is raised inside a callback of the loop is only logged: ask again until the loop ends.
                again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), SIGNAL))
                again.daemon = True
                again.start()
            raise denial("revoked", f"run {run_id} was revoked while this task ran", {"run_id": run_id})

    def call_ended() -> None:
        if asked:
            os.kill(os.getpid(), SIGNAL)  # To the main thread, whichever thread's call this was.

    signal.signal(SIGNAL, obey)
    context.on_idle(call_ended)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
        yield
    finally:
        signal.signal(SIGNAL, signal.SIG_IGN)
        if again is not None:
            again.cancel()
            again.join()
        context.on_idle(None)
