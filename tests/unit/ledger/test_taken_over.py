"""A lost call that an equal one takes over has two senders: each has its own grants alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import keys, runs
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db")
    yield books
    assert books.audit() == []
    books.ledger.close()


def taken_over(books: Books, **more: Any) -> tuple[str, ReserveRequest, ReserveReply]:
    """Return a call that was sent and not answered, and how another sender was let send it again."""
    key = books.claim("task")
    first, second = (books.ask(100, target="cus_1", **more) for _ in range(2))
    books.reserve(key, first)
    books.end(key, EndRequest("doubt", first.call_id, 1))
    answer = books.reserve(key, second)
    if answer.verdict == "search":
        answer = books.reserve(key, replace(second, ask=2, searched=True, executed=("SM1",)))
    assert answer.call_id == first.call_id
    return key, first, answer


def sender_of(books: Books) -> str:
    sender: str = books.read(lambda tx: tx.value("SELECT sender FROM call"))
    return sender


def test_who_makes_a_call_again_has_no_grant_of_who_has_taken_it_over(books: Books) -> None:
    """Its grant would be as old as the other's, and be used when a revoke has returned long ago."""
    key, first, _ = taken_over(books)
    assert books.reserve(key, replace(first, ask=2, unsure=True)).verdict == "wait"
    books.write(runs.revoke, "run")
    for number in range(2, 6):
        assert books.reserve(key, replace(first, ask=number, unsure=True)).verdict != "allowed"


def test_nor_one_to_send_what_was_found(books: Books) -> None:
    """The vendor has executed it, and would once more."""
    key, first, found = taken_over(books, repeatable=False)
    assert found.verdict == "found"
    again = replace(first, ask=2, unsure=True, searched=True, executed=())
    assert books.reserve(key, again).verdict == "wait"
    books.end(
        key, EndRequest("settle", first.call_id, found.ask, total_micros=100, status=200, answer_body="{}")
    )
    assert books.reserve(key, replace(again, ask=3)).verdict == "replayed"


def test_what_was_found_is_found_again_where_that_was_not_heard(books: Books) -> None:
    """A client that got no answer asks once more: it is not to send what the vendor has executed."""
    key, first, _ = taken_over(books, repeatable=False)
    books.end(key, EndRequest("doubt", first.call_id, 2))
    second = books.ask(100, target="cus_1", repeatable=False, searched=True, executed=("SM1",))
    answers = [books.reserve(key, second) for _ in range(3)]
    assert {(answer.verdict, answer.object_id, answer.call_id) for answer in answers} == {
        ("found", "SM1", first.call_id)
    }
    own = replace(second, call_id=first.call_id, sender=second.call_id, ask=answers[0].ask + 1)
    assert [books.reserve(key, own).verdict for _ in range(2)] == ["found", "found"]
    assert books.reserve(key, replace(own, searched=False, executed=())).verdict == "stale"


def test_what_an_earlier_sender_did_not_get_leaves_the_next_ones_grant_alone(books: Books) -> None:
    """In doubt, a revoke would not wait until it was sent."""
    key, first, grant = taken_over(books)
    sender = sender_of(books)
    for number in (2, 3):
        void = EndRequest("void", first.call_id, number, note="its grant did not arrive")
        assert books.end(key, void)["state"] == "pending"
    void = EndRequest("void", first.call_id, grant.ask, sender=sender)
    assert books.end(key, void)["state"] == "in_doubt"


