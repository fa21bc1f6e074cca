"""Whose word counts: a gateway and a worker with a vault key never end or lower what the other counts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger import calls, claims, reservations, settlement
from luigi_spendguard.protocol import EndRequest, ReserveReply, ReserveRequest
from tests.support.books import Books


class Sides(Books):
    """One ledger, which a gateway and a worker ask under the same vault key."""

    relayed = True

    def reserve(self, key: str, ask: ReserveRequest) -> ReserveReply:
        def operation(tx: Any) -> ReserveReply:
            scope = calls.find_scope(tx, key, self.caps, relayed=self.relayed)
            assert scope is not None
            return reservations.reserve(tx, scope, ask)

        return self.write(operation)

    def end(self, key: str, end: EndRequest) -> Any:
        def operation(tx: Any) -> Any:
            scope = calls.find_scope(tx, key, self.caps, relayed=self.relayed)
            assert scope is not None
            return settlement.end(tx, scope, end)

        return self.write(operation)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    sides = Sides(tmp_path / "ledger.db")
    yield sides
    assert sides.audit() == []
    sides.ledger.close()


def pay(sides: Sides, key: str, object_id: str = "pi_1") -> ReserveRequest:
    """Count 100 for an object, as the side that asks."""
    ask = sides.ask(100)
    assert sides.reserve(key, ask).verdict == "allowed"
    sides.end(
        key, EndRequest("settle", ask.call_id, 1, total_micros=100, worth_micros=100, object_id=object_id)
    )
    return ask


def test_a_worker_revives_no_call_of_a_gateways(sides: Sides) -> None:
    key, ask = sides.claim("task"), sides.ask(0)
    sides.reserve(key, ask)
    sides.end(key, EndRequest("void", ask.call_id, 1, definite=True))
    sides.relayed = False
    for vendor in ("stripe", "x"):
        answer = sides.reserve(key, replace(ask, vendor=vendor, ask=50))
        assert (answer.verdict, answer.reason) == ("denied", "scope")
    with pytest.raises(Conflict):
        sides.end(key, EndRequest("settle", ask.call_id, 50, total_micros=0, object_id="pi_1"))


def test_a_worker_frees_nothing_that_a_gateway_counts(sides: Sides) -> None:
    key = sides.claim("task")
    pay(sides, key)
    sides.relayed = False
    for naming in ({"object_id": "pi_1"}, {"object_id": "pi_own", "covers": ("pi_1",)}):
        ask = sides.ask(0)
        assert sides.reserve(key, ask).verdict == "allowed"
        sides.end(key, EndRequest("settle", ask.call_id, 1, total_micros=0, **naming))
        assert sides.figures() == (100, 0, 0)
    acted = sides.ask(0, object_id="pi_1")
    assert sides.reserve(key, acted).reason == "scope"


def test_a_gateway_believes_nothing_that_a_worker_says_of_an_object(sides: Sides) -> None:
    key = sides.claim("task")
    sides.relayed = False
    planted = sides.ask(0)
    sides.reserve(key, planted)
    sides.end(key, EndRequest("settle", planted.call_id, 1, total_micros=0, worth_micros=1, object_id="pi_1"))
    sides.relayed = True
    confirm = sides.ask(0, operation="payment_intents.confirm", object_id="pi_1", total_micros=None)
    assert sides.reserve(key, confirm).verdict == "look_up"
    assert sides.reserve(key, replace(confirm, total_micros=100)).verdict == "allowed"
    assert sides.figures() == (0, 100, 0)


def test_a_gateway_sends_no_body_that_a_worker_has_left_in_doubt(sides: Sides) -> None:
    key = sides.claim("task")
    sides.relayed = False
    planted = sides.ask(1, target="cus_1", body="amount=10000")
    sides.reserve(key, planted)
    sides.end(key, EndRequest("doubt", planted.call_id, 1))
    sides.relayed = True
    answer = sides.reserve(key, sides.ask(1, target="cus_1", body="amount=1"))
    assert (answer.verdict, answer.reason) == ("denied", "in_doubt")


def test_who_did_not_hear_that_it_may_send_a_call_again_leaves_it_in_doubt(sides: Sides) -> None:
    """Else the next equal call of the attempt would be another one, and sent beside it."""
    key = sides.claim("task")
    first = sides.ask(100, target="cus_1")
    sides.reserve(key, first)
    sides.end(key, EndRequest("doubt", first.call_id, 1))
    second, third = (sides.ask(100, target="cus_1") for _ in range(2))
    assert sides.reserve(key, second).call_id == first.call_id
    sides.end(key, EndRequest("void", second.call_id, 1, note="its sender was interrupted"))
    assert sides.reserve(key, second).verdict == "denied"  # It comes late.
    again = sides.reserve(key, third)
    assert (again.verdict, again.call_id, again.resend) == ("allowed", first.call_id, True)
    sides.end(key, EndRequest("void", second.call_id, 2))  # What others have taken over since is theirs.
    sides.end(key, EndRequest("settle", first.call_id, again.ask, total_micros=100))
    assert sides.figures() == (100, 0, 0)


def test_what_is_asked_for_again_and_voided_is_not_granted_when_it_comes_late(sides: Sides) -> None:
    """Nobody would send it, and the next equal call of the attempt would be sent beside it."""
    key = sides.claim("task")
    first, second = (sides.ask(100, target="cus_1") for _ in range(2))
    sides.reserve(key, first)
    sides.end(key, EndRequest("doubt", first.call_id, 1))
    for late in (2, 3):
        sides.end(key, EndRequest("void", first.call_id, late, note="its grant did not arrive"))
        assert sides.reserve(key, replace(first, ask=late)).verdict == "stale"
    again = sides.reserve(key, second)
    assert (again.verdict, again.call_id, again.resend) == ("allowed", first.call_id, True)
    sides.end(key, EndRequest("settle", first.call_id, again.ask, total_micros=100))
    assert sides.figures() == (100, 0, 0)


def lost(sides: Sides, key: str, *asks: ReserveRequest) -> None:
    """Send these one after the other: each takes over the first one's call, and gets no answer."""
    for ask in asks:
        answer = sides.reserve(key, ask)
        assert (answer.verdict, answer.call_id) == ("allowed", asks[0].call_id)
        sides.end(key, EndRequest("doubt", asks[0].call_id, answer.ask))


