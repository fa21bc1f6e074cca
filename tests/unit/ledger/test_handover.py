"""What a call lets go of an object is counted by who relies on it, in that one's own budgets."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger import corrections, runs
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from scheduler_patch.dispatch.state import DispatchState
from scheduler_patch.service import operators
from tests.support.books import Books


class TwoRuns(Books):
    """Books with a run beside theirs; `key` and `other` are of either."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, cap=1000)
        self.write(runs.open_run, runs.RunRequest("other", False, "Root", "Root_2", Micros(400)))
        self.key, self.other = self.claim("task"), self.claim("other", "other")

    def of_other(self) -> tuple[int, int, int]:
        run = self.read(runs.run_row, "other")
        return run["spent_micros"], run["reserved_micros"], run["overrun_micros"]

    def reserved(self, key: str, total: int | None, **more: Any) -> ReserveRequest:
        ask = replace(
            self.ask(0, object_id="pi_1", path="/v1/payment_intents/pi_1"), total_micros=total, **more
        )
        assert self.reserve(key, ask).verdict == "allowed"
        return ask

    def lost(self, key: str, total: int | None = 300, **more: Any) -> ReserveRequest:
        ask = self.reserved(key, total, **more)
        self.end(key, EndRequest("doubt", ask.call_id, 1))
        return ask

    def settle(self, key: str, ask: ReserveRequest, total: int | None, **more: Any) -> None:
        said = {"status": 200, "answer_body": "{}", "total_micros": total, "worth_micros": total or 0} | more
        self.end(key, EndRequest("settle", ask.call_id, 1, **said))

    def settled(self, key: str, total: int, **more: Any) -> ReserveRequest:
        ask = self.reserved(key, total)
        self.settle(key, ask, total, **more)
        return ask

    def say(self, ask: ReserveRequest, spent: int | None, **more: Any) -> Any:
        what = Resolution(None if spent is None else Micros(spent), **more)
        return self.write(corrections.resolve, ask.call_id, what, uuid.uuid4().hex)

    def row(self, ask: ReserveRequest) -> dict[str, Any]:
        found: dict[str, Any] = self.read(lambda tx: tx.one("SELECT * FROM call WHERE id = ?", ask.call_id))
        return found

    def counted(self, object_id: str = "pi_1") -> int:
        sql = "SELECT counted_micros FROM vendor_object WHERE object_id = ?"
        return int(self.read(lambda tx: tx.value(sql, object_id)))


@pytest.fixture
def books(tmp_path: Path) -> Iterator[TwoRuns]:
    books = TwoRuns(tmp_path / "ledger.db")
    yield books
    assert books.audit() == []
    books.ledger.close()


@pytest.mark.parametrize("spent", [None, 0])
def test_what_another_run_has_moved_is_counted_there(books: TwoRuns, spent: int | None) -> None:
    lost = books.lost(books.key)
    moved = books.settled(books.other, 300)
    assert (books.figures(), books.of_other()) == ((0, 300, 0), (0, 0, 0))
    resolved = books.say(lost, spent)
    assert resolved["message"].endswith(f"call {moved.call_id} of run other counts $0.0003 of pi_1 now")
    assert (books.figures(), books.of_other(), books.counted()) == ((0, 0, 0), (300, 0, 0), 300)


@pytest.mark.parametrize("state", ["pending", "in_doubt"])
def test_what_another_call_may_still_move_is_reserved_there(books: TwoRuns, state: str) -> None:
    lost = books.lost(books.key)
    open_ = books.lost(books.other) if state == "in_doubt" else books.reserved(books.other, 300)
    books.say(lost, None)
    assert (books.figures(), books.of_other()) == ((0, 0, 0), (0, 300, 0))
    books.settle(books.other, open_, 300)
    assert (books.of_other(), books.counted()) == ((300, 0, 0), 300)


def test_what_a_decline_has_left_open_counts_on(books: TwoRuns) -> None:
    lost = books.lost(books.key)
    books.settled(books.other, 300, status=402)
    books.say(lost, None)
    assert (books.figures(), books.of_other()) == ((0, 0, 0), (300, 0, 0))