def test_what_an_earlier_send_has_come_to_leaves_a_call_that_may_still_be_sent(books: Books) -> None:
    """A revoke waits for it: whoever was let send it again has not heard that it is over."""
    key, first, grant = taken_over(books)
    books.end(key, EndRequest("settle", first.call_id, 1, total_micros=100, status=200, answer_body="{}"))
    for waits in ((runs.pending_calls, books.run_id), (keys.pending_calls, books.last_claim)):
        assert books.read(*waits) == 1
    for change in (-2001, 3_600_000):  # The grant is over, or the clock was set back by an hour since.
        books.write(lambda tx, by=change: tx.run("UPDATE call SET granted_at = granted_at + ?", by))
        for waits in ((runs.pending_calls, books.run_id), (keys.pending_calls, books.last_claim)):
            assert books.read(*waits) == 0
    books.end(key, EndRequest("settle", first.call_id, grant.ask, total_micros=100))
    assert books.figures() == (100, 0, 0)


def test_a_void_ahead_of_what_was_sent_before_frees_nothing(books: Books) -> None:
    """It says that a later request got no grant, and nothing of the earlier one."""
    key, ask = books.claim("task"), books.ask(100)
    books.reserve(key, ask)
    assert (
        books.end(key, EndRequest("void", ask.call_id, 2, note="its grant did not arrive"))["state"]
        == "in_doubt"
    )
    assert books.end(key, EndRequest("doubt", ask.call_id, 1))["state"] == "in_doubt"
    assert books.figures() == (0, 100, 0)


def test_its_first_sender_asks_behind_the_other_ones_number(books: Books) -> None:
    """Under that one's number it would be granted what the other is, and past the look at its key."""
    key, first, grant = taken_over(books)
    assert grant.ask == 2
    other = sender_of(books)
    books.end(key, EndRequest("doubt", first.call_id, 2))
    waits = books.reserve(key, replace(first, ask=2, unsure=True))
    assert (waits.verdict, waits.ask) == ("wait", 2)
    again = books.reserve(key, replace(first, ask=3, unsure=True))
    assert (again.verdict, again.ask) == ("allowed", 3)
    books.end(key, EndRequest("void", first.call_id, 2, sender=other))
    assert books.read(lambda tx: tx.value("SELECT state FROM call")) == "pending"


def test_the_other_is_known_by_its_own_id_when_it_asks_again(books: Books) -> None:
    """As the first sender it would be granted what that has been, and that what it has been."""
    key, first, _ = taken_over(books)
    own = sender_of(books)
    books.end(key, EndRequest("doubt", first.call_id, 2))
    again = replace(first, ask=3, sender=own)
    assert books.reserve(key, again).verdict == "allowed"
    assert books.reserve(key, replace(first, ask=3)).verdict == "wait"
    assert books.reserve(key, again).verdict == "allowed", "its answer was lost"
    books.end(key, EndRequest("void", first.call_id, 3, sender=own))
    assert books.read(lambda tx: tx.value("SELECT state FROM call")) == "in_doubt"


@pytest.mark.parametrize("under", ["its own id", "the call's"])
def test_a_number_that_was_given_to_what_came_late_is_no_grant_of_then(books: Books, under: str) -> None:
    """Who asks under it may ask for the first time, and sends for 2 s from then: a revoke waits for that."""
    key, first, _ = taken_over(books)
    other = sender_of(books)
    books.end(key, EndRequest("doubt", first.call_id, 2))
    assert books.reserve(key, replace(first, ask=3)).verdict == "allowed"
    books.end(key, EndRequest("doubt", first.call_id, 3))
    late = replace(first, call_id=other)
    asked = late if under == "its own id" else replace(first, ask=4, sender=other)
    assert books.reserve(key, late).ask == 4
    books.write(lambda tx: tx.run("UPDATE call SET granted_at = granted_at - 10000"))
    assert books.reserve(key, asked).verdict == "allowed"
    books.end(key, EndRequest("settle", first.call_id, 1, total_micros=100, status=200, answer_body="{}"))
    assert books.read(runs.pending_calls, books.run_id) == 1


def test_nor_one_where_a_revoke_has_returned(books: Books) -> None:
    key, first, grant = taken_over(books)
    books.write(runs.revoke, books.run_id)
    assert books.reserve(key, replace(first, ask=grant.ask, sender=sender_of(books))).reason == "revoked"


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
