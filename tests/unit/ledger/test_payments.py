"""What tasks say that they pay for: one payment, whichever task, run or day asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger import calls, claims, queries, runs
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from tests.support.books import Books

KEY = ("2026-11-a",)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db", cap=1000)
    yield books
    assert books.audit() == []
    books.ledger.close()


def pay(books: Books, key: str, amount: int = 100, target: str | None = "a", **more: object) -> ReserveReply:
    """Ask for a call, and let it succeed if it may be made."""
    ask = books.ask(amount, target=target, **more)
    answer = books.reserve(key, ask)
    if answer.verdict == "allowed":
        settle(books, key, answer, amount)
    return answer


def settle(books: Books, key: str, granted: ReserveReply, amount: int = 100) -> None:
    body = f'{{"call": "{granted.call_id}"}}'
    books.end(
        key,
        EndRequest("settle", granted.call_id, granted.ask, total_micros=amount, status=200, answer_body=body),
    )


def completed(books: Books) -> None:
    books.write(claims.finish, books.last_claim, "completed")


def other_run(books: Books) -> str:
    books.write(runs.open_run, runs.RunRequest("other", False, "Root", "other", Micros(1000)))
    return "other"


def of_batch(books: Books, *names: str, **more: object) -> str:
    """Claim a batch of tasks of these names, each of which pays for what it is called."""
    members = tuple(f"Charge_{name}" for name in names)
    return books.claim(f"Charge_{'_'.join(names)}", members=members, payment_keys=names, **more)


class TestAnotherTask:
    def test_with_another_amount_is_refused_and_told_of_both_calls(self, books: Books) -> None:
        first = pay(books, books.claim("Charge_27", payment_keys=KEY), 270)
        ask = books.ask(260, target="a")
        refused = books.reserve(books.claim("Charge_26", payment_keys=KEY), ask)
        assert (refused.verdict, refused.reason) == ("denied", "idempotency_mismatch")
        advice = ("Put the amount back", "at no cost", "refund it")
        for named in (first.call_id, ask.call_id, "Charge_27", "Charge_26", "payment_key", *advice):
            assert named in refused.message
        again = books.claim("Charge_27", payment_keys=KEY)
        assert books.reserve(again, books.ask(270, target="a")).verdict == "replayed", "as it was advised"
        assert books.figures() == (270, 0, 0)

    def test_gets_the_first_answer_when_it_asks_for_the_same(self, books: Books) -> None:
        first = pay(books, books.claim("Charge_1", payment_keys=KEY))
        again = pay(books, books.claim("Charge_2", payment_keys=KEY))
        assert (again.verdict, again.answer_body) == ("replayed", f'{{"call": "{first.call_id}"}}')
        assert books.figures() == (100, 0, 0)

    def test_so_it_does_in_another_run_after_the_first_has_completed(self, books: Books) -> None:
        pay(books, books.claim("Charge_1", payment_keys=KEY))
        completed(books)
        run_id = other_run(books)
        assert pay(books, books.claim("Charge_1", run_id, payment_keys=KEY)).verdict == "replayed"
        completed(books)
        assert pay(books, books.claim("Charge_2", run_id, payment_keys=KEY)).verdict == "replayed"
        refused = pay(books, books.claim("Charge_3", run_id, payment_keys=KEY), 101)
        assert refused.reason == "idempotency_mismatch"

    def test_waits_for_a_call_that_is_under_way(self, books: Books) -> None:
        first = books.claim("Charge_1", payment_keys=KEY)
        granted = books.reserve(first, books.ask(100, target="a"))
        second = books.claim("Charge_2", payment_keys=KEY)
        assert books.reserve(second, books.ask(100, target="a")).verdict == "wait"
        settle(books, first, granted)
        assert books.reserve(second, books.ask(100, target="a")).verdict == "replayed"

    def test_goes_on_with_a_call_in_doubt_and_ends_it(self, books: Books) -> None:
        first = books.claim("Charge_1", payment_keys=KEY)
        granted = books.reserve(first, books.ask(100, target="a"))
        books.end(first, EndRequest("doubt", granted.call_id, granted.ask))
        second = books.claim("Charge_2", payment_keys=KEY)
        again = books.reserve(second, books.ask(100, target="a"))
        assert (again.verdict, again.call_id, again.wire_key) == (
            "allowed",
            granted.call_id,
            granted.wire_key,
        )
        settle(books, second, again)
        assert books.figures() == (100, 0, 0)

    def test_of_another_family_pays_for_something_else(self, books: Books) -> None:
        pay(books, books.claim("Charge_1", payment_keys=KEY))
        other = books.claim("Deposit_1", family="Deposit", payment_keys=KEY)
        assert pay(books, other).verdict == "allowed"

    def test_under_another_key_pays_for_something_else(self, books: Books) -> None:
        pay(books, books.claim("Charge_1", payment_keys=KEY))
        assert pay(books, books.claim("Charge_1", payment_keys=("2026-12-a",))).verdict == "allowed"

    def test_is_told_of_a_call_without_a_target_too(self, books: Books) -> None:
        pay(books, books.claim("Charge_1", payment_keys=KEY), target=None)
        assert pay(books, books.claim("Charge_2", payment_keys=KEY), target=None).verdict == "replayed"
        refused = pay(books, books.claim("Charge_2", payment_keys=KEY), 99, target=None)
        assert refused.reason == "idempotency_mismatch"

    def test_may_make_a_second_equal_call_as_the_first_did(self, books: Books) -> None:
        first = books.claim("Charge_1", payment_keys=KEY)
        bodies = [f'{{"call": "{pay(books, first).call_id}"}}' for _ in range(2)]
        second = books.claim("Charge_2", payment_keys=KEY)
        assert [pay(books, second).answer_body for _ in range(2)] == bodies
        assert pay(books, second).verdict == "allowed"

    def test_calls_by_a_key_of_its_own_are_what_that_says_for_the_payment(self, books: Books) -> None:
        def ask(key: str) -> ReserveRequest:
            return books.ask(100, target="a", key=key, key_is_callers=True)

        first = books.claim("Charge_1", payment_keys=KEY)
        settle(books, first, books.reserve(first, ask("order-7")))
        completed(books)
        other = books.claim("Charge_1", other_run(books), payment_keys=KEY)
        assert books.reserve(other, ask("order-7")).verdict == "replayed"
        assert books.reserve(other, ask("order-8")).verdict == "allowed"
        completed(books)
        another = books.claim("Charge_1", other_run(books), payment_keys=("2026-12-a",))
        assert books.reserve(another, ask("order-7")).verdict == "allowed"


class TestDeclines:
    def test_a_declined_payment_is_tried_again_by_another_task_under_another_wire_key(
        self, books: Books
    ) -> None:
        first = books.claim("Charge_1", payment_keys=KEY)
        declined = books.reserve(first, books.ask(270, target="a"))
        books.end(first, EndRequest("void", declined.call_id, 1, definite=True, status=402))
        completed(books)
        again = books.reserve(books.claim("Charge_2", payment_keys=KEY), books.ask(260, target="a"))
        assert again.verdict == "allowed"
        assert again.wire_key not in ("", declined.wire_key)

    def test_the_wire_key_is_the_same_after_a_ledger_was_lost(self, books: Books, tmp_path: Path) -> None:
        """Whatever had completed by then: the vendor knows the payment again."""
        before = pay(books, books.claim("Charge_1", payment_keys=KEY)).wire_key
        lost = Books(tmp_path / "lost.db", cap=1000)
        lost.claim("Charge_2", payment_keys=("another",))
        completed(lost)
        assert pay(lost, lost.claim("Charge_2", payment_keys=KEY)).wire_key == before
        lost.ledger.close()


class TestATaskThatBeginsOrCeasesToSay:
    """Its `payment_key` was written, or taken away, between two attempts."""

    @pytest.mark.parametrize(("before", "after"), [((), KEY), (KEY, ())], ids=["begins", "ceases"])
    def test_repeats_what_it_has_paid(
        self, books: Books, before: tuple[str, ...], after: tuple[str, ...]
    ) -> None:
        pay(books, books.claim("Charge_1", payment_keys=before))
        run_id = other_run(books)
        assert pay(books, books.claim("Charge_1", run_id, payment_keys=after)).verdict == "replayed"

    def test_pays_anew_without_one_once_it_has_completed(self, books: Books) -> None:
        pay(books, books.claim("Charge_1", payment_keys=KEY))
        completed(books)
        assert pay(books, books.claim("Charge_1", other_run(books))).verdict == "allowed"

    @pytest.mark.parametrize(("before", "after"), [((), ("a", "b")), (("a", "b"), ())])
    def test_so_does_a_batch(self, books: Books, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        members = ("Charge_a", "Charge_b")
        pay(books, books.claim("Charge_a_b", members=members, payment_keys=before))
        again = books.claim("Charge_a_b", other_run(books), members=members, payment_keys=after)
        assert pay(books, again).verdict == "replayed"


class TestBatches:
    def test_a_member_alone_repeats_what_its_batch_has_paid(self, books: Books) -> None:
        batch = of_batch(books, "a", "b")
        first = pay(books, batch)
        completed(books)
        alone = books.claim("Charge_a_corrected", other_run(books), payment_keys=("a",))
        assert pay(books, alone).answer_body == f'{{"call": "{first.call_id}"}}'
        again = books.claim("Charge_a_corrected", "other", payment_keys=("a",))
        assert pay(books, again, 101).reason == "idempotency_mismatch"
        assert pay(books, books.claim("Charge_c", payment_keys=("c",)), target="c").verdict == "allowed"

    def test_a_batch_repeats_what_a_member_has_paid_alone(self, books: Books) -> None:
        pay(books, books.claim("Charge_a_before", payment_keys=("a",)))
        completed(books)
        batch = of_batch(books, "a", "b", run_id=other_run(books))
        assert [pay(books, batch, target=one).verdict for one in "ab"] == ["replayed", "allowed"]

    def test_so_does_another_batch_until_the_first_has_completed(self, books: Books) -> None:
        """From then on nobody knows whether it is for one that was in the first: `test_batches`."""
        first = of_batch(books, "a", "b")
        assert [pay(books, first, target=one).verdict for one in "ab"] == ["allowed", "allowed"]
        other = of_batch(books, "b", "c", run_id=other_run(books))
        assert [pay(books, other, target=one).verdict for one in "bc"] == ["replayed", "allowed"]

    def test_one_that_is_under_way_is_waited_for_by_a_task_that_was_claimed_before_it(
        self, books: Books
    ) -> None:
        alone = books.claim("Charge_a_corrected", payment_keys=("a",))
        batch = of_batch(books, "a", "b")
        books.reserve(batch, books.ask(100, target="a"))
        assert books.reserve(alone, books.ask(100, target="a")).verdict == "wait"

    def test_what_cannot_be_matched_by_its_target_is_refused(self, books: Books) -> None:
        pay(books, of_batch(books, "a", "b"), target=None)
        refused = pay(books, books.claim("Charge_a_corrected", payment_keys=("a",)), 99)
        assert refused.reason == "idempotency_mismatch"
        assert books.figures() == (100, 0, 0)

    def test_the_order_of_its_members_does_not_matter(self, books: Books) -> None:
        assert claims.payment_of("Charge", "a", "b") == claims.payment_of("Charge", "b", "a")
        assert (
            len(
                {
                    claims.payment_of("Charge", "a", "b"),
                    claims.payment_of("Charge", "a"),
                    claims.payment_of("Charge", "ab"),
                }
            )
            == 3
        )

    @pytest.mark.parametrize("keys", [("a",), ("a", "a"), ("a", "b", "c")])
    def test_one_that_names_fewer_or_more_payments_than_it_has_tasks_is_refused(
        self, books: Books, keys: tuple[str, ...]
    ) -> None:
        with pytest.raises(Conflict, match="one payment_key for each of its tasks"):
            books.claim("Charge_a_b", members=("Charge_a", "Charge_b"), payment_keys=keys)


class TestMailsToSeveral:
    def test_a_list_that_has_changed_by_one_reaches_nobody_twice(self, books: Books) -> None:
        first = {"target": "list-1", "targets": ("aa", "bb")}
        pay(books, books.claim("Mail_1", family="Mail", payment_keys=KEY), **first)
        completed(books)
        other = books.claim("Mail_2", other_run(books), family="Mail", payment_keys=KEY)
        refused = pay(books, other, target="list-2", targets=("bb", "cc"))
        assert refused.reason == "idempotency_mismatch"
        assert "for this payment" in refused.message
        assert pay(books, other, target="list-3", targets=("cc",)).verdict == "allowed"
        another = books.claim("Mail_3", family="Mail", payment_keys=("december",))
        assert pay(books, another, target="list-2", targets=("bb", "cc")).verdict == "allowed"


def test_a_call_is_ended_by_tasks_of_its_payment_and_by_no_others(books: Books) -> None:
    first = books.claim("Charge_1", payment_keys=KEY)
    granted = books.reserve(first, books.ask(100, target="a"))
    others = [books.claim("Charge_2", payment_keys=("b",)), books.claim("Charge_3")]
    for other in others:
        with pytest.raises(Conflict):
            settle(books, other, granted)
    settle(books, books.claim("Charge_2", payment_keys=KEY), granted)
    assert books.figures() == (100, 0, 0)


def test_keys_that_are_asked_for_over_http_own_no_tasks_calls(books: Books) -> None:
    claim = {"id": "k", "task_id": "", "payment": ""}
    scope = calls.Scope(claim, {"run_id": "run"}, books.caps)
    assert not scope.owns({"task_id": "Charge_1", "payment": "", "run_id": "run", "claim_id": "k"})
    assert scope.owns({"task_id": "", "payment": "", "run_id": "run", "claim_id": "other"})


def test_calls_show_what_they_pay_for(books: Books) -> None:
    pay(books, of_batch(books, "b", "a"), target="b")
    pay(books, books.claim("Charge_1", payment_keys=KEY))
    pay(books, books.claim("Charge_2"), target="z")
    shown = [call["payment_keys"] for call in books.read(queries.calls)]
    assert shown == [[], ["2026-11-a"], ["a", "b"]]
