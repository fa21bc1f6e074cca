"""Which call repeats which: equal calls, keys, ordinals, and the retry of a call that was voided."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from luigi_spendguard.ledger import claims, corrections, runs
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db", cap=1000)
    yield books
    books.ledger.close()


def equal(books: Books, target: str = "cus_1", **more: object) -> ReserveRequest:
    return books.ask(100, target=target, **more)


def settle(ask: ReserveRequest, object_id: str = "pi_1") -> EndRequest:
    return EndRequest(
        "settle",
        ask.call_id,
        ask.ask,
        total_micros=100,
        worth_micros=100,
        object_id=object_id,
        status=200,
        answer_body=f'{{"id": "{object_id}"}}',
    )


def paid(books: Books, key: str, ask: ReserveRequest, object_id: str) -> None:
    """Reserve and settle a call."""
    answer = books.reserve(key, ask)
    assert answer.verdict == "allowed"
    books.end(key, settle(replace(ask, call_id=answer.call_id, ask=answer.ask), object_id))


def replayed(books: Books, key: str, ask: ReserveRequest) -> str:
    """Return the vendor object that a call is answered with, or its verdict when nothing is replayed."""
    answer = books.reserve(key, ask)
    return answer.answer_body if answer.verdict == "replayed" else answer.verdict


def test_a_retry_gets_a_place_of_its_own_when_an_equal_call_took_the_first(books: Books) -> None:
    """Two threads charge one customer; the first is not sent (refused connection) and tried again."""
    key = books.claim("task")
    first = equal(books)
    assert books.reserve(key, first).verdict == "allowed"
    books.end(key, EndRequest("void", first.call_id, 1, note="not sent"))
    paid(books, key, equal(books), "pi_second")
    paid(books, key, replace(first, ask=2), "pi_first")
    again = books.claim("task")
    answers = {replayed(books, again, equal(books)), replayed(books, again, equal(books))}
    assert answers == {'{"id": "pi_first"}', '{"id": "pi_second"}'}
    assert books.figures() == (200, 0, 0)


def test_a_retry_under_the_callers_key_is_answered_by_the_call_that_succeeded_meanwhile(books: Books) -> None:
    key = books.claim("task")
    first = equal(books, key="order-7", key_is_callers=True)
    assert books.reserve(key, first).verdict == "allowed"
    books.end(key, EndRequest("void", first.call_id, 1, note="not sent"))
    paid(books, key, equal(books, key="order-7", key_is_callers=True), "pi_1")
    assert replayed(books, key, replace(first, ask=2)) == '{"id": "pi_1"}'
    assert replayed(books, key, replace(first, ask=2)) == '{"id": "pi_1"}'
    assert books.figures() == (100, 0, 0)


def test_a_voided_call_frees_its_place(books: Books) -> None:
    key = books.claim("task")
    declined = equal(books)
    books.reserve(key, declined)
    books.end(key, EndRequest("void", declined.call_id, 1, definite=True, status=402))
    paid(books, key, equal(books), "pi_1")
    assert replayed(books, books.claim("task"), equal(books)) == '{"id": "pi_1"}'


def test_also_where_an_equal_call_has_the_place_behind_it(books: Books) -> None:
    key = books.claim("task")
    first, second = equal(books), equal(books)
    for ask in (first, second):
        assert books.reserve(key, ask).verdict == "allowed"
    books.end(key, EndRequest("void", first.call_id, 1, note="not sent"))
    books.end(key, settle(second, "pi_2"))
    assert replayed(books, key, equal(books)) == "allowed"
    assert books.figures() == (100, 100, 0)


@pytest.mark.parametrize("end", ["void", "doubt"])
def test_another_process_waits_for_an_equal_call_and_makes_it_again_where_that_failed(
    books: Books, end: str
) -> None:
    """Who is told of a failure and makes it again may ask before the ledger has heard of it."""
    key = books.claim("task")
    first, again = equal(books), equal(books, process="00000002")
    books.reserve(key, first)
    waits = books.reserve(key, again)
    assert (waits.verdict, waits.message) == ("wait", first.call_id)
    books.end(key, EndRequest(end, first.call_id))
    assert books.reserve(key, replace(again, ask=2)).verdict == "allowed"
    assert books.figures() == (0, 100, 0)
    assert books.read(lambda tx: tx.value("SELECT ordinal FROM call WHERE state = 'pending'")) == 1


def test_it_is_another_one_where_that_succeeded(books: Books) -> None:
    key = books.claim("task")
    first, second = equal(books), equal(books, process="00000002")
    books.reserve(key, first)
    assert books.reserve(key, second).verdict == "wait"
    books.end(key, settle(first))
    paid(books, key, replace(second, ask=2), "pi_2")
    assert books.figures() == (200, 0, 0)


def test_who_asks_for_something_else_or_has_made_both_waits_for_nothing(books: Books) -> None:
    key = books.claim("task")
    first = equal(books)
    for ask in (first, equal(books), equal(books, process="00000002", fingerprint="other")):
        assert books.reserve(key, ask).verdict == "allowed"
    assert books.figures() == (0, 300, 0)


def test_a_key_that_met_a_decline_goes_out_changed(books: Books) -> None:
    """Stripe answers a key that met a decline with that decline again."""
    key = books.claim("task")
    declined = equal(books, key="order-7", key_is_callers=True)
    assert books.reserve(key, declined).wire_key == "order-7"
    books.end(key, EndRequest("void", declined.call_id, 1, definite=True, status=402))
    wire_key = books.reserve(key, equal(books, key="order-7", key_is_callers=True)).wire_key
    assert wire_key.startswith("order-7-")


def other_run(books: Books, run_id: str, looked_ms: int = 0) -> None:
    asked = runs.RunRequest(run_id, False, "Root", run_id, Micros(1000), looked_ms=looked_ms)
    books.write(runs.open_run, asked)


def test_another_run_repeats_a_call_until_the_task_has_completed(books: Books) -> None:
    paid(books, books.claim("task"), equal(books), "pi_1")
    other_run(books, "corrected")
    key = books.claim("task", "corrected")
    assert replayed(books, key, equal(books)) == '{"id": "pi_1"}'
    books.write(claims.finish, books.last_claim, "completed")
    other_run(books, "next-month")
    assert replayed(books, books.claim("task", "next-month"), equal(books)) == "allowed"


def test_what_was_opened_before_the_task_completed_repeats_its_call_after_that_too(books: Books) -> None:
    """Another scheduler's worker has looked by then, and has found the task incomplete."""
    key = books.claim("task")
    other_run(books, "before-the-call")
    paid(books, key, equal(books), "pi_1")
    other_run(books, "before-it-completed")
    books.write(claims.finish, books.last_claim, "completed")
    other_run(books, "after-that")
    for run_id in ("run", "before-the-call", "before-it-completed"):
        assert replayed(books, books.claim("task", run_id), equal(books)) == '{"id": "pi_1"}'
    paid(books, books.claim("task", "after-that"), equal(books), "pi_2")
    books.write(claims.finish, books.last_claim, "completed")
    other_run(books, "last")
    assert replayed(books, books.claim("task", "last"), equal(books)) == "allowed"


