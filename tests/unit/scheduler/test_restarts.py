"""A luigid restart, with and without its pickle: which run a task stays with, why it is held, who runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.money import Micros
from luigi_spendguard.protocol.operators import TopUpRequest
from scheduler_patch.dispatch import workers
from scheduler_patch.service import operators
from tests.support.gates import blocked
from tests.support.luigids import USD, Luigid

both_ways = pytest.mark.parametrize("pickle", [True, False], ids=["with pickle", "without"])


@pytest.fixture
def luigid(tmp_path: Path) -> Iterator[Luigid]:
    made = Luigid(tmp_path)
    made.run("r")
    made.run("r2")
    yield made
    made.end()


@both_ways
def test_a_task_that_has_paid_stays_with_its_run_while_that_is_known(luigid: Luigid, pickle: bool) -> None:
    """Else it is the run's that needs it now, and repeats what it has paid."""
    luigid.add("a", cost="10")
    assert luigid.work() == "a"
    attempt = luigid.claim("a", cost=10)
    luigid.call(attempt, 10)
    luigid.fail(attempt)
    luigid.restart(pickle=pickle)
    luigid.add("a", "r2", "w2", "10")
    luigid.add("b", "r2", "w2", "10", priority=1)
    assert luigid.work("w2") == "b"
    luigid.call(luigid.claim("b", "w2", cost=10), 10, "cus_b")
    assert luigid.work("w2") == "a", "the cap of the run is reached"
    again = luigid.claim("a", "w2", cost=10)
    assert (again.run_id, luigid.call(again, 10).verdict) == ("r" if pickle else "r2", "replayed")


def test_the_pickle_remembers_a_dispatch_that_nobody_has_claimed(luigid: Luigid) -> None:
    luigid.add("a")
    luigid.add("a", "r2", "w2")
    assert luigid.work("w2") == "a"
    luigid.scheduler.add_task(task_id="a", worker="w2", status="FAILED")
    luigid.restart(pickle=True)
    assert luigid.gate.paying_run("a", "w") == "r2"


@both_ways
def test_a_member_of_a_batch_that_has_paid_does_too(luigid: Luigid, pickle: bool) -> None:
    for task_id in ("a", "b"):
        luigid.add(task_id, params={"p": task_id}, batchable=True)
    luigid.scheduler.add_task_batcher(worker="w", task_family="V", batched_args=["p"], max_batch_size=2)
    reply = luigid.scheduler.get_work(worker="w", host="h")
    batch = {"task_id": "ab", "worker": "w", "family": "V", "batch_id": reply["batch_id"]}
    luigid.scheduler.add_task(**batch, status="RUNNING", params={"p": "a,b"})
    attempt = luigid.claim("ab")
    luigid.call(attempt)
    luigid.finish(attempt)
    luigid.scheduler.add_task(**batch, status="FAILED")
    luigid.restart(pickle=pickle)
    for task_id in ("a", "b"):
        luigid.add(task_id, "r2", "w2")
    assert {luigid.gate.paying_run(task_id, "w2") for task_id in "ab"} == {"r" if pickle else "r2"}
    assert {luigid.gate.state.tasks[task_id].paid for task_id in "ab"} == {True}


@both_ways
def test_a_task_that_was_denied_is_not_dispatched_to_be_denied_again(luigid: Luigid, pickle: bool) -> None:
    luigid.add("a")
    assert luigid.work() == "a"
    attempt = luigid.claim("a")
    assert luigid.call(attempt, 11).reason == "cap"
    luigid.finish(attempt, "blocked")
    luigid.scheduler.add_task(task_id="a", worker="w", spendguard_blocked={"reason": "cap"})
    luigid.restart(pickle=pickle)
    luigid.add("a")
    assert luigid.work() is None
    assert list(blocked(luigid.scheduler, "w")) == ["a"]
    luigid.do(operators.top_up(luigid.service, TopUpRequest("r", "1")))
    assert luigid.work() == "a"


def test_the_budget_that_denied_it_is_the_one_that_frees_it(tmp_path: Path) -> None:
    luigid = Luigid(tmp_path, task_families={"V": Micros(2 * USD)}, day=Micros(50 * USD))
    luigid.run()
    luigid.add("a")
    luigid.work()
    attempt = luigid.claim("a")
    luigid.call(attempt, 1)
    assert luigid.call(attempt, 2, "cus_2").facts["budget"] == "family"
    luigid.fail(attempt)
    luigid.restart(pickle=False)
    luigid.add("a")
    assert luigid.work() is None
    luigid.caps = luigid.caps.__class__(default=luigid.caps.default, task_families={"V": Micros(3 * USD)})
    luigid.restart(pickle=False)
    luigid.add("a")
    assert luigid.work() == "a"
    luigid.end()


