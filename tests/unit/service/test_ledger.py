"""What is written to the books reaches the gate, and nothing that it has to hear of is only written."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger import pruning, runs, snapshot
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.money import Micros
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService, operators
from scheduler_patch.service.ledger import Booked

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
        assert await service.record(discrepancies) == []
        service.close()

    asyncio.run(live())


def test_no_call_waits_while_a_customers_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All calls of the ledger are looked at for that, hundreds of thousands perhaps."""
    looks, go_on, look = threading.Event(), threading.Event(), pruning.calls_of

    def slowly(tx: Tx, customer: str) -> list[str]:
        looks.set()
        assert go_on.wait(20)
        return look(tx, customer)

    async def live() -> None:
        service = LedgerService(Settings(tmp_path / "books.db", Caps(default=CAP)), BudgetScheduler())
        await service.commit(opened, "before")
        monkeypatch.setattr(pruning, "calls_of", slowly)
        forgetting = asyncio.ensure_future(operators.forget(service, "cus_1"))
        await asyncio.to_thread(looks.wait, 20)
        await asyncio.wait_for(service.commit(opened, "meanwhile"), 10)
        go_on.set()
        assert await forgetting == {"calls": 0, "open_calls": 0}
        service.close()

    asyncio.run(live())


def test_a_call_behind_a_read_that_stands_still_is_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread reads: what is before a call's look-up may be a sweep's."""
    monkeypatch.setattr("scheduler_patch.service.ledger.READ_S", 0.2)
    go_on = threading.Event()

    async def live() -> None:
        service = LedgerService(Settings(tmp_path / "books.db", Caps(default=CAP)), BudgetScheduler())
        await service.commit(opened, "before")
        before = asyncio.ensure_future(service.read(lambda tx: go_on.wait(20)))
        await asyncio.sleep(0)
        with pytest.raises(LedgerUnavailable, match="has not answered"):
            await asyncio.wait_for(service.check_key("vault_key_none"), 10)
        with pytest.raises(LedgerUnavailable, match="has not answered"):
            await before
        monkeypatch.setattr("scheduler_patch.service.ledger.READ_S", 20.0)
        go_on.set()
        assert await service.read(runs.run_row, "before")
        service.close()

    asyncio.run(live())
