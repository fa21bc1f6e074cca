"""Drives a guarded call synchronously: does what the guard asks for, with real I/O."""

from __future__ import annotations

import inspect
import time
from typing import Any

from luigi_spendguard.effects import Finish, Life, Reserve, Send, advance
from luigi_spendguard.proxy import context
from luigi_spendguard.proxy.context import Attempt
from luigi_spendguard.proxy.upstream import Upstream
from luigi_spendguard.vendors import Reply


def drive(life: Life, attempt: Attempt, upstream: Upstream, timeout_s: float, proxy: str = "") -> Reply:
    """Run `life` to its end and return the vendor's reply. Raises what `life` raises.

    `proxy`: as `Upstream.send`'s.
    """
    with context.calling():
        return _driven(life, attempt, upstream, timeout_s, proxy)


def _driven(life: Life, attempt: Attempt, upstream: Upstream, timeout_s: float, proxy: str) -> Reply:
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = advance(life, value, error)
            if isinstance(effect, Reply):
                return effect
            value, error = None, None
            if isinstance(effect, Reserve):
                value = attempt.client.reserve(attempt.key, effect.ask)
            elif isinstance(effect, Send):
                value = upstream.send(effect.request, effect.deadline, timeout_s, proxy=proxy)
            elif isinstance(effect, Finish):
                attempt.client.end(attempt.key, effect.end)
            else:
                time.sleep(effect.seconds)
        except BaseException as caught:  # The guard must hear of everything, Ctrl-C included.
            if inspect.getgeneratorstate(life) == inspect.GEN_CLOSED:
                raise
            value, error = None, caught
