"""A call in doubt that is too old to be sent again: it is searched for by its tag, and never granted anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.protocol import EndRequest, ReserveReply
from tests.support.books import Books

DAY_MS = 25 * 3_600_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db")
    yield books
    books.ledger.close()


def lost(books: Books, **more: Any) -> Any:
    """Return what asks again for a call that was lost a day ago."""
    ask = books.ask(50, **{"target": "cus_1", "taggable": True, "tag": True, **more})
    key = books.claim("Charge_1")
    granted = books.reserve(key, ask)
    assert granted.tagged == ask.tag
    books.end(key, EndRequest("doubt", ask.call_id))
    books.write(
        lambda tx: tx.run(
            "UPDATE call SET created_at = created_at - ?1, granted_at = granted_at - ?1", DAY_MS
        )
    )
    return books.ask(50, target="cus_1", taggable=True, tag=True)


def test_it_is_searched_for_in_the_time_of_its_sends(books: Books) -> None:
    ask = lost(books)
    answer = books.reserve(books.claim("Charge_1"), ask)
    assert (answer.verdict, answer.tagged, answer.body) == ("search", True, "amount=1")
    [row] = books.read(lambda tx: tx.all("SELECT * FROM call"))
    assert (answer.first_at, answer.wire_key) == (row["created_at"], row["wire_key"])
    assert answer.last_at == row["granted_at"] + row["timeout_ms"]


def test_who_got_no_answer_and_asks_again_is_not_let_send_it(books: Books) -> None:
    """What was found is told again; as a grant it would have been sent under a key that is forgotten."""
    ask, key = lost(books), books.claim("Charge_1")
    assert books.reserve(key, ask).verdict == "search"
    found = replace(ask, searched=True, executed=("pi_1",))
    answers: list[ReserveReply] = [books.reserve(key, found) for _ in range(2)]
    assert [(one.verdict, one.object_id) for one in answers] == [("found", "pi_1")] * 2
    mine = replace(found, call_id=answers[0].call_id, sender=ask.call_id, ask=answers[0].ask)
    assert books.reserve(key, mine).verdict == "found"
    assert books.reserve(key, replace(mine, searched=False, executed=())).verdict != "allowed"


@pytest.mark.parametrize("state", ["pending", "in_doubt"])
@pytest.mark.parametrize("tag", [True, False])
def test_nobody_is_let_send_it(books: Books, state: str, tag: bool) -> None:
    """Not as its sender is gone either, before luigid has looked."""
    ask = lost(books, tag=tag)
    books.write(lambda tx: tx.run("UPDATE call SET state = ?", state))
    answer = books.reserve(books.claim("Charge_1"), ask)
    assert (answer.verdict, answer.reason) == (("search", "") if tag else ("denied", "in_doubt"))
    assert books.figures() == (0, 50, 0)
    assert books.audit() == []


@pytest.mark.parametrize("executed", [("pi_1", "pi_2"), ("pi_9",)])
def test_two_and_another_calls_end_nothing(books: Books, executed: tuple[str, ...]) -> None:
    ask, key = lost(books), books.claim("Charge_1")
    other = books.ask(20)
    books.reserve(key, other)
    books.end(key, EndRequest("settle", other.call_id, total_micros=20, object_id="pi_9", status=200))
    answer = books.reserve(key, replace(ask, searched=True, executed=executed))
    assert (answer.verdict, answer.reason) == ("denied", "in_doubt")
    assert executed[0] in answer.message
    assert books.figures() == (20, 50, 0)
