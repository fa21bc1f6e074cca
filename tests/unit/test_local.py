"""`--local-scheduler`: what other processes do to the ledger reaches the worker's own scheduler."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.ledger import corrections, queries, runs, snapshot
from luigi_spendguard.ledger.audit.blocks import sealed_entry
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.budgets import last_entry
from luigi_spendguard.ledger.database import NOW
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.protocol.rpcs import ClaimRequest, OpenRunRequest
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors import FollowedUp
from scheduler_patch import local
from scheduler_patch.local import LocalLedgerClient, LocalLedgerService
from scheduler_patch.service.sealing import Sealing
from tests.support.alarms import interrupted
from tests.support.books import Books
from tests.support.local_clients import local_clients

USD = 1_000_000


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Books]:
    """The ledger as another process has it open, with the run that the worker's tasks belong to."""
    made = Books(tmp_path / "books.db", 10 * USD)
    yield made
    made.ledger.close()


PortOf = Callable[..., LocalLedgerClient]


@pytest.fixture
def port_of() -> Iterator[PortOf]:
    with local_clients() as make:

        def port(others: Books, **more: Any) -> LocalLedgerClient:
            caps = Caps(default=Micros(10 * USD), single=more.pop("single", None))
            return make(Settings(others.path, caps, **more))

        yield port


def added(port: LocalLedgerClient, task_id: str, cost: str | None = None) -> None:
    said: dict[str, Any] = {"run_id": "run", "announcing": True}
    said |= {} if cost is None else {"max_cost_usd": cost}
    port._scheduler.add_task(task_id=task_id, worker="w", family="Charge", spendguard=said)


def work(port: LocalLedgerClient) -> Any:
    return port._scheduler.get_work(worker="w", host="h")["task_id"]


def test_an_approval_by_another_process_frees_the_task(others: Books, port_of: PortOf) -> None:
    port = port_of(others, single=Micros(2 * USD))
    added(port, "A", "3")
    assert work(port) is None
    others.write(runs.approve, "run", "A", Micros(3 * USD), "once")
    assert work(port) == "A"


def test_counts_are_drawn_down_by_the_calls_of_a_child(others: Books, port_of: PortOf) -> None:
    port = port_of(others)
    added(port, "A", "6")
    assert work(port) == "A"
    key = others.claim("A", max_cost=Micros(6 * USD))  # As its child does, in the ledger's file.
    others.reserve(key, others.ask(2 * USD))
    added(port, "B", "4")
    assert work(port) == "B", "$8 remain, of which A may need 4 more"


def test_a_top_up_and_a_payment_are_heard_of_too(others: Books, port_of: PortOf) -> None:
    port = port_of(others)
    added(port, "A", "11")
    assert work(port) is None
    others.reserve(others.claim("B"), others.ask(USD))
    others.write(runs.top_up, "run", Micros(2 * USD), "once")
    assert work(port) == "A"
    assert port._scheduler.gate.state.task("B").paid


def test_what_the_ledger_refuses_is_a_denial_as_over_luigids_rpcs(others: Books, port_of: PortOf) -> None:
    port = port_of(others)
    added(port, "A")
    assert work(port) == "A"
    with pytest.raises(SpendDenied, match="there is no run other") as denied:
        port.claim(ClaimRequest("c1", "A", "Charge", "w", "other"))
    assert denied.value.reason == "scope"
    with pytest.raises(SpendDenied, match="'half' is no amount"):
        port.open_run(OpenRunRequest("new", False, "Root", "Root", "half"))


def test_a_run_is_opened_and_denied_whatever_is_to_be_said_of_its_prices(
    others: Books, port_of: PortOf
) -> None:
    key = others.claim("A")
    for number in range(30):
        ask = others.ask(1, target=f"cus_{number}")
        others.reserve(key, ask)
        settled = EndRequest("settle", ask.call_id, total_micros=1, object_id=f"SM{number}", price_due=True)
        others.end(key, settled)
        problem = f"message {number} is priced in a currency without a rate".ljust(300, ".")
        others.write(corrections.correct, ask.call_id, FollowedUp(None, problem=problem))
    port, root = port_of(others), OpenRunRequest("run", False, "Root", "Root")
    assert "message 0 is priced" in port.open_run(root).note
    # A ledger of before may have more to say, and no cap.
    others.write(lambda tx: tx.run("UPDATE run SET note = ?", "x" * 5000))
    others.write(lambda tx: tx.run("UPDATE budget SET cap_micros = 0, spent_micros = 0"))
    assert port.open_run(root).note == "x" * 5000
    denied = others.reserve(key, others.ask(1, target="cus_new"))
    assert ReserveReply.from_json(denied.to_json()).reason == "cap"


def pending(others: Books) -> str:
    """Leave a call of a worker that was killed in the middle of it."""
    ask = others.ask(USD, timeout_ms=1)
    others.reserve(others.claim("gone"), ask)
    others.write(lambda tx: tx.run(f"UPDATE call SET granted_at = {NOW} - 10000"))
    return ask.call_id


def states(others: Books) -> list[str]:
    return [call["state"] for call in others.read(queries.calls)]