def test_who_has_sent_a_call_again_is_not_let_send_it_by_what_comes_late(sides: Sides) -> None:
    key = sides.claim("task")
    first, second, third = (sides.ask(10, target="cus_1") for _ in range(3))
    lost(sides, key, first, second)
    assert sides.reserve(key, second).verdict == "stale"
    again = sides.reserve(key, third)
    assert (again.verdict, again.call_id) == ("allowed", first.call_id)


def test_a_call_that_was_in_doubt_is_the_next_equal_one_whoever_was_let_send_it_meanwhile(
    sides: Sides,
) -> None:
    """What an earlier sender has asked for comes late, and nobody sends it."""
    key = sides.claim("task")
    first, second, third, last = (sides.ask(10, target="cus_1") for _ in range(4))
    lost(sides, key, first, second, third)
    assert sides.reserve(key, second).verdict == "allowed"
    waits = sides.reserve(key, last)
    assert (waits.verdict, waits.message) == ("wait", first.call_id)
    assert sides.figures() == (0, 10, 0)


def test_what_was_not_sent_and_is_voided_again_reserves_nothing_when_it_comes_late(sides: Sides) -> None:
    key, ask = sides.claim("task"), sides.ask(100, target="cus_1")
    sides.reserve(key, ask)
    for number in (1, 2):
        sides.end(key, EndRequest("void", ask.call_id, number))
    assert sides.reserve(key, replace(ask, ask=2)).verdict == "stale"
    assert sides.figures() == (0, 0, 0)
    assert sides.reserve(key, replace(ask, ask=3)).verdict == "allowed"


def test_who_was_voided_before_leaves_in_doubt_what_it_did_not_hear_that_it_may_send(sides: Sides) -> None:
    key = sides.claim("task")
    first, other, third = (sides.ask(10, target="cus_1") for _ in range(3))
    for ask in (first, other):
        assert sides.reserve(key, ask).call_id == ask.call_id
    for ask, kind in ((first, "doubt"), (other, "void")):
        sides.end(key, EndRequest(kind, ask.call_id, 1))
    taken = sides.reserve(key, replace(other, ask=2))
    assert (taken.verdict, taken.call_id) == ("allowed", first.call_id)
    sides.end(key, EndRequest("void", other.call_id, 1))  # It comes again, and says nothing of that.
    assert sides.reserve(key, third).call_id == third.call_id
    sides.end(key, EndRequest("void", third.call_id, 1))
    sides.end(key, EndRequest("void", other.call_id, 2, note="its grant did not arrive"))
    again = sides.reserve(key, sides.ask(10, target="cus_1"))
    assert (again.verdict, again.call_id, again.resend) == ("allowed", first.call_id, True)
    sides.end(key, EndRequest("settle", first.call_id, again.ask, total_micros=10))
    assert sides.figures() == (10, 0, 0)


