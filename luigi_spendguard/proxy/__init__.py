"""The in-process proxy: one thin binding for each client library of a vendor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from luigi_spendguard import discretion
from luigi_spendguard.config import VENDORS
from luigi_spendguard.proxy import aside, context, credentials, stripe
from luigi_spendguard.vendors.registry import VENDORS as ADAPTERS

#: Seconds after a vendor's time-out within which a call has told the ledger how it ended.
ENDING_S = 15.0


def bind() -> None:
    """Put the guard into every supported SDK, and keep secrets out of the log. Raises PluginError."""
    stripe.bind()
    discretion.install()
    for vendor in ADAPTERS.values():
        credentials.learn(vendor)


@contextmanager
def attempt_running(attempt: context.Attempt) -> Iterator[None]:
    """Run a vendor task's code: its calls belong to `attempt`.

    Calls that an asynchronous program has begun and no longer awaits end before this does.
    """
    longest = max(attempt.settings.vendor(name).timeout_s for name in VENDORS)
    with discretion.streams(), context.running(attempt), stripe.in_place(attempt):
        try:
            yield
        finally:
            aside.drain(attempt.claim_id, longest + ENDING_S)
