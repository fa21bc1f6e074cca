"""The in-process proxy: one thin binding for each client library of a vendor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from luigi_spendguard import redaction
from luigi_spendguard.proxy import aio, attempts, children, environment, programs, resend, stripe, twilio
from luigi_spendguard.vendors.registry import VENDORS

#: The bindings of SDKs: each has `bind()`, `unbind()` and `in_place(attempt)`.
_BINDINGS = (stripe, twilio, resend)


def bind() -> None:
    """Put the guard into every supported SDK, and keep secrets out of the log. Raises PluginError."""
    for binding in _BINDINGS:
        binding.bind()
    redaction.install()
    attempts.watch_threads()
    children.follow()
    for vendor in VENDORS.values():
        environment.learn(vendor)
    programs.enter()


def unbind() -> None:
    """Put the SDKs back as they were."""
    for binding in _BINDINGS:
        binding.unbind()
    attempts.leave_threads()
    children.unfollow()


@contextmanager
def attempt_running(attempt: attempts.Attempt, *, everywhere: bool = False) -> Iterator[None]:
    """Run a vendor task's code: its calls belong to `attempt`, and it finds the attempt's vault key where it
    looks for a secret. `everywhere`: as `context.running`.

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
