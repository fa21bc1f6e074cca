"""What waits on disk for a ledger is booked by whoever opens it: each end once, in its order."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.http.spool import Kept, Spool, backlog
from luigi_spendguard.ledger import queries, settlement
from luigi_spendguard.ledger.calls import Scope
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, rpcs
from luigi_spendguard.protocol.rpcs import CloseRunRequest, FinishRequest
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService, spooled
from tests.support.books import Books
from tests.support.postgres import settings_of


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """A run with a cap of 100 micro-dollars."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = Books(tmp_path / "books.db")
    yield made
    made.ledger.close()


def folder() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "luigi-spendguard" / "spool"


def settings(books: Books) -> Settings:
    return settings_of(books.path, Caps(default=Micros(100)))


def left(books: Books, *messages: Kept) -> None:
    """Let a process that is gone have left these."""
    spool = Spool(settings(books).ledger_name)
    spool.keep(messages)
    spool._renew()


def taken_over(
    books: Books, act: Callable[[LedgerService], Awaitable[None]] = LedgerService.sweep
) -> LedgerService:
    """Let luigid look, by its clock where nothing else is said; return it, ended."""

    async def live() -> LedgerService:
        service = LedgerService(settings(books), BudgetScheduler())
        try:
            await act(service)
            return service
        finally:
            service.close()

    return asyncio.run(live())


def waits(books: Books) -> tuple[int, int]:
    found = backlog(folder())
    return sum(count for count, _ in found.waiting.values()), found.refused


def states(books: Books) -> list[str]:
    return [call["state"] for call in books.read(queries.calls, queries.CallFilter("run"))]


def test_ends_of_one_call_are_booked_in_their_order_and_again_for_nothing(books: Books) -> None:
    key, ask = books.claim("Charge_1"), books.ask(80)
    books.reserve(key, ask)
    told = [
        EndRequest("void", ask.call_id),
        EndRequest("doubt", ask.call_id),
        EndRequest("settle", ask.call_id, total_micros=30),
    ]
    left(books, *(Kept.ended(key, [end]) for end in told[1:]))
    service = taken_over(books)
    assert (states(books), books.figures(), waits(books)) == (["settled"], (30, 0, 0), (0, 0))
    assert service.state.runs["run"].own_budget.spent == 30, "the gate has heard of it"
    left(books, *(Kept.ended(key, [end]) for end in (*told, *told)))
    taken_over(books)
    assert (states(books), books.figures(), waits(books)) == (["settled"], (30, 0, 0), (0, 0))
    assert books.audit() == []


def test_the_attempt_and_its_run_have_ended_behind_them(books: Books) -> None:
    key, claim, ask = books.claim("Charge_1"), books.last_claim, books.ask(80)
    books.write(lambda tx: tx.run("UPDATE run SET by_task_id = 1"))
    books.reserve(key, ask)
    end = EndRequest("settle", ask.call_id, total_micros=30)
    left(
        books,
        Kept.of("finish", rpcs.FINISH, FinishRequest(claim, "completed", (end,))),
        Kept.of("close", rpcs.CLOSE_RUN, CloseRunRequest("run", "run", "once")),
    )
    taken_over(books)
    assert (states(books), books.run()["state"], waits(books)) == (["settled"], "ended", (0, 0))


@pytest.mark.parametrize("by_gateway", [True, False])
def test_a_gateways_call_is_ended_by_what_a_gateway_has_left_alone(books: Books, by_gateway: bool) -> None:
    key, ask = books.claim("Charge_1"), books.ask(80)
    books.reserve(key, ask)
    books.write(lambda tx: tx.run("UPDATE call SET relayed = 1"))
    left(books, Kept.ended(key, [EndRequest("settle", ask.call_id, total_micros=30)], relayed=by_gateway))
    taken_over(books)
    ended = (["settled"], (0, 0)) if by_gateway else (["pending"], (0, 1))
    assert (states(books), waits(books)) == ended


def test_what_the_ledger_refuses_is_put_aside_and_holds_nothing_up(books: Books) -> None:
    key, ask = books.claim("Charge_1"), books.ask(80)
    books.reserve(key, ask)
    end = EndRequest("settle", ask.call_id, total_micros=30)
    left(
        books,
        Kept.ended("vault_key_of_nobody", [end]),
        Kept.ended(key, [EndRequest("settle", "none")]),
        Kept("a broken one", rpcs.FINISH.name, {"claim_id": "c", "outcome": "gone"}),
        Kept("one of another version", "spend_more", {}),
        Kept("none", rpcs.FINISH.name, ["claim"]),  # type: ignore[arg-type]
        Kept.ended(key, [end]),
    )
    taken_over(books)
    assert (states(books), waits(books)) == (["settled"], (0, 5))
    [file] = (folder() / "refused").iterdir()
    why = [json.loads(line)["refused"] for line in file.read_text().splitlines()]
    assert why[:2] == [f"{ask.call_id}: there is no such claim", "none: there is no call none to settle"]
    assert "'outcome' must be one of" in why[2]
    assert "'spend_more' is none of" in why[3]
    assert why[4] == "its request is no JSON object"


def test_what_cannot_be_booked_now_goes_on_waiting(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    key, ask = books.claim("Charge_1"), books.ask(80)
    books.reserve(key, ask)
    left(books, Kept.ended(key, [EndRequest("settle", ask.call_id, total_micros=30)]))

    def full(*_: object) -> None:
        raise LedgerUnavailable("its disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(settlement, "end", full)
        taken_over(books)
    assert (states(books), waits(books)) == (["pending"], (1, 0))
    taken_over(books)
    assert (states(books), waits(books)) == (["settled"], (0, 0))


def test_a_mistake_of_ours_at_one_holds_up_no_other(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    key, ask = books.claim("Charge_1"), books.ask(80)
    books.reserve(key, ask)
    end = settlement.end
    left(
        books,
        Kept.ended(key, [EndRequest("settle", "broken", total_micros=30)]),
        Kept.ended(key, [EndRequest("settle", ask.call_id, total_micros=30)]),
    )

    def broken(tx: Tx, scope: Scope, message: EndRequest) -> Row | None:
        assert message.call_id != "broken"
        return end(tx, scope, message)

    with monkeypatch.context() as patch:
        patch.setattr(settlement, "end", broken)
        taken_over(books)
    assert (states(books), waits(books)) == (["settled"], (1, 0))


@pytest.mark.of_files
def test_no_ledger_is_made_for_what_waits(books: Books) -> None:
    left(books, Kept.of("finish", rpcs.FINISH, FinishRequest("claim", "completed")))
    books.ledger.close()
    for path in books.path.parent.glob("books.db*"):
        path.unlink()
    taken_over(books, spooled.take_over)
    assert not books.path.exists()
    assert waits(books) == (1, 0)
    books.restart()