@pytest.mark.parametrize("looked", ["before it completed", "after that", "for ever"])
def test_so_does_what_is_opened_later_and_was_looking_by_then(books: Books, looked: str) -> None:
    """Its worker asks for its run when it comes to a vendor task; it has looked at that one before."""
    paid(books, books.claim("task"), equal(books), "pi_1")
    time.sleep(0.05)
    begun = time.monotonic()
    time.sleep(0.05)
    books.write(claims.finish, books.last_claim, "completed")
    if looked == "after that":
        time.sleep(0.05)
        begun = time.monotonic()
        time.sleep(0.05)
    looked_ms = 10**15 if looked == "for ever" else int(1000 * (time.monotonic() - begun))
    other_run(books, "later", looked_ms)
    answer = replayed(books, books.claim("task", "later"), equal(books))
    assert answer == ("allowed" if looked == "after that" else '{"id": "pi_1"}')


def test_and_what_arrives_late_and_is_said_again(books: Books) -> None:
    """Its run begins where the first of its workers has begun to look."""
    paid(books, books.claim("task"), equal(books), "pi_1")
    time.sleep(0.05)
    begun = time.monotonic()
    time.sleep(0.05)
    books.write(claims.finish, books.last_claim, "completed")
    time.sleep(0.05)
    other_run(books, "later", 1)
    for more_ms in (0, -10_000):
        other_run(books, "later", max(1, int(1000 * (time.monotonic() - begun)) + more_ms))
    assert replayed(books, books.claim("task", "later"), equal(books)) == '{"id": "pi_1"}'


