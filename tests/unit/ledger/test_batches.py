"""Whose a batch's call is, and when that has completed: by what is sent, and what is answered instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from luigi_spendguard.ledger import claims, pruning, runs, snapshot
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply
from tests.support.books import Books

#: A call that nobody has ended, beside one that was answered.
LOST, PAID = "doubt", "settle"


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db", cap=10_000)
    yield books
    assert books.audit() == []
    books.ledger.close()


def pay(books: Books, key: str, target: str | None, end: str = PAID, **more: object) -> str:
    """Make a call, and end it if it was sent; return its verdict, or why it was denied."""
    answer: ReserveReply = books.reserve(key, books.ask(100, target=target, **more))
    if answer.verdict == "allowed":
        body = json.dumps({"id": answer.call_id})
        said = EndRequest(end, answer.call_id, answer.ask, total_micros=100, status=200, answer_body=body)
        declined = EndRequest("void", answer.call_id, answer.ask, status=402, definite=True)
        books.end(key, declined if end == "decline" else replace(said, status=200 * (end == PAID)))
    return answer.reason or answer.verdict


def batch(books: Books, names: str, run_id: str = "run", *, keyed: bool = False) -> str:
    """Claim a batch of tasks of these letters (of one: a task), each of which may say what it pays for."""
    members = tuple(names) if len(names) > 1 else ()
    more = {"payment_keys": tuple(names)} if keyed else {}
    return books.claim("-".join(names), run_id, members=members, **more)


def said(books: Books, outcome: str) -> None:
    """Say how the last attempt ended."""
    books.write(claims.finish, books.last_claim, outcome)


def opened(books: Books, run_id: str) -> str:
    books.write(runs.open_run, runs.RunRequest(run_id, False, "Root", run_id, Micros(10_000)))
    return run_id


class TestWhoGoesOnWithACallAlone:
    """It is that task's from then on, and no call of the batch any more, of which the rest is unknown."""

    @pytest.mark.parametrize("end", [LOST, PAID])
    def test_pays_again_when_it_is_due_again_in_a_batch(self, books: Books, end: str) -> None:
        pay(books, batch(books, "ab"), "cus_a", end)
        said(books, "failed")
        alone = batch(books, "a")
        assert pay(books, alone, "cus_a") == ("allowed" if end == LOST else "replayed")
        said(books, "completed")
        pay(books, batch(books, "b"), "cus_b")
        said(books, "completed")
        for names in ("ab", "ba"):
            night = batch(books, names, opened(books, names))
            assert [pay(books, night, one) for one in ("cus_a", "cus_b")] == ["allowed"] * 2
            said(books, "completed")

    def test_also_where_the_rest_never_completes(self, books: Books) -> None:
        pay(books, batch(books, "ab"), "cus_a", LOST)
        assert pay(books, batch(books, "a"), "cus_a") == "allowed"
        said(books, "completed")
        for names in ("a", "ab", "ac"):
            assert pay(books, batch(books, names, opened(books, names)), "cus_a") == "allowed", names
            said(books, "completed")

    @pytest.mark.parametrize("names", ["a", "ab", "ba", "ac"])
    def test_is_answered_until_it_has_completed(self, books: Books, names: str) -> None:
        pay(books, batch(books, "ab"), "cus_a", LOST)
        assert pay(books, batch(books, "a"), "cus_a") == "allowed"
        said(books, "failed")
        assert pay(books, batch(books, names, opened(books, "later")), "cus_a") == "replayed"

    @pytest.mark.parametrize("keyed", [False, True])
    @pytest.mark.parametrize("end", [LOST, PAID])
    def test_makes_a_second_equal_call_as_well(self, books: Books, end: str, keyed: bool) -> None:
        pay(books, batch(books, "ab", keyed=keyed), "cus_a", end)
        for again in ("allowed", "replayed"):
            alone = batch(books, "a", keyed=keyed)
            first = "allowed" if end == LOST and again == "allowed" else "replayed"
            assert [pay(books, alone, "cus_a") for _ in range(2)] == [first, again]
        assert books.figures() == (200, 0, 0)

    def test_has_paid(self, books: Books) -> None:
        """So it is dispatched at the cap, as what has paid is."""
        pay(books, batch(books, "ab"), "cus_a", LOST)
        pay(books, batch(books, "a"), "cus_a")
        said(books, "failed")
        assert "a" in books.read(snapshot.have_paid)
        assert "b" not in books.read(snapshot.have_paid)
        batch(books, "a")
        said(books, "completed")
        assert "a" not in books.read(snapshot.have_paid)

    def test_lets_it_be_pruned_once_it_has_completed(self, books: Books) -> None:
        books.write(runs.open_run, runs.RunRequest("r", True, "Root", "r", Micros(1000)))
        pay(books, batch(books, "ab", "r"), "cus_a", LOST)
        pay(books, batch(books, "a", "r"), "cus_a")
        said(books, "failed")
        books.write(claims.close_run, "r")
        later = books.read(lambda tx: tx.now()) + 1
        assert books.read(pruning.look, later).stay == {"not_completed": 1}
        batch(books, "a")
        said(books, "completed")
        assert books.read(pruning.look, later).stay == {"open": 1}, "for the run that has begun before"


