"""What a vendor answers with what it had kept under a key: counted by one call, never by two or none."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import claims, corrections, runs
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from tests.support.books import Books

DAY_MS = 86_400_000


class Shop:
    """A task that completes, and is due again in the next run: its call has the same key of the caller's."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.runs: list[str] = []
        self.attempt = ""

    def begin(self, **more: Any) -> tuple[str, ReserveRequest]:
        if self.runs:
            self.books.write(claims.finish, self.attempt, "completed")
        self.runs.append(f"run-{len(self.runs)}")
        self.books.write(runs.open_run, runs.RunRequest(self.runs[-1], False, "Root", "Root_1", Micros(1000)))
        key = self.books.claim("task", self.runs[-1])
        self.attempt = self.books.last_claim
        said = {"key": "order-1", "key_is_callers": True, "target": "cus_1", **more}
        ask = self.books.ask(100, **said)
        answer = self.books.reserve(key, ask)
        assert (answer.verdict, answer.wire_key) == ("allowed", said["key"])
        return key, ask

    def make(self, kept: bool | str, total: int | None = 100, **more: Any) -> EndRequest:
        """Make the call, and return how it ended.

        `kept`: the vendor answers with what it had under the key; "again": not what is sent first.
        """
        ends = more.pop("ends", {})
        key, ask = self.begin(**more)
        return self.answer(key, ask, kept, total, **ends)

    def answer(
        self, key: str, ask: ReserveRequest, kept: bool | str, total: int | None = 100, **ends: Any
    ) -> EndRequest:
        said = {"object_id": "pi_1", "worth_micros": total or 0, "status": 200, "answer_body": "{}", **ends}
        said |= {"executed_before": kept is True, "kept": bool(kept)}
        end = EndRequest("settle", ask.call_id, ask.ask, total_micros=total, **said)
        self.books.end(key, end)
        return end

    def lose(self, **more: Any) -> tuple[str, ReserveRequest]:
        """Make the call, and hear nothing."""
        key, ask = self.begin(**more)
        self.books.end(key, EndRequest("doubt", ask.call_id))
        return key, ask

    def resolve(self, ask: ReserveRequest, spent: int | None, **more: Any) -> None:
        said = Resolution(None if spent is None else Micros(spent), **more)
        self.books.write(corrections.resolve, ask.call_id, said, uuid.uuid4().hex)

    def counted(self) -> list[int]:
        """Return what each run counts as spent, or beyond."""
        rows = [self.books.read(runs.run_row, run_id) for run_id in self.runs]
        return [row["spent_micros"] + row["overrun_micros"] for row in rows]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    books = Books(tmp_path / "ledger.db", cap=1000)
    yield Shop(books)
    assert books.audit() == []
    books.ledger.close()


@pytest.mark.parametrize("object_id", [None, "pi_1"], ids=["opened", "acted on"])
def test_what_no_call_counts_for_is_this_ones(shop: Shop, object_id: str | None) -> None:
    end = shop.make(True, object_id=object_id)
    assert shop.counted() == [100]
    shop.books.end(shop.books.claim("task", "run-0"), end)
    assert shop.counted() == [100], "the same end again"


@pytest.mark.parametrize("object_id", [None, "pi_1"], ids=["opened", "acted on"])
def test_what_another_run_has_made_under_the_same_key_is_counted_there(
    shop: Shop, object_id: str | None
) -> None:
    shop.make(False, object_id=object_id)
    shop.make(True, object_id=object_id)
    shop.make(True, object_id=object_id)
    assert shop.counted() == [100, 0, 0]


def test_what_was_taken_back_since_is_not_counted_by_an_older_answer(shop: Shop) -> None:
    shop.make(False)
    key = shop.books.claim("other", "run-0")
    ask = shop.books.ask(0, object_id="pi_1")
    shop.books.reserve(key, ask)
    shop.answer(key, ask, False, 0, only_less=True)
    assert shop.counted() == [0]
    shop.make(True)
    assert shop.counted() == [0, 0]


def test_an_item_that_an_invoice_has_taken_along_is_not_counted_again(shop: Shop) -> None:
    shop.make(False, ends={"object_id": "ii_1"})
    key = shop.books.claim("other", "run-0")
    ask = shop.books.ask(100, object_id="in_1", covers=("ii_1",))
    shop.books.reserve(key, ask)
    shop.answer(key, ask, False, object_id="in_1", covers=("ii_1",))
    assert shop.counted() == [100]
    shop.make(True, ends={"object_id": "ii_1"})
    assert shop.counted() == [100, 0]


def test_another_object_under_the_same_key_is_other_money(shop: Shop) -> None:
    """The vendor had forgotten the key, and executed the call anew; of that nobody has heard."""
    shop.make(False)
    _, lost = shop.lose()
    shop.resolve(lost, None)
    shop.make(True, ends={"object_id": "pi_2"})
    assert shop.counted() == [100, 0, 100]


def test_what_an_operator_took_for_not_sent_is_counted(shop: Shop) -> None:
    key, lost = shop.lose()
    shop.resolve(lost, None)
    shop.make(True)
    assert shop.counted() == [0, 100]
    shop.answer(key, lost, False)
    assert shop.counted() == [0, 100], "its own reply comes at last"


