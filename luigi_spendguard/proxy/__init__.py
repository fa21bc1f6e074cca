"""The in-process proxy: one thin binding for each client library of a vendor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from luigi_spendguard.proxy import context, stripe


def bind() -> None:
    """Put the guard into every supported SDK. Raises PluginError."""
    stripe.bind()


@contextmanager
def attempt_running(attempt: context.Attempt) -> Iterator[None]:
    """Run a vendor task's code: its calls belong to `attempt`."""
    with context.running(attempt), stripe.in_place(attempt):
        yield
