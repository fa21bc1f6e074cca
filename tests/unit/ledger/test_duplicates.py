"""Calls whose target another task of the family has charged: held, said, or let pass by an operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger import claims, duplicates, snapshot
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db", cap=1000)
    books.caps = replace(books.caps, suspects="hold")
    yield books
    assert books.audit() == []
    books.ledger.close()


def pay(books: Books, key: str, amount: int, **more: object) -> ReserveReply:
    ask = books.ask(amount, **{"target": "cus_1", **more})
    answer = books.reserve(key, ask)
    if answer.verdict == "allowed":
        books.end(key, EndRequest("settle", answer.call_id, answer.ask, total_micros=amount, status=200))
    return answer


def charged(books: Books, outcome: str = "failed", **more: object) -> ReserveReply:
    """Let a task charge 27, and end so."""
    answer = pay(books, books.claim("Charge_27", **more), 27)
    assert answer.verdict == "allowed"
    books.write(claims.finish, books.last_claim, outcome)
    return answer


class TestHeld:
    @pytest.mark.parametrize("outcome", ["failed", "died", "yielded", "blocked", "returned"])
    def test_until_the_other_task_has_completed(self, books: Books, outcome: str) -> None:
        first = charged(books, outcome)
        refused = pay(books, books.claim("Charge_26"), 26)
        assert (refused.verdict, refused.reason, refused.facts["budget"]) == ("denied", "cap", "duplicate")
        assert (refused.facts["part"], refused.facts["of_task"]) == (first.call_id, "Charge_27")
        for named in (first.call_id, refused.call_id, "Charge_27", "Charge_26", "$0.000026", "$0.000027"):
            assert named in refused.message
        pay(books, books.claim("Charge_27"), 27)  # It is tried again, and gets its answer.
        books.write(claims.finish, books.last_claim, "completed")
        assert pay(books, books.claim("Charge_26"), 26).verdict == "allowed"
        assert books.figures() == (53, 0, 0)

    def test_in_another_run_too(self, books: Books) -> None:
        charged(books)
        other = Books(books.path, cap=1000, run_id="other")
        other.caps = books.caps
        assert pay(other, other.claim("Charge_26"), 26).reason == "cap"
        other.ledger.close()

    def test_while_nobody_knows_what_became_of_the_first(self, books: Books) -> None:
        key = books.claim("Charge_27")
        lost = books.reserve(key, books.ask(27, target="cus_1"))
        books.end(key, EndRequest("doubt", lost.call_id, lost.ask))
        books.write(claims.finish, books.last_claim, "died")
        assert pay(books, books.claim("Charge_26"), 26).reason == "cap"

    def test_a_member_of_a_batch_beside_one_of_another(self, books: Books) -> None:
        charged(books, members=("Charge_a", "Charge_b"))
        batch = books.claim("Charge_c_d", members=("Charge_c", "Charge_d"))
        assert pay(books, batch, 26).reason == "cap"
        books.write(claims.finish, books.last_claim, "failed")
        same = books.claim("Charge_a_b", members=("Charge_a", "Charge_b"))
        assert pay(books, same, 27).reason == "idempotency_mismatch", "its own, without a kept answer"


class TestNotSuspect:
    def test_another_target_family_operation_or_vendor(self, books: Books) -> None:
        charged(books)
        assert pay(books, books.claim("Charge_26"), 26, target="cus_2").verdict == "allowed"
        assert pay(books, books.claim("Deposit_26", family="Deposit"), 26).verdict == "allowed"
        assert pay(books, books.claim("Charge_26"), 26, operation="refunds.create").verdict == "allowed"
        assert pay(books, books.claim("Charge_26"), 26, vendor="twilio").verdict == "allowed"
        assert pay(books, books.claim("Charge_26"), 26, account="stripe:live").verdict == "allowed"

    def test_what_was_declined_or_not_sent(self, books: Books) -> None:
        key = books.claim("Charge_27")
        declined = books.reserve(key, books.ask(27, target="cus_1"))
        books.end(key, EndRequest("void", declined.call_id, 1, definite=True, status=402))
        books.write(claims.finish, books.last_claim, "failed")
        assert pay(books, books.claim("Charge_26"), 26).verdict == "allowed"

    def test_what_says_what_it_is_for(self, books: Books) -> None:
        charged(books, payment_keys=("november",))
        assert pay(books, books.claim("Charge_d", payment_keys=("december",)), 27).verdict == "allowed"
        own = {"key": "order-7", "key_is_callers": True}
        assert (
            books.reserve(books.claim("Charge_26"), books.ask(26, target="cus_1", **own)).verdict == "allowed"
        )

    def test_one_that_says_it_beside_one_that_did_not_is(self, books: Books) -> None:
        charged(books)
        assert pay(books, books.claim("Charge_26", payment_keys=("november",)), 26).reason == "cap"

    def test_what_another_task_of_the_worker_is_at(self, books: Books) -> None:
        pay(books, books.claim("Charge_27"), 27)
        assert pay(books, books.claim("Charge_26"), 26).verdict == "allowed"

    def test_what_costs_nothing_or_acts_on_an_object(self, books: Books) -> None:
        charged(books)
        key = books.claim("Charge_26")
        assert pay(books, key, 0, operation="customers.update").verdict == "allowed"
        assert pay(books, key, 1, object_id="pi_1").verdict == "allowed"


class TestApproved:
    def test_that_amount_passes_beside_that_call(self, books: Books) -> None:
        first = charged(books)
        refused = pay(books, books.claim("Charge_26"), 26)
        approve(books, first.call_id, 26)
        again = books.claim("Charge_26")
        assert pay(books, again, 28).reason == "cap"
        assert pay(books, again, 26).verdict == "allowed"
        assert refused.facts["asked_usd"] == "0.000026"

    def test_the_same_approval_twice_is_one(self, books: Books) -> None:
        first = charged(books)
        pay(books, books.claim("Charge_26"), 26)
        approve(books, first.call_id, 26)
        approve(books, first.call_id, 26)
        assert pay(books, books.claim("Charge_26"), 26).verdict == "allowed"

    @pytest.mark.parametrize(
        ("call", "amount", "task"), [(None, 27, "Charge_26"), ("x", 26, "Charge_26"), (None, 26, "Charge_27")]
    )
    def test_what_was_not_shown_is_refused(
        self, books: Books, call: str | None, amount: int, task: str
    ) -> None:
        first = charged(books)
        pay(books, books.claim("Charge_26"), 26)
        with pytest.raises(Conflict, match="look at it again"):
            approve(books, call or first.call_id, amount, task)
        assert pay(books, books.claim("Charge_26"), 26).reason == "cap"

    def test_another_task_waits_for_its_own(self, books: Books) -> None:
        first = charged(books)
        pay(books, books.claim("Charge_26"), 26)
        approve(books, first.call_id, 26)
        assert pay(books, books.claim("Charge_25"), 26).reason == "cap"


def approve(books: Books, call_id: str, amount: int, task_id: str = "Charge_26") -> None:
    shown = ("run", task_id, call_id, Micros(amount), f"approve {task_id} {call_id} {amount}")
    books.write(duplicates.approve_duplicate, *shown)


class TestTheSetting:
    @pytest.mark.parametrize(
        ("suspects", "shadow", "verdict", "said"),
        [
            ("hold", False, "denied", True),
            ("hold", True, "allowed", True),
            ("warn", False, "allowed", True),
            ("off", False, "allowed", False),
            (None, False, "denied", True),
        ],
    )
    def test_says_what_becomes_of_it(
        self, books: Books, suspects: str | None, shadow: bool, verdict: str, said: bool
    ) -> None:
        charged(books)
        moving = frozenset({"stripe"})
        books.caps = replace(books.caps, suspects=suspects, shadow=shadow, moving=moving)
        answer = pay(books, books.claim("Charge_26"), 26)
        assert (answer.verdict, "it may be the same payment" in answer.message) == (verdict, said)

    def test_by_default_texts_and_mails_are_warned_of(self) -> None:
        caps = Caps(moving=frozenset({"stripe"}))
        assert [caps.duplicates(vendor) for vendor in ("stripe", "twilio", "resend")] == [
            "hold",
            "warn",
            "warn",
        ]


def test_a_gate_that_begins_knows_who_waits_beside_whom(books: Books) -> None:
    first = charged(books)
    pay(books, books.claim("Charge_26"), 26)
    books.write(claims.finish, books.last_claim, "blocked")

    def beside() -> dict[str, str | None]:
        start = books.write(snapshot.start, Caps())
        return {row["held_part"]: row["beside_task"] for row in start.claims if row["task_id"] == "Charge_26"}

    assert beside() == {first.call_id: "Charge_27"}
    books.claim("Charge_27")
    books.write(claims.finish, books.last_claim, "completed")
    assert beside() == {first.call_id: None}


def test_the_newest_charges_of_a_target_are_found_by_an_index(books: Books) -> None:
    """A target that is paid daily has thousands of them."""
    sql = duplicates._CHARGED.replace("SELECT call.id", "EXPLAIN QUERY PLAN SELECT call.id", 1)
    plan = books.read(lambda tx: [row["detail"] for row in tx.all(sql, *"123456789")])
    assert any("call_charged (family=? AND target=?)" in step for step in plan)
    assert [step for step in plan if step.startswith("SCAN") and "VIRTUAL TABLE" not in step] == []
