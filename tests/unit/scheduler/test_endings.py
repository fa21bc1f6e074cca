"""However a task ends, what was counted for it is released: by Luigi's word alone, and by the claim's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler_patch.dispatch import WAIT, workers
from scheduler_patch.service import operators
from tests.support.luigids import USD, Attempt, Luigid


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1_700_000_000.0]
    monkeypatch.setattr("luigi.scheduler.time.time", lambda: clock[0])
    return clock


@pytest.fixture
def luigid(tmp_path: Path, now: list[float]) -> Iterator[Luigid]:
    made = Luigid(tmp_path)
    made.run()
    yield made
    made.end()


Ending = Callable[[Luigid, list[float]], None]


def reported(**said: object) -> Ending:
    return lambda luigid, now: luigid.scheduler.add_task(task_id="a", worker="w", **said)


def lost(luigid: Luigid, now: list[float]) -> None:
    """The worker is not heard of any more; another one is."""
    now[0] += 61
    luigid.scheduler.ping(worker="other")
    luigid.scheduler.prune()


def taken_back(luigid: Luigid, now: list[float]) -> None:
    """Its run is revoked and the reply that handed it out was lost."""
    luigid.do(operators.revoke(luigid.service, "r"))
    assert luigid.work(current_tasks=[]) is None


def dropped(luigid: Luigid, now: list[float]) -> None:
    luigid.scheduler._state.inactivate_tasks(["a"])


def marked_as_done(luigid: Luigid, now: list[float]) -> None:
    luigid.scheduler.mark_as_done(task_id="a")


ENDINGS = {
    "done": reported(status="DONE"),
    "failed": reported(status="FAILED"),
    "blocked": reported(spendguard_blocked={"reason": "cap"}),
    "yielded": reported(status="PENDING", new_deps=["b"]),
    "worker lost": lost,
    "taken back": taken_back,
    "mark_as_done": marked_as_done,
    "dropped": dropped,
}


@pytest.mark.parametrize("claimed", [False, True], ids=["unclaimed", "claimed"])
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_nothing_is_counted_for_what_has_ended(
    luigid: Luigid, now: list[float], ending: Ending, claimed: bool
) -> None:
    luigid.add("a", cost="6")
    assert luigid.work() == "a"
    if claimed:
        luigid.call(luigid.claim("a", cost=6), 2)
    assert luigid.counted() == (4 if claimed else 6) * USD
    ending(luigid, now)
    assert luigid.counted() == 0
    entry = luigid.gate.state.tasks.get("a")
    assert entry is None or (entry.counted_in, entry.claimed_by) == ([], None)


@pytest.mark.parametrize("outcome", ["completed", "failed", "yielded", "blocked", "died"])
def test_the_end_of_the_attempt_is_enough(luigid: Luigid, outcome: str) -> None:
    luigid.add("a", cost="6")
    luigid.work()
    luigid.finish(luigid.claim("a", cost=6), outcome)
    assert luigid.counted() == 0


def test_the_late_end_of_an_earlier_attempt_is_not(luigid: Luigid, now: list[float]) -> None:
    luigid.add("a", cost="6")
    luigid.add("a", cost="6", worker="w2")
    luigid.work()
    first: Attempt = luigid.claim("a", cost=6)
    luigid.scheduler.add_task(task_id="a", worker="w", status="FAILED")
    luigid.scheduler.forgive_failures(task_id="a")
    assert luigid.work("w2") == "a"
    luigid.claim("a", "w2", cost=6)
    luigid.finish(first)
    assert luigid.counted() == 6 * USD


def test_a_dropped_task_is_no_part_of_its_run_any_more(luigid: Luigid) -> None:
    for task_id in "ab":
        luigid.add(task_id, cost="3")
    luigid.scheduler._state.inactivate_tasks(["a"])
    assert list(luigid.gate.state.tasks) == list(luigid.gate.state.runs["r"].tasks) == ["b"]
    luigid.scheduler.add_worker("w", [("first_task", "b")])
    assert luigid.shown()["forecast_usd"] == "3.00"


def test_what_a_lost_worker_was_still_scheduling_waits_for_nobody(luigid: Luigid, now: list[float]) -> None:
    luigid.gate.state.rules.forecast = "hold"
    luigid.add("a", cost="3")
    assert luigid.gate.verdict("a") == WAIT
    lost(luigid, now)
    assert luigid.gate.verdict("a") == "forecast"


class TestAfterARestart:
    """Only the ledger knows of an open claim; its worker may come back, or never."""

    @pytest.fixture
    def restarted(self, luigid: Luigid) -> Luigid:
        luigid.add("a", cost="6")
        luigid.work()
        luigid.call(luigid.claim("a", cost=6), 2)
        luigid.restart(pickle=False)
        return luigid

    def test_a_worker_that_does_not_come_back_is_given_up(self, restarted: Luigid, now: list[float]) -> None:
        now[0] += 59
        restarted.scheduler.prune()
        assert restarted.counted() == 4 * USD
        now[0] += 2
        restarted.scheduler.prune()
        assert restarted.counted() == 0

    def test_so_is_one_whose_task_another_worker_needs(self, restarted: Luigid, now: list[float]) -> None:
        now[0] += 61
        restarted.add("a", worker="w2", cost="6")
        restarted.scheduler.prune()
        assert restarted.counted() == 0

    def test_one_that_is_heard_of_keeps_its_count(self, restarted: Luigid, now: list[float]) -> None:
        now[0] += 61
        restarted.scheduler.ping(worker="w")
        restarted.scheduler.prune()
        assert restarted.counted() == 4 * USD


class TestDisabledWorkers:
    """`disable_worker`: what the worker runs may end, and nothing more is handed out to it."""

    def test_its_running_task_ends_as_any_other(self, luigid: Luigid) -> None:
        luigid.add("a", cost="6")
        luigid.work()
        attempt = luigid.claim("a", cost=6)
        luigid.scheduler.disable_worker("w")
        assert luigid.counted() == 6 * USD
        luigid.fail(attempt)
        assert luigid.counted() == 0
        assert luigid.work() is None

    def test_its_blocked_tasks_keep_no_count_and_are_nobodys_to_run(self, luigid: Luigid) -> None:
        luigid.add("a", cost="11")
        luigid.scheduler.disable_worker("w")
        assert luigid.work() is None
        assert luigid.counted() == 0
        assert luigid.scheduler.count_pending(worker="w")["n_pending_tasks"] == 0

    def test_its_task_in_a_revoked_run_makes_no_further_call(self, luigid: Luigid) -> None:
        luigid.add("a", cost="6")
        luigid.work()
        attempt = luigid.claim("a", cost=6)
        luigid.scheduler.disable_worker("w")
        luigid.do(operators.revoke(luigid.service, "r"))
        assert luigid.call(attempt).reason == "revoked"
        assert workers.to_stop(luigid.gate.state, "w") == {"r": ["a"]}
        luigid.finish(attempt, "blocked")
        luigid.scheduler.add_task(task_id="a", worker="w", spendguard_blocked={"reason": "revoked"})
        assert (luigid.counted(), luigid.work(), luigid.work("w2")) == (0, None, None)
        assert luigid.shown()["spent_usd"] == "0.00"