@pytest.mark.parametrize(("said", "rest"), [(100, 0), (30, 70), (0, 100)])
@pytest.mark.parametrize("object_id", [None, "pi_1"], ids=["unnamed", "named"])
def test_what_an_operator_has_said_is_spent_is_not_counted_again(
    shop: Shop, said: int, rest: int, object_id: str | None
) -> None:
    _, lost = shop.lose()
    shop.resolve(lost, said, object_id=object_id)
    shop.make(True)
    assert shop.counted() == [said, rest]


def test_what_is_not_counted_there_any_more_is_counted_here(shop: Shop) -> None:
    key, lost = shop.lose()
    shop.resolve(lost, 100)
    shop.make(True)
    assert shop.counted() == [100, 0]
    shop.resolve(lost, None, correct=True)
    assert shop.counted() == [0, 100], "who has been told counts it"
    shop.make(True)
    assert shop.counted() == [0, 100, 0]
    shop.answer(key, lost, True)
    assert shop.counted() == [0, 100, 0], "its own reply comes at last"


def test_two_lost_calls_of_one_key_are_one(shop: Shop) -> None:
    first, second = shop.lose(), shop.lose()
    shop.resolve(first[1], None)
    shop.resolve(second[1], 100)
    shop.answer(*first, True)
    assert shop.counted() == [0, 100]


def test_what_was_said_of_a_call_of_days_ago_is_about_other_money(shop: Shop) -> None:
    _, lost = shop.lose()
    shop.resolve(lost, 100)
    shop.books.write(lambda tx: tx.run("UPDATE call SET granted_at = granted_at - ?", DAY_MS + 1))
    shop.make(True)
    assert shop.counted() == [100, 100]


@pytest.mark.parametrize("end", ["its own answer", "not sent"])
def test_a_call_in_doubt_under_the_same_key_is_counted_once_in_the_end(shop: Shop, end: str) -> None:
    key, lost = shop.lose()
    shop.make(True)
    assert shop.counted() == [0, 100]
    if end == "not sent":
        shop.resolve(lost, None)
    else:
        shop.answer(key, lost, False)
    assert shop.counted() == [0, 100]
    assert shop.books.read(runs.run_row, "run-0")["reserved_micros"] == 0


@pytest.mark.parametrize(("said", "whole"), [(None, 100), (100, 100), (0, 100)])
def test_an_answer_that_comes_after_an_operators_word_is_believed(
    shop: Shop, said: int | None, whole: int
) -> None:
    key, lost = shop.lose()
    shop.resolve(lost, said)
    shop.answer(key, lost, True)
    assert shop.counted() == [whole]


def test_an_older_answer_frees_nothing(shop: Shop) -> None:
    shop.make(False, ends={"object_id": "pi_1"}, key="order-0")
    books = shop.books
    for ends in ({"only_less": True}, {}):
        key = books.claim("other", "run-0")
        ask = books.ask(0, object_id="pi_1")
        books.reserve(key, ask)
        shop.answer(key, ask, True, 40, **ends)
        assert shop.counted() == [100]
    books.reserve(key, foreign := books.ask(0, object_id="pi_2"))
    shop.answer(key, foreign, True, object_id="pi_2", only_less=True)
    assert shop.counted() == [100], "what can only free never takes"


def test_what_is_worth_more_by_the_kept_answer_is_counted(shop: Shop) -> None:
    """The ledger was restored: it knows the intent, and not what was added to it."""
    shop.make(False, total=60, ends={"object_id": "pi_1"}, key="order-0")
    shop.make(True, object_id="pi_1")
    assert shop.counted() == [60, 40]


