"""Which denials are a task's last word, and what has solved the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import calls, claims, denials, keys, reservations, runs
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.keys import Terms
from luigi_spendguard.ledger.runs import Inside
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply
from luigi_spendguard.settings.policy import Caps
from scheduler_patch.service.denials import of_known
from tests.support.books import Books

KEY = ("order-17",)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "books.db", 1000)
    yield made
    made.ledger.close()


def call(books: Books, key: str, amount: int = 10, target: str = "a") -> str:
    """Make a call and settle it; return its verdict and reason."""
    ask = books.ask(amount, target=target)
    answer = books.reserve(key, ask)
    if answer.verdict == "allowed":
        end = EndRequest("settle", ask.call_id, 1, total_micros=amount, status=200, answer_body="{}")
        books.end(key, end)
    return f"{answer.verdict}:{answer.reason}"


def refuse(books: Books, key: str) -> None:
    """Let a call be denied for what no operator decides."""
    ask = books.ask(0, denied="unpriced", message="no price", total_micros=None)
    assert books.reserve(key, ask).reason == "unpriced"


def named(books: Books, run_id: str = "run") -> list[str]:
    """Return the tasks whose denials stand."""
    return [row["task_id"] for row in books.read(denials.unsolved, [run_id])]


def test_a_denial_stands_while_nothing_has_come_after_it(books: Books) -> None:
    key = books.claim("A")
    refuse(books, key)
    books.write(claims.finish, books.last_claim, "failed")
    assert named(books) == ["A"]
    books.claim("A")
    assert named(books) == ["A"]
    call(books, books.claim("B"))
    books.write(claims.finish, books.last_claim, "completed")
    assert named(books) == ["A"]


def test_an_amount_that_was_put_back_solves_what_another_task_was_refused(books: Books) -> None:
    """With the amount in its parameters it is another task that completes, in the same run or in another."""
    assert call(books, books.claim("Pay_351", payment_keys=KEY), 351) == "allowed:"
    refused = call(books, books.claim("Pay_330", payment_keys=KEY), 330)
    assert (refused, named(books)) == ("denied:idempotency_mismatch", ["Pay_330"])
    call(books, books.claim("Pay_9", payment_keys=("order-18",)), 9, "b")
    assert named(books) == ["Pay_330"], "another payment says nothing of it"
    assert call(books, books.claim("Pay_351", payment_keys=KEY), 351) == "replayed:"
    assert named(books) == []


def test_so_does_a_call_of_the_task_that_another_run_lets_pass(books: Books) -> None:
    refuse(books, books.claim("A"))
    books.write(runs.open_run, runs.RunRequest("next", False, "Root", "Root_1", Micros(1000)))
    refuse(books, books.claim("A", "next"))
    assert (named(books), named(books, "next")) == (["A"], ["A"])
    assert call(books, books.claim("A", "next")) == "allowed:"
    assert (named(books), named(books, "next")) == ([], [])


@pytest.mark.parametrize("together", [True, False])
def test_a_task_that_completes_without_a_call_or_in_a_batch_solves_it(books: Books, together: bool) -> None:
    refuse(books, books.claim("A"))
    books.claim("AB" if together else "A", members=("A", "B") if together else ())
    assert named(books) == ["A"]
    books.write(claims.finish, books.last_claim, "completed")
    assert named(books) == []


def test_a_batchs_denial_stands_until_all_its_members_have_completed(books: Books) -> None:
    refuse(books, books.claim("AB", members=("A", "B")))
    for task_id, left in (("A", ["AB"]), ("B", [])):
        books.claim(task_id)
        books.write(claims.finish, books.last_claim, "completed")
        assert named(books) == left


def test_of_a_run_that_has_ended_those_stand_whose_tasks_the_scheduler_knows(books: Books) -> None:
    books.write(runs.open_run, runs.RunRequest("Root_1", True, "Root", "Root_1", Micros(1000)))
    refuse(books, books.claim("A", "Root_1"))
    refuse(books, books.claim("BC", "Root_1", members=("B", "C")))

    def standing(*known: str) -> list[str]:
        rows = books.read(denials.unsolved, ["Root_1"])
        return [row["task_id"] for row in of_known(rows, set(known).__contains__)]

    assert standing() == ["BC", "A"], "they may come again"
    books.write(claims.close_run, "Root_1", "Root_1")
    assert (standing(), standing("A"), standing("C")) == ([], ["A"], ["BC"])


def test_a_vault_keys_last_call_is_the_runs(books: Books) -> None:
    key = books.claim("")
    refuse(books, key)
    assert named(books) == [""]
    refuse(books, key)
    assert named(books) == [""]
    call(books, key)
    assert named(books) == []


class TestOfAVaultKeysCallThatACapDenied:
    def denied(self, books: Books, amount: int, **terms: Any) -> list[str]:
        """Let a call under a vault key be denied by a cap; return what stands."""
        _, key = books.write(keys.issue, Terms("stripe", "luigi/run", ttl_ms=3_600_000, **terms), books.caps)
        ask = books.ask(amount)

        def reserve(tx: Tx) -> ReserveReply:
            scope = calls.find_scope(tx, key, books.caps, relayed=True)
            assert scope is not None
            return reservations.reserve(tx, scope, ask)

        assert books.write(reserve).reason == "cap"
        return self.standing(books)

    def standing(self, books: Books) -> list[str]:
        return [row["reason"] for row in books.read(denials.unsolved, ["run"])]

    @pytest.mark.parametrize("terms", [{}, {"run_cap": Micros(900)}, {"daily_cap": Micros(900)}])
    def test_it_stands_until_its_amount_fits(self, books: Books, terms: dict[str, Any]) -> None:
        assert self.denied(books, 1500, **terms) == ["cap"]
        books.write(runs.top_up, "run", Micros(499), "first")
        assert self.standing(books) == ["cap"]
        books.write(runs.top_up, "run", Micros(101), "second")
        assert self.standing(books) == []
        call(books, books.claim("A"), 500)
        assert self.standing(books) == ["cap"], "another has taken it"

    def test_a_vendors_or_the_days_is_raised_by_itself(self, books: Books) -> None:
        books.caps = Caps(vendors={"stripe": Micros(10)}, day=Micros(20))
        for amount, inside in (
            (15, Inside("vendor", "stripe", Micros(10))),
            (25, Inside("day", "", Micros(20))),
        ):
            assert self.denied(books, amount) == ["cap"]
            books.write(runs.top_up, "run", Micros(1000), f"of the run {amount}")
            assert self.standing(books) == ["cap"]
            books.write(runs.top_up_inside, "run", inside, Micros(25), f"inside {amount}")
            assert self.standing(books) == []
