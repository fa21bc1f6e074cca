"""What comes late, when its call was made again: whichever process it comes in at, the ledger knows that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from tests.support.books import Books

OTHERS = "00000002"
ENDS = {
    "settle": EndRequest("settle", "of", total_micros=10, object_id="pi_1", status=200, answer_body="{}"),
    "void": EndRequest("void", "of", status=402),
    "declined": EndRequest("settle", "of", total_micros=10, object_id="pi_1", status=402),
    "doubt": EndRequest("doubt", "of"),
}


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "books.db", 1000)
    yield made
    assert made.audit() == []
    made.ledger.close()


@pytest.fixture
def key(books: Books) -> str:
    return books.claim("task")


def asked(books: Books, own: str, number: int, *unanswered: str, **more: Any) -> ReserveRequest:
    """Return how try `number` of a process asks for a charge under the key `own`, equal to all others."""
    said = {"key": own, "number": number, "unanswered": unanswered, "target": "cus_1"}
    return books.ask(10, **(said | more))


def made(books: Books, key: str, ask: ReserveRequest, kind: str = "settle") -> ReserveReply:
    """Let a call be granted, and end it."""
    granted = books.reserve(key, ask)
    assert granted.verdict == "allowed"
    books.end(key, replace(ENDS[kind], call_id=granted.call_id, ask=granted.ask))
    return granted


@pytest.mark.parametrize("ended", ["settle", "void", "doubt"])
def test_what_comes_after_it_was_made_again_is_late(books: Books, key: str, ended: str) -> None:
    made(books, key, asked(books, "two", 2, "one", "zero"), ended)
    late = asked(books, "one", 1)
    for _ in range(2):
        assert books.reserve(key, late).verdict == "stale"
    assert books.reserve(key, asked(books, "zero", 0)).verdict == "stale"
    assert books.reserve(key, asked(books, "one", 1, process=OTHERS)).verdict == "stale"


def test_what_its_caller_goes_on_with_is_not(books: Books, key: str) -> None:
    """It has said it again since, in another thread of the process that has given it up."""
    made(books, key, asked(books, "two", 2, "one"))
    assert books.reserve(key, asked(books, "one", 3, process=OTHERS)).verdict == "stale"
    assert made(books, key, asked(books, "one", 3)).verdict == "allowed"
    assert books.reserve(key, asked(books, "one", 1)).verdict == "stale"


def test_of_whom_nobody_knows_the_process_all_is(books: Books, key: str) -> None:
    named = {"process": "by hand. Or so"}
    made(books, key, asked(books, "two", 2, "one", **named))
    assert books.reserve(key, asked(books, "one", 3, **named)).verdict == "stale"


def test_nor_is_what_is_no_such_call(books: Books, key: str) -> None:
    made(books, key, asked(books, "two", 2, "one", "two"))
    for other in (
        asked(books, "one", 1, target="cus_2"),
        asked(books, "one", 1, operation="payment_intents.capture"),
        asked(books, "one", 1, key_is_callers=True),
        asked(books, "three", 1),
    ):
        assert books.reserve(key, other).call_id == other.call_id
    assert books.reserve(key, asked(books, "two", 0)).verdict == "replayed", "named itself"
    assert books.reserve(books.claim("another"), asked(books, "one", 1)).verdict != "stale"


@pytest.mark.parametrize("ended", ["settle", "void", "declined", "doubt"])
def test_a_try_behind_a_later_one_is_late(books: Books, key: str, ended: str) -> None:
    made(books, key, asked(books, "one", 2), ended)
    replayed = ended == "settle"
    for number in (1, 2):
        late = books.reserve(key, asked(books, "one", number, process=OTHERS))
        assert late.verdict == ("replayed" if replayed else "stale")
    assert books.reserve(key, asked(books, "one", 3)).verdict == ("replayed" if replayed else "allowed")


def test_a_try_that_comes_twice_waits_for_what_becomes_of_it(books: Books, key: str) -> None:
    first, twice, before = asked(books, "one", 2), asked(books, "one", 2), asked(books, "one", 1)
    books.reserve(key, first)
    assert {books.reserve(key, one).verdict for one in (twice, before)} == {"wait"}
    books.end(key, replace(ENDS["void"], call_id=first.call_id))
    assert {books.reserve(key, replace(one, ask=2)).verdict for one in (twice, before)} == {"stale"}
    assert books.reserve(key, replace(first, ask=2)).verdict == "allowed", "its own grant was too old"


@pytest.mark.parametrize("said", [("one", 8), ("two", 3, "one")], ids=["by its SDK", "by another process"])
def test_a_try_that_is_asked_for_again_after_a_search_is_the_same(
    books: Books, key: str, said: tuple[Any, ...]
) -> None:
    lost = asked(books, "one", 7, repeatable=False)
    made(books, key, lost, "doubt")
    again = asked(books, *said, repeatable=False)
    assert books.reserve(key, again).verdict == "search"
    found = books.reserve(key, replace(again, ask=2, searched=True, executed=("pi_1",)))
    assert (found.verdict, found.call_id) == ("found", lost.call_id)


def test_a_client_that_names_no_process_goes_on_with_its_call(books: Books, key: str) -> None:
    """Each request has an id of its own then, and its number from who passes it on."""
    for number in (2, 3, 4):
        made(books, key, asked(books, "one", number, process=f"{number:08x}"), "doubt")
    assert books.reserve(key, asked(books, "one", 1, process=f"{1:08x}")).verdict == "stale"


@pytest.mark.parametrize("unanswered", [(), ("one",)], ids=["answered", "lost"])
def test_what_another_goes_on_with_is_late(books: Books, key: str, unanswered: tuple[str, ...]) -> None:
    """It was in doubt, and was made again under another key: the row has that one's now."""
    granted = made(books, key, asked(books, "one", 2), "doubt")
    again = made(books, key, asked(books, "two", 3, *unanswered))
    assert again.call_id == granted.call_id
    late = [asked(books, "one", 1), asked(books, "one", 2)]
    assert {books.reserve(key, one).verdict for one in late} == {"stale"}
    assert {books.reserve(key, asked(books, "two", number)).verdict for number in (2, 4)} == {"replayed"}
    assert books.figures() == (10, 0, 0)


