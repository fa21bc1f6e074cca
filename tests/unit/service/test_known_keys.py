"""Keys that are not looked up again: for how long, and what ends that at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.ledger import keys, runs
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol.operators import OneKey
from luigi_spendguard.protocol.rpcs import CloseRunRequest
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.api import keys as api_keys
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService, known_keys, operators
from scheduler_patch.service.known_keys import BELIEVED_S, KnownKeys
from tests.support.luigids import Attempt, Luigid
from tests.support.postgres import settings_of
from tests.unit.gateway.test_shares import Played, charge, run


def learn(known: KnownKeys, key: str, claim_id: str) -> None:
    with known.looking() as take_note:
        take_note(key, claim_id)


def test_a_key_is_believed_for_a_while() -> None:
    now = [0.0]
    known = KnownKeys(lambda: now[0])
    assert not known.believes("one")
    learn(known, "one", "claim-1")
    now[0] = BELIEVED_S - 0.1
    assert known.believes("one")
    now[0] = BELIEVED_S
    assert not known.believes("one")


def test_the_key_of_a_claim_that_is_over_is_not_nor_one_that_another_has_replaced() -> None:
    known = KnownKeys(lambda: 0.0)
    for key in ("old", "new"):
        learn(known, key, "claim-1")
    learn(known, "other", "claim-2")
    assert [known.believes(key) for key in ("old", "new", "other")] == [False, True, True]
    known.forget("claim-1")
    assert [known.believes(key) for key in ("new", "other")] == [False, True]
    known.forget_all()
    assert not known.believes("other")


def test_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_keys, "_MOST", 3)
    known = KnownKeys(lambda: 0.0)
    for number in range(5):
        learn(known, f"key-{number}", f"claim-{number}")
    assert [number for number in range(5) if known.believes(f"key-{number}")] == [2, 3, 4]
    known.forget("claim-0")


def test_what_is_forgotten_during_a_look_is_not_learnt_from_it() -> None:
    known = KnownKeys(lambda: 0.0)
    with known.looking() as early:
        known.forget("claim-1")
        early("one", "claim-1")
        early("two", "claim-2")
    assert [known.believes(key) for key in ("one", "two")] == [False, True]
    with known.looking() as early:
        known.forget_all()
        with known.looking() as late:
            late("one", "claim-1")
        early("two", "claim-2")
    assert [known.believes(key) for key in ("one", "two")] == [True, False]
    assert not known._looks


def test_a_key_is_read_once_and_again_after_a_revoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        caps = Caps(default=Micros(1000))
        service = LedgerService(settings_of(tmp_path / "books.db", caps), BudgetScheduler())
        row, key = await service.record(keys.issue, keys.Terms("stripe", ttl_ms=60_000), caps)
        reads: list[str] = []
        read = service.read

        async def counted(operation: object, *args: object) -> object:
            reads.append(getattr(operation, "__name__", ""))
            return await read(operation, *args)

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


def test_a_look_that_comes_back_after_a_revoke_has_answered_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5, judged by the vendor: a call is decided from the ledger, whatever the look has said."""

    async def answer(request: Request) -> Reply:
        return Reply(200, {}, b'{"id": "pi_1", "object": "payment_intent", "status": "succeeded"}')

    async def live(played: Played) -> None:
        key, service = await played.key(), played.service
        read, looked, revoked = service.read, asyncio.Event(), asyncio.Event()

        async def late(operation: Any, *args: Any) -> Any:
            found = await read(operation, *args)
            looked.set()
            await revoked.wait()
            return found

        monkeypatch.setattr(service, "read", late)
        admitted = asyncio.ensure_future(
            played.gateway.admit(VENDORS["stripe"], "POST", "/v1/payment_intents", key)
        )
        await looked.wait()
        await api_keys.revoke(service, Mock(key=""), OneKey(key))
        revoked.set()
        await admitted
        assert not service.known_keys.believes(key)
        assert (await played.relay(charge("cus_1"), key)).status == 401
        assert not played.sent

    run(tmp_path, answer, live)


def test_a_look_while_an_attempt_ends_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    luigid = Luigid(tmp_path)
    luigid.run()
    luigid.add("T")
    luigid.work()
    attempt, service = luigid.claim("T"), luigid.service
    service.known_keys.forget_all()
    commit = service.commit

    async def later(operation: Any, *args: Any) -> Any:
        assert await service.check_key(attempt.key) is None
        return await commit(operation, *args)

    monkeypatch.setattr(service, "commit", later)
    luigid.finish(attempt)
    assert not service.known_keys.believes(attempt.key)
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
