"""Calls on a vendor's objects whose answers are lost, and an operator who says of each what is true.

The ledger never counts less than the vendor has moved, or may still move, by these calls.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger import corrections, runs
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from tests.support.books import Books
from tests.support.machines import steps_of

CAP = 2000
OBJECTS = ("pi_1", "pi_2")


@dataclass
class Call:
    """A call, and what the vendor knows of it: `cost`, what it has moved itself; None: it never came."""

    ask: ReserveRequest
    key: str
    total: int
    object_id: str | None
    state: str = "pending"
    cost: int | None = None
    resolved: bool = False


class TruthfulMachine(RuleBasedStateMachine):
    """Calls set what an object moves in all; whether they, and their answers, arrive is luck."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spendguard-test-"))
        self.books = Books(self.folder / "books.db", CAP)
        self.books.write(runs.open_run, runs.RunRequest("other", False, "Root", "Root_2", Micros(CAP)))
        self.keys = [self.books.claim("A"), self.books.claim("B", "other")]
        #: What each object moves in all, at the vendor.
        self.moves: dict[str, int] = {}
        self.calls: list[Call] = []
        #: An operator has named a wrong object.
        self.mistaken: Call | None = None

    def teardown(self) -> None:
        assert self.books.audit() == []
        self.books.ledger.close()
        shutil.rmtree(self.folder)

    def of(self, *states: str) -> list[Call]:
        return [call for call in self.calls if call.state in states]

    def execute(self, call: Call) -> None:
        """Let a call come to the vendor, once."""
        if call.cost is not None:
            return
        if call.object_id is None:
            call.object_id = f"pi_{uuid.uuid4().hex}"
        before = self.moves.get(call.object_id, 0)
        self.moves[call.object_id] = call.total
        call.cost = max(0, call.total - before)

    def settle(self, call: Call, status: int = 200) -> None:
        total = self.moves.get(call.object_id or "", 0)
        end = EndRequest(
            "settle",
            call.ask.call_id,
            1,
            total_micros=total,
            worth_micros=total,
            object_id=call.object_id,
            status=status,
            answer_body="{}",
            only_less=call.total == 0,
        )
        self.books.end(call.key, end)
        call.state = "settled"

    def counted(self) -> int:
        all_that_counts = "sum(spent_micros + reserved_micros + overrun_micros)"
        query = f"SELECT {all_that_counts} FROM budget WHERE scope = 'run'"
        return int(self.books.read(lambda tx: tx.value(query)))

    @rule(
        run=st.integers(0, 1),
        object_id=st.sampled_from([None, *OBJECTS, *OBJECTS]),
        total=st.sampled_from([0, 50, 100, 300]),
    )
    def reserve(self, run: int, object_id: str | None, total: int) -> None:
        acts_on = () if object_id is None else (object_id,)
        path = "/v1/payment_intents" + ("" if object_id is None else f"/{object_id}/confirm")
        if object_id is None and not total:
            return
        ask = self.books.ask(total, object_id=object_id, acts_on=acts_on, path=path)
        if self.books.reserve(self.keys[run], ask).verdict == "allowed":
            self.calls.append(Call(ask, self.keys[run], total, object_id))

    @precondition(lambda self: self.of("pending"))
    @rule(data=st.data(), executed=st.booleans(), answer=st.sampled_from(["ok", "left open", "lost", "lost"]))
    def send(self, data: st.DataObject, executed: bool, answer: str) -> None:
        call = data.draw(st.sampled_from(self.of("pending")))
        if executed or answer != "lost":
            self.execute(call)
        if answer == "lost":
            self.books.end(call.key, EndRequest("doubt", call.ask.call_id, 1))
            call.state = "in_doubt"
        else:
            self.settle(call, 200 if answer == "ok" or not call.total else 402)

    @precondition(lambda self: self.of("in_doubt"))
    @rule(data=st.data(), answered=st.booleans())
    def arrive_late(self, data: st.DataObject, answered: bool) -> None:
        """What was on its way comes to the vendor after all, and perhaps its answer back."""
        call = data.draw(st.sampled_from(self.of("in_doubt")))
        self.execute(call)
        if answered:
            self.settle(call)

    @precondition(lambda self: self.of("in_doubt"))
    @rule(data=st.data(), wrong=st.sampled_from([None, "not sent", "nothing", "all"]), zero=st.booleans())
    def resolve(self, data: st.DataObject, wrong: str | None, zero: bool) -> None:
        """Say what is true of a call; perhaps something else first."""
        call = data.draw(st.sampled_from(self.of("in_doubt")))
        reserved = int(self.books.read(lambda tx: self.row(tx, call)["reserved_micros"]))
        with suppress(Conflict):
            if wrong is not None:
                first = {"not sent": None, "nothing": Micros(0), "all": Micros(reserved)}[wrong]
                self.say(call, Resolution(first))
                call.state = "wrong"
        if call.cost is None:
            true = Resolution(Micros(0) if zero and call.object_id else None, correct=True)
        else:
            true = Resolution(Micros(min(call.cost, reserved)), call.object_id, correct=True)
        try:
            self.say(call, true)
        except Conflict:
            if call.state != "wrong":
                return
            self.say(call, true)  # It has to be said in the end.
        call.state = "resolved"

    def row(self, tx, call: Call):
        return tx.one("SELECT * FROM call WHERE id = ?", call.ask.call_id)

    def say(self, call: Call, resolution: Resolution) -> None:
        self.books.write(corrections.resolve, call.ask.call_id, resolution, uuid.uuid4().hex)

    @precondition(lambda self: self.mistaken is None)
    @rule(data=st.data(), object_id=st.sampled_from(OBJECTS))
    def name_a_wrong_object(self, data: st.DataObject, object_id: str) -> None:
        opened = [
            call for call in self.of("in_doubt") if call.ask.object_id is None and call.cost is not None
        ]
        if opened:
            call = data.draw(st.sampled_from(opened))
            with suppress(Conflict):
                self.say(call, Resolution(Micros(call.total), object_id))
                self.mistaken, call.state = call, "wrong"

    @precondition(lambda self: self.mistaken is not None)
    @rule()
    def name_the_right_one(self) -> None:
        call = self.mistaken
        assert call is not None
        with suppress(Conflict):
            self.say(call, Resolution(Micros(call.total), call.object_id, correct=True))
            self.mistaken, call.state = None, "resolved"

    @invariant()
    def all_that_has_moved_is_counted(self) -> None:
        if self.mistaken is None:
            assert self.counted() >= sum(self.moves.values())

    @invariant()
    def budgets_are_what_the_journal_says(self) -> None:
        assert self.books.audit() == []


def test_what_has_moved_is_counted_whatever_is_truly_said_of_lost_calls(engine: str) -> None:
    run_state_machine_as_test(TruthfulMachine, settings=steps_of(engine))


def test_a_reply_that_frees_all_of_a_call_frees_its_object_too(engine: str, tmp_path: Path) -> None:
    """Else a later call relies on what nobody counts."""
    books = Books(tmp_path / "books.db", CAP)
    key = books.claim("A")

    def asked(total: int) -> ReserveRequest:
        path = "/v1/payment_intents/pi_1/confirm"
        ask = books.ask(total, object_id="pi_1", acts_on=("pi_1",), path=path)
        assert books.reserve(key, ask).verdict == "allowed"
        return ask

    def answered(ask: ReserveRequest, total: int) -> None:
        end = EndRequest("settle", ask.call_id, 1, total_micros=total, object_id="pi_1", status=200)
        books.end(key, end)

    lost = asked(100)
    books.end(key, EndRequest("doubt", lost.call_id, 1))
    answered(asked(0), 0)
    answered(lost, 0)
    assert books.figures() == (0, 0, 0)
    answered(asked(50), 50)
    assert books.figures() == (50, 0, 0)
    assert books.audit() == []
    books.ledger.close()
