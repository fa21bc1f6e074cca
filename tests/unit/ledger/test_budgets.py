"""Budgets inside a run, shadow mode and batches, on a real ledger file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import BudgetExceeded, Conflict
from luigi_spendguard.ledger import claims, queries, runs, snapshot
from luigi_spendguard.ledger.budgets import take_money
from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "books.db", 100)
    yield made
    assert made.audit() == []
    made.ledger.close()


def budgets(books: Books) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Return (cap of its own, spent, reserved) of every budget."""
    rows = books.read(lambda tx: tx.all("SELECT * FROM budget"))
    return {
        (row["scope"], "" if row["scope"] == "day" else row["part"]): (
            row["cap_micros"] - row["shadow_micros"],
            row["spent_micros"],
            row["reserved_micros"],
        )
        for row in rows
    }


def paid(books: Books, vault_key: str, amount: int, **more: Any) -> str:
    """Make a call and settle it; return its verdict and reason."""
    ask = books.ask(amount, **more)
    answer = books.reserve(vault_key, ask)
    if answer.verdict == "allowed":
        books.end(
            vault_key,
            EndRequest("settle", answer.call_id, 1, total_micros=amount, status=200, answer_body="{}"),
        )
    return f"{answer.verdict}:{answer.reason}"


CAPS = Caps(day=Micros(90), task_families={"Charge": Micros(50)}, vendors={"stripe": Micros(60)})


def test_all_that_apply_must_have_room_and_none_is_touched_otherwise(books: Books) -> None:
    books.caps = CAPS
    key = books.claim("A", max_cost=Micros(30))
    assert paid(books, key, 20) == "allowed:"
    before = budgets(books)
    assert before == {
        ("run", ""): (100, 20, 0),
        ("day", ""): (90, 20, 0),
        ("family", "Charge"): (50, 20, 0),
        ("vendor", "stripe"): (60, 20, 0),
        ("task", "A"): (30, 20, 0),
    }
    denied = books.reserve(key, books.ask(11))
    assert (denied.reason, denied.facts["budget"], denied.facts["part"]) == ("cap", "task", "A")
    assert budgets(books) == before
    other = books.claim("B")
    denied = books.reserve(other, books.ask(31))
    assert denied.facts["budget"] == "family"
    assert budgets(books) == before
    books.caps = replace(CAPS, task_families={})
    assert books.reserve(other, books.ask(41)).facts["budget"] == "vendor"


def test_what_one_run_has_overrun_is_not_there_for_another(books: Books) -> None:
    books.caps = Caps(day=Micros(90))
    books.write(runs.open_run, runs.RunRequest("other", False, "Root", "other", Micros(100)))
    key, ask = books.claim("A"), books.ask(20)
    books.reserve(key, ask)
    books.end(key, EndRequest("settle", ask.call_id, 1, total_micros=50))
    assert books.figures() == (20, 0, 30)
    key = books.claim("B", "other")
    denied = books.reserve(key, books.ask(41))
    assert (denied.reason, denied.facts["budget"], denied.facts["remaining_usd"]) == ("cap", "day", "0.00004")
    assert books.reserve(key, books.ask(40)).verdict == "allowed"


def test_a_tasks_budget_follows_what_its_latest_claim_says_and_is_never_below_what_is_counted(
    books: Books,
) -> None:
    paid(books, books.claim("A", max_cost=Micros(30)), 20)
    books.claim("A", max_cost=Micros(10))
    assert budgets(books)["task", "A"] == (20, 20, 0)
    key = books.claim("A", max_cost=Micros(40))
    assert paid(books, key, 20) == "allowed:"


def test_a_revived_reservation_belongs_to_the_day_on_which_it_is_made(books: Books) -> None:
    books.caps = Caps(day=Micros(90))
    key, ask = books.claim("A"), books.ask(10)
    books.reserve(key, ask)
    books.end(key, EndRequest("void", ask.call_id, 1))
    books.write(lambda tx: tx.run("UPDATE budget SET part = '2000-01-01' WHERE scope = 'day'"))
    assert books.reserve(key, replace(ask, ask=2)).verdict == "allowed"
    rows = books.read(lambda tx: tx.all("SELECT part, reserved_micros FROM budget WHERE scope = 'day'"))
    assert [row["reserved_micros"] for row in sorted(rows, key=lambda row: str(row["part"]))] == [0, 10]


