"""Runs take turns at an object: many calls of one do not keep it from another's. By counts alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.protocol import ReserveReply, ReserveRequest
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.stripe import API_BASE
from scheduler_patch.service.shares import ASKED_WITHIN_S, TurnQueue
from tests.unit.gateway.test_shares import INTENT, Played
from tests.unit.gateway.test_shares import run as play


class Line:
    """A queue, asked as the service does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue = TurnQueue(lambda: self.now)
        self.pending: dict[str, ReserveRequest] = {}

    def asks(self, call_id: str, acts_on: str = "in_1", *, relayed: bool = True, verdict: str = "") -> str:
        """Ask for a call, whose run is its first letter; return what it was answered."""
        ask = ReserveRequest(call_id, "stripe", "a", "o", "POST", "/", acts_on=tuple(acts_on.split()))
        ahead = self.queue.ahead(ask, relayed=relayed)
        taken = [one for one in self.pending.values() if {*one.acts_on} & {*ask.acts_on}]
        said = verdict or ("wait" if ahead or taken else "allowed")
        if said == "allowed":
            self.pending[call_id] = ask
        self.queue.told(ask, ReserveReply(said, call_id, object_id=acts_on), call_id[0], relayed=relayed)
        return said

    def ends(self, call_id: str) -> None:
        del self.pending[call_id]


def test_a_runs_second_call_comes_after_anothers_first() -> None:
    line = Line()
    assert line.asks("a0") == "allowed"
    assert {line.asks(f"a{number}") for number in range(1, 9)} == {"wait"}
    assert line.asks("b0") == "wait"
    line.ends("a0")
    assert line.asks("b0") == "wait"  # The other run came before.
    assert line.asks("a5") == "allowed"  # Which of its own does not matter.
    line.ends("a5")
    assert {line.asks(f"a{number}") for number in (1, 2, 9)} == {"wait"}
    assert line.asks("b0") == "allowed"
    line.ends("b0")
    assert line.asks("a1") == "allowed"


def test_nobody_waits_for_who_waits_at_another_object_or_by_another_way() -> None:
    line = Line()
    line.asks("a0")
    line.asks("a1")
    line.pending.clear()
    assert line.asks("b0", "in_2") == "allowed"
    line.pending.clear()
    assert line.asks("b1", relayed=False) == "allowed"
    line.pending.clear()
    assert line.asks("b2") == "wait"


def test_who_waits_at_several_objects_is_met_by_nobody_who_waits_for_him() -> None:
    line = Line()
    line.asks("x0", "in_1")
    line.asks("y0", "in_2")
    assert [line.asks("a0", "in_1 in_2"), line.asks("b0", "in_1 in_2")] == ["wait", "wait"]
    line.pending.clear()
    assert [line.asks("b0", "in_1 in_2"), line.asks("a0", "in_1 in_2")] == ["wait", "allowed"]


@pytest.mark.parametrize("verdict", ["denied", "replayed"])
def test_who_is_refused_or_answered_or_does_not_come_again_keeps_nobody(verdict: str) -> None:
    line = Line()
    line.asks("a0")
    line.asks("a1")
    line.ends("a0")
    assert line.asks("b0") == "wait"
    if verdict == "denied":
        line.asks("a1", verdict=verdict)
    else:
        line.now += ASKED_WITHIN_S / 2
        line.asks("b0")
        line.now += ASKED_WITHIN_S / 2 + 1
    assert line.asks("b0") == "allowed"


@pytest.mark.parametrize("verdict", ["outdated", "look_up"])
def test_who_has_to_look_something_up_again_keeps_his_place(verdict: str) -> None:
    line = Line()
    line.asks("a0")
    line.asks("b0")
    line.ends("a0")
    line.asks("b0", verdict=verdict)
    assert line.asks("a1") == "wait"
    assert line.asks("b0") == "allowed"


def test_the_vendor_is_asked_by_one_run_after_another(tmp_path: Path) -> None:
    free = asyncio.Semaphore(0)

    async def answer(request: Request) -> Reply:
        await free.acquire()
        return Reply(200, {}, json.dumps(INTENT).encode())

    def edit(who: str) -> Request:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return Request("POST", f"{API_BASE}/v1/payment_intents/pi_1", kind, f"description={who}".encode())

    async def live(played: Played) -> None:
        keys = [await played.key() for _ in range(3)]
        calls = [played.relay(edit("busy"), keys[0]) for _ in range(12)]
        await played.until(lambda: len(played.service._turns._waiting) == 11)
        for number in (1, 2):
            calls.append(played.relay(edit(f"other {number}"), keys[number]))
            await played.until(lambda number=number: len(played.service._turns._waiting) == 11 + number)
        for number in range(14):
            free.release()
            await played.until(lambda number=number: len(played.sent) >= min(number + 2, 14))
        assert {reply.status for reply in await asyncio.gather(*calls)} == {200}
        order: list[Any] = [request.body.decode() for request in played.sent]
        assert [order.index(f"description=other {number}") for number in (1, 2)] == [2, 3]
        assert played.service._turns._waiting == {}

    play(tmp_path, answer, live)
