"""A grant that was not used is given back, whatever ends the call; judged by a real ledger file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import KeyRevoked, SpendDenied
from luigi_spendguard.guard import LATE_LIMIT
from luigi_spendguard.guard.effects import Call, Late, NotSent, Send
from luigi_spendguard.ledger import queries, runs
from luigi_spendguard.protocol import ReserveReply
from luigi_spendguard.proxy import call as driver
from luigi_spendguard.vendors import Request
from tests.support.books import Books
from tests.support.desk import CAP, Desk, intent
from tests.support.ports import StubLedger

BODY = b"amount=1000&currency=usd&customer=cus_1&confirm=true"
CHARGE = Request(
    "POST",
    "https://api.stripe.com/v1/payment_intents",
    {"content-type": "application/x-www-form-urlencoded"},
    BODY,
)


class Interrupted(Desk):
    """Does `instead` at each send: raises what it returns, or goes on."""

    instead: Any = staticmethod(lambda number: None)
    sends = 0

    def _do(self, effect: Any) -> Any:
        if isinstance(effect, Send) and effect.request.method == "POST":
            self.sends += 1
            if (raised := self.instead(self.sends)) is not None:
                raise raised
        return super()._do(effect)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Interrupted]:
    books = Books(tmp_path / "ledger.db", CAP)
    made = Interrupted(books)
    made.answers["POST /v1/payment_intents"] = intent("succeeded")
    yield made
    books.ledger.close()


def states(desk: Desk) -> list[str]:
    return [call["state"] for call in desk.books.read(queries.calls)]


def test_a_second_ask_that_is_denied_leaves_nothing_of_the_first(desk: Interrupted) -> None:
    def late(number: int) -> Exception:
        desk.books.write(runs.revoke, desk.books.run_id)
        return Late("slow")

    desk.instead = late
    with pytest.raises(KeyRevoked):
        desk.guarded(CHARGE)
    assert (desk.figures(), desk.sent) == ((0, 0, 0), [])
    assert set(states(desk)) <= {"voided", "denied"}


def test_grants_that_always_come_too_late_leave_nothing(desk: Interrupted) -> None:
    desk.instead = lambda number: Late("slow")
    with pytest.raises(SpendDenied) as denied:
        desk.guarded(CHARGE)
    assert (denied.value.reason, desk.sends, desk.figures()) == ("ledger_unavailable", LATE_LIMIT, (0, 0, 0))


def test_a_request_that_cannot_be_written_leaves_nothing(
    desk: Interrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(desk.guard.vendor), "wire", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        desk.guarded(CHARGE)
    assert (desk.figures(), states(desk)) == ((0, 0, 0), ["voided"])


def test_an_interrupt_while_connecting_leaves_nothing(desk: Interrupted) -> None:
    unsent = NotSent("interrupted")
    unsent.interrupt = KeyboardInterrupt()
    desk.instead = lambda number: unsent
    with pytest.raises(KeyboardInterrupt):
        desk.guarded(CHARGE)
    assert (desk.figures(), states(desk)) == ((0, 0, 0), ["voided"])


@pytest.mark.parametrize("step", range(1, 4))
def test_an_interrupt_between_two_steps_of_a_driver_is_told_to_the_guard(
    desk: Interrupted, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Ctrl-C right before the call is reserved, sent, or ended."""
    real, steps = driver.advance, []

    def advance(life: Any, value: Any, error: Any) -> Any:
        steps.append(value)
        if len(steps) == step:
            raise KeyboardInterrupt
        return real(life, value, error)

    monkeypatch.setattr(driver, "advance", advance)
    sent: list[Request] = []

    class Port(StubLedger):
        def reserve(self, key: str, ask: Any) -> ReserveReply:
            return desk.books.reserve(desk.key, ask)

        def end(self, key: str, end: Any) -> None:
            desk.books.end(desk.key, end)

    def send(effect: Send) -> Any:
        sent.append(effect.request)
        return desk._do(effect)

    attempt: Any = type("Attempt", (), {"client": Port(), "key": desk.key})()
    with pytest.raises(KeyboardInterrupt):
        driver.drive(desk.guard.guarded(CHARGE, Call()), attempt, send)
    assert len(sent) == (step > 2)
    expected = {1: (0, 0, 0), 2: (0, 0, 0), 3: (0, 10_000_000, 0)}[step]
    assert desk.figures() == expected, "what was sent and not read counts"