def test_what_refuses_a_call_beyond_the_days_cap_is_named(books: Books) -> None:
    """The day had no room, and what the run may spend beyond it had: the task's own had not."""
    books.caps = Caps(day=Micros(0))
    beyond = runs.Inside("day", "", Micros(0))
    books.write(runs.top_up_inside, "run", beyond, Micros(50), "once")
    key = books.claim("A", max_cost=Micros(30))
    denied = books.reserve(key, books.ask(40))
    assert (denied.facts["budget"], denied.facts["cap_usd"]) == ("task", "0.00003")
    assert books.reserve(books.claim("B"), books.ask(60)).facts["budget"] == "day"
    assert paid(books, key, 30) == "allowed:"


class TestShadow:
    def test_what_a_cap_denies_is_lent_and_recorded(self, books: Books) -> None:
        books.caps = replace(CAPS, shadow=True)
        key = books.claim("A", max_cost=Micros(30))
        assert [paid(books, key, 70), paid(books, key, 80)] == ["allowed:", "allowed:"]
        assert budgets(books) == {
            ("run", ""): (100, 150, 0),
            ("day", ""): (90, 150, 0),
            ("family", "Charge"): (50, 150, 0),
            ("vendor", "stripe"): (60, 150, 0),
            ("task", "A"): (30, 150, 0),
        }
        assert books.run()["cap_micros"] == 150, "the cap that would have sufficed"
        rows = books.read(lambda tx: tx.all("SELECT reason, verdict, message FROM call"))
        assert {(row["verdict"], row["reason"]) for row in rows} == {("allowed", "cap")}

    def test_enforced_again_nothing_more_is_let_through(self, books: Books) -> None:
        books.caps = Caps(shadow=True)
        key = books.claim("A")
        paid(books, key, 150)
        books.caps = Caps()
        denied = books.reserve(key, books.ask(1))
        assert (denied.reason, denied.facts["cap_usd"], denied.facts["remaining_usd"]) == (
            "cap",
            "0.0001",
            "0.00",
        )

    def test_what_was_lent_and_came_back_is_no_room_either(self, books: Books) -> None:
        books.caps = Caps(shadow=True)
        key, lent = books.claim("A"), books.ask(80)
        paid(books, key, 70)
        books.reserve(key, lent)
        books.end(key, EndRequest("void", lent.call_id, 1))
        books.caps = Caps()
        assert paid(books, key, 31) == "denied:cap"
        assert paid(books, key, 30) == "allowed:"

    def test_a_top_up_raises_the_cap_not_what_was_lent(self, books: Books) -> None:
        books.caps = Caps(shadow=True)
        key = books.claim("A")
        paid(books, key, 150)
        books.write(runs.top_up, "run", Micros(30), "one")
        assert (books.run()["cap_micros"], books.run()["shadow_micros"]) == (150, 20)
        books.write(runs.top_up, "run", Micros(40), "two")
        assert (books.run()["cap_micros"], books.run()["shadow_micros"]) == (170, 0)
        books.caps = Caps()
        assert paid(books, key, 20) == "allowed:"
        assert paid(books, key, 1) == "denied:cap"

    def test_a_frozen_runs_call_is_let_through_and_recorded_like_one_without_room(self, books: Books) -> None:
        key, ask = books.claim("A"), books.ask(10)
        books.reserve(key, ask)
        books.end(key, EndRequest("settle", ask.call_id, 1, total_micros=12, status=200))
        assert books.run()["state"] == "frozen"
        assert paid(books, key, 20) == "denied:cap"
        books.caps = Caps(shadow=True)
        assert paid(books, key, 20) == "allowed:"
        row = books.read(lambda tx: tx.one("SELECT * FROM call ORDER BY rowid DESC"))
        assert (row["verdict"], row["reason"]) == ("allowed", "cap")
        assert "let through in shadow mode: run run is frozen" in row["message"]

    def test_what_a_task_may_spend_without_an_approval_is_no_cap(self, books: Books) -> None:
        books.caps = Caps(shadow=True, single=Micros(50))
        undeclared, declared = books.claim("A", single=Micros(50)), books.claim("B", max_cost=Micros(20))
        assert [paid(books, undeclared, 40), paid(books, declared, 40)] == ["allowed:", "allowed:"]
        for key, task_id in ((undeclared, "A"), (declared, "B")):
            denied = books.reserve(key, books.ask(20))
            assert (denied.reason, denied.facts["budget"], denied.facts["asked_usd"]) == (
                "cap",
                "approval",
                "0.00006",
            )
            books.write(runs.approve, "run", task_id, Micros(60), task_id)
            assert paid(books, key, 20) == "allowed:"
            assert paid(books, key, 1) == "denied:cap"

    def test_members_of_a_batch_may_spend_what_each_may_alone(self, books: Books) -> None:
        books.caps = Caps(shadow=True, single=Micros(50))
        key = books.claim("AB", members=("A", "B"), single=Micros(50))
        assert [paid(books, key, 100), paid(books, key, 1)] == ["allowed:", "denied:cap"]

    @pytest.mark.parametrize(
        ("caps", "more", "whose"),
        [
            (Caps(), {}, ("run", 100)),
            (Caps(day=Micros(90)), {}, ("day", 90)),
            (Caps(task_families={"Charge": Micros(50)}), {}, ("family", 50)),
            (Caps(vendors={"stripe": Micros(60)}), {}, ("vendor", 60)),
            (Caps(), {"max_cost": Micros(30)}, ("task", 30)),
        ],
    )
    def test_the_budgets_that_were_short_are_told_with_what_would_have_sufficed(
        self, books: Books, caps: Caps, more: dict[str, Any], whose: tuple[str, int]
    ) -> None:
        books.caps = replace(caps, shadow=True)
        key = books.claim("A", **more)
        paid(books, key, 20)
        assert books.read(queries.lent, ["run"]) == []
        amount = 91 if whose[0] == "run" else 75
        paid(books, key, amount)
        told = [(r["scope"], r["own_micros"], r["cap_micros"]) for r in books.read(queries.lent, ["run"])]
        assert told == [(*whose, amount + 20)]

    def test_a_revoked_run_stays_revoked(self, books: Books) -> None:
        books.caps = Caps(shadow=True)
        key = books.claim("A")
        books.write(runs.revoke, "run")
        assert paid(books, key, 1) == "denied:revoked"