def test_what_a_gateway_sends_again_no_worker_puts_in_doubt(sides: Sides) -> None:
    """It would be taken for one that nobody sends now."""
    key = sides.claim("task")
    first, second = (sides.ask(100, target="cus_1") for _ in range(2))
    sides.reserve(key, first)
    sides.end(key, EndRequest("doubt", first.call_id, 1))
    assert sides.reserve(key, second).call_id == first.call_id
    sides.relayed, is_void = False, EndRequest("void", second.call_id, 1)
    with pytest.raises(Conflict, match="a gateway sends this call"):
        sides.end(key, is_void)
    state = "SELECT state FROM call WHERE id = ?"
    assert sides.write(lambda tx: tx.value(state, first.call_id)) == "pending"
    sides.relayed = True
    sides.end(key, is_void)
    assert sides.write(lambda tx: tx.value(state, first.call_id)) == "in_doubt"


def test_a_gateway_answers_nothing_that_a_worker_has_said(sides: Sides) -> None:
    """A worker plants a reply for a key that another task's call will bring."""
    key, other = sides.claim("task"), sides.claim("other task")
    sides.relayed = False
    planted = sides.ask(1, key="order-1", key_is_callers=True)
    sides.reserve(key, planted)
    sides.end(
        key,
        EndRequest(
            "settle",
            planted.call_id,
            1,
            total_micros=1,
            object_id="pi_own",
            status=200,
            answer_headers={},
            answer_body='{"id": "pi_own"}',
        ),
    )
    sides.relayed = True
    answer = sides.reserve(other, sides.ask(1, key="order-1", key_is_callers=True))
    assert (answer.verdict, answer.reason, answer.answer_body) == ("denied", "idempotency_mismatch", "")
    sides.relayed = False
    assert sides.reserve(other, sides.ask(1, key="order-1", key_is_callers=True)).verdict == "replayed"


def test_no_call_answers_another_vendors(sides: Sides) -> None:
    """What a worker says of a vendor that no gateway serves is no answer to one's."""
    key, keyed = sides.claim("task"), {"key": "order-1", "key_is_callers": True}
    for names in (keyed, {"target": "cus_1"}):
        first = sides.ask(1, vendor="x", **names)
        assert sides.reserve(key, first).verdict == "allowed"
        sides.end(key, EndRequest("settle", first.call_id, 1, total_micros=1, object_id=first.call_id))
        assert sides.reserve(key, sides.ask(1, **names)).verdict == "allowed"


def test_a_call_id_is_for_one_call(sides: Sides) -> None:
    key, ask = sides.claim("task"), sides.ask(10)
    sides.reserve(key, ask)
    sides.end(key, EndRequest("void", ask.call_id, 1, definite=True))
    for change in ({"fingerprint": "99"}, {"operation": "refunds.create"}, {"account": "other"}):
        answer = sides.reserve(key, replace(ask, ask=2, **change))
        assert (answer.verdict, answer.reason) == ("denied", "scope")


def test_what_an_earlier_version_has_kept_is_compared_as_it_was(sides: Sides) -> None:
    """That had the price in what a call asks for: with another price it is another call's, as ever."""
    said = {"target": "+14155550100", "repeatable": False}
    key, old = sides.claim("task"), sides.ask(10, **said, fingerprint="text|10")
    sides.reserve(key, old)
    sides.end(key, EndRequest("settle", old.call_id, 1, total_micros=10, status=201, answer_body="{}"))
    same = sides.ask(10, **said, fingerprint="text", fingerprint_before="text|10")
    assert sides.reserve(sides.claim("task"), same).verdict == "replayed"
    dearer = sides.ask(11, **said, fingerprint="text", fingerprint_before="text|11")
    assert sides.reserve(sides.claim("task"), dearer).reason == "idempotency_mismatch"


def test_equal_calls_are_counted_whichever_version_has_kept_them(sides: Sides) -> None:
    """One text is shown, and it may be either's."""
    said = {"target": "+14155550100", "repeatable": False}
    forms = ({"fingerprint": "text|1"}, {"fingerprint": "text", "fingerprint_before": "text|1"})
    for task, form in zip("ab", forms, strict=True):
        key, lost = sides.claim(task), sides.ask(1, **said, **form)
        sides.reserve(key, lost)
        sides.end(key, EndRequest("doubt", lost.call_id, 1))
    for task in "ab":
        again = sides.ask(1, **said, **forms[1], searched=True, executed=("SM1",))
        assert sides.reserve(sides.claim(task), again).reason == "in_doubt"


