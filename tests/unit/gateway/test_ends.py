"""A reply is handed on while the end of its call is written; whoever asks the ledger then finds it ended."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http.spool import Spool, backlog
from luigi_spendguard.ledger import queries, settlement
from luigi_spendguard.protocol import key_hash
from luigi_spendguard.vendors import Reply, Request
from scheduler_patch import gateway, service
from tests.unit.gateway.test_shares import INTENT, Played, charge, run


async def answer(request: Request) -> Reply:
    return Reply(200, {}, json.dumps(INTENT).encode())


class Held:
    """The end of a call: it begins to be written, and is once it may."""

    def __init__(self) -> None:
        self.begun, self.may_end, self._end = threading.Event(), threading.Event(), settlement.end

    def __call__(self, *args: Any) -> Any:
        self.begun.set()
        assert self.may_end.wait(60)
        return self._end(*args)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    found = Held()
    monkeypatch.setattr(settlement, "end", found)
    return found


@pytest.mark.parametrize("how", ["read", "browse"])
def test_a_reply_does_not_wait_for_its_end_and_a_reader_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Held, how: str
) -> None:
    monkeypatch.setattr("scheduler_patch.service.ledger.ENDED_S", 60.0)

    async def live(played: Played) -> None:
        key = await played.key()
        reply = await asyncio.wait_for(played.relay(charge("cus_1"), key), 60)
        assert reply.status == 200
        assert played.gateway.in_flight == 1
        reading = asyncio.ensure_future(getattr(played.service, how)(queries.calls))
        await asyncio.sleep(0.05)
        held.may_end.set()
        [call] = await reading or []
        assert call["state"] == "settled"
        await asyncio.wait_for(played.gateway.drain(), 60)
        assert played.gateway.in_flight == 0

    run(tmp_path, answer, live)


def test_a_read_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Held) -> None:
    monkeypatch.setattr("scheduler_patch.service.ledger.ENDED_S", 0.01)

    async def live(played: Played) -> None:
        await played.relay(charge("cus_1"), await played.key())
        [call] = await asyncio.wait_for(played.service.read(queries.calls), 60) or []
        assert call["state"] == "pending"
        held.may_end.set()
        await played.until(lambda: not played.gateway.in_flight)

    run(tmp_path, answer, live)


def test_an_end_that_the_ledger_cannot_hear_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.backoff, "LATER", (0.001, 0.002))
    said: list[str] = []
    real = service.LedgerService.end

    async def deaf(self: Any, key: str, end: Any, **more: Any) -> Any:
        said.append(end.kind)
        if len(said) < 3:
            raise LedgerUnavailable("the disk is full")
        return await real(self, key, end, **more)

    monkeypatch.setattr(service.LedgerService, "end", deaf)

    async def live(played: Played) -> None:
        assert (await played.relay(charge("cus_1"), await played.key())).status == 200
        await played.until(lambda: not played.gateway.in_flight)
        assert said == ["settle"] * 3
        [call] = await played.service.read(queries.calls) or []
        assert call["state"] == "settled"

    run(tmp_path, answer, live)


@pytest.mark.parametrize("fails", [1, 99], ids=["once", "always"])
def test_an_end_that_a_mistake_of_ours_stops_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: int
) -> None:
    """Nor is what it said in a log."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(gateway.backoff, "LATER", (0.001, 0.002))
    said: list[str] = []
    real = service.LedgerService.end

    async def mistaken(self: Any, key: str, end: Any, **more: Any) -> Any:
        said.append(end.kind)
        if len(said) <= fails:
            raise UnicodeEncodeError("latin-1", end.answer_body, 0, 1, "no such letter")
        return await real(self, key, end, **more)

    monkeypatch.setattr(service.LedgerService, "end", mistaken)

    async def live(played: Played) -> None:
        key = await played.key()
        assert (await played.relay(charge("cus_1"), key)).status == 200
        await played.until(lambda: not played.gateway.in_flight)
        assert said == ["settle"] * 2
        [call] = await played.service.read(queries.calls) or []
        aside = backlog(tmp_path / "luigi-spendguard" / "spool").refused
        assert (call["state"], aside) == (("settled", 0) if fails == 1 else ("pending", 1))
        assert "no such letter" in caplog.text
        assert str(INTENT["id"]) not in caplog.text

    run(tmp_path, answer, live)


def test_an_end_that_waits_is_on_disk_and_a_gateway_that_ends_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(gateway.backoff, "LATER", (0.005, 0.005))
    monkeypatch.setattr(gateway.Gateway, "grace_s", 0.1)
    deaf, real = [True], service.LedgerService.end

    async def end(self: Any, *args: Any, **more: Any) -> Any:
        if deaf:
            raise LedgerUnavailable("the disk is full")
        return await real(self, *args, **more)

    monkeypatch.setattr(service.LedgerService, "end", end)

    def waits() -> list[int]:
        return [count for count, _ in backlog(tmp_path / "luigi-spendguard" / "spool").waiting.values()]

    async def live(played: Played) -> None:
        assert (await played.relay(charge("cus_1"), await played.key())).status == 200
        await played.until(lambda: waits() == [1])
        await played.until(lambda: bool(played.gateway._kept))
        await played.gateway.drain()
        assert "The ends of 1 call wait in " in caplog.text
        assert "will be in doubt" not in caplog.text
        await played.service.sweep()
        assert waits() == [1], "it is its own"
        deaf.clear()
        await played.until(lambda: not played.gateway.in_flight)
        assert waits() == []

    run(tmp_path, answer, live)


