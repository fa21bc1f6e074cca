"""`Office`: the ledger as luigid's routes use it; every answer of the ledger feeds the dispatch gate.

Nothing here waits for the ledger in tornado's thread: operations are awaited, so Luigi's own RPCs go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import LedgerUnavailable, denial
from luigi_spendguard.ledger import ending, reading, reserving, runs, taking, upkeep
from luigi_spendguard.ledger.books import Ledger
from luigi_spendguard.ledger.engine import Row, Tx
from luigi_spendguard.messages import GRANT_SECONDS, Answer, Ask, End
from luigi_spendguard.money import Micros, format_usd, parse_usd, plain_usd
from scheduler_patch.gate import Gate
from scheduler_patch.scheduler import BudgetScheduler

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds between two looks for pending calls whose sender must be gone.
SWEEP_S = 5.0


class Office:
    """Opens the ledger when it is first needed (a luigid without vendor tasks never has one)."""

    def __init__(self, settings: Settings, scheduler: BudgetScheduler) -> None:
        self.settings = settings
        self.scheduler = scheduler
        self.gate: Gate = scheduler.gate
        self._ledger: Ledger | None = None
        self._opening = threading.Lock()
        self.admin_token = settings.admin_token
        if settings.ledger_path.exists():
            self._open()

    def _open(self) -> Ledger:
        with self._opening:
            if self._ledger is None:
                ledger = Ledger(self.settings.ledger_path)
                self._rebuild(ledger)
                if self.admin_token is None:
                    self.admin_token = kept_token(self.settings.ledger_path)
                self._ledger = ledger
                logger.info("The ledger is %s", ledger.path)
            return self._ledger

    def _rebuild(self, ledger: Ledger) -> None:
        """Fill the gate from the books: what it counted before was memory."""
        rows, paid, day = ledger.read(reading.gate_rows).result()
        for row in rows:
            self.gate.figures(row["run_id"], row["state"], row["remaining_micros"])
        self.gate.paid = {row["task_id"] for row in paid}
        self.gate.day_remaining = day

    async def ledger(self) -> Ledger:
        """Return the ledger, opened now if need be. Raises LedgerUnavailable."""
        return await asyncio.to_thread(self._open) if self._ledger is None else self._ledger

    async def write(self, operation: Callable[..., T], *args: Any) -> T:
        """Run a ledger operation in a durable transaction."""
        return await asyncio.wrap_future((await self.ledger()).write(operation, *args))

    async def read(self, operation: Callable[..., T], *args: Any) -> T | None:
        """Run a reading operation; None while there is no ledger file."""
        if self._ledger is None and not self.settings.ledger_path.exists():
            return None
        return await asyncio.wrap_future((await self.ledger()).read(operation, *args))

    def close(self) -> None:
        """Commit what is queued and close the file."""
        if self._ledger is not None:
            self._ledger.close()

    def _feed(self, row: Row) -> None:
        self.gate.figures(row["run_id"], row["state"], row["remaining_micros"])
        if "day_micros" in row:
            self.gate.day_remaining = row["day_micros"]

    # Runs and claims.

    async def open_run(
        self, name: str, by_task_id: bool, family: str, task_id: str, budget_usd: str | None
    ) -> dict[str, Any]:
        """Open or find a run. Raises BadAmount, Conflict, LedgerUnavailable."""
        asked = None if budget_usd is None else parse_usd(budget_usd)
        cap, note = self.settings.caps.grant(family, asked)
        request = runs.RunRequest(name, by_task_id, family, task_id, cap, asked, note)
        row = await self.write(runs.open_run, request)
        self._feed(row)
        if row["note"]:
            logger.warning("Run %s: %s", row["run_id"], row["note"])
        return reading.show_run(row)

    async def claim(self, request: runs.ClaimRequest) -> dict[str, str]:
        """Claim a task that was dispatched to its worker. Raises SpendDenied, Conflict."""
        if not self.scheduler.is_running(request.task_id, request.worker):
            raise denial("scope", f"task {request.task_id} is not dispatched to {request.worker}")
        row, key = await self.write(runs.claim, request)
        self.gate.join(request.task_id, request.run_id)
        return {"claim_id": row["id"], "run_id": row["run_id"], "vault_key": key}

    async def finish(self, claim_id: str, outcome: str) -> dict[str, Any]:
        """End a claim."""
        row = await self.write(runs.finish, claim_id, outcome)
        if row is not None and outcome == "completed":
            self.gate.done(row["task_id"])
        return {"known": row is not None}

    async def close_run(self, name: str) -> dict[str, Any]:
        """End the run of a root that has completed."""
        if self._ledger is None and not self.settings.ledger_path.exists():
            return {"closed": False}
        row = await self.write(runs.close_run, name)
        if row is not None and row["state"] == "ended":
            self.gate.runs.pop(row["run_id"], None)
        return {"closed": row is not None and row["state"] == "ended"}

    # Calls.

    async def reserve(self, key: str, ask: Ask) -> Answer:
        """Decide about a call. Raises SpendDenied (`unknown_key`), LedgerUnavailable."""
        answer, row = await self.write(_reserve, key, ask, self.settings.caps.day)
        self._feed(row)
        task_id = row["task_id"]
        if answer.verdict == "denied" and answer.reason == "cap" and "asked_usd" in answer.facts:
            asked = parse_usd(answer.facts["asked_usd"])
            self.gate.hold(task_id, answer.facts["budget"], asked)
        elif answer.verdict == "allowed" and ask.total_micros != 0 and not ask.read:
            self.gate.paid.add(task_id)
        return answer

    async def end(self, key: str, end: End) -> dict[str, Any]:
        """Apply the end of a call."""
        call, row = await self.write(_end, key, end)
        self._feed(row)
        if call is None:
            return {"call_id": end.call_id, "state": "voided"}
        if call["overrun_micros"]:
            logger.error(
                "Call %s of task %s: the vendor billed $%s more than was reserved; run %s is frozen",
                call["id"],
                call["task_id"],
                plain_usd(call["overrun_micros"]),
                call["run_id"],
            )
        return {
            "call_id": call["id"],
            "state": call["state"],
            "overrun_usd": plain_usd(call["overrun_micros"]),
        }

    async def blocked(self, worker: str) -> dict[str, Any]:
        """Return how many blocked tasks of a worker may still be freed, and why tasks are blocked."""
        tasks = self.scheduler.blocked(worker)
        by_run = Counter(self.gate.run_of[task_id] for task_id in tasks)
        why = []
        for run_id, number in by_run.items():
            row = await self.read(runs.run_row, run_id)
            if row is not None:
                why.append(f"{number} of run {run_id}: {_why_blocked(row, self.gate.day_remaining)}")
        return {"blocked": sum(not self.gate.is_revoked(task_id) for task_id in tasks), "why": why}

    # The operator.

    async def revoke(self, run_id: str) -> dict[str, Any]:
        """Revoke a run; returns when no grant made before can still be used (P5)."""
        row = await self.write(runs.revoke, run_id)
        # By the clock that never steps: what was granted before now is too old after 2 s.
        limit = time.monotonic() + GRANT_SECONDS
        self._feed(row)
        under_way = left = await self.write(runs.pending_calls, run_id)
        while left and time.monotonic() < limit:
            await asyncio.sleep(0.05)
            left = await self.write(runs.pending_calls, run_id)
        return {**reading.show_run(row), "calls_under_way": under_way}

    async def top_up(self, run_id: str, usd: str, request_id: str | None) -> dict[str, Any]:
        """Raise a run's cap. Raises BadAmount, NotFound, Conflict."""
        amount = parse_usd(usd)
        row = await self.write(runs.top_up, run_id, amount, request_id or secrets.token_hex(16))
        self._feed(row)
        return reading.show_run(row)

    async def resolve(self, call_id: str, spent: Micros | None, request_id: str | None) -> dict[str, Any]:
        """End an in-doubt call by the operator's word. Raises NotFound, Conflict."""
        row, run = await self.write(_resolve, call_id, spent, request_id or secrets.token_hex(16))
        self._feed(run)
        return reading.show_call(row)

    async def sweep(self) -> None:
        """Look for senders that are gone, forget old answers, and refresh the gate."""
        if self._ledger is None:
            return
        try:
            await self.write(upkeep.sweep)
            await self.write(upkeep.forget, self.settings.replay_days)
            rows, _, day = await self.write(reading.gate_rows, False)
        except LedgerUnavailable as error:
            logger.error("%s", error)
            return
        for row in rows:
            self.gate.figures(row["run_id"], row["state"], row["remaining_micros"])
        self.gate.day_remaining = day


