"""The in-process proxy: one thin binding for each client library of a vendor, and the attempts that run here.

A vendor task's attempt runs in a worker's process, and goes on in what it starts: a child made by
`multiprocessing` is sent its attempt (`begin_child`), a program finds it in its environment (`join`).
"""

from __future__ import annotations

import atexit
import multiprocessing.util
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from luigi_spendguard import redaction
from luigi_spendguard.http.outbox import FLUSH_S
from luigi_spendguard.process_state import at_fork
from luigi_spendguard.proxy import (
    aio,
    attempts,
    children,
    environment,
    interrupt,
    owners,
    resend,
    stripe,
    twilio,
)
from luigi_spendguard.vendors.registry import VENDORS

#: The bindings of SDKs: each has `bind()`, `unbind()` and `in_place(attempt)`.
_BINDINGS = (stripe, twilio, resend)

#: The mark that this process has found when it began; "" once that is done with.
_mark = os.environ.get(attempts.MARK, "")
_joining = threading.Lock()
#: The attempt that this process belongs to as long as it lives.
_lifelong = ExitStack()


def _begin_anew() -> None:
    global _joining
    _joining = threading.Lock()


at_fork(_begin_anew)


def bind() -> None:
    """Put the guard into every supported SDK, and keep secrets out of the log. Raises PluginError."""
    for binding in _BINDINGS:
        binding.bind()
    redaction.install()
    owners.watch_threads()
    children.follow()
    for vendor in VENDORS.values():
        environment.learn(vendor)
    join()


def unbind() -> None:
    """Put the SDKs back as they were."""
    for binding in _BINDINGS:
        binding.unbind()
    owners.leave_threads()
    children.unfollow()


@contextmanager
def attempt_running(attempt: attempts.Attempt, *, everywhere: bool = False) -> Iterator[None]:
    """Run a vendor task's code: its calls belong to `attempt`, and it finds the attempt's vault key where it
    looks for a secret. `everywhere`: as `attempts.running`.

    Calls that an asynchronous program has begun and no longer awaits end before this does.
    """
    longest = max(attempt.settings.vendor(name).timeout_s for name in VENDORS)
    with ExitStack() as stack:
        stack.enter_context(redaction.streams())
        stack.enter_context(attempts.running(attempt, everywhere=everywhere))
        for binding in _BINDINGS:
            stack.enter_context(binding.in_place(attempt))
        for vendor in VENDORS.values():
            secret = environment.secret_of(vendor, attempt.settings)
            # Without a secret the call gets as far as the guard, whose error says what to set.
            stack.enter_context(environment.hidden(vendor, secret, attempt.key))
        try:
            yield
        finally:
            aio.drain(attempt.claim_id, longest + aio.ENDING_S)


def join() -> None:
    """Let this process belong to the attempt that has started it as a program, if one has; once is enough."""
    global _mark
    if not _mark:
        return
    with _joining:
        attempt = children.attempt_of(_mark)
        if attempt is not None:
            _lifelong.enter_context(attempt_running(attempt, everywhere=True))
            atexit.register(_lifelong.close)
        _mark = ""


def begin_child(guard: children.SentGuard) -> None:
    """Begin a child with what it was sent: bind the SDKs here, and let its calls belong to its parent's
    attempt. Raises PluginError.
    """
    global _mark
    _mark = ""  # It was told otherwise whose it is.
    environment.take_over(guard.hidden)
    attempts.descend()
    bind()
    if guard.attempt is None:
        return
    _lifelong.enter_context(attempt_running(guard.attempt))
    interrupt.obey_as_child()
    multiprocessing.util.Finalize(None, _end_child, args=(guard.attempt,), exitpriority=10)


def _end_child(attempt: attempts.Attempt) -> None:
    """End a child's calls, and say what could not be said of them yet. (Its exit handlers are not run.)"""
    _lifelong.close()
    attempt.client.flush(FLUSH_S)
