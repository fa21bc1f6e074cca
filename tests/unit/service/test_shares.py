"""What one key may hold at once, and who goes on when some of it is free; how wrong keys are counted."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_patch.service import shares
from scheduler_patch.service.shares import (
    REMEMBERED_PEERS,
    WRONG_LIMIT,
    WRONG_WINDOW_S,
    Shares,
    Throttle,
    TooMany,
)


def waiting(made: Shares, key: str, amount: int = 1) -> asyncio.Task[None]:
    return asyncio.ensure_future(made.take(key, amount))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_key_holds_its_share_and_others_are_served_at_once() -> None:
    async def live() -> None:
        made = Shares(3, 100)
        tasks = [waiting(made, "busy") for _ in range(10)]
        await settle()
        assert made.held("busy") == sum(task.done() for task in tasks) == 3
        await made.take("other")
        made.give_back("busy")
        await settle()
        assert sum(task.done() for task in tasks) == 4
        for task in tasks:
            task.cancel()

    asyncio.run(live())


def test_a_part_is_kept_for_keys_that_hold_nothing() -> None:
    async def live() -> None:
        made = Shares(50, 100)
        tasks = [waiting(made, key) for key in "abc" for _ in range(50)]
        await settle()
        assert sum(task.done() for task in tasks) == 76
        for number in range(24):
            await asyncio.wait_for(made.take(f"new {number}"), 1)
        last = waiting(made, "one more")
        await settle()
        assert not last.done()
        for task in [*tasks, last]:
            task.cancel()

    asyncio.run(live())


def test_keys_take_turns() -> None:
    async def live() -> None:
        made = Shares(2, 2)
        await made.take("a", 2)
        order: list[str] = []
        tasks = [waiting(made, key) for key in ("b", "b", "b", "c", "d")]
        for task, key in zip(tasks, "bbbcd", strict=True):
            task.add_done_callback(lambda _, key=key: order.append(key))
        await settle()
        made.give_back("a", 2)
        await settle()
        for key in ("b", "c", "d", "b"):
            made.give_back(key)
            await settle()
        assert order == ["b", "c", "d", "b", "b"]

    asyncio.run(live())


def test_more_than_a_share_is_held_by_who_holds_nothing_else() -> None:
    async def live() -> None:
        made = Shares(10, 20)
        await made.take("a", 17)
        second = waiting(made, "a", 1)
        await settle()
        assert not second.done()
        made.give_back("a", 17)
        await settle()
        assert second.done()

    asyncio.run(live())


@pytest.mark.parametrize("after", ["before its turn", "with its turn"])
def test_who_gives_up_holds_nothing(after: str) -> None:
    async def live() -> None:
        made = Shares(1, 10)
        await made.take("a")
        gives_up, next_one = waiting(made, "a"), waiting(made, "a")
        await settle()
        if after == "with its turn":
            made.give_back("a")
        gives_up.cancel()
        await settle()
        if after != "with its turn":
            made.give_back("a")
            await settle()
        assert next_one.done()
        made.give_back("a")
        assert (made.held("a"), made._taken, made._waiting) == (0, 0, {})

    asyncio.run(live())


def test_a_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        made = Shares(1, 10)
        await made.take("a")
        tasks = [waiting(made, "a") for _ in range(3)]
        await settle()
        with pytest.raises(TooMany):
            await made.take("a")
        await made.take("b")
        for task in tasks:
            task.cancel()

    monkeypatch.setattr(shares, "LONGEST_QUEUE", 3)
    asyncio.run(live())


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_peer_that_shows_too_many_wrong_ones_is_told_so_and_others_are_not() -> None:
    throttle = Throttle(Clock())
    assert not any(throttle.was_wrong("10.0.0.1") for _ in range(WRONG_LIMIT))
    assert throttle.was_wrong("10.0.0.1")
    assert not throttle.was_wrong("10.0.0.2")
    assert throttle.failed == WRONG_LIMIT + 2


def test_wrong_ones_are_forgotten_after_a_while() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(WRONG_LIMIT):
        throttle.was_wrong("10.0.0.1")
    clock.now += WRONG_WINDOW_S + 1
    assert not throttle.was_wrong("10.0.0.1")


def test_so_many_peers_are_remembered_and_no_more() -> None:
    throttle = Throttle(Clock())
    for number in range(REMEMBERED_PEERS + 50):
        throttle.was_wrong(str(number))
    assert len(throttle._wrong) == REMEMBERED_PEERS
