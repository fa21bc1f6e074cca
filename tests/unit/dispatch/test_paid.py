"""Who has paid and died is dispatched even at the cap; who has completed since pays like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import claims, runs, snapshot
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol.rpcs import ClaimRequest, FinishRequest
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.dispatch import READY
from scheduler_patch.local import LocalLedgerClient
from tests.support.books import Books
from tests.support.local_clients import local_clients


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "books.db")
    yield made
    made.ledger.close()


def paid(books: Books) -> list[str]:
    return sorted(books.write(snapshot.start, books.caps).paid)


def test_a_batch_that_has_paid_is_known_by_its_members_after_a_restart(books: Books) -> None:
    key = books.claim("Batch_ab", members=("A", "B"))
    books.reserve(key, books.ask(50))
    assert paid(books) == ["A", "B", "Batch_ab"]
    books.write(claims.finish, books.last_claim, "failed")
    assert paid(books) == ["A", "B", "Batch_ab"]
    books.write(claims.count_completion, "A")  # By itself, or in another batch.
    assert paid(books) == ["B", "Batch_ab"]


def test_what_has_completed_since_has_not_paid(books: Books) -> None:
    books.reserve(books.claim("Batch_ab", members=("A", "B")), books.ask(50))
    books.write(claims.finish, books.last_claim, "completed")
    assert paid(books) == []
    assert books.read(snapshot.changes, 0).paid == []
    books.reserve(books.claim("A"), books.ask(10))
    assert paid(books) == ["A"]
    assert books.read(snapshot.changes, 0).paid == ["A"]


@pytest.fixture
def port(books: Books) -> Iterator[LocalLedgerClient]:
    with local_clients(stable_done_cooldown_secs=0) as make:
        yield make(Settings(books.path, Caps(default=Micros(100))))


def test_the_gate_forgets_that_a_task_has_paid_when_it_completes(
    books: Books, port: LocalLedgerClient
) -> None:
    gate = port._scheduler.gate
    port._scheduler.add_task(task_id="A", worker="w", family="Charge", spendguard={"run_id": "run"})
    assert port._scheduler.get_work(worker="w", host="h")["task_id"] == "A"
    claimed = port.claim(ClaimRequest("one", "A", "Charge", "w", "run"))
    port.reserve(claimed.vault_key, books.ask(100))
    assert gate.state.task("A").paid
    port.finish(FinishRequest("one", "completed"))
    assert not gate.state.task("A").paid
    port._scheduler.add_task(task_id="A", worker="w", status="DONE", family="Charge")
    # Its output is taken away: in that run its calls are answered as before, whatever is left of the cap.
    port._scheduler.add_task(task_id="A", worker="w2", family="Charge", spendguard={"run_id": "run"})
    assert gate.verdict("A") == READY
    # The next period's run has to have room for it.
    books.write(runs.open_run, runs.RunRequest("next", False, "Root", "Root_2", Micros(0)))
    heard(port)
    port._scheduler.add_task(task_id="A", worker="w3", family="Charge", spendguard={"run_id": "next"})
    assert gate.verdict("A", "w3") == "cap"


def test_a_local_scheduler_forgets_it_too_where_a_child_has_finished_the_claim(
    books: Books, port: LocalLedgerClient
) -> None:
    gate = port._scheduler.gate
    port._scheduler.add_task(task_id="A", worker="w", family="Charge", spendguard={"run_id": "run"})
    assert port._scheduler.get_work(worker="w", host="h")["task_id"] == "A"
    key = books.claim("A")
    books.reserve(key, books.ask(50))
    port._scheduler.ping(worker="w")
    assert gate.state.task("A").paid
    books.write(claims.finish, books.last_claim, "completed")
    port._scheduler.add_task(task_id="A", worker="w", status="DONE", family="Charge")
    port._scheduler.ping(worker="w")
    assert not gate.state.task("A").paid
    assert gate.verdict("A") == READY


def heard(port: LocalLedgerClient) -> None:
    """Let the gate of this process hear what others have written."""
    port._do(lambda service: service.refresh())


def test_the_gate_hears_that_a_task_has_completed_at_another_luigid(
    books: Books, port: LocalLedgerClient
) -> None:
    gate = port._scheduler.gate
    heard(port)
    key = books.claim("Batch_ab", members=("A", "B"))
    books.reserve(key, books.ask(50))
    heard(port)
    assert [gate.state.task(task_id).paid for task_id in ("A", "B", "Batch_ab")] == [True] * 3
    books.write(claims.finish, books.last_claim, "completed")
    heard(port)
    assert not gate.state.remembered, "it would stay with the run of then"


def test_the_gate_hears_that_its_run_has_ended_there_with_the_tasks_that_are_done(
    books: Books, port: LocalLedgerClient
) -> None:
    gate = port._scheduler.gate
    books.write(runs.open_run, runs.RunRequest("Root_1", True, "Root", "Root_1", Micros(100)))
    books.reserve(books.claim("A", "Root_1"), books.ask(50))
    books.write(claims.finish, books.last_claim, "returned")
    heard(port)
    assert gate.state.task("A").paid
    books.write(claims.close_run, "Root_1", None, ["A"])
    heard(port)
    assert not gate.state.task("A").paid


def test_what_went_on_elsewhere_when_it_began_is_set_aside_until_it_has_ended(books: Books) -> None:
    books.claim("A", max_cost=Micros(70))
    with local_clients() as make:
        port = make(Settings(books.path, Caps(default=Micros(100))))
        heard(port)
        state = port._scheduler.gate.state
        [budget] = state.tasks["A"].counted_in
        assert budget.counted == 70
        books.write(claims.finish, books.last_claim, "failed")
        heard(port)
        assert (budget.counted, budget.running, state.task("A").claimed_by) == (0, 0, None)


def test_what_it_is_claimed_for_elsewhere_is_not_what_it_is_dispatched_for_here(books: Books) -> None:
    """It is paid by the run that it is submitted for, though the other one goes on."""
    books.claim("A")
    books.write(runs.open_run, runs.RunRequest("next", False, "Root", "Root_2", Micros(100)))
    with local_clients() as make:
        port = make(Settings(books.path, Caps(default=Micros(100))))
        heard(port)
        gate = port._scheduler.gate
        port._scheduler.add_task(task_id="A", worker="w", family="Charge", spendguard={"run_id": "next"})
        assert gate.paying_run("A", "w") == "next"
        books.write(claims.finish, books.last_claim, "completed")
        heard(port)
        assert gate.paying_run("A", "w") == "next"


def test_what_has_completed_elsewhere_is_paid_by_the_run_that_it_is_due_again_for(books: Books) -> None:
    """Its own goes on here, where nobody has looked since: for that it would get the answer of then."""
    books.claim("A")
    books.write(runs.open_run, runs.RunRequest("next", False, "Root", "Root_2", Micros(100)))
    with local_clients() as make:
        port = make(Settings(books.path, Caps(default=Micros(100))))
        heard(port)
        gate = port._scheduler.gate
        port._scheduler.add_task(task_id="A", worker="gone", family="Charge", spendguard={"run_id": "run"})
        books.write(claims.finish, books.last_claim, "completed")
        heard(port)
        assert gate.paying_run("A", "gone") == "run"
        scheduled = {"run_id": "next", "announcing": True}
        port._scheduler.add_task(task_id="A", worker="w", family="Charge", spendguard=scheduled)
        heard(port)
        assert gate.paying_run("A", "w") == "next"
