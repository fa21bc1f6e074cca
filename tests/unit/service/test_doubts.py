"""luigid looks up by its tag what is in doubt for too long: what Stripe shows ends it, and that alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.config import Settings
from luigi_spendguard.ledger import doubts as due_doubts
from luigi_spendguard.ledger import runs
from luigi_spendguard.ledger.doubts import AGAIN_MS
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Reply
from luigi_spendguard.vendors.stripe.tags import tag_of
from scheduler_patch.service import doubts
from scheduler_patch.service.doubts import DoubtLookUps
from scheduler_patch.service.ledger import Booked
from tests.support.vendor_books import PaperTransport
from tests.unit.reconcile.test_stripe import CENT, SECRET, Sides

DAY_MS = 25 * 3_600_000
BODY = "amount=500&currency=usd&customer=cus_1&confirm=true&payment_method=pm_card_visa"


class Lost:
    """A ledger with calls in doubt, and the Stripe account that they were sent to a day ago."""

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        self.sides, self.patch = Sides(tmp_path), patch
        self.books, self.stripe = self.sides.books, self.sides.stripe
        self.stripe.now -= DAY_MS // 1000
        self.transport = PaperTransport(self._answer)
        place = self.books.path
        self.settings = Settings(
            place if isinstance(place, Path) else tmp_path / "none.db",
            ledger_server=None if isinstance(place, Path) else place,
            vendors={"stripe": VendorSettings("stripe", secret=SECRET)},
        )

    def _answer(self, *asked: Any) -> Any:
        return self.sides.answer(*asked)

    def call(self, amount: int = 500, *, ago_ms: int = DAY_MS, **more: Any) -> tuple[str, dict[str, str]]:
        """Let a call of so many cents be in doubt since then; return its id, and its object's metadata."""
        body = BODY.replace("amount=500", f"amount={amount}")
        headers = {"content-type": "application/x-www-form-urlencoded"}
        about = {"body": body, "headers": headers, "currency": "usd", "target": "cus_1", **more}
        call_id = self.sides.call(amount, None, kind="doubt", **about)
        self.books.write(
            lambda tx: tx.run(
                "UPDATE call SET created_at = created_at - ?1, granted_at = granted_at - ?1 WHERE id = ?2",
                ago_ms,
                call_id,
            )
        )
        return call_id, self.sides.tags[call_id]

    def row(self, call_id: str) -> dict[str, Any]:
        row: dict[str, Any] = self.books.read(lambda tx: tx.one("SELECT * FROM call WHERE id = ?", call_id))
        return row

    def luigid(self) -> DoubtLookUps:
        """Return what looks in a luigid that was just started."""
        return DoubtLookUps(Service(self), asyncio.run, lambda _: None)  # type: ignore[arg-type]

    def look(self) -> int:
        """Let luigid look; return how many requests it has sent."""
        before = len(self.transport.asked)
        self.luigid().look()
        assert self.books.audit() == []
        return len(self.transport.asked) - before

    def later(self) -> None:
        """Let it be time for the next looks."""
        self.patch.setattr(due_doubts, "AGAIN_MS", 0)


class Service:
    """What a `DoubtLookUps` needs of luigid's service."""

    def __init__(self, lost: Lost) -> None:
        self.books, self.settings = lost.books, lost.settings

    async def browse(self, operation: Any, *args: Any) -> Any:
        return self.books.read(operation, *args)

    async def record(self, operation: Any, *args: Any) -> Any:
        return self.books.write(operation, *args)

    async def commit(self, operation: Any, *args: Any) -> Any:
        booked = self.books.write(operation, *args)
        assert isinstance(booked, Booked)
        return booked.answer


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lost]:
    lost = Lost(tmp_path, monkeypatch)
    monkeypatch.setattr(doubts, "BlockingTransport", lambda: lost.transport)
    yield lost
    lost.books.ledger.close()


def test_what_was_made_is_found_once_with_its_answer(lost: Lost, caplog: pytest.LogCaptureFixture) -> None:
    call_id, tag = lost.call()
    lost.stripe.intent(700, customer="cus_1")
    made = lost.stripe.intent(500, customer="cus_1", metadata=tag)
    with caplog.at_level(logging.WARNING, doubts.__name__):
        assert lost.look() == 1
        lost.later()
        assert lost.look() == 0, "it has ended"
    row = lost.row(call_id)
    assert (row["state"], row["object_id"], row["settled_micros"]) == ("settled", made["id"], 500 * CENT)
    assert lost.books.figures() == (500 * CENT, 0, 0)
    [said] = [one.getMessage() for one in caplog.records]
    assert (
        said
        == f"Call {call_id} was in doubt, and by its tag it has made {made['id']}: it is settled at $5.00"
    )
    ask = lost.books.ask(500 * CENT, target="cus_1", currency="usd", taggable=True, tag=True)
    again = lost.books.reserve(lost.books.claim("task"), ask)
    assert (again.verdict, made["id"] in again.answer_body) == ("replayed", True)