class TestABatchThatGoesOnWithAnothersCall:
    """Both have a task that it may be for; who is not in the second pays for itself."""

    @pytest.mark.parametrize("keyed", [False, True])
    @pytest.mark.parametrize("names", ["a", "ad"])
    def test_leaves_it_to_nobody_of_the_first_alone(self, books: Books, names: str, keyed: bool) -> None:
        pay(books, batch(books, "ab", keyed=keyed), "cus_x", LOST)
        assert pay(books, batch(books, "bc", keyed=keyed), "cus_x") == "allowed"
        said(books, "completed")
        other = batch(books, names, opened(books, "later"), keyed=keyed)
        assert pay(books, other, "cus_x") == "allowed"

    def test_but_for_whom_its_payment_key_has_changed(self, books: Books) -> None:
        """The key has the day in it: the next day goes on with the call, and so does who comes back to it."""
        pay(books, batch(books, "ab", keyed=True), "cus_x", LOST)
        assert pay(books, books.claim("a", payment_keys=("31-a",)), "cus_x") == "allowed"
        assert pay(books, batch(books, "a", keyed=True), "cus_x") == "replayed"


def test_what_was_gone_on_with_before_that_was_kept_is_not_paid_twice(books: Books) -> None:
    pay(books, batch(books, "ab"), "cus_a", LOST)
    pay(books, batch(books, "a"), "cus_a")
    books.write(lambda tx: tx.run("DELETE FROM member WHERE claim_id = ?", books.last_claim))
    said(books, "failed")
    assert pay(books, batch(books, "a"), "cus_a") == "replayed"
    assert pay(books, batch(books, "ab"), "cus_a") == "replayed"


class TestABatchThatGoesOnWithATasksCall:
    def test_does_not_make_it_anybody_elses(self, books: Books) -> None:
        pay(books, batch(books, "a"), "cus_x", LOST)
        assert pay(books, batch(books, "ab"), "cus_x") == "allowed"
        said(books, "failed")
        assert pay(books, batch(books, "b"), "cus_x") == "allowed"
        assert pay(books, batch(books, "a"), "cus_x") == "replayed"
        assert books.figures() == (200, 0, 0)


