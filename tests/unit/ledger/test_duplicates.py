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


def pay(books: Books, vault_key: str, amount: int, **more: object) -> ReserveReply:
    ask = books.ask(amount, **{"target": "cus_1", **more})
    answer = books.reserve(vault_key, ask)
    if answer.verdict == "allowed":
        books.end(
            vault_key, EndRequest("settle", answer.call_id, answer.ask, total_micros=amount, status=200)
        )
    return answer


def charged(books: Books, outcome: str = "failed", **more: object) -> ReserveReply:
    """Let a task charge 27, and end so."""
    answer = pay(books, books.claim("Charge_27", **more), 27)
    assert answer.verdict == "allowed"
    books.write(claims.finish, books.last_claim, outcome)
    return answer


class TestHeld:
    @pytest.mark.parametrize("outcome", ["failed", "died", "blocked", "returned"])
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

    def test_where_the_other_has_yielded_to_another_worker_or_has_died_since(self, books: Books) -> None:
        charged(books, "yielded")
        assert pay(books, books.claim("Charge_26", worker="another"), 26).reason == "cap"
        books.claim("Charge_27")  # It runs again from the top.
        books.write(claims.finish, books.last_claim, "failed")
        assert pay(books, books.claim("Charge_26"), 26).reason == "cap"

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

    def test_what_a_task_of_the_worker_yields(self, books: Books) -> None:
        charged(books, "yielded")
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

    def test_it_is_used_up_by_what_passes(self, books: Books) -> None:
        first = charged(books)
        pay(books, books.claim("Charge_26"), 26)
        approve(books, first.call_id, 26)
        key = books.claim("Charge_26")
        assert pay(books, key, 26).verdict == "allowed"
        refused = pay(books, key, 26)
        assert (refused.reason, refused.facts["part"]) == ("cap", first.call_id), "nobody has let that pass"
        approve(books, first.call_id, 26, again="the second")
        assert [pay(books, key, 26).verdict for _ in range(2)] == ["allowed", "denied"]
        assert books.figures() == (79, 0, 0)

    @pytest.mark.parametrize(
        "other", [{"operation": "transfers.create"}, {"target": "cus_2"}, {"vendor": "twilio"}]
    )
    def test_it_is_for_what_was_shown_alone(self, books: Books, other: dict[str, str]) -> None:
        """What the other task did before that call may be something else."""
        key = books.claim("Charge_27")
        for more in (other, {}):
            pay(books, key, 27, **more)
        books.write(claims.finish, books.last_claim, "failed")
        shown = pay(books, books.claim("Charge_26"), 26)
        approve(books, shown.facts["part"], 26)
        key = books.claim("Charge_26")
        assert pay(books, key, 26, **other).reason == "cap"
        assert pay(books, key, 26).verdict == "allowed"

    def test_what_was_not_made_uses_none_of_it(self, books: Books) -> None:
        first = charged(books)
        pay(books, books.claim("Charge_26"), 26)
        approve(books, first.call_id, 26)
        key = books.claim("Charge_26")
        declined = books.reserve(key, books.ask(26, target="cus_1"))
        books.end(key, EndRequest("void", declined.call_id, 1, definite=True, status=402))
        assert pay(books, key, 26).verdict == "allowed"

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

    def test_beside_the_newest_is_not_beside_another_tasks(self, books: Books) -> None:
        """Of two that died it may be the older one's payment."""
        older = charged(books)
        newer = pay(books, books.claim("Charge_5", worker="another"), 5)
        assert newer.reason == "cap"
        books.write(duplicates.approve_duplicate, "run", "Charge_5", older.call_id, Micros(5), "other")
        newer = pay(books, books.claim("Charge_5", worker="another"), 5)
        books.write(claims.finish, books.last_claim, "failed")
        refused = pay(books, books.claim("Charge_26"), 26)
        assert refused.facts["part"] == newer.call_id
        approve(books, newer.call_id, 26)
        refused = pay(books, books.claim("Charge_26"), 26)
        assert (refused.reason, refused.facts["part"]) == ("cap", older.call_id)
        approve(books, older.call_id, 26, again="again")
        assert pay(books, books.claim("Charge_26"), 26).verdict == "allowed"

    def test_beside_the_newest_is_beside_all_that_its_task_had_charged_then(self, books: Books) -> None:
        key = books.claim("Charge_27")
        calls = [pay(books, key, 27).call_id for _ in range(3)]
        books.write(claims.finish, books.last_claim, "failed")
        assert pay(books, books.claim("Charge_26"), 26).facts["part"] == calls[-1]
        approve(books, calls[-1], 26)
        assert pay(books, books.claim("Charge_26"), 26).verdict == "allowed"

    def test_another_task_waits_for_its_own(self, books: Books) -> None:
        first = charged(books)
        pay(books, books.claim("Charge_26"), 26)
        approve(books, first.call_id, 26)
        assert pay(books, books.claim("Charge_25"), 26).reason == "cap"


