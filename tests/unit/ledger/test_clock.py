"""A clock that is set back: what is stored is from the future then; nothing waits for it or lives longer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import corrections, keys, replays, settlement
from luigi_spendguard.ledger.keys import Terms
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.dispatch.budgets import Rules
from scheduler_patch.dispatch.feed import feed_day
from scheduler_patch.dispatch.state import DispatchState
from tests.support.books import Books

HOUR = 3_600_000
#: Every time in the ledger that something is compared with.
TIMES = {
    "call": ("created_at", "granted_at", "ended_at"),
    "claim": ("claimed_at", "ended_at"),
    "key_terms": ("expires_at",),
    "exchange": ("stored_at",),
    "price_due": ("due_at",),
    "run": ("opened_at", "ended_at"),
}


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db", cap=1000)
    yield made
    made.ledger.close()


def set_back(books: Books, ms: int) -> None:
    """Set the clock back: all that is stored is so much later, seen from now."""

    def operation(tx: Any) -> None:
        for table, columns in TIMES.items():
            for column in columns:
                tx.run(f"UPDATE {table} SET {column} = {column} + ?", ms)

    books.write(operation)


def reserved(books: Books, **more: Any) -> ReserveRequest:
    """Reserve a call whose sender is never heard of again."""
    ask = books.ask(10, target="cus_1", **more)
    assert books.reserve(books.claim("task"), ask).verdict == "allowed"
    return ask


def test_a_repeated_call_does_not_wait_for_a_grant_from_the_future(books: Books) -> None:
    first = reserved(books)
    assert books.reserve(books.claim("task"), books.ask(10, target="cus_1")).verdict == "wait"
    set_back(books, HOUR // 2)
    again = books.reserve(books.claim("task"), books.ask(10, target="cus_1"))
    assert (again.verdict, again.call_id, again.resend) == ("allowed", first.call_id, True)


def test_the_sweep_finds_its_sender_gone(books: Books) -> None:
    reserved(books)
    assert books.write(settlement.sweep) == []
    set_back(books, 1000)
    assert books.write(settlement.sweep) == [], "a clock that is kept by NTP may go back a little"
    set_back(books, HOUR)
    assert books.write(settlement.sweep) == ["run"]
    assert books.write(settlement.sweep) == [], "it is in doubt"
    assert books.figures() == (0, 10, 0)


@pytest.mark.parametrize(("ms", "verdict"), [(HOUR // 2, "allowed"), (2 * HOUR, "denied")])
def test_what_may_be_older_than_the_vendor_remembers_is_not_sent_again(
    books: Books, ms: int, verdict: str
) -> None:
    lost = books.ask(10, target="cus_1")
    key = books.claim("task")
    books.reserve(key, lost)
    books.end(key, EndRequest("doubt", lost.call_id, 1))
    set_back(books, ms)
    assert books.reserve(books.claim("task"), books.ask(10, target="cus_1")).verdict == verdict


def issued(books: Books, ttl_ms: int) -> str:
    return books.write(keys.issue, Terms("stripe", "run", ttl_ms=ttl_ms), Caps())[1]


def asked(books: Books, key: str) -> str:
    answer = books.reserve(key, books.ask(10))
    return answer.reason or answer.verdict


class TestKeys:
    def test_one_that_has_expired_stays_so(self, books: Books) -> None:
        key = issued(books, 0)
        assert asked(books, key) == "expired"
        books.write(settlement.sweep)
        set_back(books, HOUR)
        assert asked(books, key) == "expired"
        assert [each["state"] for each in books.read(keys.keys) if each["vendor"]] == ["expired"]

    def test_one_that_was_issued_in_the_future_has_expired(self, books: Books) -> None:
        key = issued(books, HOUR)
        assert asked(books, key) == "allowed"
        set_back(books, HOUR)
        assert asked(books, key) == "expired"
        assert [each["state"] for each in books.read(keys.keys) if each["vendor"]] == ["expired"]


def test_an_answer_from_the_future_begins_to_age_now(books: Books) -> None:
    key, ask = books.claim("task"), books.ask(10)
    books.reserve(key, ask)
    books.end(key, EndRequest("settle", ask.call_id, 1, total_micros=10, status=200, answer_body="{}"))
    set_back(books, 1000 * 24 * HOUR)
    books.write(replays.forget, 30)
    assert books.read(lambda tx: tx.value("SELECT max(stored_at) FROM exchange") - tx.now()) <= 0


def test_a_price_is_asked_for_though_it_was_put_off_into_the_future(books: Books) -> None:
    key, ask = books.claim("task"), books.ask(10)
    books.reserve(key, ask)
    books.end(
        key,
        EndRequest("settle", ask.call_id, 1, total_micros=10, status=200, object_id="SM1", price_due=True),
    )
    assert not books.read(corrections.waits)
    set_back(books, 2 * HOUR)
    assert books.read(corrections.waits)
    due = books.write(partial(corrections.due, relayed_too=False), ["stripe"])
    assert [row["object_id"] for row in due] == ["SM1"]
    assert not books.read(corrections.waits)


def test_the_gate_counts_in_the_day_that_the_ledger_has() -> None:
    """Else it finds room in another one, and dispatches what is denied, for ever."""
    state = DispatchState()
    state.rules = Rules(day=100)
    zero = {"reserved_micros": 0, "overrun_micros": 0, "shadow_micros": 0, "cap_micros": 100}
    today = {"part": "2026-11-29", "spent_micros": 0, "remaining_micros": 100, **zero}
    before = {"part": "2026-11-28", "spent_micros": 100, "remaining_micros": 0, **zero}
    feed_day(state, today, 1, is_today=True)
    feed_day(state, before, 2)
    assert state.day is not None
    assert state.day.remaining == 100, "a late answer of the day before"
    feed_day(state, before, 3, is_today=True)
    assert (state.day.window, state.day.remaining) == ("2026-11-28", 0)
    feed_day(state, None, 4, is_today=True)
    feed_day(state, before, 5, is_today=True)
    assert state.day.remaining == 0