def test_what_has_completed_is_pinned_to_nothing_and_held_by_nothing(luigid: Luigid) -> None:
    luigid.add("a")
    luigid.work()
    attempt = luigid.claim("a")
    assert luigid.call(attempt, 11).reason == "cap"
    luigid.finish(attempt, "completed")
    luigid.scheduler.add_task(task_id="a", worker="w", status="DONE")
    luigid.restart(pickle=False)
    luigid.add("a", "r2", "w2")
    assert luigid.work("w2") == "a"
    assert luigid.claim("a", "w2").run_id == "r2"


def test_what_was_kept_is_still_known_when_its_worker_comes_an_hour_later(
    luigid: Luigid, monkeypatch: pytest.MonkeyPatch
) -> None:
    luigid.add("a")
    luigid.work()
    luigid.call(luigid.claim("a"))
    now = [1_700_000_000.0]
    monkeypatch.setattr("luigi.scheduler.time.time", lambda: now[0])
    luigid.restart(pickle=False)
    for _ in range(60):
        now[0] += 60
        luigid.scheduler.prune()
    assert luigid.gate.state.tasks == {}
    luigid.add("a", "r2", "w2")
    assert luigid.gate.state.tasks["a"].paid
    assert luigid.gate.state.tasks["a"].claimed_for == "r"


class TestCountsOfOpenClaims:
    def test_they_are_counted_again_from_the_ledger(self, luigid: Luigid) -> None:
        luigid.add("a", cost="6")
        luigid.work()
        luigid.call(luigid.claim("a", cost=6), 2)
        luigid.restart(pickle=False)
        assert luigid.counted() == 4 * USD
        luigid.add("b", cost="5")
        assert luigid.work() is None

    def test_an_attempt_that_has_ended_is_not(self, luigid: Luigid) -> None:
        luigid.add("a", cost="6")
        luigid.work()
        luigid.fail(luigid.claim("a", cost=6))
        luigid.restart(pickle=False)
        assert luigid.counted() == 0


class TestRevokedClaims:
    def begun(self, luigid: Luigid) -> list[str]:
        return list(luigid.gate.state.stopping)

    def revoked(self, luigid: Luigid) -> None:
        luigid.do(operators.revoke(luigid.service, "r"))

    def test_a_worker_is_told_again_after_a_restart(self, luigid: Luigid) -> None:
        luigid.add("a")
        luigid.work()
        luigid.claim("a")
        self.revoked(luigid)
        luigid.restart(pickle=False)
        assert workers.to_stop(luigid.gate.state, "w") == {"r": ["a"]}

    def test_not_of_an_attempt_that_has_ended(self, luigid: Luigid) -> None:
        luigid.add("a")
        luigid.work()
        attempt = luigid.claim("a")
        self.revoked(luigid)
        luigid.finish(attempt, "blocked")
        luigid.restart(pickle=False)
        assert self.begun(luigid) == []

    def test_nor_one_that_another_attempt_has_followed(self, luigid: Luigid) -> None:
        for run_id, worker in (("r", "w"), ("r2", "w2")):
            luigid.add("a", run_id, worker)
        luigid.work()
        luigid.claim("a")
        self.revoked(luigid)
        luigid.scheduler.add_task(task_id="a", worker="w", status="FAILED")
        luigid.scheduler.forgive_failures(task_id="a")
        assert luigid.work("w2") == "a"
        luigid.fail(luigid.claim("a", "w2"), "w2")
        luigid.restart(pickle=False)
        assert self.begun(luigid) == []

    @pytest.mark.parametrize("restarted", [False, True])
    def test_nor_workers_that_are_gone(
        self, luigid: Luigid, monkeypatch: pytest.MonkeyPatch, restarted: bool
    ) -> None:
        now = [1_700_000_000.0]
        monkeypatch.setattr("luigi.scheduler.time.time", lambda: now[0])
        luigid.restart(pickle=False)
        luigid.add("a")
        luigid.work()
        luigid.claim("a")
        self.revoked(luigid)
        if restarted:
            luigid.restart(pickle=False)
            assert self.begun(luigid) == ["w"]
        now[0] += 70
        luigid.scheduler.prune()
        assert self.begun(luigid) == []
        luigid.do(luigid.service.sweep())
        luigid.restart(pickle=False)
        assert self.begun(luigid) == []
