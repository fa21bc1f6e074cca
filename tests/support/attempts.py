"""Attempts without a Luigi worker: dispatched and claimed over the real RPCs, run in the test's process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import luigi.rpc

from luigi_spendguard import config, proxy
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.protocol.rpcs import ClaimRequest, FinishRequest, OpenRunRequest
from luigi_spendguard.proxy.attempts import Attempt
from tests.support.site import Site


class Pretender:
    """Does on the wire what a guarded worker does for one task."""

    def __init__(
        self,
        site: Site,
        run_id: str,
        task_id: str = "Charge_1",
        *,
        by_task_id: bool = False,
        budget_usd: str | None = None,
        name: str = "pretender",
    ) -> None:
        self.site, self.task_id = site, task_id
        self.settings = config.load([site.config], environ={} if site.gateway else site.secrets)
        self.client = HttpLedgerClient(site.url, self.settings.worker_token)
        self.rpc = luigi.rpc.RemoteScheduler(site.url)
        self.worker = f"{name}-{uuid.uuid4().hex[:8]}"
        opened = self.client.open_run(OpenRunRequest(run_id, by_task_id, "Root", run_id, budget_usd))
        self.run_id = opened.run_id

    def claimed(self) -> Attempt:
        """Let the task be dispatched to this worker and claim it."""
        self.rpc.add_task(
            worker=self.worker,
            task_id=self.task_id,
            status="PENDING",
            family="Charge",
            runnable=True,
            params={},
            spendguard={"run_id": self.run_id, "vendor": True},
        )
        work = self.rpc.get_work(worker=self.worker, host="test", current_tasks=[])
        assert work["task_id"] == self.task_id, work
        claim_id = str(uuid.uuid4())
        claimed = self.client.claim(
            ClaimRequest(claim_id, self.task_id, "Charge", self.worker, self.run_id, {"customer": "1"})
        )
        return Attempt(
            claim_id=claim_id,
            run_id=self.run_id,
            task_id=self.task_id,
            family="Charge",
            key=claimed.vault_key,
            client=self.client,
            settings=self.settings,
            served=frozenset(claimed.gateway),
        )

    @contextmanager
    def attempt(self, outcome: str = "failed") -> Iterator[Attempt]:
        """Run the block as the task's `run()`; then say how it ended, so that it can be tried again."""
        attempt = self.claimed()
        try:
            with proxy.attempt_running(attempt):
                yield attempt
        finally:
            self.client.flush()
            self.client.finish(FinishRequest(attempt.claim_id, outcome))
            self.client.flush()
            status = "DONE" if outcome == "completed" else "FAILED"
            self.rpc.add_task(worker=self.worker, task_id=self.task_id, status=status)
            self.rpc.forgive_failures(task_id=self.task_id)