class TestBatches:
    def test_the_members_and_the_target_name_a_call_of_a_batch(self, books: Books) -> None:
        """One of its members is complete by now, or another one has joined it."""
        key = books.claim("ABC", members=("A", "B", "C"))
        for customer in "abc":
            assert paid(books, key, 10, target=customer) == "allowed:"
        for task_id, members in (("BC", ("B", "C")), ("B", ()), ("CBD", ("C", "B", "D"))):
            key = books.claim(task_id, members=members)
            assert paid(books, key, 10, target="b") == "replayed:"
        assert paid(books, key, 10, target="c") == "replayed:"
        assert paid(books, key, 10, target="d") == "allowed:"
        assert paid(books, books.claim("D"), 10, target="d") == "replayed:"
        assert books.figures() == (40, 0, 0)

    def test_of_another_amount_it_is_refused(self, books: Books) -> None:
        paid(books, books.claim("AB", members=("A", "B")), 20, target="together")
        assert paid(books, books.claim("B"), 10, target="together") == "denied:idempotency_mismatch"

    @pytest.mark.parametrize(
        ("before", "now"), [(None, None), (None, "b"), ("a", None), ("a b c", "b c"), ("a… #12", "b")]
    )
    def test_what_names_no_single_target_pays_only_with_the_callers_key(
        self, books: Books, before: str | None, now: str | None
    ) -> None:
        paid(books, books.claim("ABC", members=("A", "B", "C")), 10, target=before)
        key = books.claim("BC", members=("B", "C"))
        assert paid(books, key, 10, target=now) == "denied:idempotency_mismatch"
        assert paid(books, key, 10, target=now, key="mine", key_is_callers=True) == "allowed:"

    def test_a_batch_has_completed_when_its_members_have(self, books: Books) -> None:
        """It comes back as it was the next day, and pays."""
        paid(books, books.claim("AB", members=("A", "B")), 10, target="a")
        for task_id in "AB":
            books.claim(task_id)
            books.write(claims.finish, books.last_claim, "completed")
        books.write(runs.open_run, runs.RunRequest("next", False, "Root", "next", Micros(100)))
        key = books.claim("AB", "next", members=("A", "B"))
        assert paid(books, key, 10, target="a") == "allowed:"

    def test_what_has_completed_since_was_another_matter(self, books: Books) -> None:
        paid(books, books.claim("AB", members=("A", "B")), 10)
        books.write(claims.finish, books.last_claim, "completed")
        assert paid(books, books.claim("BC", members=("B", "C")), 10) == "allowed:"

    def test_one_that_has_paid_nothing_leaves_its_members_free(self, books: Books) -> None:
        books.claim("AB", members=("A", "B"))
        assert paid(books, books.claim("BC", members=("B", "C")), 10) == "allowed:"

    def test_a_claim_ends_every_open_claim_that_overlaps_it(self, books: Books) -> None:
        first, alone = books.claim("AB", members=("A", "B")), books.claim("C")
        books.claim("BC", members=("B", "C"))
        assert paid(books, first, 1) == "denied:expired"
        assert paid(books, alone, 1) == "denied:expired"

    def test_the_gate_starts_with_the_batches_that_have_paid(self, books: Books) -> None:
        paid(books, books.claim("AB", members=("A", "B")), 10)
        books.claim("CD", members=("C", "D"))
        assert books.write(snapshot.start, Caps()).batches == [["A", "B"]]