@pytest.mark.parametrize(("looks", "hours"), [(1, 1), (2, 2), (3, 4), (12, 2048)])
def test_it_is_looked_for_ever_more_seldom(looks: int, hours: int) -> None:
    row = {"looks": looks, "looked_at": 10**12, "last": "look_up"}
    assert not due_doubts._is_due(row, 10**12 + hours * AGAIN_MS - 1)
    assert due_doubts._is_due(row, 10**12 + hours * AGAIN_MS)


def test_what_is_not_there_stays_in_doubt_until_it_is(lost: Lost, caplog: pytest.LogCaptureFixture) -> None:
    call_id, tag = lost.call()
    assert [lost.look(), lost.look()] == [1, 0]
    assert f"spendguard resolve {call_id}" in caplog.text
    assert (lost.row(call_id)["state"], lost.books.figures()) == ("in_doubt", (0, 500 * CENT, 0))
    made = lost.stripe.intent(500, metadata=tag)
    lost.later()
    assert lost.look() == 1
    assert lost.row(call_id)["object_id"] == made["id"]


@pytest.mark.parametrize("alike", ["untagged", "another tag", "another call's", "two", "another time"])
def test_what_is_only_like_it_is_not_taken(lost: Lost, alike: str) -> None:
    call_id, tag = lost.call()
    if alike == "another time":
        lost.stripe.now += 3 * 3600
    metadata = {"untagged": {}, "another tag": {"spendguard_call": tag_of("x")}}.get(alike, tag)
    made = lost.stripe.intent(500, customer="cus_1", metadata=metadata)
    if alike == "two":
        lost.stripe.intent(500, customer="cus_1", metadata=metadata)
    if alike == "another call's":
        lost.sides.call(500, made["id"], target="cus_2")
    before = lost.books.figures()
    assert lost.look() == 1
    row = lost.row(call_id)
    assert (row["state"], row["object_id"], lost.books.figures()) == ("in_doubt", None, before)


def test_a_call_of_another_amount_is_not_made_of_it(lost: Lost, caplog: pytest.LogCaptureFixture) -> None:
    """Its tag was copied onto what is less than it asked for."""
    call_id, tag = lost.call()
    lost.stripe.intent(400, customer="cus_1", metadata=tag)
    lost.look()
    assert lost.row(call_id)["state"] == "in_doubt"
    assert "smaller amount" in caplog.text


@pytest.mark.parametrize(
    "cut",
    [
        lambda page: {**page, "has_more": True, "data": []},
        lambda page: {name: value for name, value in page.items() if name != "has_more"},
        lambda page: Reply(200, {}, b'{"data": [{"id": "pi_1", '),
        lambda page: Reply(404, {}, b"{}"),
        lambda page: {**page, "has_more": True},
    ],
    ids=["empty", "no end said", "not JSON", "none", "endless"],
)
def test_a_list_that_is_cut_off_is_no_proof(lost: Lost, cut: Any) -> None:
    """Of a tag that two objects have, one may be behind the end; nor does it say that there is none."""
    call_id, tag = lost.call()
    lost.stripe.intent(500, metadata=tag)
    plain = lost.sides.answer
    lost.sides.answer = lambda path, query, number: cut(plain(path, {"limit": "100"}, number))
    lost.look()
    assert (lost.row(call_id)["state"], lost.row(call_id)["object_id"]) == ("in_doubt", None)
    lost.sides.answer = plain
    lost.later()
    lost.look()
    assert lost.row(call_id)["state"] == "settled"


def test_a_second_of_its_tag_on_a_later_page_is_seen(lost: Lost) -> None:
    call_id, tag = lost.call()
    lost.stripe.intent(500, metadata=tag)
    for _ in range(120):
        lost.stripe.intent(1, paid=False)
    lost.stripe.intent(500, metadata=tag)
    assert lost.look() == 2
    assert lost.row(call_id)["state"] == "in_doubt"


@pytest.mark.parametrize("silent", [Reply(429, {}, b"{}"), Reply(503, {}, b"{}"), ConnectionResetError()])
def test_a_vendor_that_does_not_answer_is_left_alone(lost: Lost, silent: Any) -> None:
    calls = [lost.call(amount, target=f"cus_{amount}")[0] for amount in (500, 600, 700)]
    lost.sides.answer = lambda path, query, number: silent
    assert lost.look() == 1
    assert [lost.row(one)["state"] for one in calls] == ["in_doubt"] * 3