@pytest.mark.parametrize("again", [("b1", "b2"), ("b1",), ("b0", "b1")], ids=" ".join)
@pytest.mark.parametrize("run_id", ["run", "opened", "later"])
def test_so_does_a_part_of_a_batch(books: Books, again: tuple[str, ...], run_id: str) -> None:
    paid(books, books.claim("b0-b1-b2", members=("b0", "b1", "b2")), equal(books), "pi_1")
    other_run(books, "opened")
    books.write(claims.finish, books.last_claim, "completed")
    other_run(books, "later")
    members = again if len(again) > 1 else ()
    key = books.claim("-".join(again), run_id, members=members)
    assert replayed(books, key, equal(books)) == ("allowed" if run_id == "later" else '{"id": "pi_1"}')


def test_a_batch_with_others_is_refused_what_one_that_has_completed_has_paid_for(books: Books) -> None:
    """It may be that of a member that was in no batch yet."""
    paid(books, books.claim("o1-o2", members=("o1", "o2")), equal(books), "pi_1")
    key = books.claim("o2-o3", members=("o2", "o3"))
    assert replayed(books, key, equal(books)) == '{"id": "pi_1"}'
    books.write(claims.finish, books.last_claim, "completed")
    key = books.claim("o1-o4", members=("o1", "o4"))
    assert replayed(books, key, equal(books)) == '{"id": "pi_1"}', "the first one has not completed"
    paid(books, books.claim("p1-p2", members=("p1", "p2")), equal(books), "pi_2")
    books.write(claims.finish, books.last_claim, "completed")
    key = books.claim("p2-p3", members=("p2", "p3"))
    refused = books.reserve(key, equal(books))
    assert (refused.verdict, refused.reason) == ("denied", "idempotency_mismatch")
    assert "p3 was not in that" in refused.message
    assert replayed(books, key, equal(books, "cus_2")) == "allowed"
    assert replayed(books, key, equal(books, key="p3", key_is_callers=True)) == "allowed"


def test_a_batch_that_is_due_again_never_meets_its_earlier_key(books: Books) -> None:
    key = books.claim("a-b", members=("a", "b"))
    first = books.reserve(key, equal(books)).wire_key
    books.write(claims.finish, books.last_claim, "failed")
    for member in ("a", "b"):
        books.claim(member)
        books.write(claims.finish, books.last_claim, "completed")
    other_run(books, "later")
    again = books.reserve(books.claim("a-b", "later", members=("a", "b")), equal(books))
    assert again.verdict == "allowed"
    assert again.wire_key != first


def test_members_with_keys_of_their_own_are_told_apart_though_they_pay_the_same(books: Books) -> None:
    def order(number: int) -> ReserveRequest:
        return equal(books, key=f"order-{number}", key_is_callers=True)

    paid(books, books.claim("o1-o2", members=("o1", "o2")), order(1), "pi_1")
    key = books.claim("o2")
    assert replayed(books, key, order(1)) == '{"id": "pi_1"}'
    assert replayed(books, key, order(2)) == "allowed"


def test_a_completion_is_counted_once(books: Books) -> None:
    books.claim("task")
    for _ in range(3):
        books.write(claims.finish, books.last_claim, "completed")
    assert books.read(lambda tx: tx.value("SELECT completions FROM task WHERE task_id = 'task'")) == 1


def test_a_call_of_a_revoked_run_is_not_sent_again_by_another(books: Books) -> None:
    key = books.claim("task")
    lost = equal(books)
    books.reserve(key, lost)
    books.end(key, EndRequest("doubt", lost.call_id, 1, note="no reply"))
    books.write(runs.revoke, "run")
    other_run(books, "anew")
    answer = books.reserve(books.claim("task", "anew"), equal(books))
    assert (answer.verdict, answer.reason) == ("denied", "in_doubt")
    assert f"spendguard resolve {lost.call_id}" in answer.message