class TestApprovals:
    def test_an_approval_is_bound_to_the_forecast_and_counts_once(self, books: Books) -> None:
        with pytest.raises(Conflict, match="no forecast yet"):
            books.write(runs.approve, "run", "", Micros(10), "a")
        books.write(runs.set_forecast, "run", Micros(200), Micros(0), 0)
        with pytest.raises(Conflict, match=r"is \$0\.0002 now"):
            books.write(runs.approve, "run", "", Micros(10), "b")
        for _ in range(2):
            assert books.write(runs.approve, "run", "", Micros(200), "c")["approved_micros"] == 200
        with pytest.raises(Conflict, match="another change"):
            books.write(runs.approve, "run", "A", Micros(200), "c")

    @pytest.mark.parametrize(("ceiling", "unknown"), [(950, 0), (900, 0), (900, 12), (2000, 3)])
    def test_a_ceiling_that_is_too_low_names_the_one_that_is_not(
        self, books: Books, ceiling: int, unknown: int
    ) -> None:
        books.write(runs.set_forecast, "run", Micros(950), Micros(0), 12)
        with pytest.raises(Conflict, match="let nothing pass") as refused:
            books.write(runs.approve, "run", "", Micros(ceiling), "a", runs.Approved(unknown, up_to=True))
        enough = Micros(max(950, ceiling))
        whole = f"`spendguard approve run --up-to {plain_usd(enough)} --unknown-tasks 12` lets it pass"
        assert whole in str(refused.value)
        books.write(runs.approve, "run", "", enough, "b", runs.Approved(12, up_to=True))

    def test_one_of_a_task_raises_its_budget_at_once(self, books: Books) -> None:
        key = books.claim("A", single=Micros(10))
        assert paid(books, key, 11) == "denied:cap"
        books.write(runs.approve, "run", "A", Micros(11), "a")
        assert paid(books, key, 11) == "allowed:"
        assert paid(books, books.claim("A", single=Micros(10)), 1) == "denied:cap"

    def test_a_revoked_run_has_nothing_to_approve(self, books: Books) -> None:
        books.write(runs.set_forecast, "run", Micros(200), Micros(0), 0)
        books.write(runs.revoke, "run")
        with pytest.raises(Conflict, match="revoked"):
            books.write(runs.approve, "run", "", Micros(200), "a")


def test_averages_are_what_completed_tasks_have_cost_a_batch_counting_as_its_members(books: Books) -> None:
    for task_id, members, amount in (("A", (), 10), ("BCD", ("B", "C", "D"), 30)):
        paid(books, books.claim(task_id, members=members), amount)
        books.write(claims.finish, books.last_claim, "completed")
    paid(books, books.claim("E", family="Other"), 5)
    assert books.read(snapshot.averages) == {"Charge": 10}


def test_an_average_above_a_cent_is_a_guess_in_whole_cents(books: Books) -> None:
    books.write(runs.top_up, "run", Micros(40_000), "once")
    for task_id, amount in (("A", 20_000), ("B", 10_000), ("C", 10_000)):
        paid(books, books.claim(task_id), amount)
        books.write(claims.finish, books.last_claim, "completed")
    assert books.read(snapshot.averages) == {"Charge": 20_000}