class TestWordsThatComeLate:
    """A call was in doubt while another acted on its object: whose word is the older one decides."""

    def act(self, shop: Shop, total: int, **more: Any) -> tuple[str, ReserveRequest]:
        key = shop.books.claim(f"act {total}", "run-0")
        said = {"object_id": "pi_1", "acts_on": ("pi_1",), "key": f"act-{total}", "key_is_callers": True}
        ask = shop.books.ask(total, **{**said, **more})
        assert shop.books.reserve(key, ask).verdict == "allowed"
        return key, ask

    def lose(self, shop: Shop, total: int) -> tuple[str, ReserveRequest]:
        key, ask = self.act(shop, total)
        shop.books.end(key, EndRequest("doubt", ask.call_id))
        return key, ask

    def spent(self, shop: Shop) -> int:
        row = shop.books.read(runs.run_row, "run-0")
        assert (row["reserved_micros"], row["overrun_micros"]) == (0, 0)
        return int(row["spent_micros"])

    @pytest.mark.parametrize("kept", [False, True], ids=["its first send's", "kept"])
    def test_it_frees_nothing_that_a_newer_call_has_relied_on(self, shop: Shop, kept: bool) -> None:
        shop.make(False)
        lost = self.lose(shop, 200)
        shop.answer(*self.act(shop, 300), False, 300)
        shop.answer(*lost, kept and "again", 200)
        assert self.spent(shop) == 300
        shop.answer(*self.act(shop, 350), False, 350)
        assert self.spent(shop) == 350, "and the object counts for all of it"

    def test_it_frees_nothing_that_a_call_in_doubt_has_relied_on(self, shop: Shop) -> None:
        shop.make(False)
        first, second = self.lose(shop, 200), self.lose(shop, 300)
        shop.answer(*first, "again", 200)
        shop.answer(*second, "again", 300)
        assert self.spent(shop) == 300

    def test_what_is_executed_when_it_is_sent_again_is_the_newest(self, shop: Shop) -> None:
        shop.make(False)
        key, ask = self.lose(shop, 200)
        shop.answer(*self.act(shop, 300), False, 300)
        again = replace(ask, ask=2)
        assert shop.books.reserve(key, again).resend
        shop.answer(key, again, False, 200)
        assert self.spent(shop) == 200

    @pytest.mark.parametrize(("newer", "spent"), [(None, 40), (60, 60)])
    def test_what_was_kept_gives_back_what_nothing_newer_counts(
        self, shop: Shop, newer: int | None, spent: int
    ) -> None:
        """The newer word may be about a time before it, or after."""
        shop.make(False)
        lost = self.lose(shop, 40)
        if newer is not None:
            shop.answer(*self.act(shop, newer), False, newer)
        shop.answer(*lost, "again", 40)
        assert self.spent(shop) == (spent if newer is None else 100)

    @pytest.mark.parametrize("by", ["itself", "another"])
    def test_what_was_refused_under_its_key_may_have_been_executed_then(self, shop: Shop, by: str) -> None:
        """A 429 comes for what is executed all the same; it is made again under that key."""
        shop.make(False)
        key, ask = self.act(shop, 40)
        shop.books.end(key, EndRequest("void", ask.call_id, status=429))
        shop.answer(*self.act(shop, 300), False, 300)
        if by == "itself":
            ask = replace(ask, ask=2)
            assert shop.books.reserve(key, ask).verdict == "allowed"
        else:
            key, ask = self.act(shop, 40, target="another")
        shop.books.end(key, EndRequest("doubt", ask.call_id, ask.ask))
        shop.answer(key, replace(ask, ask=ask.ask + 1), "again", 40)
        assert self.spent(shop) == 300

    def test_an_opening_frees_nothing_of_what_others_have_found_meanwhile(self, shop: Shop) -> None:
        """Whoever acts on an object knows of it later than it was opened."""
        shop.answer(*self.begun(shop, 300), False, 300)
        shop.make("again")
        assert self.spent(shop) == 300

    def begun(self, shop: Shop, total: int) -> tuple[str, ReserveRequest]:
        shop.books.write(runs.open_run, runs.RunRequest("run-0", False, "Root", "Root_1", Micros(1000)))
        return self.act(shop, total)

    def test_an_operator_who_named_the_object_has_said_what_a_newer_call_relies_on(self, shop: Shop) -> None:
        key, lost = shop.lose()
        shop.resolve(lost, 100, object_id="pi_1")
        shop.answer(*self.act(shop, 300), False, 300)
        shop.answer(key, lost, False)
        assert self.spent(shop) == 300

    def test_a_call_that_was_taken_for_not_sent_leaves_what_its_object_counts(self, shop: Shop) -> None:
        key, lost = shop.lose()
        shop.resolve(lost, None)
        shop.answer(*self.act(shop, 300), False, 300)
        shop.answer(key, lost, False)
        shop.answer(*self.act(shop, 310), False, 310)
        assert self.spent(shop) == 310


def test_parts_that_another_call_has_opened_are_counted_there(shop: Shop) -> None:
    """A vendor that does not say that it had kept its answer names the same parts again."""
    parts = {f"mail_{number}": "10" for number in range(10)}
    for _ in range(2):
        shop.make(False, ends={"object_id": None, "opened": parts})
    assert shop.counted() == [100, 0]
    shop.make(False, ends={"object_id": None, "opened": {**parts, "mail_10": "10"}}, total=110)
    assert shop.counted() == [100, 0, 10]


def test_an_object_that_another_call_of_the_key_has_opened_is_its(shop: Shop) -> None:
    """Nor does it say so of one, which was taken back meanwhile."""
    shop.make(False)
    key = shop.books.claim("other", "run-0")
    ask = shop.books.ask(0, object_id="pi_1")
    shop.books.reserve(key, ask)
    shop.answer(key, ask, False, 0, only_less=True)
    shop.make(False)
    assert shop.counted() == [0, 0]


def test_an_act_that_may_have_been_executed_anew_is_counted(shop: Shop) -> None:
    """After a day its vendor may have forgotten the key: what it had kept may be this call's."""
    shop.make(False, object_id="pi_1")
    shop.books.write(lambda tx: tx.run("UPDATE call SET granted_at = granted_at - ?", DAY_MS + 1))
    shop.make(False, total=40, object_id="pi_1", key="order-2")
    shop.make("again", object_id="pi_1")
    assert sum(shop.counted()) == 100
