"""Whose turn it is at an object, as the ledger decides it in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import calls, replays, reservations
from luigi_spendguard.protocol import EndRequest, ReserveReply
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db", cap=1000)
    yield made
    made.ledger.close()


@pytest.fixture
def key(books: Books) -> str:
    return books.claim("Charge_1")


def settled(books: Books, key: str, answer: ReserveReply) -> None:
    assert answer.verdict == "allowed"
    books.end(
        key, EndRequest("settle", answer.call_id, answer.ask, total_micros=10, status=200, answer_body="{}")
    )


def looked_up(books: Books, key: str) -> int:
    """Return the ledger's last entry when a look-up was granted."""
    ask = books.ask(0, read=True, look_up=True, operation="GET /v1/invoices/{id}", target=None)
    answer = books.reserve(key, ask)
    books.end(key, EndRequest("settle", answer.call_id))
    return answer.entry


def test_who_acts_has_an_object_alone(books: Books, key: str) -> None:
    first = books.reserve(key, books.ask(10, acts_on=("in_1", "il_1")))
    for acts in ("in_1", "il_1"):
        waits = books.reserve(key, books.ask(10, acts_on=(acts,)))
        assert (waits.verdict, waits.object_id, waits.message) == ("wait", acts, first.call_id)
    assert books.reserve(key, books.ask(10, priced_by=("in_1",))).verdict == "wait"
    assert books.reserve(key, books.ask(10, acts_on=("in_2",))).verdict == "allowed"
    assert books.reserve(key, books.ask(10)).verdict == "allowed"
    settled(books, key, first)
    assert books.reserve(key, books.ask(10, acts_on=("in_1",))).verdict == "allowed"
    assert books.audit() == []


def test_who_is_priced_by_an_object_shares_it(books: Books, key: str) -> None:
    shared = [books.reserve(key, books.ask(10, priced_by=("price_1",))) for _ in range(3)]
    assert {answer.verdict for answer in shared} == {"allowed"}
    edit = books.ask(0, acts_on=("price_1",))
    assert books.reserve(key, edit).verdict == "wait"
    for answer in shared:
        assert books.reserve(key, edit).verdict == "wait"
        settled(books, key, answer)
    assert books.reserve(key, edit).verdict == "allowed"
    assert books.reserve(key, books.ask(10, priced_by=("price_1",))).verdict == "wait"


def test_what_was_looked_up_before_somebodys_turn_is_outdated(books: Books, key: str) -> None:
    before = looked_up(books, key)
    settled(books, key, books.reserve(key, books.ask(10, acts_on=("in_1",))))
    for how in ("acts_on", "priced_by"):
        answer = books.reserve(key, books.ask(10, since=before, **{how: ("in_1",)}))
        assert (answer.verdict, answer.object_id) == ("outdated", "in_1")
    now = looked_up(books, key)
    assert now > before
    assert books.reserve(key, books.ask(10, acts_on=("in_1",), since=now)).verdict == "allowed"
    assert books.reserve(key, books.ask(10, acts_on=("in_2",), since=before)).verdict == "allowed"


def test_one_that_was_under_way_at_the_look_up_outdates_it_too(books: Books, key: str) -> None:
    edit = books.reserve(key, books.ask(10, acts_on=("in_1",)))
    seen = looked_up(books, key)
    ask = books.ask(10, priced_by=("in_1",), since=seen)
    assert books.reserve(key, ask).verdict == "wait"
    settled(books, key, edit)
    assert books.reserve(key, ask).verdict == "outdated"


@pytest.mark.parametrize("kind", ["void", "doubt"])
def test_a_turn_ends_however_its_call_does(books: Books, key: str, kind: str) -> None:
    first = books.reserve(key, books.ask(10, acts_on=("in_1",)))
    books.end(key, EndRequest(kind, first.call_id, first.ask))
    assert books.reserve(key, books.ask(10, acts_on=("in_1",))).verdict == "allowed"


def test_a_call_keeps_its_own_turn_when_it_is_sent_again(books: Books, key: str) -> None:
    ask = books.ask(10, acts_on=("in_1",))
    first = books.reserve(key, ask)
    books.end(key, EndRequest("doubt", first.call_id, first.ask))
    other = books.reserve(key, books.ask(10, acts_on=("in_1",)))
    assert books.reserve(key, replace(ask, ask=2)).verdict == "wait"
    settled(books, key, other)
    assert books.reserve(key, replace(ask, ask=3)).verdict == "allowed"
    assert books.reserve(key, books.ask(10, acts_on=("in_1",))).verdict == "wait"


def test_a_sender_that_is_gone_keeps_nothing(books: Books, key: str) -> None:
    first = books.reserve(key, books.ask(10, acts_on=("in_1",)))
    books.write(lambda tx: tx.run("UPDATE call SET granted_at = granted_at - 100000"))
    assert books.reserve(key, books.ask(10, acts_on=("in_1",))).verdict == "allowed"
    state = books.read(lambda tx: tx.value("SELECT state FROM call WHERE id = ?", first.call_id))
    assert (state, books.figures()[1]) == ("in_doubt", 20)


def test_a_gateways_turn_is_no_workers(books: Books, key: str) -> None:
    """Who holds a key can say what it likes of calls that it never sends: that keeps no gateway waiting."""

    def relayed(ask: Any) -> ReserveReply:
        def operation(tx: Any) -> ReserveReply:
            scope = calls.find_scope(tx, key, Caps(), relayed=True)
            assert scope is not None
            return reservations.reserve(tx, scope, ask)

        answer: ReserveReply = books.write(operation)
        return answer

    assert books.reserve(key, books.ask(10, acts_on=("in_1",))).verdict == "allowed"
    assert relayed(books.ask(10, acts_on=("in_1",))).verdict == "allowed"
    assert relayed(books.ask(10, acts_on=("in_1",))).verdict == "wait"
    assert books.reserve(key, books.ask(10, acts_on=("in_1",))).verdict == "wait"


def test_only_the_last_turn_at_an_object_is_kept(books: Books, key: str) -> None:
    for _ in range(5):
        settled(books, key, books.reserve(key, books.ask(10, acts_on=("in_1",), priced_by=("price_1",))))
    rows = books.read(lambda tx: tx.all("SELECT object_id FROM turn ORDER BY object_id"))
    assert [row["object_id"] for row in rows] == ["in_1", "price_1"]
    books.write(lambda tx: tx.run("UPDATE call SET created_at = created_at - 90000000"))
    books.write(replays.forget, 30)
    assert books.read(lambda tx: tx.value("SELECT count(*) FROM turn")) == 0