@pytest.mark.parametrize("kind", ["void", "doubt"])
def test_the_end_of_an_earlier_send_ends_no_later_one(sides: Sides, kind: str) -> None:
    """What was lost on its way comes when the same call is sent again."""
    key, ask = sides.claim("task"), sides.ask(10)
    for number in (1, 2):
        assert sides.reserve(key, replace(ask, ask=number)).verdict == "allowed"
    assert sides.end(key, EndRequest(kind, ask.call_id, 1))["state"] == "pending"
    assert sides.figures() == (0, 10, 0)
    assert sides.end(key, EndRequest("settle", ask.call_id, 2, total_micros=10))["state"] == "settled"


def test_replies_that_came_out_of_order_free_nothing(sides: Sides) -> None:
    """The vendor executed `small` first and answered it last: the object is worth 100."""
    key = sides.claim("task")
    pay(sides, key)
    update = {"operation": "payment_intents.update", "object_id": "pi_1", "target": "pi_1"}
    small, large = sides.ask(1, **update), sides.ask(100, **update)
    for ask in (small, large):
        assert sides.reserve(key, ask).verdict == "allowed"
    for ask, total in ((large, 100), (small, 1)):
        sides.end(key, EndRequest("settle", ask.call_id, 1, total_micros=total, object_id="pi_1"))
    assert sides.figures() == (100, 0, 0)


def test_what_is_found_for_one_call_is_taken_before_that_has_ended(sides: Sides) -> None:
    """Two tasks look for their equal texts at once; the vendor shows two."""
    said = {"target": "+14155550100", "fingerprint": "text", "repeatable": False}
    for task in ("a", "b"):
        key, lost = sides.claim(task), sides.ask(1, **said)
        sides.reserve(key, lost)
        sides.end(key, EndRequest("doubt", lost.call_id, 1))
    found = []
    for task in ("a", "b"):
        again = sides.ask(1, **said, searched=True, executed=("SM1", "SM2"))
        found.append(sides.reserve(sides.claim(task), again))
    assert [(one.verdict, one.object_id) for one in found] == [("found", "SM1"), ("found", "SM2")]
    one_left = sides.ask(1, **said, searched=True, executed=("SM1", "SM2"))
    key = sides.claim("c")
    lost = sides.ask(1, **said)
    sides.reserve(key, lost)
    sides.end(key, EndRequest("doubt", lost.call_id, 1))
    assert sides.reserve(sides.claim("c"), one_left).reason == "in_doubt"


def test_a_call_made_again_because_it_was_not_answered_is_the_same_call(sides: Sides) -> None:
    """The SDK makes up another key when the task calls again; the sender knows of the first one."""
    key, keys = sides.claim("task"), [uuid.uuid4().hex for _ in range(4)]
    first, second, third, other = (sides.ask(10, target="cus_1", key=own) for own in keys)
    granted = sides.reserve(key, first)
    assert granted.verdict == "allowed"
    assert sides.reserve(key, replace(second, unanswered=(keys[0],))).verdict == "wait"
    sides.end(key, EndRequest("doubt", first.call_id, 1))
    again = sides.reserve(key, replace(second, unanswered=(keys[0],)))
    assert (again.verdict, again.call_id, again.wire_key) == ("allowed", first.call_id, granted.wire_key)
    sides.end(key, EndRequest("doubt", again.call_id, again.ask))
    again = sides.reserve(key, replace(third, unanswered=tuple(keys[:2])))
    assert (again.verdict, again.call_id) == ("allowed", first.call_id)
    sides.end(key, EndRequest("settle", again.call_id, again.ask, total_micros=10, object_id="pi_1"))
    assert sides.reserve(key, replace(other, unanswered=(keys[0],))).call_id == other.call_id
    assert sides.figures() == (10, 10, 0)


def test_a_claim_that_is_asked_for_again_voids_no_key_that_is_used(sides: Sides) -> None:
    """It comes late: how the call ended could not be said under that key any more."""
    request = claims.NewClaim("claim-1", sides.run_id, "task", "Charge", {}, "worker")
    _, lost = sides.write(claims.claim, request)
    _, key = sides.write(claims.claim, request)
    assert sides.read(calls.find_scope, lost, sides.caps) is None
    ask = sides.ask(10)
    assert sides.reserve(key, ask).verdict == "allowed"
    with pytest.raises(Conflict, match="came late"):
        sides.write(claims.claim, request)
    sides.end(key, EndRequest("settle", ask.call_id, 1, total_micros=10))
    assert sides.figures() == (10, 0, 0)
