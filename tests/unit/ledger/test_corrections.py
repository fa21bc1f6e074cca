"""An operator's word about a call in doubt, and its corrections: every change appended, every total right."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger import corrections
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db", cap=1000)
    yield books
    assert books.audit() == []
    books.ledger.close()


def lost(books: Books, target: str = "cus_1") -> ReserveRequest:
    """Leave a call of 100 in doubt."""
    key, ask = books.claim("task"), books.ask(100, target=target)
    books.reserve(key, ask)
    books.end(key, EndRequest("doubt", ask.call_id, 1))
    return ask


def say(books: Books, ask: ReserveRequest, spent: int | None, **more: Any) -> Any:
    said = Resolution(None if spent is None else Micros(spent), **more)
    return books.write(corrections.resolve, ask.call_id, said, uuid.uuid4().hex)


def entries(books: Books, ask: ReserveRequest) -> list[dict[str, Any]]:
    return books.read(lambda tx: tx.all("SELECT * FROM journal WHERE call_id = ? ORDER BY id", ask.call_id))


def test_more_than_was_reserved_has_to_be_confirmed(books: Books) -> None:
    ask = lost(books)
    with pytest.raises(Conflict, match="is more than the"):
        say(books, ask, 5000)
    assert books.figures() == (0, 100, 0)
    say(books, ask, 5000, overrun=True)
    assert (books.figures(), books.run()["state"]) == ((100, 0, 4900), "frozen")


def test_a_correction_is_appended_and_thaws_the_run(books: Books) -> None:
    ask = lost(books)
    say(books, ask, 5000, overrun=True)
    before = entries(books, ask)
    with pytest.raises(Conflict, match="was resolved already"):
        say(books, ask, 50)
    row = say(books, ask, 50, correct=True)
    assert (books.figures(), books.run()["state"]) == ((50, 0, 0), "active")
    assert (row["settled_micros"], row["corrected_micros"], row["overrun_micros"]) == (100, -50, 0)
    assert entries(books, ask)[: len(before)] == before
    assert [e["note"] for e in entries(books, ask) if e["kind"] == "operator"] == [
        "spent $0.005",
        "spent $0.00005",
    ]


def test_what_was_said_to_be_sent_may_not_have_been_and_the_other_way_round(books: Books) -> None:
    ask = lost(books)
    say(books, ask, None)
    assert say(books, ask, 100, correct=True)["state"] == "settled"
    assert books.figures() == (100, 0, 0)
    assert say(books, ask, None, correct=True)["state"] == "voided"
    assert books.figures() == (0, 0, 0)
    assert books.reserve(books.claim("task"), books.ask(100, target="cus_1")).verdict == "allowed"


def test_a_correction_takes_only_what_there_is_room_for(books: Books) -> None:
    ask = lost(books)
    say(books, ask, 10)
    key, big = books.claim("other"), books.ask(950)
    books.reserve(key, big)
    with pytest.raises(Conflict, match="have no room for that any more"):
        say(books, ask, 100, correct=True)
    assert books.figures() == (10, 950, 0)
    say(books, ask, 100, correct=True, overrun=True)
    assert (books.figures(), books.run()["state"]) == ((10, 950, 90), "frozen")


def test_what_the_vendor_said_is_not_corrected(books: Books) -> None:
    key, ask = books.claim("task"), books.ask(100)
    books.reserve(key, ask)
    books.end(key, EndRequest("settle", ask.call_id, 1, total_micros=100, status=200, answer_body="{}"))
    with pytest.raises(Conflict, match="is settled, not in doubt: there is nothing to resolve"):
        say(books, ask, 50)
    with pytest.raises(Conflict, match="no operator has said so: there is nothing to correct"):
        say(books, ask, 50, correct=True)


def test_a_reply_that_comes_later_is_not_counted_beside_the_operators_word(books: Books) -> None:
    key, ask = books.claim("task"), books.ask(100)
    books.reserve(key, ask)
    books.end(key, EndRequest("doubt", ask.call_id, 1))
    say(books, ask, 100)
    late = EndRequest(
        "settle",
        ask.call_id,
        1,
        total_micros=100,
        worth_micros=100,
        object_id="pi_1",
        status=200,
        answer_body="{}",
    )
    books.end(key, late)
    assert (books.figures(), books.run()["state"]) == ((100, 0, 0), "active")


def test_a_reply_that_comes_after_it_was_said_not_to_be_sent_is_overrun(books: Books) -> None:
    """The vendor has moved the money: that is booked, however wrong the word was."""
    ask = lost(books)
    say(books, ask, None)
    assert books.figures() == (0, 0, 0)
    for _ in range(2):
        end = EndRequest("settle", ask.call_id, 1, total_micros=100, status=200, answer_body="{}")
        row = books.end(books.claim("task"), end)
        assert (row["state"], books.figures(), books.run()["state"]) == ("settled", (0, 0, 100), "frozen")
    assert books.reserve(books.claim("task"), books.ask(100, target="cus_1")).verdict == "replayed"


def test_a_reply_that_comes_later_thaws_a_mistaken_overrun(books: Books) -> None:
    key, ask = books.claim("task"), books.ask(100)
    books.reserve(key, ask)
    books.end(key, EndRequest("doubt", ask.call_id, 1))
    say(books, ask, 5000, overrun=True)
    books.end(key, EndRequest("settle", ask.call_id, 1, total_micros=100, status=200, answer_body="{}"))
    assert (books.figures(), books.run()["state"]) == ((100, 0, 0), "active")


def test_an_object_counts_for_what_the_operator_said_and_stays_worth_what_was_asked(books: Books) -> None:
    ask = lost(books)
    assert say(books, ask, 40, object_id="pi_1")["object_id"] == "pi_1"
    confirm = books.ask(
        0, operation="payment_intents.confirm", object_id="pi_1", target="pi_1", fingerprint="c"
    )
    key = books.claim("other")
    books.reserve(key, ReserveRequest(**{**confirm.__dict__, "total_micros": None}))
    assert books.figures() == (40, 60, 0)


def test_an_object_of_another_call_is_refused(books: Books) -> None:
    one, two = lost(books), lost(books, "cus_2")
    say(books, one, 100, object_id="pi_1")
    with pytest.raises(Conflict, match="has opened"):
        say(books, two, 100, object_id="pi_1")
    say(books, one, 100, object_id="pi_2", correct=True)
    say(books, two, 100, object_id="pi_1")
    counted = books.read(lambda tx: tx.all("SELECT object_id, counted_micros FROM vendor_object ORDER BY 1"))
    assert [row["counted_micros"] for row in counted] == [100, 100]


def test_the_object_that_a_call_acts_on_is_not_another(books: Books) -> None:
    key, ask = books.claim("task"), books.ask(100, object_id="pi_1", target="pi_1")
    books.reserve(key, ask)
    books.end(key, EndRequest("doubt", ask.call_id, 1))
    with pytest.raises(Conflict, match="is about pi_1"):
        say(books, ask, 100, object_id="pi_2")


def opened(books: Books, key: str, object_id: str, total: int) -> None:
    ask = books.ask(total)
    books.reserve(key, ask)
    books.end(
        key,
        EndRequest(
            "settle",
            ask.call_id,
            1,
            total_micros=total,
            worth_micros=total,
            object_id=object_id,
            status=200,
            answer_body="{}",
        ),
    )


def resolved_then_answered(
    books: Books, key: str, object_id: str, asked: int | None, spent: int, **reply: Any
) -> None:
    """A call on an object is lost, resolved by an operator, and then its reply comes."""
    ask = books.ask(0, object_id=object_id, target=object_id, covers=reply.get("covers", ()))
    ask = ReserveRequest(**{**ask.__dict__, "total_micros": asked})
    assert books.reserve(key, ask).verdict == "allowed"
    books.end(key, EndRequest("doubt", ask.call_id, 1))
    say(books, ask, spent)
    books.end(key, EndRequest("settle", ask.call_id, 1, status=200, answer_body="{}", **reply))


def counted(books: Books) -> dict[str, int]:
    rows = books.read(lambda tx: tx.all("SELECT object_id, counted_micros FROM vendor_object"))
    return {row["object_id"]: row["counted_micros"] for row in rows}


@pytest.mark.parametrize("spent", [0, 150, 200])
def test_a_late_reply_counts_an_object_once_beside_other_calls_on_it(books: Books, spent: int) -> None:
    key = books.claim("task")
    opened(books, key, "pi_1", 100)
    resolved_then_answered(books, key, "pi_1", 300, spent, total_micros=300, worth_micros=300)
    assert (books.figures(), counted(books)) == ((300, 0, 0), {"pi_1": 300})


def test_a_late_reply_that_only_frees_gives_back_what_other_calls_have_spent(books: Books) -> None:
    key = books.claim("task")
    opened(books, key, "pi_1", 100)
    resolved_then_answered(books, key, "pi_1", 0, 0, total_micros=0, only_less=True)
    assert (books.figures(), counted(books)) == ((0, 0, 0), {"pi_1": 0})


def test_a_late_reply_takes_over_what_its_object_covers(books: Books) -> None:
    key = books.claim("task")
    opened(books, key, "ii_1", 400)
    opened(books, key, "ii_2", 600)
    resolved_then_answered(books, key, "in_1", 1000, 0, total_micros=1000, covers=("ii_1", "ii_2"))
    assert (books.figures(), counted(books)) == ((1000, 0, 0), {"ii_1": 0, "ii_2": 0, "in_1": 1000})


def test_a_late_reply_of_a_call_that_was_free_leaves_its_object(books: Books) -> None:
    key = books.claim("task")
    opened(books, key, "pi_1", 100)
    resolved_then_answered(books, key, "pi_1", 0, 0, total_micros=None)
    assert (books.figures(), counted(books)) == ((100, 0, 0), {"pi_1": 100})