@pytest.mark.parametrize("trouble", ["hangs", "cannot be written"])
def test_a_disk_that_takes_nothing_holds_no_end_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    monkeypatch.setattr(gateway.backoff, "LATER", (0.005, 0.005))
    monkeypatch.setattr(gateway, "DISK_S", 0.1)
    may_end, told, real = threading.Event(), list[str](), service.LedgerService.end

    def keep(*_: Any) -> list[int]:
        if trouble == "hangs":
            may_end.wait(60)
        raise OSError("No space left on device")

    async def end(self: Any, *args: Any, **more: Any) -> Any:
        told.append("end")
        if len(told) < 3:
            raise LedgerUnavailable("it is locked")
        return await real(self, *args, **more)

    monkeypatch.setattr(Spool, "keep", keep)
    monkeypatch.setattr(service.LedgerService, "end", end)

    async def live(played: Played) -> None:
        try:
            assert (await played.relay(charge("cus_1"), await played.key())).status == 200
            await played.until(lambda: not played.gateway.in_flight)
            [call] = await played.service.read(queries.calls) or []
            assert call["state"] == "settled"
            assert ("not put on disk" in caplog.text) is (trouble != "hangs")
        finally:
            may_end.set()

    run(tmp_path, answer, live)


def test_a_reply_that_makes_nothing_waits_for_its_end(tmp_path: Path, held: Held) -> None:
    """An equal call is the same one then: it may come by another luigid."""

    async def decline(request: Request) -> Reply:
        return Reply(402, {}, b'{"error": {"type": "card_error", "code": "card_declined"}}')

    async def live(played: Played) -> None:
        replying = played.relay(charge("cus_1"), await played.key())
        await played.until(held.begun.is_set)
        assert not replying.done()
        held.may_end.set()
        assert (await replying).status == 402
        assert not played.gateway._ends

    run(tmp_path, decline, live)


def test_a_call_waits_for_an_end_that_the_ledger_could_not_hear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "GIVE_UP_S", 1.0)
    monkeypatch.setattr(gateway.backoff, "LATER", (600.0, 600.0))
    deaf, real = [True], service.LedgerService.end

    async def end(self: Any, *args: Any, **more: Any) -> Any:
        if deaf:
            raise LedgerUnavailable("the disk is full")
        return await real(self, *args, **more)

    monkeypatch.setattr(service.LedgerService, "end", end)

    async def live(played: Played) -> None:
        key, other = await played.key(), await played.key()
        assert (await played.relay(charge("cus_1"), key)).status == 200
        assert (await played.relay(charge("cus_2"), key)).status == 503
        assert (await played.relay(charge("cus_3"), other)).status == 200
        deaf.clear()
        assert (await played.relay(charge("cus_4"), key)).status == 200
        assert list(played.gateway._owed) == [key_hash(other)]
        assert (await played.relay(charge("cus_5"), other)).status == 200
        await played.until(lambda: not played.gateway.in_flight)
        assert not played.gateway._owed
        assert len(played.sent) == 4

    run(tmp_path, answer, live)


@pytest.mark.parametrize("failures", [2, 4])
def test_a_call_that_waits_for_an_end_has_it_told_until_the_ledger_hears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """An end that is being told when the call comes, or fails once more, waits for nothing else then."""
    monkeypatch.setattr(gateway.backoff, "LATER", (600.0, 600.0))
    told, real = list[str](), service.LedgerService.end

    async def end(self: Any, key: str, end: Any, **more: Any) -> Any:
        told.append(end.call_id)
        if told.count(end.call_id) <= failures and end.call_id == told[0]:
            raise LedgerUnavailable("the disk is full")
        return await real(self, key, end, **more)

    monkeypatch.setattr(service.LedgerService, "end", end)

    async def live(played: Played) -> None:
        key = await played.key()
        assert (await played.relay(charge("cus_1"), key)).status == 200
        replies = await asyncio.gather(*(played.relay(charge(f"cus_{n}"), key) for n in (2, 3)))
        assert [reply.status for reply in replies] == [200, 200]
        await played.until(lambda: not played.gateway.in_flight)
        assert not played.gateway._owed
        assert (len(played.sent), told.count(told[0])) == (3, failures + 1)
        calls = await played.service.read(queries.calls) or []
        assert [call["state"] for call in calls] == ["settled"] * 3

    run(tmp_path, answer, live)
