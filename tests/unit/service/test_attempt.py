"""What is said at once: how calls have ended, then what their attempt asks for, or how it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import Mock

import pytest

from luigi_spendguard.config import VendorSettings
from luigi_spendguard.errors import Conflict, LedgerUnavailable, SpendDenied
from luigi_spendguard.ledger import keys, queries, settlement
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndReply, EndRequest, key_hash
from luigi_spendguard.protocol.rpcs import (
    AttemptReply,
    AttemptRequest,
    EndedCall,
    EndedRequest,
    FinishReply,
    FinishRequest,
)
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.service import LedgerService
from tests.support.books import Books
from tests.support.postgres import settings_of

T = TypeVar("T")


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """A run with a cap of 100 micro-dollars."""
    made = Books(tmp_path / "books.db")
    yield made
    made.ledger.close()


def heard(
    books: Books, say: Callable[[LedgerService], Awaitable[T]], **settings: Any
) -> tuple[LedgerService, T]:
    async def live() -> tuple[LedgerService, T]:
        service = LedgerService(
            settings_of(books.path, Caps(default=Micros(100)), **settings), BudgetScheduler()
        )
        try:
            return service, await say(service)
        finally:
            service.close()

    return asyncio.run(live())


def said(
    books: Books, key: str, request: AttemptRequest, **settings: Any
) -> tuple[LedgerService, AttemptReply]:
    return heard(books, lambda service: service.attempt(key, request), **settings)


def finished(books: Books, request: FinishRequest) -> tuple[LedgerService, FinishReply]:
    return heard(books, lambda service: service.finish(request))


def calls(books: Books) -> dict[str, str]:
    return {row["id"]: row["state"] for row in books.read(queries.calls, queries.CallFilter("run"))}


def test_a_call_is_decided_behind_the_ends_that_come_with_it(books: Books) -> None:
    key = books.claim("Charge_1")
    first, second = books.ask(80), books.ask(80)
    assert books.reserve(key, first).verdict == "allowed"
    assert books.reserve(key, books.ask(80)).reason == "cap"
    ends = (EndRequest("settle", first.call_id, total_micros=10),)
    service, reply = said(books, key, AttemptRequest(ends, second))
    assert reply.ends == (EndedCall(first.call_id, "settled", "0.00"),)
    assert reply.answer is not None
    assert (reply.answer.verdict, reply.answer.call_id) == ("allowed", second.call_id)
    assert books.figures() == (10, 80, 0)
    known = service.state.runs["run"]
    assert (known.own_budget.spent, known.own_budget.reserved) == (10, 80), "the gate has heard of both"


async def by_itself(
    service: LedgerService, key: str, claim: str, ends: tuple[EndRequest, ...]
) -> tuple[EndedCall, ...]:
    return (await service.attempt(key, AttemptRequest(ends))).ends


async def with_the_last_word(
    service: LedgerService, key: str, claim: str, ends: tuple[EndRequest, ...]
) -> tuple[EndedCall, ...]:
    return (await service.finish(FinishRequest(claim, "returned", ends))).ends


async def without_the_key(
    service: LedgerService, key: str, claim: str, ends: tuple[EndRequest, ...]
) -> tuple[EndedCall, ...]:
    return (await service.ended(EndedRequest(key_hash(key), ends))).ends


@pytest.mark.parametrize("say", [by_itself, with_the_last_word, without_the_key])
def test_an_end_that_is_refused_holds_nothing_up(
    books: Books, say: Callable[..., Awaitable[tuple[EndedCall, ...]]]
) -> None:
    other, key = books.claim("Charge_2"), books.claim("Charge_1")
    mine, theirs = books.ask(10), books.ask(10)
    books.reserve(key, mine)
    books.reserve(other, theirs)
    ends = tuple(EndRequest("settle", one, total_micros=10) for one in ("none", theirs.call_id, mine.call_id))
    _, reply = heard(books, lambda service: say(service, key, books.last_claim, ends))
    assert [(one.state, one.refused) for one in reply] == [
        ("", "there is no call none to settle"),
        ("", "the call is another task's"),
        ("settled", ""),
    ]
    assert calls(books)[theirs.call_id] == "pending"


@pytest.mark.parametrize("verdict", ["denied", "replayed"])
def test_the_end_of_what_has_reserved_nothing_is_answered_as_workers_read_it(
    books: Books, verdict: str
) -> None:
    """A worker that has not heard the answer voids it; what it cannot read it would say again for ever."""
    first, again = (
        books.ask(10, target="cus_1"),
        books.ask(10 if verdict == "replayed" else 101, target="cus_1"),
    )
    key = books.claim("Charge_1")
    if verdict == "replayed":
        books.reserve(key, first)
        books.end(key, EndRequest("settle", first.call_id, total_micros=10, status=200, answer_body="{}"))
        key = books.claim("Charge_1")
    assert books.reserve(key, again).verdict == verdict
    _, reply = heard(books, lambda service: service.end(key, EndRequest("void", again.call_id)))
    assert EndReply.from_json(reply.to_json()).state == "voided"


def test_the_attempt_has_ended_behind_them(books: Books) -> None:
    key, claim = books.claim("Charge_1"), books.last_claim
    ask = books.ask(10)
    books.reserve(key, ask)
    service, reply = finished(books, FinishRequest(claim, "failed", (EndRequest("void", ask.call_id),)))
    assert reply.known
    assert [one.state for one in reply.ends] == ["voided"]
    assert not service.known_keys.believes(key)
    assert service.state.runs["run"].own_budget.reserved == 0, "the gate has heard of it"
    assert books.reserve(key, books.ask(10)).verdict == "denied"
    ended = books.read(lambda tx: tx.one("SELECT outcome, ended_at FROM claim WHERE id = ?", claim))
    assert ended["outcome"] == "failed"
    assert ended["ended_at"] is not None


def test_a_process_that_has_died_leaves_in_doubt_what_it_has_not_said(books: Books) -> None:
    key = books.claim("Charge_1")
    told, untold = books.ask(10), books.ask(10)
    for ask in (told, untold):
        books.reserve(key, ask)
    ends = (EndRequest("settle", told.call_id, total_micros=10),)
    finished(books, FinishRequest(books.last_claim, "died", ends))
    assert calls(books) == {told.call_id: "settled", untold.call_id: "in_doubt"}
    _, again = finished(books, FinishRequest(books.last_claim, "died", ends))
    assert [one.state for one in again.ends] == ["settled"]
    assert books.figures() == (10, 10, 0)


def test_of_a_claim_that_nobody_has_made_no_end_is_taken(books: Books) -> None:
    ask = books.ask(10)
    books.reserve(books.claim("Charge_1"), ask)
    _, reply = finished(books, FinishRequest("none", "returned", (EndRequest("void", ask.call_id),)))
    assert reply == FinishReply(known=False, ends=(EndedCall(ask.call_id, refused="there is no such claim"),))
    assert calls(books) == {ask.call_id: "pending"}


def test_nor_of_a_key_that_is_unknown_or_the_gateways(books: Books) -> None:
    """Only a gateway says how calls of a key that was asked for over HTTP have ended."""
    key = books.write(keys.issue, keys.Terms("stripe", ttl_ms=60_000), Caps(default=Micros(100)))[1]
    ask = books.ask(10)
    for one in ("vault_key_of_nobody", key):
        request = EndedRequest(key_hash(one), (EndRequest("void", ask.call_id),))
        _, reply = heard(books, lambda service, request=request: service.ended(request))
        assert [end.refused for end in reply.ends] == ["there is no such claim"]
    assert calls(books) == {}
    _, reply = heard(books, lambda service: service.ended(request, relayed=True))
    assert [end.state for end in reply.ends] == ["voided"]


def test_the_gate_hears_of_an_end_that_is_said_without_the_key(books: Books) -> None:
    key, ask = books.claim("Charge_1"), books.ask(80)
    books.reserve(key, ask)
    request = EndedRequest(key_hash(key), (EndRequest("settle", ask.call_id, total_micros=10),))
    service, _ = heard(books, lambda service: service.ended(request))
    known = service.state.runs["run"].own_budget
    assert (known.spent, known.reserved) == (10, 0)


def test_where_what_is_asked_for_is_refused_the_ends_are_not_taken(books: Books) -> None:
    key = books.claim("Charge_1")
    ask = books.ask(10)
    books.reserve(key, ask)
    request = AttemptRequest((EndRequest("settle", ask.call_id, total_micros=10),), books.ask(10))
    served = {"stripe": VendorSettings("stripe", secret="sk_test_1")}
    with pytest.raises(SpendDenied, match="go through the gateway here"):
        said(books, key, request, vendors=served)
    with pytest.raises(SpendDenied, match="does not know this vault key"):
        said(books, "vault_key_of_nobody", request)
    assert calls(books) == {ask.call_id: "pending"}


@pytest.mark.parametrize("error", [Conflict("no"), LedgerUnavailable("the disk is full")], ids=["one", "all"])
def test_an_end_that_fails_when_it_has_written_is_undone_alone_or_with_all(
    books: Books, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, first, second = books.claim("Charge_1"), books.ask(10), books.ask(10)
    for ask in (first, second):
        books.reserve(key, ask)
    end = settlement.end

    def failing(tx: Tx, scope: Any, message: EndRequest) -> Any:
        call = end(tx, scope, message)
        if message.call_id == first.call_id:
            raise error
        return call

    monkeypatch.setattr(settlement, "end", failing)
    request = AttemptRequest(tuple(EndRequest("void", ask.call_id) for ask in (first, second)))
    if isinstance(error, LedgerUnavailable):
        with pytest.raises(LedgerUnavailable):
            said(books, key, request)
        assert set(calls(books).values()) == {"pending"}
    else:
        _, reply = said(books, key, request)
        assert [one.refused for one in reply.ends] == ["no", ""]
        assert calls(books) == {first.call_id: "pending", second.call_id: "voided"}


def test_what_is_asked_for_waits_for_its_turn_as_any_call(books: Books) -> None:
    key, ask = books.claim("Charge_1"), books.ask(10)

    async def live() -> AttemptReply:
        service = LedgerService(settings_of(books.path, Caps(default=Micros(100))), BudgetScheduler())
        turns = service._turns = Mock()
        turns.ahead.return_value = "pi_1"
        try:
            reply = await service.attempt(key, AttemptRequest((), ask))
        finally:
            service.close()
        turns.ahead.assert_called_once_with(ask, relayed=False)
        turns.told.assert_called_once_with(ask, reply.answer, "run", relayed=False)
        return reply

    answer = asyncio.run(live()).answer
    assert answer is not None
    assert (answer.verdict, answer.object_id) == ("wait", "pi_1")