BUSY = Reply(429, {"retry-after": "600"}, b"{}")


def test_a_refusal_for_rate_uses_up_no_turn(lost: Lost) -> None:
    calls = [lost.call(500 + n, ago_ms=DAY_MS - 1000 * n, target=f"cus_{n}")[0] for n in range(3)]
    lost.stripe.intent(502, metadata=lost.sides.tags[calls[2]])
    plain, looking = lost.sides.answer, lost.luigid()
    lost.sides.answer = lambda path, query, number: BUSY
    looking.look()
    lost.sides.answer = plain
    looking.look()
    assert len(lost.transport.asked) == 1, "it asks to be left alone for ten minutes"
    seen = [(each.call_id, each.looks) for each in lost.books.read(due_doubts.due)]
    assert seen == [(calls[1], 0), (calls[2], 0), (calls[0], 0)]
    assert lost.look() == 3, "another luigid, or this one when they are over, goes on"
    assert [lost.row(one)["state"] for one in calls] == ["in_doubt", "in_doubt", "settled"]
    assert lost.look() == 0


def test_a_turn_that_came_later_is_kept_too(lost: Lost) -> None:
    call_id, tag = lost.call()
    assert lost.look() == 1
    lost.stripe.intent(500, metadata=tag)
    plain = lost.sides.answer
    with lost.patch.context() as patched:
        patched.setattr(due_doubts, "AGAIN_MS", 0)
        lost.sides.answer = lambda path, query, number: BUSY
        assert lost.look() == 1
        lost.sides.answer = plain
    assert lost.look() == 1
    assert lost.row(call_id)["state"] == "settled"


def test_whose_turn_another_one_has_taken_is_not_put_off(lost: Lost) -> None:
    call_id, _ = lost.call()
    [seen] = lost.books.read(due_doubts.due)
    assert lost.books.write(due_doubts.lend, seen) is not None
    lost.later()
    [later] = lost.books.read(due_doubts.due)
    assert lost.books.write(due_doubts.lend, later) is not None
    lost.books.write(due_doubts.put_off, seen)
    assert [each.looks for each in lost.books.read(due_doubts.due)] == [2]
    assert lost.row(call_id)["state"] == "in_doubt"


@pytest.mark.parametrize("said", ["nan", "-5", "1e308", "tomorrow", ""])
def test_a_vendor_is_left_alone_within_bounds_whatever_it_says(lost: Lost, said: str) -> None:
    lost.call()
    lost.sides.answer = lambda path, query, number: Reply(429, {"retry-after": said}, b"{}")
    looking = lost.luigid()
    now = time.monotonic()
    looking.look()
    assert looking._not_before["stripe"] <= time.monotonic() + doubts.LONGEST_S
    lost.patch.setattr(time, "monotonic", lambda: now + doubts.LONGEST_S + 60)
    looking.look()
    assert len(lost.transport.asked) == 2


def test_of_several_luigids_one_looks(lost: Lost) -> None:
    """Both have seen that it is due."""
    call_id, tag = lost.call()
    lost.stripe.intent(500, metadata=tag)
    first, plain = lost.luigid(), lost.sides.answer

    def answer(*args: Any) -> Any:
        assert lost.look() == 0, "another one is at it"
        return plain(*args)

    lost.sides.answer = answer
    seen = lost.books.read(due_doubts.due)
    first.look()
    assert lost.row(call_id)["state"] == "settled"
    assert lost.books.write(due_doubts.lend, seen[0]) is None


def test_what_has_ended_meanwhile_is_left_as_it_is(lost: Lost) -> None:
    call_id, tag = lost.call()
    lost.stripe.intent(500, metadata=tag)
    plain = lost.sides.answer

    def answer(*args: Any) -> Any:
        end = EndRequest("settle", call_id, 1, total_micros=500 * CENT, object_id="pi_own", status=200)
        lost.books.end(lost.sides.key, end)
        return plain(*args)

    lost.sides.answer = answer
    lost.look()
    row = lost.row(call_id)
    assert (row["state"], row["object_id"]) == ("settled", "pi_own")
    assert lost.books.figures() == (500 * CENT, 0, 0)