def test_what_a_killed_worker_left_pending_is_in_doubt_when_the_next_one_begins(
    others: Books, port_of: PortOf
) -> None:
    pending(others)
    port_of(others)
    assert states(others) == ["in_doubt"]


def test_it_is_looked_for_from_time_to_time_not_with_each_question(
    others: Books, monkeypatch: pytest.MonkeyPatch, port_of: PortOf
) -> None:
    now = [1000.0]
    monkeypatch.setattr(local.time, "monotonic", lambda: now[0])
    port = port_of(others)
    added(port, "A")
    pending(others)
    work(port)
    assert states(others) == ["pending"]
    now[0] += 6
    work(port)
    assert states(others) == ["in_doubt"]


def test_old_answers_are_deleted(others: Books, port_of: PortOf) -> None:
    key, ask = others.claim("A"), others.ask(USD)
    others.reserve(key, ask)
    others.end(key, EndRequest("settle", ask.call_id, 1, total_micros=USD, status=200, answer_body="{}"))
    others.write(lambda tx: tx.run("UPDATE exchange SET stored_at = 0"))
    port_of(others)
    assert others.read(lambda tx: tx.value("SELECT count(*) FROM exchange")) == 0


def test_a_forked_child_reaches_the_file_without_reading_all_of_it(
    others: Books, monkeypatch: pytest.MonkeyPatch, port_of: PortOf
) -> None:
    port = port_of(others)
    added(port, "A")
    assert work(port) == "A"

    def never(*_: Any) -> None:
        raise AssertionError("a child has no gate to begin")

    monkeypatch.setattr(snapshot, "start", never)

    def child() -> None:
        claimed = port.claim(ClaimRequest(str(uuid.uuid4()), "A", "Charge", "w", "run"))
        ask = ReserveRequest(
            str(uuid.uuid4()), "stripe", "a", "o", "POST", "/", target="cus", total_micros=USD
        )
        assert port.reserve(claimed.vault_key, ask).verdict == "allowed"

    forked = multiprocessing.get_context("fork").Process(target=child)
    forked.start()
    forked.join(30)
    assert forked.exitcode == 0
    assert states(others) == ["pending"]


def test_a_worker_without_the_audits_key_leaves_it_to_luigid(
    others: Books, port_of: PortOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Sealer(others.ledger, KeyFiles(tmp_path / "of-luigid")).seal(30)
    port = port_of(others, audit_key_file=tmp_path / "of-worker")
    added(port, "A")
    others.reserve(others.claim("B"), others.ask(USD))
    port.close()
    assert not list(tmp_path.glob("of-worker*"))
    assert "not sealed" not in caplog.text


def test_what_has_happened_is_sealed_from_time_to_time_and_at_the_end(
    others: Books, port_of: PortOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = port_of(others)
    added(port, "A")

    def is_sealed() -> bool:
        return others.read(sealed_entry) == others.read(last_entry)

    assert not is_sealed()
    work(port)
    assert not is_sealed()
    monkeypatch.setattr(port, "_swept", -1e9)
    work(port)
    assert is_sealed()
    others.reserve(others.claim("B"), others.ask(USD))
    port.close()
    assert is_sealed()


def test_a_child_that_ends_as_its_worker_would_seals_nothing(
    others: Books, port_of: PortOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = port_of(others)
    added(port, "A")
    assert work(port) == "A"

    def child() -> None:
        said: list[str] = []
        for way in ("seal", "finish"):
            monkeypatch.setattr(Sealing, way, lambda *_, **__: said.append("its parent's ledger is asked"))
        port.claim(ClaimRequest("c1", "A", "Charge", "w", "run"))
        monkeypatch.setattr(port, "_swept", -1e9)
        port._refresh()
        port.close()
        assert said == []

    forked = multiprocessing.get_context("fork").Process(target=child)
    forked.start()
    forked.join(30)
    assert forked.exitcode == 0


def test_nothing_is_under_way_in_the_ledger_when_luigi_may_fork(others: Books, port_of: PortOf) -> None:
    """A child would take the parent's lock for its own: what the scheduler tells the ledger is waited for."""
    port = port_of(others)
    added(port, "A", "3")
    port._scheduler.add_worker("w", [("first_task", "A")])
    assert others.read(queries.run, "run")["forecast_usd"] == "3.00"


def test_what_an_answer_of_the_ledger_leads_to_is_waited_for_too(others: Books, port_of: PortOf) -> None:
    port = port_of(others)

    async def act(service: LocalLedgerService) -> None:
        service._spawn(service._save(runs.set_forecast, "run", Micros(3 * USD), Micros(0), 0))

    port._do(act)
    assert others.read(queries.run, "run")["forecast_usd"] == "3.00"


def test_a_tasks_alarm_is_raised_as_it_is_and_the_ledger_goes_on(others: Books, port_of: PortOf) -> None:
    port, chance = port_of(others), random.Random(3)

    async def answer(service: LocalLedgerService) -> int:
        await asyncio.sleep(0)
        return 1

    for _ in range(3000):
        interrupted(lambda: port._do(answer), chance, 4e-4)
    assert port._do(answer) == 1