def test_nothing_is_handed_over_beyond_what_the_vendor_has_said(books: TwoRuns) -> None:
    books.settled(books.key, 100)
    lost = books.lost(books.key, 300)
    books.settled(books.other, 100)
    books.say(lost, None)
    assert (books.figures(), books.of_other(), books.counted()) == ((100, 0, 0), (0, 0, 0), 100)


def test_the_last_word_of_an_object_is_what_counts(books: TwoRuns) -> None:
    lost = books.lost(books.key)
    books.settled(books.other, 300)
    cancel = books.reserved(books.other, 0)
    books.settle(books.other, cancel, 0, only_less=True)
    assert books.say(lost, None)["message"] == "resolved: not sent"
    assert (books.figures(), books.of_other(), books.counted()) == ((0, 0, 0), (0, 0, 0), 0)


def test_of_words_that_overlapped_the_greatest_counts(books: TwoRuns) -> None:
    lost = books.lost(books.key)
    one, two = books.reserved(books.other, 300), books.reserved(books.other, 300)
    books.settle(books.other, one, 300)
    books.settle(books.other, two, 100)
    books.say(lost, None)
    assert (books.of_other(), books.counted()) == ((300, 0, 0), 300)


def test_what_said_nothing_of_the_object_relies_on_nothing(books: TwoRuns) -> None:
    lost = books.lost(books.key)
    free = books.reserved(books.other, 0)
    books.settle(books.other, free, None)
    books.say(lost, None)
    assert (books.figures(), books.of_other()) == ((0, 0, 0), (0, 0, 0))


def test_what_nobody_relies_on_is_let_go(books: TwoRuns) -> None:
    books.settled(books.key, 100)
    lost = books.lost(books.key)
    books.say(lost, None)
    assert books.figures() == (100, 0, 0)
    books.settled(books.other, 50)
    books.say(lost, None, correct=True)
    assert (books.figures(), books.of_other()) == ((50, 0, 0), (0, 0, 0))


def test_words_and_corrections_in_any_order_leave_it_counted_once(books: TwoRuns) -> None:
    lost = books.lost(books.key)
    books.settled(books.other, 300)
    for said in (300, None, 0, 300, None, 100, None):
        books.say(lost, said, correct=True)
        kept = said or 0
        assert (books.figures(), books.of_other()) == ((kept, 0, 0), (300 - kept, 0, 0)), said
        assert books.counted() == 300


def test_what_relied_on_a_wrong_object_counts_it_itself(books: TwoRuns) -> None:
    opened = books.ask(300)
    books.reserve(books.key, opened)
    books.end(books.key, EndRequest("doubt", opened.call_id, 1))
    books.say(opened, 300, object_id="pi_1")
    books.settled(books.other, 300)
    books.say(opened, 300, object_id="pi_2", correct=True)
    assert (books.figures(), books.of_other()) == ((300, 0, 0), (300, 0, 0))
    assert (books.counted(), books.counted("pi_2")) == (300, 300)


def test_the_object_that_another_call_has_acted_on_may_be_ones_own(books: TwoRuns) -> None:
    opened = books.ask(300)
    books.reserve(books.key, opened)
    books.end(books.key, EndRequest("doubt", opened.call_id, 1))
    books.settled(books.other, 300)
    assert books.say(opened, 0, object_id="pi_1")["object_id"] == "pi_1"


def test_where_there_is_no_room_nothing_is_changed(books: TwoRuns) -> None:
    lost = books.lost(books.key)
    moved = books.settled(books.other, 300)
    books.reserve(books.other, books.ask(200))
    before = books.figures(), books.of_other()
    top_up = "`spendguard top-up other 0.01` first, or repeat it with --overrun"
    with pytest.raises(Conflict, match="no room for that") as refused:
        books.say(lost, None)
    assert (top_up in str(refused.value), moved.call_id in str(refused.value)) == (True, True)
    assert (books.figures(), books.of_other(), books.row(lost)["state"]) == (*before, "in_doubt")
    books.say(lost, None, overrun=True)
    assert (books.figures(), books.of_other()) == ((0, 0, 0), (0, 200, 300))
    assert books.read(runs.run_row, "other")["state"] == "frozen"


