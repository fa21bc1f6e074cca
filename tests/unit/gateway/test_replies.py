"""What one key's replies hold, until when, and who is cut off for whom: by counts alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from luigi_spendguard.http.transport import MAX_REPLY
from scheduler_patch.gateway import replies
from scheduler_patch.gateway.replies import REPLIES, REPLIES_OF_A_KEY, SHORT, UNREAD, Replies, Room

WHOLE = REPLIES_OF_A_KEY // MAX_REPLY


class Clients:
    """Rooms, and the clients that were cut off."""

    def __init__(self) -> None:
        self.replies, self.cut = Replies(), list[str]()

    def room(self, who: str = "key", name: str = "") -> Room:
        return Room(self.replies, who, lambda: self.cut.append(name or who))

    async def passed_on(self, who: str = "key", name: str = "", size: int = MAX_REPLY) -> Room:
        room = self.room(who, name)
        await room.hold_most(math.inf)
        await room.keep(size)
        return room

    def held(self, who: str = "key") -> int:
        return self.replies.shares.held(who)


def run(live: Callable[[Clients], Awaitable[None]]) -> None:
    async def bounded() -> None:
        clients = Clients()
        await asyncio.wait_for(live(clients), 60)
        assert clients.replies.passing == {}
        assert clients.replies.shares._held == {}

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "GRACE_S", 0.0)
    monkeypatch.setattr(replies, "LOOK_S", 0.01)


def test_a_short_reply_is_not_counted() -> None:
    async def live(clients: Clients) -> None:
        room = clients.room()
        await room.read(UNREAD, 0)
        await room.keep(UNREAD)
        assert clients.held() == 0

    run(live)


def test_what_is_read_for_one_call_is_counted_together_and_then_what_is_passed_on() -> None:
    async def live(clients: Clients) -> None:
        room = clients.room()
        for _ in range(4):
            await room.read(SHORT // 4, 0)
        assert clients.held() == 0
        await room.read(1, math.inf)
        assert clients.held() == MAX_REPLY
        await room.read(MAX_REPLY, 0)
        await room.keep(100_000)
        assert clients.held() == 100_000
        room.close()
        room.close()
        assert clients.held() == 0

    run(live)


def test_many_middling_replies_that_nobody_takes_are_bounded_too() -> None:
    async def live(clients: Clients) -> None:
        rooms = [clients.room(name=str(number)) for number in range(200)]
        for room in rooms:
            await room.keep(SHORT)
            assert clients.held() <= REPLIES_OF_A_KEY
        assert clients.cut == [str(number) for number in range(200 - REPLIES_OF_A_KEY // SHORT)]
        for room in rooms:
            room.close()

    run(live)


def test_a_call_whose_client_has_gone_is_read_to_its_end_and_holds_nothing_then() -> None:
    async def live(clients: Clients) -> None:
        room = clients.room()
        await room.hold_most(math.inf)
        room.close()
        assert clients.held() == MAX_REPLY
        await room.keep(MAX_REPLY)
        assert clients.held() == 0
        gone = clients.room()
        gone.close()
        await gone.keep(MAX_REPLY)

    run(live)


def test_a_client_is_cut_off_for_its_own_key_and_for_no_other_one() -> None:
    async def live(clients: Clients) -> None:
        other = await clients.passed_on("other")
        rooms = [await clients.passed_on(name=str(number)) for number in range(WHOLE)]
        rooms.append(await clients.passed_on(name="last"))
        assert clients.cut == ["0"]
        for room in [other, *rooms]:
            room.close()

    run(live)


def test_nobody_is_cut_off_while_there_is_room() -> None:
    async def live(clients: Clients) -> None:
        rooms = [await clients.passed_on(name=str(number)) for number in range(WHOLE)]
        await asyncio.sleep(0.1)
        assert clients.cut == []
        for room in rooms:
            room.close()

    run(live)


def test_where_all_is_taken_the_key_that_holds_most_gives_way() -> None:
    async def live(clients: Clients) -> None:
        rooms = [await clients.passed_on("slow")]
        number = 0
        while clients.replies.shares._taken < REPLIES:
            number += 1
            rooms.append(await clients.passed_on(f"k{1 + number // 4}" if number < 6 else f"n{number}"))
        rooms.append(await clients.passed_on("new"))
        most = max(("slow", "k1", "k2"), key=[room.who for room in rooms].count)
        assert clients.cut == [most]
        for room in rooms:
            room.close()

    run(live)


@pytest.mark.parametrize("gone", [False, True])
def test_who_waits_too_long_holds_nothing(gone: bool) -> None:
    async def live(clients: Clients) -> None:
        reading = [clients.room() for _ in range(WHOLE)]
        for room in reading:
            await room.hold_most(math.inf)
        late = clients.room()
        if gone:
            late.close()
        with pytest.raises(TimeoutError):
            await late.read(SHORT + 1, asyncio.get_running_loop().time() + 0.05)
        assert (clients.held(), clients.cut) == (WHOLE * MAX_REPLY, [])
        late.end()
        for room in reading:
            room.end()
        await asyncio.sleep(0.05)

    run(live)