class TestWhatIsDueAgain:
    def test_is_not_kept_from_it_by_what_its_batch_paid_the_last_time(self, books: Books) -> None:
        night = batch(books, "ab")
        assert [pay(books, night, one) for one in ("cus_a", "cus_b")] == ["allowed"] * 2
        said(books, "completed")
        run_id = opened(books, "next night")
        night = batch(books, "ab", run_id)
        assert [pay(books, night, "cus_a"), pay(books, night, "cus_b", "decline")] == ["allowed"] * 2
        said(books, "failed")
        alone = batch(books, "b", run_id)
        assert pay(books, alone, None) == "idempotency_mismatch"
        assert pay(books, alone, "cus_b") == "allowed"
        said(books, "completed")
        assert pay(books, batch(books, "a", run_id), "cus_a") == "replayed"
        assert books.figures() == (200, 0, 0)

    def test_may_be_mailed_in_the_same_batch_after_each_completed_alone(self, books: Books) -> None:
        mail = {"operation": "emails.send", "targets": ("x", "y")}
        pay(books, batch(books, "ab"), "x y", **mail)
        for name in "ab":
            batch(books, name)
            said(books, "completed")
        night = batch(books, "ab", opened(books, "next night"))
        assert pay(books, night, "x y z", operation="emails.send", targets=("x", "y", "z")) == "allowed"

    def test_is_not_held_beside_what_its_batch_paid_under_other_keys(self, books: Books) -> None:
        """Its members have completed one by one."""
        books.caps = replace(books.caps, suspects="hold")
        members = ("a", "b")
        pay(books, books.claim("a-b", members=members, payment_keys=("11-a", "11-b")), "cus_a")
        for name in "ab":
            batch(books, name)
            said(books, "completed")
        keys = ("12-a", "12-b")
        night = books.claim("a-b", opened(books, "next"), members=members, payment_keys=keys)
        assert pay(books, night, "cus_a") == "allowed"


class TestWhatWasPaidTwiceAlike:
    """Equal calls of several batches: each is answered in its turn, or refused, and not made again."""

    def test_a_call_that_another_batch_has_made_too_is_not_paid_for_a_second_time(self, books: Books) -> None:
        pay(books, batch(books, "ab"), "cus_x")
        pay(books, batch(books, "cd"), "cus_x")
        both = batch(books, "ac")
        assert [pay(books, both, "cus_x") for _ in range(2)] == ["replayed", "idempotency_mismatch"]
        assert books.figures() == (200, 0, 0)


class TestPaymentsInBatches:
    @pytest.mark.parametrize("keyed", [False, True])
    def test_of_a_completed_batch_answer_no_others_payment(self, books: Books, keyed: bool) -> None:
        """Whether it is that of a task which was in it cannot be known."""
        night = batch(books, "ab", keyed=keyed)
        assert [pay(books, night, one) for one in ("cus_x", "cus_y")] == ["allowed"] * 2
        said(books, "completed")
        mixed = batch(books, "bc", keyed=keyed)
        assert pay(books, mixed, "cus_x") == "idempotency_mismatch"
        assert pay(books, mixed, "cus_y") == "idempotency_mismatch"
        assert pay(books, mixed, "cus_z") == "allowed"
        assert books.figures() == (300, 0, 0)

    def test_alone_they_are_told_apart(self, books: Books) -> None:
        night = batch(books, "ab", keyed=True)
        for one in ("cus_x", "cus_y"):
            pay(books, night, one)
        said(books, "completed")
        assert pay(books, batch(books, "b", keyed=True), "cus_y") == "replayed"
        assert pay(books, batch(books, "c", keyed=True), "cus_x") == "allowed"
        assert books.figures() == (300, 0, 0)

    @pytest.mark.parametrize("names", ["ab", "ba", "abc"])
    def test_a_batch_that_has_all_of_them_is_answered(self, books: Books, names: str) -> None:
        """Whoever was paid is in it."""
        night = batch(books, "ab", keyed=True)
        for one in ("cus_x", "cus_y"):
            pay(books, night, one)
        said(books, "completed")
        again = batch(books, names, opened(books, "again"), keyed=True)
        assert [pay(books, again, one) for one in ("cus_x", "cus_y")] == ["replayed"] * 2

    def test_one_that_was_gone_on_with_alone_is_that_ones(self, books: Books) -> None:
        pay(books, batch(books, "ab", keyed=True), "cus_x", LOST)
        assert pay(books, batch(books, "a", keyed=True), "cus_x") == "allowed"
        said(books, "completed")
        again = batch(books, "ac", opened(books, "again"), keyed=True)
        assert pay(books, again, "cus_x") == "replayed"