def outcome(books: Books, claim_id: str) -> tuple[str, str | None, int]:
    """Return a claim's state and outcome, and how often its task has completed."""

    def read(tx: Any) -> tuple[str, str | None, int]:
        row = tx.one("SELECT * FROM claim WHERE id = ?", claim_id)
        return row["state"], row["outcome"], claims.completions(tx, row["task_id"])

    return books.read(read)


def test_closing_a_run_counts_what_luigi_has_as_done_and_ends_no_attempt(books: Books) -> None:
    request = runs.RunRequest("Root_1", True, "Root", "Root_1", Micros(100))
    books.write(runs.open_run, request)
    key = books.claim("A", "Root_1")
    running = books.last_claim
    assert paid(books, key, 10, target="cus") == "allowed:"
    books.claim("B", "Root_1")
    lost = books.last_claim
    books.claim("C", "Root_1")
    returned = books.last_claim
    books.write(claims.finish, returned, "returned")
    assert books.read(claims.unfinished, "Root_1") == ["A", "B", "C"]
    for _ in range(2):
        books.write(claims.close_run, "Root_1", "Root_1", ["B"], ["A", "C"], "once")
    assert outcome(books, running) == ("open", None, 0)
    assert outcome(books, lost) == ("open", "completed", 1)
    assert outcome(books, returned) == ("ended", "completed", 1)
    books.write(claims.finish, returned, "completed")  # It was only late.
    assert outcome(books, returned) == ("ended", "completed", 1)
    assert books.write(claims.finish, running, "failed") is not None
    # Its retry is another run's, and what it repeats is a repetition.
    assert books.write(runs.open_run, request)["run_id"] == "Root_1~2"
    assert paid(books, books.claim("A", "Root_1~2"), 10, target="cus") == "replayed:"
    # What ended the first run does not end the second when it is heard once more.
    for run_id, request_id in (("Root_1", "again"), (None, "once")):
        books.write(claims.close_run, "Root_1", run_id, [], [], request_id)
        assert books.read(runs.run_row, "Root_1~2")["state"] == "active"


def test_an_attempt_that_outlives_a_completion_of_its_task_is_another_schedulers(books: Books) -> None:
    books.write(runs.open_run, runs.RunRequest("Root_1", True, "Root", "Root_1", Micros(100)))
    paid(books, books.claim("A", "Root_1"), 10, target="cus")
    first = books.last_claim
    key = books.claim("A", "Root_1")
    live = books.last_claim
    books.write(claims.finish, first, "completed")
    assert books.read(claims.unfinished, "Root_1") == []
    books.write(claims.close_run, "Root_1", "Root_1", ["A"])
    assert outcome(books, live) == ("open", None, 1)
    assert paid(books, key, 10, target="cus") == "replayed:"


class TestApprovalsAtTheClaim:
    """What a task may cost is known for certain only when it is claimed."""

    def test_one_that_says_too_much_is_not_claimed(self, books: Books) -> None:
        with pytest.raises(BudgetExceeded, match=r"may cost \$0\.00005, and only \$0\.00001") as denied:
            books.claim("A", max_cost=Micros(50), single=Micros(10))
        assert (denied.value.facts["budget"], denied.value.facts["asked_usd"]) == ("approval", "0.00005")
        assert outcome_of(books, "A") == []
        books.write(runs.approve, "run", "A", Micros(50), "1")
        assert paid(books, books.claim("A", max_cost=Micros(50), single=Micros(10)), 50) == "allowed:"

    def test_a_batch_may_cost_what_its_members_may(self, books: Books) -> None:
        batch: dict[str, Any] = {"members": ("A", "B"), "single": Micros(10)}
        books.claim("AB", max_cost=Micros(20), **batch)
        with pytest.raises(BudgetExceeded):
            books.claim("AB", max_cost=Micros(21), **batch)
        books.write(runs.approve, "run", "A", Micros(11), "1")
        books.claim("AB", max_cost=Micros(21), **batch)


def outcome_of(books: Books, task_id: str) -> list[Any]:
    return books.read(lambda tx: tx.all("SELECT * FROM claim WHERE task_id = ?", task_id))


def test_a_budget_that_is_not_there_grants_nothing(books: Books) -> None:
    run_budget = books.read(lambda tx: tx.one("SELECT id FROM budget WHERE scope = 'run'"))["id"]
    with pytest.raises(LookupError):
        books.write(take_money, [run_budget, 999_999], Micros(1))
    assert [reserved for _, _, reserved in budgets(books).values()] == [0]
