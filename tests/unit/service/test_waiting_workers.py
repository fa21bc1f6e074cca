"""A worker that waits for money is looked at again after a change that may free its tasks, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luigi_spendguard.protocol.rpcs import BlockedReply, BlockedRequest
from scheduler_patch.dispatch import endings, holds, workers
from scheduler_patch.dispatch.feed import approve, draw
from scheduler_patch.dispatch.model import Announcement
from scheduler_patch.dispatch.reasons import Reasons
from scheduler_patch.scheduler import BudgetScheduler, slices
from scheduler_patch.service import blocked
from scheduler_patch.service.blocked import explain_blocked
from tests.support.gates import budget, day, fed
from tests.support.luigids import Luigid

USD = 1_000_000


class Waiting:
    """A service of which worker `w` waits for its tasks of run `r1`, each of $1."""

    def __init__(self, tasks: int = 1) -> None:
        self.scheduler = BudgetScheduler()
        self.state = self.scheduler.gate.state
        self.told: dict[str, Any] = {}
        for number in range(tasks):
            said = {"run_id": "r1", "max_cost_usd": "1"}
            self.scheduler.add_task(worker="w", task_id=f"T{number}", family="V", spendguard=said)
        #: How often it was looked at.
        self.looks = 0
        self._verdicts_of = self.scheduler.verdicts_of
        self.scheduler.verdicts_of = self._count

    def _count(self, worker: str) -> Any:
        self.looks += 1
        return self._verdicts_of(worker)

    async def asked(self, wait_s: float = 30, worker: str = "w") -> BlockedReply:
        service: Any = SimpleNamespace(scheduler=self.scheduler, state=self.state, told=self.told)
        return await explain_blocked(service, BlockedRequest(worker, wait_s))


async def let_it_look() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    monkeypatch.setattr(blocked, "_LOOK_S", 0)
    made = Waiting()
    fed(made.scheduler.gate, 0, "r1")
    fed(made.scheduler.gate, 9 * USD, "r2")
    return made


def test_what_others_spend_wakes_nobody(waiting: Waiting) -> None:
    async def traffic() -> None:
        reply = asyncio.create_task(waiting.asked())
        for spent in range(1, 5):
            await let_it_look()
            fed(waiting.scheduler.gate, (9 - spent) * USD, "r2", seen=spent)
        await let_it_look()
        assert (waiting.looks, reply.done()) == (1, False)
        fed(waiting.scheduler.gate, 5 * USD, "r1", cap=10 * USD, seen=9)
        assert (await reply).ready == 1

    asyncio.run(traffic())
    assert waiting.looks == 2


def release(waiting: Waiting) -> None:
    """Let another task of the run end that money was set aside for."""
    waiting.scheduler.add_task(worker="v", task_id="other", family="V", spendguard={"run_id": "r1"})
    gate = waiting.scheduler.gate
    gate.started("other", "r1")
    endings.stopped(gate.state, "other")


@pytest.mark.parametrize(
    "change",
    [
        lambda w: fed(w.scheduler.gate, 1, "r1", seen=1),
        release,
        lambda w: approve(w.state, "r1", "T0", USD, None),
        lambda w: w.scheduler.add_worker("w", [("first_task", "T0")]),
        lambda w: endings.end_run(w.state, "r1"),
        lambda w: w.state.moved(),
        lambda w: holds.look_again(w.state, "T0"),
    ],
    ids=["figures", "release", "approval", "scheduled", "ended", "settings", "duplicate"],
)
def test_it_is_looked_at_after_whatever_may_free_its_tasks(
    waiting: Waiting, change: Callable[[Waiting], None]
) -> None:
    async def changed() -> None:
        reply = asyncio.create_task(waiting.asked())
        await let_it_look()
        change(waiting)
        await let_it_look()
        assert waiting.looks > 1
        reply.cancel()

    asyncio.run(changed())


def test_what_a_task_has_left_is_a_matter_of_the_run_that_it_was_dispatched_for(waiting: Waiting) -> None:
    waiting.scheduler.gate.started("T0", "r1")
    endings.stopped(waiting.scheduler.gate.state, "T0")
    before = waiting.state.versions("w")
    draw(waiting.state, "T0", 0)
    assert waiting.state.versions("w") != before


def test_what_luigid_was_loaded_with_is_everybodys_and_all_runs_are_a_strangers(waiting: Waiting) -> None:
    state = waiting.state
    before = {worker: state.versions(worker) for worker in ("w", "stranger")}
    fed(waiting.scheduler.gate, 1, "r2", seen=1)
    assert [state.versions(worker) == before[worker] for worker in before] == [True, False]
    workers.join(state, "loaded", "r2", "", Announcement("V"))
    before = {worker: state.versions(worker) for worker in ("w", "stranger")}
    fed(waiting.scheduler.gate, 2, "r2", seen=2)
    assert [state.versions(worker) == before[worker] for worker in before] == [False, False]


def test_a_change_that_frees_nothing_is_looked_at_once(waiting: Waiting) -> None:
    async def changed() -> None:
        reply = asyncio.create_task(waiting.asked(1))
        await let_it_look()
        fed(waiting.scheduler.gate, 1, "r1", seen=1)
        await reply

    asyncio.run(changed())
    assert waiting.looks == 3, "at the beginning, after the change and at the end"


def test_a_day_that_has_more_is_everybodys_and_one_that_has_less_is_nobodys(waiting: Waiting) -> None:
    gate = waiting.scheduler.gate
    day(gate, 5 * USD, cap=9 * USD, seen=1)
    before = waiting.state.versions("w")
    day(gate, 4 * USD, cap=9 * USD, seen=2)
    assert waiting.state.versions("w") == before
    day(gate, 6 * USD, cap=9 * USD, seen=3)
    assert waiting.state.versions("w") != before


def test_what_another_run_gives_back_to_the_day_is_everybodys(waiting: Waiting) -> None:
    gate = waiting.scheduler.gate
    day(gate, 5 * USD, cap=9 * USD)
    said = {"run_id": "r2", "max_cost_usd": "1"}
    waiting.scheduler.add_task(worker="v", task_id="other", family="V", spendguard=said)
    gate.started("other", "r2")
    before = waiting.state.versions("w")
    endings.stopped(gate.state, "other")
    assert waiting.state.versions("w") != before


def test_where_nothing_has_changed_it_is_told_what_it_was_told(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered = []
    stock = Reasons.of_tasks
    monkeypatch.setattr(Reasons, "of_tasks", lambda self: gathered.append(self) or stock(self))
    first, second = asyncio.run(waiting.asked(0.01)), asyncio.run(waiting.asked(0.01))
    assert first == second
    assert len(gathered) == 1
    fed(waiting.scheduler.gate, 0, "r1", "frozen", seen=1)
    third = asyncio.run(waiting.asked(0.01))
    assert [one.code for one in third.why] != [one.code for one in first.why]
    day(waiting.scheduler.gate, 0, cap=USD)
    assert asyncio.run(waiting.asked(0.01)).why != third.why


def test_it_is_told_anew_of_another_balance_and_of_a_task_that_is_due_meanwhile(waiting: Waiting) -> None:
    scheduler = waiting.scheduler
    said = {"run_id": "r1", "max_cost_usd": "1"}
    scheduler.add_task(worker="w", task_id="due later", family="V", deps=["D"], spendguard=said)
    scheduler.add_task(worker="w", task_id="D", family="P")

    def told() -> tuple[int, str]:
        (why,) = asyncio.run(waiting.asked(0.01)).why
        return why.tasks, why.text

    fed(scheduler.gate, 0, "r1", cap=9 * USD)
    assert told() == (1, "cap of $9.00 reached, $9.00 spent") == told()
    fed(scheduler.gate, USD // 2, "r1", cap=9 * USD, seen=1)
    assert told() == (1, "cap of $9.00 reached, $8.50 spent, $0.50 remaining is not enough")
    scheduler.add_task(worker="w", task_id="D", family="P", status="DONE")
    assert told()[0] == 2
    fed(scheduler.gate, 9 * USD, "r1", cap=9 * USD, seen=2)
    day(scheduler.gate, USD // 2, cap=5 * USD)
    assert told() == (2, "daily cap of $5.00 reached, $4.50 spent, $0.50 remaining is not enough")
    day(scheduler.gate, 0, cap=5 * USD)
    assert told() == (2, "daily cap of $5.00 reached, $5.00 spent")
    waiting.state.today.update(
        budget("day", "2026-11-24", 5 * USD, 0, 4 * USD) | {"reserved_micros": USD}, 0, 5 * USD, is_today=True
    )
    assert told() == (2, "daily cap of $5.00 reached, $4.00 spent, $1.00 reserved")


def test_who_has_work_is_not_kept_waiting_and_who_waits_for_others_is(waiting: Waiting) -> None:
    gate, said = waiting.scheduler.gate, {"run_id": "r2", "max_cost_usd": "1"}
    waiting.scheduler.add_task(worker="w", task_id="other", family="V", spendguard=said)

    async def asked() -> None:
        reply = await asyncio.wait_for(waiting.asked(), 20)
        assert (reply.ready, reply.blocked) == (1, 1)
        assert waiting.scheduler.get_work(worker="w", host="h")["task_id"] == "other"
        fed(gate, USD, "r1", cap=USD, seen=1)
        waiting.scheduler.add_task(worker="v", task_id="first", family="V", spendguard={"run_id": "r1"})
        draw(waiting.state, "first", USD)
        gate.started("first", "r1")
        waits = asyncio.create_task(waiting.asked())
        await let_it_look()
        assert not waits.done()
        endings.stopped(gate.state, "first")
        reply = await waits
        assert (reply.ready, reply.waiting) == (1, 0)

    asyncio.run(asked())


def test_what_so_many_were_told_is_remembered(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "_MOST_TOLD", 2)
    for worker in ("w", "v", "u"):
        waiting.scheduler.add_task(worker=worker, task_id="T0", family="V", spendguard={"run_id": "r1"})
        asyncio.run(waiting.asked(0.01, worker))
    assert list(waiting.told) == ["u"]


def test_another_luigi_cfg_is_everybodys(tmp_path: Path) -> None:
    luigid = Luigid(tmp_path)
    luigid.run()
    luigid.add("T0")
    luigid.do(luigid.service.refresh())  # Of the ledger there is no news then.
    before = luigid.gate.state.versions("w")
    luigid.do(luigid.service.reload(luigid.service.settings))
    assert luigid.gate.state.versions("w") != before
    luigid.end()


def test_of_who_waits_no_more_it_is_not(tmp_path: Path) -> None:
    luigid = Luigid(tmp_path)
    luigid.run()
    luigid.add("T0", cost="11")
    for wait_s, told in ((0.01, ["w"]), (0, [])):
        luigid.do(explain_blocked(luigid.service, BlockedRequest("w", wait_s)))
        assert list(luigid.service.told) == told
    luigid.end()


def test_a_slice_lasts_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = [0.0], list[float]()

    async def others() -> None:
        turns.append(now[0])
        now[0] += 1.0  # Theirs is no part of a slice.

    async def look() -> None:
        monkeypatch.setattr(slices.asyncio, "sleep", lambda _: others())
        async for _ in slices.in_slices(range(12)):
            now[0] += slices.SLICE_S / 4

    monkeypatch.setattr(slices.time, "perf_counter", lambda: now[0])
    asyncio.run(look())
    assert len(turns) == 2


def test_others_have_their_turn_while_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0)
    events: list[object] = []

    async def look() -> None:
        async for number in slices.in_slices(range(3)):
            events.append(number)

    async def other() -> None:
        for _ in range(3):
            events.append("other")
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(look(), other())

    asyncio.run(both())
    assert events.index("other") < events.index(2)
    assert [each for each in events if each != "other"] == [0, 1, 2]