def test_what_it_had_given_up_stays_so(books: Books, key: str) -> None:
    made(books, key, asked(books, "two", 2, "one"), "doubt")
    made(books, key, asked(books, "three", 3), "doubt")
    made(books, key, asked(books, "four", 4, process=OTHERS))
    for own, number in (("one", 1), ("two", 2), ("three", 3)):
        assert books.reserve(key, asked(books, own, number)).verdict == "stale"
    assert books.figures() == (10, 0, 0)


def test_what_was_given_back_and_is_asked_for_again_meanwhile_is_late(books: Books, key: str) -> None:
    """Its grant was too old to be used: before it asks again, its caller has given it up."""
    first = asked(books, "one", 1)
    made(books, key, first, "void")
    made(books, key, asked(books, "two", 2, "one"))
    assert books.reserve(key, replace(first, ask=2)).verdict == "stale"
    assert books.figures() == (10, 0, 0)


def test_who_comes_first_is_waited_for(books: Books, key: str) -> None:
    first = asked(books, "one", 1)
    assert books.reserve(key, first).verdict == "allowed"
    again = asked(books, "two", 2, "one", process=OTHERS)
    assert books.reserve(key, again).verdict == "wait"
    books.end(key, replace(ENDS["settle"], call_id=first.call_id))
    assert books.reserve(key, replace(again, ask=2)).verdict == "replayed"
    assert books.figures() == (10, 0, 0)


def test_what_is_made_again_for_ever_keeps_no_more_than_each_key_once(books: Books, key: str) -> None:
    named = [f"lost-{number}" for number in range(20)]
    made(books, key, asked(books, named[0], 1), "doubt")
    for number in range(1, 20):
        made(books, key, asked(books, named[number], number + 1, *named[:number]), "doubt")
    assert len(books.read(lambda tx: tx.value("SELECT given_up FROM call")).split()) == 19
    assert {books.reserve(key, asked(books, own, 19)).verdict for own in named[:19]} == {"stale"}