def test_what_is_under_way_is_no_overrun(books: TwoRuns) -> None:
    lost = books.lost(books.key)
    books.lost(books.other)
    books.reserve(books.other, books.ask(200))
    with pytest.raises(Conflict, match=r"top-up other 0\.01` first$"):
        books.say(lost, None, overrun=True)
    books.write(runs.top_up, "other", Micros(100), "top up")
    books.say(lost, None)
    assert (books.figures(), books.of_other()) == ((0, 0, 0), (0, 500, 0))


@pytest.mark.parametrize("is_open", [True, False])
def test_of_a_run_that_is_revoked_no_top_up_is_named(books: TwoRuns, is_open: bool) -> None:
    lost = books.lost(books.key)
    relies = books.lost(books.other) if is_open else books.settled(books.other, 300)
    books.reserve(books.other, books.ask(200))
    books.write(runs.revoke, "other")
    with pytest.raises(Conflict) as refused:
        books.say(lost, None)
    text = str(refused.value)
    assert "top-up" not in text
    if is_open:
        assert f"`spendguard resolve {relies.call_id} --spent USD --overrun`" in text
        books.say(relies, 300, overrun=True)
    books.say(lost, None, overrun=not is_open)
    assert (books.figures(), books.of_other()) == ((0, 0, 0), (0, 200, 300))


def test_what_relies_on_a_call_in_doubt_is_said_after_that_one(books: TwoRuns) -> None:
    first, second = books.lost(books.key), books.lost(books.other)
    with pytest.raises(Conflict, match=f"call {first.call_id}, on pi_1 as well, has reserved"):
        books.say(second, 300)
    books.say(first, None)
    books.say(second, 300)
    assert (books.figures(), books.of_other()) == ((0, 0, 0), (300, 0, 0))


@pytest.mark.parametrize("spent", [None, 0, 300])
def test_a_call_that_has_moved_what_another_had_reserved_counts_it(books: TwoRuns, spent: int | None) -> None:
    """The second is said first, to have cost what was reserved for it: nothing."""
    first, second = books.lost(books.key), books.lost(books.other)
    books.say(second, 0)
    books.say(first, spent)
    kept = spent or 0
    assert (books.figures(), books.of_other()) == ((kept, 0, 0), (300 - kept, 0, 0))


@pytest.mark.parametrize("is_doubted", [True, False])
def test_a_refusal_by_the_vendor_lets_nothing_go_that_others_rely_on(
    books: TwoRuns, is_doubted: bool
) -> None:
    lost = books.lost(books.key)
    if is_doubted:
        books.lost(books.other)
    else:
        books.settled(books.other, 300)
    books.end(books.key, EndRequest("void", lost.call_id, 1, definite=True, status=400))
    assert (books.figures(), books.row(lost)["state"]) == ((0, 300, 0), "in_doubt")
    books.say(lost, None)
    assert books.figures() == (0, 0, 0)
    assert sum(books.of_other()) == 300


def test_a_settle_lets_nothing_go_that_a_call_in_doubt_relies_on(books: TwoRuns) -> None:
    lost = books.lost(books.key, 50)
    raised = books.lost(books.other, 100)
    books.settle(books.key, lost, 50)
    assert (books.figures(), books.of_other()) == ((50, 0, 0), (0, 50, 0))
    books.settle(books.other, raised, 100)
    assert (books.figures(), books.of_other(), books.counted()) == ((50, 0, 0), (50, 0, 0), 100)


def test_an_older_word_lets_nothing_go_that_a_later_one_relies_on(books: TwoRuns) -> None:
    lost = books.lost(books.key, 100)
    books.settled(books.other, 400)
    books.settle(books.key, lost, 100)
    assert (books.figures(), books.of_other(), books.counted()) == ((100, 0, 0), (300, 0, 0), 400)


def test_the_gate_hears_of_every_run_that_counts_something_else_now(books: TwoRuns) -> None:
    lost = books.lost(books.key)
    books.settled(books.other, 300)
    booked = books.write(operators._resolve, lost.call_id, Resolution(None), "once")
    state = DispatchState()
    booked.hear(state)
    assert state.runs["other"].own_budget.remaining == 100
