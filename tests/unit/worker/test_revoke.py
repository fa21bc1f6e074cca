"""Ending tasks of a revoked run: the ping thread never waits, a kill never takes the result queue along."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from luigi_spendguard.protocol.rpcs import AcknowledgeRequest
from luigi_spendguard.worker import GuardedWorker, revoke
from luigi_spendguard.worker.results import Results
from luigi_spendguard.worker.revoke import Stopper
from tests.support.processes import wait_until


class Client:
    """A way to the ledger that takes its time."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked: list[tuple[str, str]] = []

    def acknowledge(self, request: AcknowledgeRequest) -> None:
        self.asked.append((request.worker, request.run_id))
        self.answers.wait(20)


def worker_of(client: Client | None = None, queue: Any = None) -> Any:
    """Return a guarded worker of which only the stopping is real."""
    worker: Any = object.__new__(GuardedWorker)
    guard = SimpleNamespace(client=lambda: client, settings=lambda: SimpleNamespace(vendors={}))
    vars(worker).update(_id="w", _running_tasks={}, _guard_state=guard, _task_result_queue=queue)
    return worker


def test_the_ping_thread_sets_a_mark_and_waits_for_nothing() -> None:
    client = Client()
    worker = worker_of(client)
    begun = time.monotonic()
    for number in range(20):
        worker.spendguard_revoke(run_id=f"r{number}", task_ids=["a"])
    assert time.monotonic() - begun < 10, "luigid answers after 20 s"
    wait_until(lambda: client.asked == [("w", "r0")], what="another thread's question")
    worker.spendguard_revoke(run_id="last", task_ids=["a"])
    assert time.monotonic() - begun < 15, "not even while luigid does not answer"
    client.answers.set()
    wait_until(lambda: ("w", "last") in client.asked, what="the last mark")


class Child:
    """A process that does not end by itself."""

    def __init__(self, at_kill: Any = None) -> None:
        self.killed: list[bool] = []
        self.claim_id, self.pid = "claim", None
        self._at_kill = at_kill or (lambda: True)

    def kill(self) -> None:
        self.killed.append(self._at_kill())


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_child_is_killed_only_while_nobody_writes_a_result(wrapped: bool) -> None:
    queue: Any = multiprocessing.get_context("fork").Queue()
    lock = queue._wlock
    child = Child(lambda: not lock.acquire(block=False))
    stopper = Stopper(worker_of(queue=Results(queue) if wrapped else queue))
    lock.acquire()
    killing = threading.Thread(target=stopper._kill, args=("a", child))
    killing.start()
    time.sleep(0.3)  # Nothing happens meanwhile.
    assert child.killed == [], "it may be in the middle of writing its result"
    lock.release()
    killing.join(20)
    assert child.killed == [True], "nobody else could begin to write meanwhile"
    assert lock.acquire(block=False), "and the lock is free again"
    lock.release()
    assert stopper._killed == {"claim"}
    queue.close()


def test_one_that_died_with_the_lock_does_not_keep_the_others_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoke, "GRACE_S", 0.2)
    queue: Any = multiprocessing.get_context("fork").Queue()
    queue._wlock.acquire()
    child = Child()
    Stopper(worker_of(queue=queue))._kill("a", child)
    assert child.killed == [True]
    queue._wlock.release()
    queue.close()


class Queue:
    """A queue that says itself how it is pickled, as multiprocessing's does."""

    def __getstate__(self) -> tuple[str, int]:
        return ("a lock", 1)

    def __setstate__(self, state: tuple[str, int]) -> None:
        self.state = state


def test_a_wrapped_queue_goes_to_a_spawned_child_as_it_is() -> None:
    """Python 3.10 asks the wrapper for `__getstate__`, and every version for `__setstate__`."""
    wrapped: Any = Results(Queue())
    wrapped.last = "a task"
    there = pickle.loads(pickle.dumps(wrapped))
    assert (there.last, there.state) == ("a task", ("a lock", 1))
    assert not hasattr(wrapped, "__setstate__")