def test_a_frozen_run_repeats_and_reads_but_takes_no_money(books: Books) -> None:
    key = books.claim("task")
    billed = equal(books)
    books.reserve(key, billed)
    books.end(key, replace(settle(billed), total_micros=150))
    assert books.run()["state"] == "frozen"
    again = books.claim("task")
    assert replayed(books, again, equal(books)) == '{"id": "pi_1"}'
    assert books.reserve(again, books.ask(0, read=True, operation="GET /v1/customers")).verdict == "allowed"
    answer = books.reserve(again, equal(books, "cus_2"))
    assert (answer.reason, "is frozen" in answer.message) == ("cap", True)
    books.write(runs.top_up, "run", Micros(1), "r1")
    assert books.reserve(again, equal(books, "cus_2")).verdict == "allowed"
    assert books.audit() == []


def test_a_repeated_call_without_a_kept_answer_is_told_the_vendors_object(books: Books) -> None:
    key = books.claim("task")
    lost = equal(books)
    books.reserve(key, lost)
    books.end(key, replace(settle(lost), answer_body=""))
    answer = books.reserve(books.claim("task"), equal(books))
    assert (answer.verdict, answer.reason) == ("denied", "idempotency_mismatch")
    assert "vendor object pi_1" in answer.message
    assert books.figures() == (100, 0, 0)


def test_a_call_that_an_operator_resolved_as_spent_is_not_made_again(books: Books) -> None:
    key = books.claim("task")
    lost = equal(books)
    books.reserve(key, lost)
    books.end(key, EndRequest("doubt", lost.call_id, 1))
    books.write(corrections.resolve, lost.call_id, Resolution(Micros(100)), "r1")
    answer = books.reserve(books.claim("task"), equal(books))
    assert (answer.verdict, answer.reason) == ("denied", "idempotency_mismatch")
    assert books.figures() == (100, 0, 0)


def test_nor_in_the_attempt_that_had_no_answer(books: Books) -> None:
    """It is told that its call is in doubt, makes it again, and once more: another one, which it means."""
    key = books.claim("task")
    lost = equal(books)
    books.reserve(key, lost)
    books.end(key, EndRequest("doubt", lost.call_id, 1))
    books.write(corrections.resolve, lost.call_id, Resolution(Micros(100), object_id="pi_1"), "r1")
    answer = books.reserve(key, equal(books))
    assert (answer.verdict, answer.object_id) == ("replayed", "pi_1")
    assert books.figures() == (100, 0, 0)
    paid(books, key, equal(books), "pi_2")
    assert books.figures() == (200, 0, 0)


def test_a_reply_that_comes_after_an_operators_word_is_its_callers(books: Books) -> None:
    key = books.claim("task")
    slow = equal(books)
    books.reserve(key, slow)
    books.end(key, EndRequest("doubt", slow.call_id, 1))
    books.write(corrections.resolve, slow.call_id, Resolution(Micros(100), "pi_1"), "r1")
    books.end(key, settle(slow))
    assert books.reserve(key, equal(books)).verdict == "allowed"


@pytest.mark.parametrize("named", [("sdk-1",), ()], ids=["told", "untold"])
def test_what_was_asked_under_a_key_is_asked_again_under_it(books: Books, named: tuple[str, ...]) -> None:
    """The repetition of a call, whose answer did not arrive, is said again by who had said it."""
    key = books.claim("t")

    def asked(of: str, unanswered: tuple[str, ...] = ()) -> ReserveReply:
        ask = equal(books, key=of, unanswered=unanswered)
        reply = books.reserve(key, ask)
        if reply.verdict == "allowed":
            books.end(key, settle(ask, of))
        return reply

    assert asked("sdk-1").verdict == "allowed"
    assert asked("sdk-2", ("sdk-1",)).verdict == "replayed"
    assert [asked("sdk-2", named).verdict for _ in range(2)] == ["replayed"] * 2
    assert [asked(of).verdict for of in ("sdk-3", "sdk-4")] == ["allowed"] * 2
