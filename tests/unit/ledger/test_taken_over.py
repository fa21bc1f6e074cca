"""A call in doubt that another process of its task goes on with, while its first sender makes it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from luigi_spendguard.ledger import runs
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db")
    yield books
    assert books.audit() == []
    books.ledger.close()


def taken_over(books: Books, key: str) -> tuple[ReserveRequest, ReserveReply]:
    """Let a call stand in doubt, and another process go on with it; return it, and the other's grant."""
    first = books.ask(10, target="cus_1")
    assert books.reserve(key, first).verdict == "allowed"
    books.end(key, EndRequest("doubt", first.call_id, 1))
    grant = books.reserve(key, books.ask(10, process="00000002", target="cus_1"))
    assert (grant.verdict, grant.call_id, grant.ask) == ("allowed", first.call_id, 2)
    return first, grant


def test_its_first_sender_is_not_granted_what_the_other_was(books: Books) -> None:
    key = books.claim("task")
    first, grant = taken_over(books, key)
    for number in (2, 3):
        assert books.reserve(key, replace(first, ask=number)).verdict == "wait"
    settle = EndRequest("settle", grant.call_id, grant.ask, total_micros=10, status=200, answer_body="{}")
    books.end(key, settle)
    assert books.reserve(key, replace(first, ask=2)).verdict == "replayed"
    assert books.figures() == (10, 0, 0)


def test_no_grant_of_another_ones_outlives_a_revoke(books: Books) -> None:
    key = books.claim("task")
    first, _ = taken_over(books, key)
    books.write(runs.revoke, books.run_id)
    answer = books.reserve(key, replace(first, ask=2))
    assert (answer.verdict, answer.reason) == ("denied", "revoked")


def test_an_end_of_the_other_that_comes_late_ends_no_later_send(books: Books) -> None:
    key = books.claim("task")
    first, grant = taken_over(books, key)
    doubt = EndRequest("doubt", grant.call_id, grant.ask)
    books.end(key, doubt)
    again = books.reserve(key, replace(first, ask=2))
    assert (again.verdict, again.ask) == ("allowed", 3)
    books.end(key, EndRequest("void", grant.call_id, grant.ask))
    assert books.read(lambda tx: tx.value("SELECT state FROM call")) == "pending"


def test_the_other_is_known_by_its_own_id_when_it_asks_again(books: Books) -> None:
    """As the first sender it would be granted what that has been, and that what it has been."""
    key = books.claim("task")
    first, grant = taken_over(books, key)
    books.end(key, EndRequest("doubt", grant.call_id, grant.ask))
    own = books.read(lambda tx: tx.value("SELECT sender FROM call"))
    again = replace(first, ask=3, sender=own)
    assert books.reserve(key, again).verdict == "allowed"
    assert books.reserve(key, replace(first, ask=3)).verdict == "wait"
    assert books.reserve(key, again).verdict == "allowed", "its answer was lost"
    books.end(key, EndRequest("void", first.call_id, 3, sender=own))
    assert books.read(lambda tx: tx.value("SELECT state FROM call")) == "in_doubt"


def paid_before(books: Books) -> ReserveRequest:
    """Let an earlier attempt of the task have paid."""
    first = books.ask(10, target="cus_1")
    key = books.claim("task")
    assert books.reserve(key, first).verdict == "allowed"
    settle = EndRequest("settle", first.call_id, 1, total_micros=10, status=200, answer_body="{}")
    books.end(key, settle)
    return first


def test_a_replay_that_did_not_arrive_holds_no_place_of_a_call(books: Books) -> None:
    """Else what the task makes again, as it was denied, would be another call, and paid a second time."""
    first = paid_before(books)
    key, lost = books.claim("task"), books.ask(10, target="cus_1")
    assert books.reserve(key, lost).verdict == "replayed"
    books.end(key, EndRequest("void", lost.call_id, 1, note="its grant did not arrive"))
    again = books.ask(10, target="cus_1")
    assert books.reserve(key, again).verdict == "replayed"
    row = books.read(lambda tx: tx.one("SELECT verdict, reason FROM call WHERE id = ?", lost.call_id))
    assert row == {"verdict": "denied", "reason": "ledger_unavailable"}
    assert books.read(lambda tx: tx.value("SELECT replay_of FROM call WHERE id = ?", again.call_id)) == (
        first.call_id
    )
    assert books.reserve(key, books.ask(10, target="cus_1")).verdict == "allowed", "that one is another"


def test_a_replay_that_was_heard_after_all_stays_a_call(books: Books) -> None:
    paid_before(books)
    key, ask = books.claim("task"), books.ask(10, target="cus_1")
    for number in (1, 2):
        assert books.reserve(key, replace(ask, ask=number)).verdict == "replayed"
    books.end(key, EndRequest("void", ask.call_id, 1, note="its grant did not arrive"))
    assert books.reserve(key, books.ask(10, target="cus_1")).verdict == "allowed"


def test_a_call_that_was_void_and_whose_replay_did_not_arrive_is_void(books: Books) -> None:
    key, ask = books.claim("task"), books.ask(10, target="cus_1")
    assert books.reserve(key, ask).verdict == "allowed"
    books.end(key, EndRequest("void", ask.call_id, 1, definite=True))
    made = books.ask(10, target="cus_1")
    assert books.reserve(key, made).verdict == "allowed"
    settle = EndRequest("settle", made.call_id, 1, total_micros=10, status=200, answer_body="{}")
    books.end(key, settle)
    other = books.claim("task")
    assert books.reserve(other, replace(ask, ask=2)).verdict == "replayed"
    books.end(other, EndRequest("void", ask.call_id, 2))
    row = books.read(lambda tx: tx.one("SELECT verdict, state FROM call WHERE id = ?", ask.call_id))
    assert row == {"verdict": "allowed", "state": "voided"}
