"""luigid in the test's own process: the real scheduler, a real ledger, and workers that are played."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import queries
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.protocol.rpcs import ClaimRequest, FinishRequest, OpenRunRequest
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.local import LocalLedgerService
from scheduler_patch.scheduler import BudgetScheduler
from tests.support.postgres import settings_of

USD = 1_000_000


@dataclass
class Attempt:
    """A claimed task as its worker knows it."""

    task_id: str
    claim_id: str
    key: str
    run_id: str


class Luigid:
    """A scheduler and its service; a vendor task is of family `V` where nothing else is said."""

    def __init__(self, folder: Path, *, forecast: str = "warn", **caps: Any) -> None:
        self.folder, self.caps = folder, Caps(**{"default": Micros(10 * USD)} | caps)
        self.forecast = forecast
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    def start(self, *, load: bool = False) -> None:
        """Start, with or without the pickle of the last one."""
        self.scheduler = BudgetScheduler(
            state_path=str(self.folder / "state"),
            retry_delay=0,
            remove_delay=600,
            stable_done_cooldown_secs=0,
        )
        if load:
            self.scheduler.load()
        self.service = LocalLedgerService(self.settings(), self.scheduler)
        self.service.loop, self.gate = self.loop, self.scheduler.gate

    def settings(self) -> Settings:
        """Return what it goes by."""
        return settings_of(self.folder / "books.db", self.caps, forecast=self.forecast)

    def restart(self, *, pickle: bool) -> None:
        """End and start again."""
        if pickle:
            self.scheduler.dump()
        self.service.close()
        self.start(load=pickle)

    def end(self) -> None:
        """Close the ledger and end the loop."""
        self.service.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def do(self, act: Coroutine[Any, Any, Any]) -> Any:
        """Do something in the service."""
        return asyncio.run_coroutine_threadsafe(act, self.loop).result(20)

    # Workers.

    def run(self, run_id: str = "r") -> None:
        """Open a run."""
        self.do(self.service.open_run(OpenRunRequest(run_id, False, "Root", run_id)))

    def add(
        self,
        task_id: str,
        run_id: str = "r",
        worker: str = "w",
        cost: str | None = None,
        *,
        vendors: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        """Announce a vendor task of a run."""
        said: dict[str, Any] = {"run_id": run_id, "announcing": True}
        said |= {} if cost is None else {"max_cost_usd": cost}
        said |= {"vendors": list(vendors)} if vendors else {}
        more.setdefault("family", "V")
        self.scheduler.add_task(task_id=task_id, worker=worker, spendguard=said, **more)

    def work(self, worker: str = "w", **more: Any) -> str | None:
        """Ask for work."""
        task_id: str | None = self.scheduler.get_work(worker=worker, host="h", **more)["task_id"]
        return task_id

    def claim(self, task_id: str, worker: str = "w", cost: int | None = None, family: str = "V") -> Attempt:
        """Claim a task that was dispatched."""
        claim_id = str(uuid.uuid4())
        max_cost = None if cost is None else str(cost)
        request = ClaimRequest(claim_id, task_id, family, worker, max_cost_usd=max_cost)
        claimed = self.do(self.service.claim(request))
        return Attempt(task_id, claim_id, claimed.vault_key, claimed.run_id)

    def call(
        self,
        attempt: Attempt,
        usd: int = 1,
        target: str = "cus_1",
        vendor: str = "stripe",
        billed: int | None = None,
    ) -> ReserveReply:
        """Make a call that is settled, if it is allowed, at what the vendor has `billed` (None: as asked)."""
        answer = self.reserve(attempt, usd, target, vendor)
        if answer.verdict == "allowed":
            self.settle(attempt, answer, usd if billed is None else billed)
        return answer

    def reserve(
        self, attempt: Attempt, usd: int = 1, target: str = "cus_1", vendor: str = "stripe"
    ) -> ReserveReply:
        """Ask for a call, which then is under way."""
        ask = ReserveRequest(
            str(uuid.uuid4()),
            vendor,
            "a",
            "o",
            "POST",
            "/",
            target=target,
            fingerprint=str(usd),
            total_micros=usd * USD,
        )
        answer: ReserveReply = self.do(self.service.reserve(attempt.key, ask))
        return answer

    def settle(self, attempt: Attempt, answer: ReserveReply, usd: int = 1) -> None:
        """Say that a call was answered, and what it has cost."""
        settled = EndRequest(
            "settle", answer.call_id, answer.ask, total_micros=usd * USD, status=200, answer_body="{}"
        )
        self.do(self.service.end(attempt.key, settled))

    def finish(self, attempt: Attempt, outcome: str = "failed") -> None:
        """Say how an attempt ended."""
        self.do(self.service.finish(FinishRequest(attempt.claim_id, outcome)))

    def fail(self, attempt: Attempt, worker: str = "w") -> None:
        """Let an attempt end in a failure, which is reported to Luigi too."""
        self.finish(attempt)
        self.scheduler.add_task(task_id=attempt.task_id, worker=worker, status="FAILED")

    def counted(self, run_id: str = "r") -> int:
        """Return what the gate counts for dispatched tasks of a run."""
        run = self.gate.state.run(run_id)
        assert run is not None
        return run.own_budget.counted

    def shown(self, run_id: str = "r") -> dict[str, Any]:
        """Return the run as the API shows it."""
        found: dict[str, Any] = self.do(self.service.read(queries.run, run_id))
        return found
