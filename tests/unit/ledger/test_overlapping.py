"""Whom an earlier attempt has reached is not reached again because the list has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import claims, corrections
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import MAX_TARGETS, EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.vendors import Quote
from tests.support.books import Books

CAP = 10_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "spendguard.db", CAP)
    yield made
    assert made.audit() == []
    made.ledger.close()


def ask(books: Books, whom: str, **more: Any) -> ReserveRequest:
    """Return a request to mail everybody named by a letter."""
    said = {"operation": "emails.send", "target": whom, "targets": tuple(whom), **more}
    return books.ask(100 * len(whom), **said)


def sent(books: Books, under: str, whom: str, end: str = "settle", **more: Any) -> ReserveRequest:
    """Reserve a call and say how it ended; "" leaves it pending."""
    asked = ask(books, whom, **more)
    assert books.reserve(under, asked).verdict == "allowed"
    if end:
        books.end(
            under, EndRequest(end, asked.call_id, total_micros=100 * len(whom), status=200, answer_body="{}")
        )
    return asked


def said(books: Books, under: str, whom: str, **more: Any) -> str:
    answer: ReserveReply = books.reserve(under, ask(books, whom, **more))
    return f"{answer.verdict}:{answer.reason}" if answer.reason else answer.verdict


REFUSED = "denied:idempotency_mismatch"


@pytest.mark.parametrize("end", ["settle", "doubt", ""])
@pytest.mark.parametrize("whom", ["abcd", "bc", "a", "xa"])
def test_a_changed_list_is_refused_until_its_own_was_repeated(books: Books, end: str, whom: str) -> None:
    first = sent(books, books.claim("Send_1"), "abc", end)
    key = books.claim("Send_1")
    denied = books.reserve(key, ask(books, whom))
    assert (denied.reason, denied.facts["call_id"]) == ("idempotency_mismatch", first.call_id)
    assert said(books, key, "x") == "allowed"
    if end == "settle":
        assert said(books, key, "abc") == "replayed"
        assert said(books, key, whom) == "allowed"  # Another mail of this attempt, after the first one.


def test_in_another_run_too(books: Books) -> None:
    sent(books, books.claim("Send_1"), "abc")
    assert said(books, books.claim("Send_1", name_run(books, "corrected")), "abcd") == REFUSED


def name_run(books: Books, run_id: str) -> str:
    named = Books(books.path, CAP, run_id)
    named.ledger.close()
    return named.run_id


@pytest.mark.parametrize(
    ("who", "more"),
    [
        ("Send_2", {}),
        ("Send_1", {"account": "stripe:live"}),
        ("Send_1", {"vendor": "twilio"}),
        ("Send_1", {"key": "order-1", "key_is_callers": True}),
    ],
)
def test_what_is_another_call_is_no_repetition(books: Books, who: str, more: dict[str, Any]) -> None:
    sent(books, books.claim("Send_1"), "abc")
    assert said(books, books.claim(who), "abcd", **more) == "allowed"


def test_what_was_not_made_reaches_nobody(books: Books) -> None:
    sent(books, books.claim("Send_1"), "abc", "void")
    assert said(books, books.claim("Send_1"), "abcd") == "allowed"


def test_a_completion_ends_it_and_nothing_is_kept(books: Books) -> None:
    sent(books, books.claim("Send_1"), "abc")
    sent(books, books.claim("Send_2"), "abc")
    books.write(claims.count_completion, "Send_1")
    assert said(books, books.claim("Send_1"), "abcd") == "allowed"
    assert said(books, books.claim("Send_2"), "abcd") == REFUSED
    assert books.read(lambda tx: tx.value("SELECT count(*) FROM call_target")) == 4 + 3


def test_a_call_in_doubt_of_the_same_attempt(books: Books) -> None:
    key = books.claim("Send_1")
    sent(books, key, "abc", "doubt")
    assert said(books, key, "abcd") == REFUSED
    assert said(books, key, "abc") == "allowed"  # The same call again.


def test_a_call_of_the_same_attempt_that_an_operator_has_ended(books: Books) -> None:
    key = books.claim("Send_1")
    lost = sent(books, key, "abc", "doubt").call_id
    books.write(corrections.resolve, lost, Resolution(Micros(300), "mail-1"), "r1")
    assert said(books, key, "abcd") == REFUSED
    assert said(books, key, "abc") == "replayed"
    assert said(books, key, "abcd") == "allowed"


def test_a_call_of_the_same_attempt_that_was_not_answered(books: Books) -> None:
    key = books.claim("Send_1")
    sent(books, key, "abc", key="made-up-1")
    assert said(books, key, "abcd", unanswered=("made-up-1",)) == REFUSED
    assert said(books, key, "abc", unanswered=("made-up-1",), key="made-up-2") == "replayed"
    assert said(books, key, "abcd") == "allowed"


def test_a_call_of_the_same_attempt_whose_process_is_gone(books: Books) -> None:
    """Its vendor's SDK makes up no key: it is named by its id."""
    key = books.claim("Send_1")
    lost = sent(books, key, "abc").call_id
    assert said(books, key, "abcd", unanswered=(lost,)) == REFUSED
    assert said(books, key, "abc", unanswered=(lost,)) == "replayed"
    assert said(books, key, "abc", unanswered=(lost,)) == "allowed"


def test_of_several_that_are_repeated_each_is_done_with(books: Books) -> None:
    key = books.claim("Send_1")
    for whom in ("az", "bz"):
        sent(books, key, whom)
    key = books.claim("Send_1")
    assert [said(books, key, whom) for whom in ("az", "cz", "bz", "cz")] == [
        "replayed",
        REFUSED,
        "replayed",
        "allowed",
    ]


def test_a_try_that_was_voided_is_not_compared_with_itself(books: Books) -> None:
    key = books.claim("Send_1")
    asked = sent(books, key, "abc", "void")
    again = replace(asked, ask=2)
    assert books.reserve(key, again).verdict == "allowed"


def test_a_call_for_very_many_is_kept_or_refused(books: Books) -> None:
    everybody = tuple(f"{number:016x}" for number in range(MAX_TARGETS))
    for _ in range(2):
        key = books.claim("Send_1")
        asked = ReserveRequest.from_json(books.ask(100, target="everybody", targets=everybody).to_json())
        answer = books.reserve(key, asked)
        if answer.verdict == "allowed":
            books.end(
                key, EndRequest("settle", asked.call_id, total_micros=100, status=200, answer_body="{}")
            )
    assert answer.verdict == "replayed"
    more = books.reserve(books.claim("Send_1"), books.ask(100, target="more", targets=(*everybody, "x")))
    assert "15000 of its 15001 recipients" in more.message
    many = Quote("batch.send", "resend", "/emails/batch", targets=tuple(map(str, range(MAX_TARGETS + 1))))
    assert "split it" in many.unkeepable
