"""The ledger beside a plain model: random operations, repeated messages and restarts on a real file."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from luigi_spendguard.errors import Conflict, KeyRevoked
from luigi_spendguard.ledger import corrections, runs, settlement
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from tests.support.books import Books
from tests.support.machines import steps_of

CAP, DAY = 100, 180


@dataclass
class Call:
    """What the model knows of one call."""

    ask: ReserveRequest
    key: str
    task: str
    state: str = "pending"
    spent: int = 0
    overrun: int = 0
    unknown: bool = False
    resolved: bool = False
    #: The vendor's answer is kept, so that a repetition is answered with it.
    answered: bool = False
    last: EndRequest | None = None

    @property
    def reserved(self) -> int:
        amount = self.ask.total_micros or 0
        return amount if self.state in ("pending", "in_doubt") else 0


class LedgerMachine(RuleBasedStateMachine):
    """Each rule does to the ledger what a worker, a lost message, an operator or a crash does."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spendguard-test-"))
        self.books = Books(self.folder / "books.db", CAP, daily=DAY)
        self.cap, self.state = CAP, "active"
        self.all: list[Call] = []
        self.keys = {task: self.books.claim(task) for task in ("A", "B")}

    def teardown(self) -> None:
        self.books.ledger.close()
        shutil.rmtree(self.folder)

    # The model's totals.

    @property
    def spent(self) -> int:
        return sum(call.spent for call in self.all)

    @property
    def reserved(self) -> int:
        return sum(call.reserved for call in self.all)

    @property
    def overrun(self) -> int:
        return sum(call.overrun for call in self.all)

    def fits(self, amount: int) -> bool:
        taken = self.spent + self.reserved + self.overrun + amount
        return taken <= self.cap and taken <= DAY

    # What workers do.

    @rule(target=calls, task=st.sampled_from(["A", "B"]), amount=st.integers(1, CAP + 20))
    def reserve(self, task: str, amount: int):
        ask = self.books.ask(amount)
        answer = self.books.reserve(self.keys[task], ask)
        if self.state != "active" or not self.fits(amount):
            reason = {"revoked": "revoked"}.get(self.state, "cap")
            assert (answer.verdict, answer.reason) == ("denied", reason)
            return multiple()
        assert (answer.verdict, answer.call_id) == ("allowed", ask.call_id)
        call = Call(ask, self.keys[task], task)
        self.all.append(call)
        return call

    @rule(call=calls, part=st.sampled_from(["none", "half", "all", "more"]))
    def settle(self, call: Call, part: str) -> None:
        asked = call.ask.total_micros or 0
        actual = {"none": 0, "half": asked // 2, "all": asked, "more": asked + 7}[part]
        call.last = EndRequest(
            "settle", call.ask.call_id, 1, total_micros=actual, status=200, answer_body="{}"
        )
        self.books.end(call.key, call.last)
        if call.state in ("pending", "in_doubt"):
            call.state, call.spent = "settled", min(actual, asked)
            call.overrun = actual - call.spent
            self.freeze(call.overrun)
        elif call.state == "voided":
            # It was voided (or resolved as not sent), and was sent all the same: overrun, never dropped.
            call.state, call.overrun = "settled", call.overrun + actual
            self.freeze(actual)
        elif call.resolved:
            self.restate(call, actual)
        call.resolved, call.answered = False, True

    def restate(self, call: Call, total: int) -> None:
        """A settled call has cost something else: what it takes again must fit, or is overrun."""
        spent, before = min(total, call.ask.total_micros or 0), call.overrun
        call.overrun = min(before, total - spent)
        more = spent - call.spent
        short = more if more > 0 and not self.fits(more) else 0
        call.spent, call.overrun = spent - short, total - spent + short
        if call.overrun > before:
            self.freeze(1)
        elif call.overrun < before and not self.overrun and self.state == "frozen":
            self.state = "active"

    def freeze(self, amount: int) -> None:
        if amount and self.state == "active":
            self.state = "frozen"

    @rule(call=calls, definite=st.booleans())
    def void(self, call: Call, definite: bool) -> None:
        call.last = EndRequest("void", call.ask.call_id, call.ask.ask, definite=definite)
        self.books.end(call.key, call.last)
        if call.state in ("pending", "in_doubt"):
            if call.unknown and not definite:
                call.state = "in_doubt"
            else:
                call.state = "voided"

    @rule(call=calls)
    def doubt(self, call: Call) -> None:
        call.last = EndRequest("doubt", call.ask.call_id, call.ask.ask)
        self.books.end(call.key, call.last)
        if call.state == "pending":
            call.state, call.unknown = "in_doubt", True

    @rule(call=calls)
    def repeat_the_request(self, call: Call) -> None:
        """Luigi's RPC client sends a request again whose answer was lost."""
        answer = self.books.reserve(call.key, call.ask)
        assert answer.verdict == ("allowed" if call.state == "pending" else "stale")

    @rule(call=calls)
    def repeat_the_end(self, call: Call) -> None:
        if call.last is not None and not (call.resolved or call.last.kind == "settle"):
            before = self.books.figures()
            self.books.end(call.key, call.last)
            assert self.books.figures() == before

    @rule(call=calls)
    def repeat_the_settle(self, call: Call) -> None:
        if call.state == "settled" and not call.resolved and call.last and call.last.kind == "settle":
            before = self.books.figures()
            self.books.end(call.key, call.last)
            assert self.books.figures() == before

    @rule(task=st.sampled_from(["A", "B"]), amount=st.integers(1, 50))
    def lose_the_answer_of_a_request(self, task: str, amount: int) -> None:
        """The sender voids what it got no answer for; the request arrives after that."""
        ask = self.books.ask(amount)
        self.books.end(self.keys[task], EndRequest("void", ask.call_id, 1))
        assert self.books.reserve(self.keys[task], ask).verdict == "denied"

    @rule(call=calls)
    def run_the_task_again(self, call: Call) -> None:
        """A new attempt makes the same call."""
        try:
            key = self.keys[call.task] = self.books.claim(call.task)
        except KeyRevoked:
            assert self.state == "revoked"
            return
        asked = call.ask.total_micros or 0
        again = self.books.ask(asked, target=call.ask.target)
        fits = self.state == "active" and self.fits(asked)
        answer = self.books.reserve(key, again)
        twin = next(
            (c for c in reversed(self.all) if c.ask.target == call.ask.target and c.state != "voided"), None
        )
        if twin is None:
            assert answer.verdict == ("allowed" if fits else "denied")
            if fits:
                self.all.append(Call(again, key, call.task))
        elif twin.state == "settled":
            expected = "replayed" if twin.answered else "denied"
            assert answer.verdict == expected
        elif twin.state == "pending":
            assert answer.verdict == "wait"
        else:
            assert (answer.verdict, answer.call_id, answer.resend) == ("allowed", twin.ask.call_id, True)
            twin.state = "pending"
            self.books.end(key, EndRequest("doubt", twin.ask.call_id, answer.ask))
            twin.state = "in_doubt"
            # Messages of the attempt before are too old to end it, but for a settle.
            twin.ask = replace(twin.ask, ask=answer.ask, sender=again.call_id)
            twin.key = key
            self.all.remove(twin)
            self.all.append(twin)

    # What operators do.

    @rule(call=calls, spent=st.one_of(st.none(), st.integers(0, CAP)), correct=st.booleans())
    def resolve(self, call: Call, spent: int | None, correct: bool) -> None:
        request_id = uuid.uuid4().hex
        said = corrections.Resolution(
            None if spent is None else Micros(spent), overrun=spent is not None, correct=correct
        )
        for _ in range(2):
            try:
                self.books.write(corrections.resolve, call.ask.call_id, said, request_id)
            except Conflict:
                assert call.state != "in_doubt"
                assert not (correct and call.resolved)
                return
        if call.state == "in_doubt":
            call.state, call.spent = "settled", min(spent or 0, call.ask.total_micros or 0)
            call.overrun = (spent or 0) - call.spent
            self.freeze(call.overrun)
        else:
            assert correct
            assert call.resolved
            self.restate(call, spent or 0)
        call.state, call.resolved = "voided" if spent is None else "settled", True
        call.last = None

    @rule(amount=st.integers(1, 60))
    def top_up(self, amount: int) -> None:
        request_id = uuid.uuid4().hex
        for _ in range(2):
            try:
                self.books.write(runs.top_up, self.books.run_id, Micros(amount), request_id)
            except Conflict:
                assert self.state == "revoked"
                return
        self.cap, self.state = self.cap + amount, "active"

    @precondition(lambda self: len(self.all) > 4)
    @rule(really=st.integers(0, 9))
    def revoke(self, really: int) -> None:
        if not really:
            self.books.write(runs.revoke, self.books.run_id)
            self.state = "revoked"

    @rule(call=consumes(calls))
    def restart(self, call: Call) -> None:
        self.books.restart()

    @rule()
    def sweep(self) -> None:
        assert self.books.write(settlement.sweep) == []

    # What must hold after each of them.

    @invariant()
    def books_agree_with_the_model(self) -> None:
        assert self.books.figures() == (self.spent, self.reserved, self.overrun)
        run = self.books.run()
        assert (run["cap_micros"], run["state"]) == (self.cap, self.state)
        assert run["spent_micros"] + run["reserved_micros"] <= run["cap_micros"]

    @invariant()
    def budgets_are_what_the_journal_says(self) -> None:
        assert self.books.audit() == []


def test_the_ledger_is_as_its_model_says(engine: str) -> None:
    run_state_machine_as_test(LedgerMachine, settings=steps_of(engine))