class TestPayments:
    """Tasks that say what they pay for, and ask for something else under the same key, or the reverse."""

    FIRST = ("november",)

    @pytest.mark.parametrize("ended", ["failed", "completed"])
    @pytest.mark.parametrize(
        "asked",
        [{"target": "cus_2"}, {"target": None}, {"key": "order-26", "key_is_callers": True}],
        ids=["target", "no target", "own key"],
    )
    def test_another_tasks_call_that_repeats_none_is_held(
        self, books: Books, ended: str, asked: dict[str, object]
    ) -> None:
        first = charged(books, ended, payment_keys=self.FIRST)
        refused = pay(books, books.claim("Charge_26", payment_keys=self.FIRST), 26, **asked)
        assert (refused.reason, refused.facts["part"]) == ("cap", first.call_id)
        assert "the same payment_key" in refused.message
        approve(books, first.call_id, 26)
        again = books.claim("Charge_26", payment_keys=self.FIRST)
        assert pay(books, again, 26, **asked).verdict == "allowed"

    def test_one_that_repeats_the_first_calls_may_make_more(self, books: Books) -> None:
        """A list of one key that has grown."""
        key = books.claim("List_1", payment_keys=self.FIRST)
        for target in ("cus_1", "cus_2"):
            ask = books.ask(27, target=target)
            granted = books.reserve(key, ask)
            books.end(
                key, EndRequest("settle", granted.call_id, 1, total_micros=27, status=200, answer_body="{}")
            )
        other = books.claim("List_2", payment_keys=self.FIRST)
        verdicts = [pay(books, other, 27, target=target).verdict for target in ("cus_1", "cus_2", "cus_3")]
        assert verdicts == ["replayed", "replayed", "allowed"]

    def test_the_same_task_under_another_key_is_held_until_it_has_completed(self, books: Books) -> None:
        """Its key has the day in it, and it died the day before."""
        first = charged(books, payment_keys=("30",))
        refused = pay(books, books.claim("Charge_27", payment_keys=("1",)), 27)
        assert (refused.reason, refused.facts["part"]) == ("cap", first.call_id)
        assert "under another payment_key" in refused.message
        assert pay(books, books.claim("Charge_27", payment_keys=("1",)), 27, target="cus_2").verdict == (
            "allowed"
        )
        books.write(claims.finish, books.last_claim, "completed")
        assert pay(books, books.claim("Charge_27", payment_keys=("1",)), 27).verdict == "allowed"

    def test_of_another_family_is_another_payment(self, books: Books) -> None:
        charged(books, payment_keys=self.FIRST)
        other = books.claim("Deposit_26", family="Deposit", payment_keys=self.FIRST)
        assert pay(books, other, 26, target="cus_2").verdict == "allowed"


def approve(books: Books, call_id: str, amount: int, task_id: str = "Charge_26", again: str = "") -> None:
    shown = ("run", task_id, call_id, Micros(amount), f"approve {task_id} {call_id} {amount} {again}")
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


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (duplicates._CHARGED, "call_charged (family=? AND target=?)"),
        (duplicates._FOR_PAYMENT, "call_payment (payment=?)"),
        (duplicates._OTHERWISE, "(task_id=?"),
    ],
)
@pytest.mark.of_files
def test_what_may_be_repeated_is_found_by_an_index(books: Books, query: str, index: str) -> None:
    """A target that is paid daily has thousands of charges."""
    values = [str(n) for n in range(1, 14) if f"?{n}" in query]
    plan = books.read(lambda tx: [row["detail"] for row in tx.all(f"EXPLAIN QUERY PLAN {query}", *values)])
    assert any(index in step for step in plan), plan
    assert [step for step in plan if step.startswith("SCAN") and "VIRTUAL TABLE" not in step] == []
