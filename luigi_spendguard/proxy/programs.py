"""A program that a vendor task starts by other means than `multiprocessing`, and that imports this package,
belongs to the task's attempt.

It finds in the mark of its environment (`context.MARK`) what it needs for that: the attempt's vault key, and
where its calls go. That is the gateway, for the vendors that it serves; within a block of `spend_proxy()` the
task's listener, for all; else the program guards them itself, where its own luigi.cfg has the secret.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from luigi_spendguard import config
from luigi_spendguard.errors import PluginError
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.proxy import attempts
from luigi_spendguard.proxy.attempts import Attempt
from luigi_spendguard.vendors.registry import VENDORS

logger = logging.getLogger(__name__)

#: What this process has found when it began; "" once that is done with.
_found = os.environ.get(attempts.MARK, "")
_block = ExitStack()
_lock = threading.Lock()


def belong_elsewhere() -> None:
    """Take no notice of the mark: this process was told otherwise whose it is."""
    global _found
    _found = ""


def enter() -> None:
    """Let this process belong to the attempt that has started it; once is enough."""
    global _found
    if not _found:
        return
    with _lock:
        attempt = _attempt(_found)
        if attempt is not None:
            from luigi_spendguard import proxy

            _block.enter_context(proxy.attempt_running(attempt, everywhere=True))
            atexit.register(_block.close)
        _found = ""


def _attempt(found: str) -> Attempt | None:
    """Return the attempt that a mark names, None where it names none or nothing leads to its ledger."""
    try:
        said: Any = json.loads(found) if found.startswith("{") else {}
        home, listener = said.get("scheduler"), said.get("listener")
        if not (home or listener):
            return None
        settings = config.load()
        if listener:  # It guards there what the gateway does not: never here as well.
            settings = replace(settings, gateway_url=listener)
        return Attempt(
            claim_id=said["claim"],
            run_id=said["run"],
            task_id=said["task"],
            family=said["family"],
            key=said["key"],
            client=HttpLedgerClient(home or listener, None),
            settings=settings,
            served=frozenset(VENDORS if listener else said["served"]),
            handed_down=listener or "",
        )
    except (config.ConfigError, PluginError) as error:
        logger.error("This program belongs to no task, and its calls are denied: %s", error)
    except (ValueError, KeyError, AttributeError, TypeError):  # Somebody else's text.
        pass
    return None
