"""`--local-scheduler`: the ledger in the worker's own process, and in each of its forked children.

A forked child holds a copy of the scheduler, which nobody hears: its calls reach the ledger's file itself,
and the worker's own scheduler reads there what they have spent. Found by name by the worker (the one
place of luigi_spendguard that reaches up).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from luigi_spendguard.config import Settings
from luigi_spendguard.messages import Answer, Ask, End
from luigi_spendguard.money import parse_usd
from luigi_spendguard.outbox import FLUSH_S, Outbox
from luigi_spendguard.vendors import FollowedUp
from scheduler_patch import operator
from scheduler_patch.access import SWEEP_S
from scheduler_patch.office import Office
from scheduler_patch.scheduler import BudgetScheduler, adopt

T = TypeVar("T")


class LocalOffice(Office):
    """An office whose loop is another thread's."""

    loop: asyncio.AbstractEventLoop
    #: The process that runs the tasks sends their calls itself.
    relayed_vendors: frozenset[str] = frozenset()  # type: ignore[assignment]  # a property elsewhere

    def _spawn(self, saving: Coroutine[Any, Any, None]) -> None:
        # Waited for: a child that Luigi forks meanwhile would take a lock of this process for its own, and
        # find the file locked for ever (https://sqlite.org/howtocorrupt.html, section 2.6).
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run_coroutine_threadsafe(saving, self.loop).result()
        else:
            super()._spawn(saving)  # Whoever asked this thread waits: see `LocalPort._do`.


class LocalPort:
    """The `LedgerPort` of a worker with a scheduler of its own; made anew in forked children."""

    #: There is no gateway here: the secret must be where the worker is.
    url: str | None = None

    def __init__(self, scheduler: BudgetScheduler, settings: Settings) -> None:
        self._scheduler, self._settings = scheduler, settings
        self._outbox = Outbox()
        self._pid = 0
        self._swept = 0.0
        scheduler.gate.local = True
        scheduler.refresh = self._refresh
        self._do(Office.sweep)
        self._swept = time.monotonic()

    def _do(self, act: Callable[[LocalOffice], Coroutine[Any, Any, T]]) -> T:
        """Do something in the office of this process."""
        if self._pid != os.getpid():
            self._open()
        return asyncio.run_coroutine_threadsafe(self._act(act), self._office.loop).result()

    async def _act(self, act: Callable[[LocalOffice], Coroutine[Any, Any, T]]) -> T:
        done = await act(self._office)
        while self._office.saving:
            await asyncio.wait(self._office.saving)
        return done

    def _open(self) -> None:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="spendguard-local", daemon=True).start()
        # A child dispatches nothing: its copy of the gate need not be told all that the ledger knows.
        self._office = LocalOffice(self._settings, self._scheduler, begin=not self._pid)
        self._office.loop, self._pid = loop, os.getpid()

    def _refresh(self) -> None:
        """Let the gate know what children, and other processes, have done to the ledger.

        From time to time also do what luigid does by its clock. (Here, not in a thread of its own: Luigi
        forks neither while it asks for work nor while it pings.)
        """
        if self._pid != os.getpid() or not self._office.has_ledger:
            return
        if time.monotonic() - self._swept < SWEEP_S:
            self._do(Office.refresh)
        else:
            self._do(Office.sweep)
            self._swept = time.monotonic()

    # The port.

    def open_run(self, **fields: Any) -> dict[str, Any]:
        """Open (or find) a run. Raises BadAmount, Conflict, LedgerUnavailable."""
        return self._do(
            lambda office: office.open_run(
                fields["name"],
                fields["by_task_id"],
                fields["root_family"],
                fields["root_task_id"],
                fields["budget_usd"],
            )
        )

    def claim(self, **fields: Any) -> dict[str, Any]:
        """Claim a dispatched task for an attempt. Raises SpendDenied, Conflict, LedgerUnavailable."""
        asked = fields.pop("max_cost_usd", None)
        max_cost = None if asked is None else parse_usd(asked)
        return self._do(lambda office: office.claim(**fields, max_cost=max_cost))

    def finish(self, claim_id: str, outcome: str) -> None:
        """Say how an attempt ended, now or later; never raises."""
        self._outbox.tell(
            f"the end of claim {claim_id}", lambda: self._do(lambda office: office.finish(claim_id, outcome))
        )

    def close_run(self, name: str) -> None:
        """Say that a root has completed."""
        self._do(lambda office: office.close_run(name))

    def blocked(self, worker: str, wait_s: int = 0) -> dict[str, Any]:
        """Return what of a worker is blocked, after `wait_s` seconds or when something was freed."""
        return self._do(lambda office: operator.blocked(office, worker, wait_s))

    def acknowledge(self, worker: str, run_id: str) -> None:
        """Say that a worker knows of a revoked run."""
        self._do(lambda office: office.acknowledge(worker, run_id))

    def due_prices(self, vendors: list[str]) -> list[dict[str, Any]]:
        """Return calls whose price is to be asked for now."""
        return self._do(lambda office: office.due_prices(vendors, relayed_too=False))

    def correct(self, call_id: str, found: FollowedUp) -> None:
        """Say what a vendor says that a call has cost."""
        self._do(lambda office: office.correct(call_id, found, relayed_too=False))

    def reserve(self, key: str, ask: Ask) -> Answer:
        """Ask for a reservation. Raises SpendDenied, LedgerUnavailable."""
        return self._do(lambda office: office.reserve(key, ask))

    def end(self, key: str, end: End) -> None:
        """Deliver how a call ended, now or later: never raises, never loses it while we live."""
        self._outbox.tell(
            f"the end of call {end.call_id}", lambda: self._do(lambda office: office.end(key, end))
        )

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until every end is in the file; say which are not after `timeout_s` seconds."""
        return self._outbox.flush(timeout_s)


def port(scheduler: Any, settings: Settings) -> LocalPort:
    """Return the way to the ledger beside a scheduler in this process, which gets its gate now."""
    logging.getLogger("scheduler_patch").parent = logging.getLogger("luigi-interface")
    return LocalPort(adopt(scheduler), settings)
