"""Vault keys in the ledger: bound to a run, with terms and budgets of their own, which reissuing keeps."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import Conflict, KeyRevoked
from luigi_spendguard.ledger import calls, claims, keys, queries, reservations, runs, settlement
from luigi_spendguard.ledger.keys import Terms
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books

HOUR = 3_600_000
READ = {"method": "GET", "path": "/v1/prices/p", "read": True, "total_micros": 0}


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "books.db", cap=100)
    books.caps = Caps(default=Micros(1000), limit=Micros(5000), families={"Billing": Micros(3000)})
    yield books
    assert books.audit() == []
    books.ledger.close()


def issue(books: Books, **terms: Any) -> tuple[dict[str, Any], str]:
    terms = {"vendor": "stripe", "label": "luigi/run", "ttl_ms": HOUR} | terms
    return books.write(keys.issue, Terms(**terms), books.caps)


def ask(amount: int, **more: Any) -> ReserveRequest:
    return ReserveRequest(
        **{
            "call_id": str(uuid.uuid4()),
            "vendor": "stripe",
            "account": "stripe:test",
            "operation": "payment_intents.create",
            "method": "POST",
            "path": "/v1/payment_intents",
            "fingerprint": str(amount),
            "total_micros": amount,
            "repeatable": True,
            **more,
        }
    )


def reserve(books: Books, key: str, asked: ReserveRequest, relayed: bool = True) -> ReserveReply:
    def operation(tx: Any) -> ReserveReply:
        scope = calls.find_scope(tx, key, books.caps, relayed=relayed)
        assert scope is not None
        return reservations.reserve(tx, scope, asked)

    return books.write(operation)


def end(books: Books, key: str, said: EndRequest, relayed: bool = True) -> Any:
    def operation(tx: Any) -> Any:
        scope = calls.find_scope(tx, key, books.caps, relayed=relayed)
        assert scope is not None
        return settlement.end(tx, scope, said)

    return books.write(operation)


class TestRevokedRun:
    def test_whoever_asks_in_it_is_told_so_for_good(self, books: Books) -> None:
        over = books.claim("over")
        books.write(claims.finish, books.last_claim, "failed")
        running, (_, issued) = books.claim("running"), issue(books)
        known = ask(1)
        reserve(books, running, known, relayed=False)
        books.write(runs.revoke, "run")
        for key, asked in ((over, ask(1)), (running, ask(1)), (running, replace(known, ask=2))):
            answer = reserve(books, key, asked, relayed=False)
            assert (answer.reason, "run run is revoked for good" in answer.message) == ("revoked", True)
        assert reserve(books, issued, ask(1)).reason == "revoked"
        assert [one["state"] for one in books.read(keys.keys, "run")] == ["revoked"]
        assert books.read(lambda tx: tx.all("SELECT state FROM claim WHERE state = 'open'")) == []
        for act in (lambda: books.claim("new"), lambda: books.claim("running"), lambda: issue(books)):
            with pytest.raises(KeyRevoked, match="run run is revoked for good"):
                act()
        with pytest.raises(Conflict, match="cannot be topped up"):
            books.write(runs.top_up, "run", Micros(1), "r1")

    def test_a_call_that_another_run_sends_again_is_waited_for_by_both(self, books: Books) -> None:
        books.write(runs.open_run, runs.RunRequest("again", False, "Root", "again", Micros(100)))
        for run_id in ("run", "again"):
            asked = ask(1, target="cus_1")
            key = books.claim("task", run_id)
            answer = reserve(books, key, asked, relayed=False)
            assert answer.verdict == "allowed"
            if run_id == "run":
                end(books, key, EndRequest("doubt", answer.call_id, 1), relayed=False)
        assert [books.read(runs.pending_calls, run_id) for run_id in ("run", "again")] == [1, 1]

    def test_a_denied_call_is_on_record(self, books: Books) -> None:
        key, asked = books.claim("task"), ask(1000)
        assert reserve(books, key, asked, relayed=False).reason == "cap"
        (row,) = books.read(queries.calls)
        assert (row["id"], row["task_id"], row["verdict"]) == (asked.call_id, "task", "denied:cap")


class TestRuns:
    def test_a_key_spends_the_budget_of_the_run_it_is_bound_to(self, books: Books) -> None:
        _, key = issue(books)
        assert reserve(books, key, ask(60)).verdict == "allowed"
        assert reserve(books, key, ask(60)).reason == "cap"
        assert books.figures() == (0, 60, 0)

    def test_an_unlabelled_key_has_a_run_of_its_own(self, books: Books) -> None:
        row, _ = issue(books, label="", run_cap=Micros(7))
        run = books.read(runs.run_row, row["id"])
        assert (run["run_id"], run["cap_micros"]) == (row["id"], 7)

    def test_without_a_cap_one_is_issued_in_shadow_mode_for_a_run_at_0(self, books: Books) -> None:
        books.caps = Caps(families={"Billing": Micros(3000)}, shadow=True)
        row, key = issue(books, label="luigi/other", daily_cap=Micros(50))
        assert "had no cap for it" in row["note"]
        assert reserve(books, key, ask(60)).verdict == "allowed"
        books.caps = Caps(families={"Billing": Micros(3000)})
        assert reserve(books, key, ask(60)).reason == "cap"
        run = books.read(runs.run_row, "other")
        assert run["cap_micros"] - run["shadow_micros"] == 0
        with pytest.raises(Conflict, match="no key was issued"):
            issue(books, label="luigi/another")

    @pytest.mark.parametrize(
        ("terms", "cap"),
        [
            ({"run_cap": Micros(7), "daily_cap": Micros(9)}, 7),
            ({"daily_cap": Micros(9)}, 9),
            ({}, 1000),
            ({"run_cap": Micros(9000)}, 5000),
            ({"run_cap": Micros(9000), "label": "luigi/Billing_2026_11_0123456789"}, 3000),
            ({"run_cap": Micros(9000), "label": "luigi/Billing_by_hand"}, 5000),
        ],
    )
    def test_the_key_that_opens_a_run_pins_its_cap(
        self, books: Books, terms: dict[str, Any], cap: int
    ) -> None:
        row, _ = issue(books, **{"label": "luigi/new"} | terms)
        assert books.read(runs.run_row, row["run_id"])["cap_micros"] == cap

    def test_a_guarded_worker_goes_on_with_the_run_that_a_key_has_opened(self, books: Books) -> None:
        name = "Nightly_2026_0123456789"
        row, _ = issue(books, label=f"luigi/{name}", run_cap=Micros(7))
        request = runs.RunRequest(name, True, "Nightly", name, Micros(99))
        run = books.write(runs.open_run, request)
        assert (run["run_id"], run["cap_micros"], run["by_task_id"]) == (row["run_id"], 7, 1)

    def test_a_revoked_run_gives_no_key(self, books: Books) -> None:
        _, key = issue(books)
        books.write(runs.revoke, "run")
        assert reserve(books, key, ask(1)).reason == "revoked"
        with pytest.raises(KeyRevoked):
            issue(books)


class TestBudgets:
    def test_a_reissued_key_goes_on_with_its_budget_and_another_has_its_own(self, books: Books) -> None:
        _, first = issue(books, run_cap=Micros(10))
        assert reserve(books, first, ask(8)).verdict == "allowed"
        _, again = issue(books, run_cap=Micros(10))
        refused = reserve(books, again, ask(8))
        assert (refused.reason, refused.facts["budget"]) == ("cap", "key")
        assert "of the vault key" in refused.message
        _, other = issue(books, run_cap=Micros(10), endpoints=("payment_intents.create",))
        assert reserve(books, other, ask(8)).verdict == "allowed"

    def test_a_daily_cap_bounds_a_day_and_a_top_up_of_the_run_raises_it(self, books: Books) -> None:
        _, key = issue(books, daily_cap=Micros(10))
        assert reserve(books, key, ask(10)).verdict == "allowed"
        assert reserve(books, key, ask(5)).facts["budget"] == "key_day"
        books.write(runs.top_up, "run", Micros(5), "r1")
        books.write(runs.top_up, "run", Micros(5), "r1")
        assert reserve(books, key, ask(5)).verdict == "allowed"
        assert reserve(books, key, ask(1)).facts["budget"] == "key_day"


class TestTerms:
    @pytest.mark.parametrize(
        ("terms", "asked", "reason"),
        [
            ({"endpoints": ("POST /v1/charges",)}, {}, "endpoint"),
            ({"endpoints": ("POST /v1/payment_intents",)}, {}, ""),
            ({"endpoints": ("payment_intents.create",)}, {}, ""),
            ({"endpoints": ("payment_intents.confirm",)}, {}, "endpoint"),
            ({"endpoints": ("GET /v1/*",)}, READ, ""),
            ({"endpoints": ("POST /v1/*",)}, READ, "endpoint"),
            ({"endpoints": ("POST /v1/*",)}, {**READ, "look_up": True}, ""),
            ({"customers": ("cus_1",)}, {"customer": ("cus_1",)}, ""),
            ({"customers": ("cus_1",)}, {"customer": ("cus_2",)}, "scope"),
            ({"customers": ("cus_1",)}, {}, "scope"),
            ({"accounts": ("acct_1",)}, {"accounts": ("acct_1",)}, ""),
            ({"accounts": ("acct_1",)}, {"accounts": ("acct_1", "acct_2")}, "scope"),
            ({"accounts": ("acct_1",)}, {}, "scope"),
            ({}, {"vendor": "twilio"}, "scope"),
        ],
    )
    def test_a_call_is_kept_to_the_terms_of_its_key(
        self, books: Books, terms: dict[str, Any], asked: dict[str, Any], reason: str
    ) -> None:
        _, key = issue(books, **terms)
        answer = reserve(books, key, ask(1, **asked))
        assert (answer.verdict, answer.reason) == (("denied", reason) if reason else ("allowed", ""))

    def test_whom_an_object_concerns_is_remembered_else_looked_up(self, books: Books) -> None:
        _, key = issue(books, customers=("cus_1",))
        made = ask(5, customer=("cus_1",))
        assert reserve(books, key, made).verdict == "allowed"
        end(
            books,
            key,
            EndRequest(
                "settle",
                made.call_id,
                1,
                total_micros=5,
                worth_micros=5,
                object_id="pi_1",
                customer=("cus_1",),
            ),
        )
        more = {"operation": "payment_intents.confirm", "total_micros": None}
        assert reserve(books, key, ask(0, object_id="pi_1", **more)).verdict == "allowed"
        assert reserve(books, key, ask(0, object_id="pi_2", **more)).verdict == "look_up"
        known = {"operation": "payment_intents.confirm", "object_id": "pi_2", "customer": ("cus_2",)}
        assert reserve(books, key, ask(5, **known)).reason == "scope"

    def test_the_requests_word_does_not_stand_for_an_objects_own_customer(self, books: Books) -> None:
        _, other = issue(books)
        made = ask(5, customer=("cus_2",))
        assert reserve(books, other, made).verdict == "allowed"
        end(
            books,
            other,
            EndRequest(
                "settle",
                made.call_id,
                1,
                total_micros=5,
                worth_micros=5,
                object_id="pi_1",
                customer=("cus_2",),
            ),
        )
        _, key = issue(books, customers=("cus_1",))
        said = {"operation": "payment_intents.capture", "customer": ("cus_1",), "owner_unknown": True}
        assert reserve(books, key, ask(5, object_id="pi_1", **said)).reason == "scope"
        assert reserve(books, key, ask(5, object_id="pi_2", **said)).verdict == "look_up"
        assert reserve(books, key, ask(5, **said)).verdict == "look_up"
        assert reserve(books, key, ask(5, **READ, **said)).reason == "scope"
        assert reserve(books, key, ask(5, customer=("cus_1", "cus_2"))).reason == "scope"

    def test_an_expired_key_is_refused(self, books: Books) -> None:
        _, key = issue(books, expires_at=1)
        assert reserve(books, key, ask(1)).reason == "expired"

    def test_a_revoked_key_is_refused_and_its_run_goes_on(self, books: Books) -> None:
        row, key = issue(books)
        _, other = issue(books)
        for named in (row["id"], key):
            assert books.write(keys.revoke_key, named)["state"] == "revoked"
        assert reserve(books, key, ask(1)).reason == "revoked"
        assert reserve(books, other, ask(1)).verdict == "allowed"

    def test_a_task_whose_key_was_revoked_is_not_given_another_in_that_run(self, books: Books) -> None:
        books.claim("Charge_1")
        books.write(keys.revoke_key, books.last_claim)
        with pytest.raises(KeyRevoked, match="Charge_1 was revoked"):
            books.claim("Charge_1")
        books.claim("Charge_2")


class TestIdentity:
    def test_the_key_on_the_wire_is_the_identity_within_the_run(self, books: Books) -> None:
        _, key = issue(books)
        _, reissued = issue(books)
        made = ask(5, key="once")
        assert reserve(books, key, made).verdict == "allowed"
        end(
            books,
            key,
            EndRequest(
                "settle", made.call_id, 1, total_micros=5, object_id="pi_1", status=200, answer_body="{}"
            ),
        )
        assert reserve(books, reissued, ask(5, key="once")).verdict == "replayed"
        assert reserve(books, key, ask(6, key="once")).reason == "idempotency_mismatch"
        _, elsewhere = issue(books, label="luigi/another")
        assert reserve(books, elsewhere, ask(5, key="once")).verdict == "allowed"

    def test_without_a_key_on_the_wire_each_request_is_a_new_call(self, books: Books) -> None:
        _, key = issue(books)
        for _ in range(2):
            made = ask(5)
            assert reserve(books, key, made).verdict == "allowed"
            end(
                books,
                key,
                EndRequest("settle", made.call_id, 1, total_micros=5, status=200, answer_body="{}"),
            )
        assert books.figures() == (10, 0, 0)


class TestWhoEnds:
    def test_only_a_gateway_ends_what_a_gateway_sends(self, books: Books) -> None:
        """Else a task could call its charge not sent while the gateway sends it."""
        key = books.claim("Charge_1")
        made = ask(5, target="cus_1")
        assert reserve(books, key, made).verdict == "allowed"
        with pytest.raises(Conflict, match="gateway"):
            end(books, key, EndRequest("void", made.call_id, 1), relayed=False)
        end(books, key, EndRequest("doubt", made.call_id, 1))
        again = reserve(books, key, ask(5, target="cus_1"), relayed=False)
        assert (again.reason, books.figures()) == ("in_doubt", (0, 5, 0))
        assert reserve(books, key, ask(5, target="cus_1")).resend

    def test_a_key_of_another_run_ends_nothing(self, books: Books) -> None:
        _, key = issue(books)
        _, foreign = issue(books, label="luigi/another")
        made = ask(5)
        assert reserve(books, key, made).verdict == "allowed"
        with pytest.raises(Conflict, match="another"):
            end(books, foreign, EndRequest("void", made.call_id, 1))


def test_a_running_tasks_key_is_listed_by_its_id_and_can_be_revoked(tmp_path: Path) -> None:
    books = Books(tmp_path / "ledger.db")
    books.claim("task")
    (shown,) = books.read(keys.keys)
    assert (shown["id"], shown["task_id"], shown["state"]) == (books.last_claim, "task", "active")
    assert shown["vendor"] is None
    books.write(keys.revoke_key, shown["id"])
    assert books.read(keys.keys, "run") == []
    books.ledger.close()