def _why_blocked(run: Row, day_remaining: int | None) -> str:
    if run["state"] == "revoked":
        return "it is revoked"
    if run["state"] == "frozen":
        return "it is frozen: the vendor billed more than was reserved; look at its calls, then top it up"
    if day_remaining is not None and day_remaining < run["remaining_micros"]:
        return f"all runs together have {format_usd(day_remaining)} of the daily cap left"
    return (
        f"{format_usd(run['remaining_micros'])} of its cap of {format_usd(run['cap_micros'])} remains "
        f"({format_usd(run['spent_micros'])} spent, {format_usd(run['reserved_micros'])} reserved); "
        f"`spendguard top-up {run['run_id']} USD` frees them"
    )


def _figures(tx: Tx, run_id: str, task_id: str) -> Row:
    row = runs.run_row(tx, run_id)
    row["day_micros"] = reading.day_remaining(tx)
    row["task_id"] = task_id
    return row


def _scope(tx: Tx, key: str, daily_cap: Micros | None = None) -> taking.Scope:
    scope = taking.find_scope(tx, key, daily_cap)
    if scope is None:
        raise denial("unknown_key", "the ledger does not know this vault key")
    return scope


def _reserve(tx: Tx, key: str, ask: Ask, daily_cap: Micros | None) -> tuple[Answer, Row]:
    scope = _scope(tx, key, daily_cap)
    answer = reserving.reserve(tx, scope, ask)
    return answer, _figures(tx, scope.run["run_id"], scope.claim["task_id"])


def _end(tx: Tx, key: str, end: End) -> tuple[Row | None, Row]:
    scope = _scope(tx, key)
    call = ending.end(tx, scope, end)
    run_id = call["run_id"] if call is not None else scope.run["run_id"]
    return call, _figures(tx, run_id, scope.claim["task_id"])


def _resolve(tx: Tx, call_id: str, spent: Micros | None, request_id: str) -> tuple[Row, Row]:
    row = ending.resolve(tx, call_id, spent, request_id)
    return row, _figures(tx, row["run_id"], row["task_id"])


def token_path(ledger_path: Path) -> Path:
    """Return where the admin token is kept when luigi.cfg names none."""
    return ledger_path.with_name(ledger_path.name + ".admin-token")


def kept_token(ledger_path: Path) -> str:
    """Return the admin token beside the ledger, made at first start, mode 0600."""
    path = token_path(ledger_path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise LedgerUnavailable(f"the admin token {path} cannot be written: {error.strerror}") from None
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token + "\n")
    return token
