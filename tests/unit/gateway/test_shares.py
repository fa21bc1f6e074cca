"""One key's calls, forms and replies leave room for another's: by counts, in a gateway of this process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard import guard
from luigi_spendguard.config import Settings, VendorSettings
from luigi_spendguard.guard.effects import Send
from luigi_spendguard.http.relay import ClientCall
from luigi_spendguard.ledger import keys
from luigi_spendguard.money import Micros
from luigi_spendguard.redaction import is_in
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors import Quote, Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from luigi_spendguard.vendors.stripe import API_BASE, Stripe
from scheduler_patch.gateway import CALLS_OF_A_KEY, Gateway
from scheduler_patch.gateway.replies import Room
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService

SECRET = "sk_test_canary_secret"
LIST = Request("GET", f"{API_BASE}/v1/charges", {}, b"")
INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "status": "succeeded",
    "amount": 100,
    "amount_received": 100,
    "currency": "usd",
}


def charge(customer: str, more: bytes = b"") -> Request:
    body = f"amount=100&currency=usd&customer={customer}&confirm=true&payment_method=pm_x".encode()
    kind = {"content-type": "application/x-www-form-urlencoded"}
    return Request("POST", f"{API_BASE}/v1/payment_intents", kind, body + more)


def unread(gateway: Gateway, key: str) -> Room:
    """Return the room of a reply that nobody takes."""
    room = gateway.room(key, lambda: None)
    room.close()
    return room


class Played:
    """A gateway whose vendor is `answer`; `sent` are its books."""

    def __init__(self, folder: Path, answer: Callable[[Request], Awaitable[Reply]]) -> None:
        caps = Caps(default=Micros(10**8))
        vendors = {"stripe": VendorSettings("stripe", SECRET)}
        self.service = LedgerService(Settings(folder / "books.db", caps, vendors=vendors), BudgetScheduler())
        self.gateway, self.caps, self.sent = Gateway(self.service), caps, list[Request]()

        async def send(effect: Send, timeout_s: float, room: Room) -> Reply:
            self.sent.append(effect.request)
            return await answer(effect.request)

        self.gateway._send = send  # The vendor is played.

    async def key(self) -> str:
        return (await self.service.record(keys.issue, keys.Terms("stripe", ttl_ms=60_000), self.caps))[1]

    def relay(self, request: Request, key: str, **more: Any) -> asyncio.Task[Reply]:
        call = ClientCall(VENDORS["stripe"], request, **more)
        return asyncio.ensure_future(self.gateway.relay(call, key, unread(self.gateway, key)))

    async def until(self, condition: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        await asyncio.wait_for(wait(), 60)

    async def close(self) -> None:
        await self.gateway.close()
        self.service.close()


def run(folder: Path, answer: Any, live: Callable[[Played], Awaitable[None]]) -> None:
    async def whole() -> None:
        played = Played(folder, answer)
        try:
            await live(played)
        finally:
            await played.close()

    asyncio.run(whole())


def test_slow_reads_of_one_key_leave_connections_to_anothers_charge(tmp_path: Path) -> None:
    free = asyncio.Event()

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            await free.wait()
            return Reply(200, {}, b"{}")
        return Reply(200, {}, json.dumps(INTENT).encode())

    async def live(played: Played) -> None:
        busy, other = await played.key(), await played.key()
        slow = [played.relay(LIST, busy) for _ in range(270)]
        await played.until(lambda: len(played.sent) == CALLS_OF_A_KEY)
        reply = await asyncio.wait_for(played.relay(charge("cus_1"), other), 60)
        assert reply.status == 200
        assert [request.method for request in played.sent] == [*["GET"] * CALLS_OF_A_KEY, "POST"]
        free.set()
        assert {reply.status for reply in await asyncio.gather(*slow)} == {200}
        assert len(played.sent) == 271
        assert played.gateway.calls._held == {}

    run(tmp_path, answer, live)


def test_long_forms_of_one_key_leave_threads_to_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, reading = threading.Event(), list[str]()
    real = Stripe.quote

    def quote(self: Stripe, request: Request, *more: Any) -> Quote:
        if b"slow" in request.body:
            reading.append(threading.current_thread().name)
            assert free.wait(60)
        return real(self, request, *more)

    async def answer(request: Request) -> Reply:
        return Reply(200, {}, json.dumps(INTENT).encode())

    async def live(played: Played) -> None:
        busy, other = await played.key(), await played.key()
        long = b"&description=slow" + b"x" * 5000
        slow = [played.relay(charge(f"cus_{number}", long), busy) for number in range(12)]
        await played.until(lambda: bool(reading))
        quick = b"&description=quick" + b"x" * 5000
        reply = await asyncio.wait_for(played.relay(charge("cus_q", quick), other), 60)
        assert (reply.status, len(reading)) == (200, 1)
        free.set()
        await asyncio.gather(*slow)
        assert threading.main_thread().name not in reading

    monkeypatch.setattr(Stripe, "quote", quote)
    run(tmp_path, answer, live)


def test_a_long_reply_is_searched_in_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[tuple[int, str]] = []

    def look(data: bytes, secret: str) -> bool:
        searched.append((len(data), threading.current_thread().name))
        return is_in(data, secret)

    async def answer(request: Request) -> Reply:
        return Reply(200, {}, b"x" * (31 << 20))

    async def live(played: Played) -> None:
        reply = await played.relay(LIST, await played.key())
        assert len(reply.body) == 31 << 20

    monkeypatch.setattr(guard, "is_in", look)
    run(tmp_path, answer, live)
    assert [name for size, name in searched if size > 1000] != []
    assert threading.main_thread().name not in [name for size, name in searched if size > 1000]


def test_a_call_whose_client_has_gone_before_its_turn_is_not_made(tmp_path: Path) -> None:
    free = asyncio.Event()

    async def answer(request: Request) -> Reply:
        await free.wait()
        return Reply(200, {}, b"{}")

    async def live(played: Played) -> None:
        key = await played.key()
        slow = [played.relay(LIST, key) for _ in range(CALLS_OF_A_KEY)]
        await played.until(lambda: len(played.sent) == CALLS_OF_A_KEY)
        late = played.relay(charge("cus_1"), key, is_gone=lambda: True)
        free.set()
        await asyncio.gather(*slow, late)
        assert [request for request in played.sent if request.method == "POST"] == []

    run(tmp_path, answer, live)


def test_more_than_a_keys_queue_holds_may_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = asyncio.Event()

    async def answer(request: Request) -> Reply:
        await free.wait()
        return Reply(200, {}, b"{}")

    async def live(played: Played) -> None:
        key = await played.key()
        slow = [played.relay(LIST, key) for _ in range(CALLS_OF_A_KEY + 5)]
        await played.until(lambda: len(played.sent) == CALLS_OF_A_KEY)
        reply = await played.relay(LIST, key)
        assert (reply.status, reply.headers["stripe-should-retry"]) == (503, "true")
        free.set()
        await asyncio.gather(*slow)

    monkeypatch.setattr("scheduler_patch.service.shares.LONGEST_QUEUE", 5)
    run(tmp_path, answer, live)


@pytest.mark.parametrize("start", [0, 1, (1 << 18) - 10, 1 << 18, (1 << 19) - 1, (1 << 20) - 21])
def test_a_secret_is_found_wherever_it_stands_in_a_long_reply(start: int) -> None:
    data = bytearray(b"x" * (1 << 20))
    data[start : start + len(SECRET)] = SECRET.encode()
    assert is_in(bytes(data), SECRET)
    assert not is_in(b"x" * (1 << 20), SECRET)