@pytest.mark.parametrize("first", ["luigid", "its task"])
def test_its_task_that_looks_at_the_same_time_gets_one_answer(lost: Lost, first: str) -> None:
    """Whoever is later finds that it has ended, or is being ended; it is counted once."""
    call_id, tag = lost.call()
    made, plain = lost.stripe.intent(500, metadata=tag), lost.sides.answer
    key = lost.books.claim("task")
    ask = lost.books.ask(500 * CENT, target="cus_1", currency="usd", taggable=True, tag=True)
    assert lost.books.reserve(key, ask).verdict == "search"
    found = replace(ask, searched=True, executed=(made["id"],))
    if first == "luigid":
        lost.look()
        assert lost.books.reserve(key, found).verdict == "replayed"
    else:

        def answer(*args: Any) -> Any:
            again = lost.books.reserve(key, found)
            assert (again.verdict, again.call_id) == ("found", call_id)
            return plain(*args)

        lost.sides.answer = answer
        lost.look()
        assert (lost.row(call_id)["state"], lost.books.figures()) == ("pending", (0, 500 * CENT, 0))
        end = EndRequest(
            "settle",
            call_id,
            lost.row(call_id)["ask"],
            total_micros=500 * CENT,
            object_id=made["id"],
            status=200,
        )
        lost.books.end(key, end)
    assert lost.books.figures() == (500 * CENT, 0, 0)
    assert lost.books.audit() == []


def test_what_was_spent_of_a_revoked_run_is_known_too(lost: Lost) -> None:
    call_id, tag = lost.call()
    lost.stripe.intent(500, metadata=tag)
    lost.books.write(runs.revoke, lost.books.run_id)
    lost.look()
    assert (lost.row(call_id)["state"], lost.books.figures()) == ("settled", (500 * CENT, 0, 0))


def test_a_decline_is_void_and_what_it_left_open_counts(lost: Lost) -> None:
    call_id, tag = lost.call()
    error = {"code": "card_declined", "message": "Declined."}
    made = lost.stripe.intent(500, paid=False, metadata=tag, last_payment_error=error)
    lost.look()
    row = lost.row(call_id)
    assert (row["state"], row["object_id"], row["declined"]) == ("settled", made["id"], 1)
    failed, tag = lost.call(
        300, operation="charges.create", path="/v1/charges", body="amount=300&currency=usd"
    )
    lost.stripe.add("ch", "charge", amount=300, currency="usd", captured=False, status="failed", metadata=tag)
    lost.look()
    assert (lost.row(failed)["state"], lost.books.figures()) == ("voided", (500 * CENT, 0, 0))


@pytest.mark.parametrize(
    "why", ["young", "untagged", "another mode", "no secret", "body not kept", "another operation"]
)
def test_what_cannot_be_known_is_not_looked_for(lost: Lost, why: str) -> None:
    more: dict[str, dict[str, Any]] = {
        "young": {"ago_ms": 22 * 3_600_000},
        "another mode": {"account": "stripe:live"},
        "body not kept": {"body": ""},
        "another operation": {"operation": "charges.create"},
    }
    call_id, tag = lost.call(**more.get(why, {}))
    if why == "untagged":
        lost.books.write(lambda tx: tx.run("UPDATE call SET tagged = 0"))
    if why == "no secret":
        lost.settings = replace(lost.settings, vendors={})
    lost.stripe.intent(500, metadata=tag)
    assert lost.look() == 0
    assert lost.row(call_id)["state"] == "in_doubt"


def test_a_connected_account_is_asked_for_its_own(lost: Lost) -> None:
    call_id, tag = lost.call(account="stripe:test:acct_9")
    lost.stripe.intent(500, metadata=tag)
    lost.look()
    [asked] = lost.transport.asked
    assert asked.headers["stripe-account"] == "acct_9"
    assert lost.row(call_id)["state"] == "settled"


def test_the_secret_is_in_no_log(lost: Lost, caplog: pytest.LogCaptureFixture) -> None:
    call_id, tag = lost.call()
    lost.stripe.intent(500, metadata={**tag, "note": SECRET})
    lost.look()
    assert lost.row(call_id)["state"] == "in_doubt"
    assert SECRET not in caplog.text


def test_what_was_reserved_stands_where_the_answer_says_no_amount(lost: Lost) -> None:
    """A refund that is answered with its charge, all of which has been given back since."""
    charge = lost.stripe.add(
        "ch", "charge", amount=900, amount_refunded=900, currency="usd", status="succeeded"
    )
    path = f"/v1/charges/{charge['id']}/refund"
    about = {"operation": "refunds.create", "path": path, "target": charge["id"], "body": "amount=300"}
    call_id, tag = lost.call(300, **about)
    made = lost.stripe.add("re", "refund", amount=300, currency="usd", charge=charge, metadata=tag)
    lost.look()
    row = lost.row(call_id)
    assert (row["state"], row["object_id"], row["settled_micros"]) == ("settled", made["id"], 300 * CENT)
