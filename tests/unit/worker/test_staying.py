"""A worker that was given no task stays as long as there is a reason, and not for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import luigi.scheduler
import pytest
from luigi.worker import GetWorkResponse

from luigi_spendguard.errors import LedgerUnavailable, denial
from luigi_spendguard.protocol.rpcs import BlockedReply, BlockedRequest
from luigi_spendguard.worker import GuardedWorker

NOTHING = GetWorkResponse(None, [], 0, 0, 0, "active")


class Scheduler:
    """Answers what is blocked by a script; the last answer is repeated."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.took_over = list(answers), 0

    def take_over(self) -> None:
        self.took_over += 1

    def blocked(self, request: BlockedRequest) -> BlockedReply:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return BlockedReply(*answer, why=(), paused=False, unknown=0, shadow=())


def a_worker(on_blocked: str, *answers: Any) -> GuardedWorker:
    worker = GuardedWorker(
        scheduler=luigi.scheduler.Scheduler(), worker_id="w", wait_interval=0.01, wait_jitter=0
    )
    worker._config.keep_alive = False
    worker._guard.vendor_seen = True
    worker._guard._settings = SimpleNamespace(on_blocked=on_blocked, vendor_tasks=())
    worker._guard._client = Scheduler(*answers)
    return worker


def stays(worker: GuardedWorker, looks: int) -> list[bool]:
    return [bool(worker._keep_alive(NOTHING)) for _ in range(looks)]


def test_one_that_became_ready_after_get_work_is_asked_for_once_more() -> None:
    worker = a_worker("exit", (0, 1, 0))
    assert stays(worker, 1) == [True]


def test_what_others_have_left_is_looked_for_while_it_stays() -> None:
    worker = a_worker("wait", (1, 0, 0))
    stays(worker, 3)
    assert worker._guard._client.took_over == 3


def test_one_that_luigi_holds_back_is_left_in_the_end() -> None:
    worker = a_worker("exit", (0, 1, 0))
    assert stays(worker, 5)[-1] is False


def test_work_that_was_given_begins_the_looks_again() -> None:
    worker = a_worker("exit", (0, 1, 0))
    while stays(worker, 1)[0]:
        pass
    worker._create_task_process(luigi.Task())
    assert stays(worker, 1) == [True]


@pytest.mark.parametrize(("on_blocked", "expected"), [("exit", False), ("wait", True)])
def test_what_is_blocked_keeps_a_worker_that_is_to_wait(on_blocked: str, expected: bool) -> None:
    assert stays(a_worker(on_blocked, (1, 0, 0)), 5) == [expected] * 5
    assert stays(a_worker(on_blocked, (0, 0, 1)), 5) == [True] * 5
    assert stays(a_worker(on_blocked, (0, 0, 0)), 1) == [False]


def slept(worker: GuardedWorker, monkeypatch: pytest.MonkeyPatch, looks: int) -> int:
    sleeps: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr("luigi.worker.time.sleep", sleeps.append)
        sleeper = worker._sleeper()
        for _ in range(looks):
            assert worker._keep_alive(NOTHING)
            next(sleeper)
    return len(sleeps)


def test_a_worker_sleeps_unless_the_scheduler_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Luigi holds a ready task back (a resource is busy): the scheduler answers at once, every time."""
    assert slept(a_worker("wait", (0, 1, 0)), monkeypatch, 10) == 9
    assert slept(a_worker("wait", (3, 0, 0), (2, 1, 0), (1, 2, 0)), monkeypatch, 3) == 0, "it has news"


def test_a_scheduler_that_is_away_for_a_moment_does_not_end_a_waiting_worker() -> None:
    gone = LedgerUnavailable("it restarts")
    assert stays(a_worker("wait", (1, 0, 0), gone, gone, (0, 0, 0)), 4) == [True, True, True, False]
    assert stays(a_worker("wait", gone, (1, 0, 0)), 2) == [True, True], "nothing was heard before"
    assert stays(a_worker("exit", gone), 1) == [False]
    assert stays(a_worker("wait", (1, 0, 0), denial("scope", "a wrong token")), 2) == [True, False]


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = a_worker("wait", (1, 0, 0), LedgerUnavailable("it is gone"))
    assert stays(worker, 2) == [True, True]
    monkeypatch.setattr("luigi_spendguard.worker.state.KEPT_S", 0.0)
    assert stays(worker, 1) == [False]
