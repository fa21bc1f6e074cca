"""What is written to the books reaches the gate, and nothing that it has to hear of is only written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import runs, snapshot
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.money import Micros
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService
from scheduler_patch.service.ledger import Booked
from tests.support.books import audit

CAP = Micros(1000)


def opened(tx: Tx, run_id: str) -> Booked[Row]:
    row = runs.open_run(tx, runs.RunRequest(run_id, False, "Root", "Root_1", CAP))
    return Booked(row, snapshot.of_run(tx, run_id), lambda state: state.averages.update(V=7))


def test_what_is_committed_is_told_and_what_is_recorded_must_need_no_telling(tmp_path: Path) -> None:
    async def live() -> None:
        service = LedgerService(Settings(tmp_path / "books.db", Caps(default=CAP)), BudgetScheduler())
        assert (await service.commit(opened, "told"))["run_id"] == "told"
        assert service.state.runs["told"].own_budget.remaining == CAP
        assert service.state.averages == {"V": 7}
        with pytest.raises(TypeError, match="commit it"):
            await service.record(opened, "not told")
        assert "not told" not in service.state.runs
        assert await service.record(audit) == []
        service.close()

    asyncio.run(live())
