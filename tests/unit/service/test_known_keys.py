"""Keys that are not looked up again: for how long, and what ends that at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.ledger import keys, runs
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol.operators import OneKey
from luigi_spendguard.protocol.rpcs import CloseRunRequest
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.api import keys as api_keys
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService, known_keys, operators
from scheduler_patch.service.known_keys import BELIEVED_S, KnownKeys
from tests.support.luigids import Attempt, Luigid


def test_a_key_is_believed_for_a_while() -> None:
    now = [0.0]
    known = KnownKeys(lambda: now[0])
    assert not known.believes("one")
    known.learn("one", "claim-1")
    now[0] = BELIEVED_S - 0.1
    assert known.believes("one")
    now[0] = BELIEVED_S
    assert not known.believes("one")


def test_the_key_of_a_claim_that_is_over_is_not_nor_one_that_another_has_replaced() -> None:
    known = KnownKeys(lambda: 0.0)
    for key in ("old", "new"):
        known.learn(key, "claim-1")
    known.learn("other", "claim-2")
    assert [known.believes(key) for key in ("old", "new", "other")] == [False, True, True]
    known.forget("claim-1")
    assert [known.believes(key) for key in ("new", "other")] == [False, True]
    known.forget_all()
    assert not known.believes("other")


def test_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_keys, "_MOST", 3)
    known = KnownKeys(lambda: 0.0)
    for number in range(5):
        known.learn(f"key-{number}", f"claim-{number}")
    assert [number for number in range(5) if known.believes(f"key-{number}")] == [2, 3, 4]
    known.forget("claim-0")


def test_a_key_is_read_once_and_again_after_a_revoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        caps = Caps(default=Micros(1000))
        service = LedgerService(Settings(tmp_path / "books.db", caps), BudgetScheduler())
        row, key = await service.record(keys.issue, keys.Terms("stripe", ttl_ms=60_000), caps)
        reads: list[str] = []
        read = service.read

        async def counted(operation: object, *args: object) -> object:
            reads.append(getattr(operation, "__name__", ""))
            return await read(operation, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(service, "read", counted)
        for _ in range(3):
            assert await service.check_key(key) is None
        assert len(reads) == 1
        await operators.revoke(service, row["run_id"])
        ended = await service.check_key(key)
        assert ended is not None
        assert ended.reason == "revoked"
        with pytest.raises(SpendDenied, match="does not know"):
            await service.check_key("vault_key_none")
        assert (await service.record(runs.run_row, row["run_id"]))["state"] == "revoked"
        service.close()

    asyncio.run(live())


def lost(luigid: Luigid, attempt: Attempt) -> None:
    luigid.scheduler._state.inactivate_workers(["w"])
    luigid.do(luigid.service.sweep())


@pytest.mark.parametrize(
    "over",
    [
        Luigid.finish,
        lambda luigid, _: luigid.do(luigid.service.close_run(CloseRunRequest("r"))),
        lost,
        lambda luigid, a: luigid.do(api_keys.revoke(luigid.service, Mock(key=""), OneKey(a.claim_id))),
    ],
    ids=["its attempt has ended", "its run has ended", "its worker is gone", "it is revoked"],
)
def test_a_claims_key_is_believed_at_once_and_no_more_when_it_is_over(
    tmp_path: Path, over: Callable[[Luigid, Attempt], None]
) -> None:
    luigid = Luigid(tmp_path)
    luigid.run()
    luigid.add("T")
    assert luigid.work() == "T"
    attempt, known = luigid.claim("T"), luigid.service.known_keys
    assert known.believes(attempt.key)
    over(luigid, attempt)
    assert not known.believes(attempt.key)
    luigid.end()


def test_a_key_that_is_over_is_not_believed_once_it_was_looked_up(tmp_path: Path) -> None:
    luigid = Luigid(tmp_path)
    luigid.run()
    luigid.add("T")
    luigid.work()
    attempt = luigid.claim("T")
    luigid.finish(attempt)
    for _ in range(2):
        assert luigid.do(luigid.service.check_key(attempt.key)).reason == "expired"
    luigid.end()
