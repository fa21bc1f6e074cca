"""What a vendor task starts belongs to its attempt: what is handed down to it, and how that is found there.

A forked child inherits all. One that is spawned, or made by a forkserver (which may be older than the
pipeline), begins with what it is sent: first of all, what `spawn.get_preparation_data` returns (Python 3.10
to 3.13). In a pipeline the guard comes along: the child binds the SDKs before it loads what it is to run,
which need not import this package.

A program that is started by other means, and imports this package, finds in the mark of its environment
(`attempts.MARK`) the attempt's vault key, and where its calls go. That is the gateway, for the vendors that
it serves; within a block of `spend_proxy()` the task's listener, for all; else the program guards them
itself, where its own luigi.cfg has the secret.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import spawn
from typing import Any

from luigi_spendguard import config
from luigi_spendguard.errors import PluginError, SpendDenied
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.http.shared import CallsUnderWay, SharedTexts
from luigi_spendguard.proxy import attempts, environment
from luigi_spendguard.proxy.attempts import Attempt, Unanswered
from luigi_spendguard.vendors.registry import VENDORS

logger = logging.getLogger(__name__)

_stock: Callable[..., dict[str, Any]] | None = None

#: What a child does first: it finds this package where its parent has found it.
_BEGIN = """
import pickle, sys
sys.path[:] = path
from luigi_spendguard import proxy
proxy.begin_child(pickle.loads(sent))
"""


@dataclass(frozen=True)
class SentGuard:
    """What a child is sent: its attempt, and the secrets that are hidden from its environment."""

    attempt: Attempt | None
    hidden: environment.Hidden = field(repr=False)


class _Passage:
    """Becomes the guard of a child when it is unpickled there."""

    def __init__(self, guard: SentGuard) -> None:
        self._guard = guard

    def __reduce__(self) -> Any:
        # The child's path is not its parent's yet: nothing of this package can be unpickled before that.
        return exec, (_BEGIN, {"path": list(sys.path), "sent": pickle.dumps(self._guard)})


def follow() -> None:
    """Send the guard along with every child from now on; once is enough."""
    global _stock
    if _stock is None:
        _stock = spawn.get_preparation_data
        spawn.get_preparation_data = _preparation_data


def unfollow() -> None:
    """Send what Python sends."""
    global _stock
    if _stock is not None:
        spawn.get_preparation_data = _stock
        _stock = None


def _preparation_data(name: str) -> dict[str, Any]:
    assert _stock is not None
    data = _stock(name)
    if attempts.in_pipeline():
        data["spendguard"] = _Passage(_guard())
    return data


def _guard() -> SentGuard:
    try:
        attempt = attempts.current()
    except SpendDenied:  # It cannot be told whose child it is: its calls are denied.
        attempt = None
    if attempt is not None:
        attempt = replace(attempt, client=attempt.client.for_child())
    return SentGuard(attempt, environment.hidden_now())


def attempt_of(mark: str) -> Attempt | None:
    """Return the attempt that a mark names, None where it names none or nothing leads to its ledger."""
    try:
        named: Any = json.loads(mark) if mark.startswith("{") else {}
        home, listener = named.get("scheduler"), named.get("listener")
        if not (home or listener):
            return None
        settings = config.load()
        if listener:  # It guards there what the gateway does not: never here as well.
            settings = replace(settings, gateway_url=listener)
        return Attempt(
            claim_id=named["claim"],
            run_id=named["run"],
            task_id=named["task"],
            family=named["family"],
            key=named["key"],
            client=HttpLedgerClient(
                home or listener, None, CallsUnderWay(_there(named.get("under_way", "")))
            ),
            settings=settings,
            served=frozenset(VENDORS if listener else named["served"]),
            unanswered=Unanswered(_there(named.get("unanswered", ""))),
            handed_down=listener or "",
        )
    except (config.ConfigError, PluginError) as error:
        logger.error("This program belongs to no task, and its calls are denied: %s", error)
    except (ValueError, KeyError, AttributeError, TypeError):  # Somebody else's text.
        pass
    return None


def _there(path: str) -> str:
    """Return the path at which the processes of a program's attempt share something, "" where it is gone."""
    return path if SharedTexts.concerns(path) else ""
