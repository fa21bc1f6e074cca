"""Operations that go on at the same time at a PostgreSQL server: as if they had come one after the other."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from luigi_spendguard.ledger import history, snapshot
from luigi_spendguard.ledger.database import Tx, late
from luigi_spendguard.ledger.database.postgres import LedgerServer
from luigi_spendguard.ledger.database.server_tx import ServerTx
from luigi_spendguard.ledger.database.statements import Answer, Statements
from luigi_spendguard.ledger.foreseen import Foreseen, naming
from luigi_spendguard.ledger.names import of_run
from luigi_spendguard.money import Micros
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.policy import Caps
from tests.support.orders import AtOnce, InOrder, Step, drawn
from tests.support.postgres import PostgresServer, database_url


@pytest.fixture(scope="module")
def url(server: PostgresServer) -> str:
    return Secret(database_url(server.url, server.folder))


@pytest.fixture(scope="module")
def at_once(url: str) -> Iterator[AtOnce]:
    desk = AtOnce(url)
    yield desk
    desk.close()


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InOrder]:
    order = InOrder(tmp_path_factory.mktemp("orders"))
    yield order
    order.close()


def reserve(who: str, call: str, amount: int = 1, **more: Any) -> Step:
    return Step("reserve", who, call, {"target": call, "total_micros": amount, **more})


KEY = {"key": "order-1", "key_is_callers": True}
#: By the name that keeps two transactions from going on at once (its first word): what both do, under which
#: caps.
TOGETHER: dict[str, tuple[list[Step], Caps]] = {
    "run": ([reserve("a1", "0-1", 6), reserve("a2", "0-2", 6)], Caps(task_families={"Charge": Micros(20)})),
    "payer": ([reserve("pa", "0-1", target=None), reserve("pb", "1-2", target=None)], Caps()),
    "payer of claims": ([Step("claim", "old"), Step("claim", "new")], Caps()),
    "key": ([reserve("a1", "0-1", **KEY), reserve("b2", "1-2", **KEY)], Caps()),
    "charges": (
        [reserve("a1", "0-1", target="cus"), reserve("b1", "1-2", 2, target="cus")],
        Caps(suspects="hold"),
    ),
    "object": ([reserve("a1", "0-1", acts_on=("in_1",)), reserve("b2", "1-2", acts_on=("in_1",))], Caps()),
    "day": ([reserve("a1", "0-1", 8), reserve("b2", "1-2", 8)], Caps(day=Micros(14))),
}


def wrong_pauses(at_once: AtOnce, in_order: InOrder, steps: list[Step], caps: Caps) -> Iterator[int]:
    """Yield the statements of the first step between which the second one leads to what no order has."""
    allowed = in_order.all([], steps, caps)
    pause, made = 0, 1
    while pause <= made:
        try:
            found, made = at_once.do([], steps, caps, pause)
            is_right = found in allowed
        except Exception:  # What has come to the books does not add up, or nobody has foreseen that.
            is_right = False
        if not is_right:
            yield pause
        pause += 1


@pytest.mark.parametrize("name", TOGETHER)
def test_it_is_as_if_one_had_come_after_the_other(at_once: AtOnce, in_order: InOrder, name: str) -> None:
    assert list(wrong_pauses(at_once, in_order, *TOGETHER[name])) == []


@pytest.mark.parametrize("name", TOGETHER)
def test_without_its_lock_it_is_not(
    at_once: AtOnce, in_order: InOrder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What the tests above would find: a transaction takes itself to hold what it has not locked."""
    begins, kind = LedgerServer._beginning, f"{name.split()[0]} "

    def forgets(db: LedgerServer, names: frozenset[str]) -> Any:
        return begins(db, frozenset(one for one in names if not one.startswith(kind)))

    monkeypatch.setattr(LedgerServer, "_beginning", forgets)
    if name == "day":
        monkeypatch.setattr(late, "_MAY", "")
    if name in ("run", "day"):  # The database refuses what passes a cap: it would be done again, alone.
        monkeypatch.setattr(ServerTx, "_say_alone", lambda tx, error: None)
    assert next(wrong_pauses(at_once, in_order, *TOGETHER[name]), None) is not None


@pytest.mark.parametrize("name", ["payer", "key", "charges", "object"])
def test_what_was_not_foreseen_is_noticed(
    at_once: AtOnce, in_order: InOrder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A guess that lacks something costs time, and nothing else."""
    foresees = Foreseen.reserve

    def forgets(*args: Any) -> frozenset[str]:
        return frozenset(one for one in foresees(*args) or () if not one.startswith(f"{name} "))

    monkeypatch.setattr(Foreseen, "reserve", forgets)
    assert list(wrong_pauses(at_once, in_order, *TOGETHER[name])) == []


def test_whatever_is_done_at_once_some_order_has_it_so(
    at_once: AtOnce, in_order: InOrder, repeats: int
) -> None:
    for seed in range(20 * repeats):
        draw = random.Random(seed)
        before, steps, caps = drawn(draw)
        pause = draw.randint(0, 20)
        found, _ = at_once.do(before, steps, caps, pause)
        assert found in in_order.all(before, steps, caps), (seed, pause, before, steps, caps)


def test_a_call_id_that_another_run_has_taken_meanwhile_is_seen(at_once: AtOnce, in_order: InOrder) -> None:
    """No name keeps those apart: who comes second does it again, alone."""
    steps = [reserve("a1", "0-1"), reserve("b2", "0-1", target="other")]
    assert list(wrong_pauses(at_once, in_order, steps, Caps())) == []


def test_many_calls_that_come_at_once_share_the_books(
    at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More names than are locked at once are locked in several transactions."""
    shared: list[int] = []
    begins = LedgerServer._begun

    def begun(db: LedgerServer, names: Any = None) -> Any:
        shared.append(-1 if names is None else len(names))
        return begins(db, names)

    caps = Caps()
    keys = at_once.begin([], caps)
    monkeypatch.setattr(LedgerServer, "_begun", begun)
    monkeypatch.setattr(LedgerServer, "most_names", 9)
    with at_once.standing(99) as (reached, go, _):
        first = at_once.ledgers[0].write(reserve("a1", "0-1").operation(keys, caps))
        assert reached.wait(10)
        steps = [reserve("a1", f"0-{number}", 0, acts_on=(f"in_{number}",)) for number in range(2, 12)]
        doing = [at_once.ledgers[0].write(step.operation(keys, caps)) for step in steps]
        go.set()
        assert [one.result(20)[0] for one in (first, *doing)] == ["allowed"] * 11
    assert all(0 < count <= 9 for count in shared)
    assert len(shared) > 2


class TestWaiting:
    """What waits for a transaction that stands still before its end, and what does not."""

    def others(self, at_once: AtOnce, *steps: Step, waits: bool = True) -> list[bool]:
        """Return which of some steps are done while a reservation of run `a` stands still."""
        first = reserve("a1", "0-1")
        at_once.do([], [first, *steps], Caps(), 99, waits=waits)
        return at_once.done_before

    def test_another_run_does_not(self, at_once: AtOnce) -> None:
        for other in (
            reserve("b1", "1-1"),
            reserve("b2", "1-1"),
            reserve("new", "1-1"),
            reserve("pb", "1-1"),
        ):
            pair = other, Step("settle", other.who, "1-1")
            assert self.others(at_once, *pair, waits=False) == [True, True]
        attempts = Step("claim", "b1"), Step("finish", "b2", more={"outcome": "completed"})
        assert self.others(at_once, *attempts, waits=False) == [True, True]

    def test_the_same_run_does(self, at_once: AtOnce) -> None:
        assert self.others(at_once, reserve("a2", "0-2"), reserve("b1", "1-1")) == [False, True]

    @pytest.mark.parametrize("step", [Step("top_up", "b"), Step("revoke", "b"), Step("claim", "batch b")])
    def test_what_may_touch_anything_does(self, at_once: AtOnce, step: Step) -> None:
        assert self.others(at_once, step) == [False]


def test_a_pair_of_calls_shares_the_books(at_once: AtOnce, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is usual is done again, alone."""
    shared: list[bool] = []
    begins = LedgerServer._begun

    def begun(db: LedgerServer, names: Any = None) -> Any:
        shared.append(names is not None)
        return begins(db, names)

    caps = Caps(day=Micros(14), task_families={"Charge": Micros(9)}, vendors={})
    keys = at_once.begin([], caps)
    looks: list[bool] = []
    reads = LedgerServer.reading

    def reading(db: LedgerServer, *, slow: bool = False) -> Any:
        looks.append(slow)
        return reads(db, slow=slow)

    monkeypatch.setattr(LedgerServer, "_begun", begun)
    monkeypatch.setattr(LedgerServer, "reading", reading)
    paid = {"object_id": "pi_1"}
    for step in (
        reserve("a1", "0-9", 2),
        Step("settle", "a1", "0-9", paid),
        reserve("b1", "1-9", object_id="x"),
    ):
        at_once.ledgers[0].write(step.operation(keys, caps)).result(20)
    at_once.ledgers[1].write(Step("void", "b1", "1-9").operation(keys, caps)).result(20)
    at_once.ledgers[0].write(Step("finish", "a1").operation(keys, caps)).result(20)
    assert shared == [True] * 5
    assert looks == [False] * 4  # Whose the keys are; at the other process also what the call has touched.


def test_a_call_and_its_end_are_three_messages_each(at_once: AtOnce, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a way there and back, for which the run's other calls wait."""
    keys, sent = at_once.begin([], Caps()), list[int]()
    at_once.ledgers[0].write(reserve("a1", "0-1").operation(keys, Caps())).result(20)
    send = Statements.send

    def counted(statements: Statements) -> list[Answer]:
        answers = send(statements)
        sent.append(len(answers))
        return answers

    monkeypatch.setattr(Statements, "send", counted)
    for step in (reserve("a1", "0-2"), Step("settle", "a1", "0-2", {"object_id": "pi_1"})):
        sent.clear()
        at_once.ledgers[0].write(step.operation(keys, Caps())).result(20)
        assert len(sent) == 3, sent


def test_what_is_refused_when_others_were_done_fails_alone(at_once: AtOnce) -> None:
    """A statement of which nothing is asked goes with the next one, which may be another operation's."""
    at_once.begin([], Caps())
    held = naming(lambda foreseen: frozenset({of_run("a")}))

    def complete(task_id: str) -> Any:
        return held(lambda tx: tx.insert("task", task_id=task_id, completions=1))

    ledger = at_once.ledgers[0]
    ledger.write(complete("there")).result(20)
    reached, go = threading.Event(), threading.Event()
    ledger.write(lambda tx: reached.set() or go.wait(10))
    assert reached.wait(10)
    one, there, other = (ledger.write(complete(task_id)) for task_id in ("one", "there", "other"))
    go.set()
    with pytest.raises(psycopg.errors.UniqueViolation):
        there.result(20)
    assert [one.result(20), other.result(20)] == [0, 0]
    rows = ledger.read(lambda tx: tx.all("SELECT task_id FROM task ORDER BY task_id")).result(20)
    assert [row["task_id"] for row in rows] == ["one", "other", "there"]


def test_what_was_looked_up_ahead_is_looked_up_again_behind_a_change(at_once: AtOnce) -> None:
    look = "SELECT completions FROM task WHERE task_id = ?"
    change = "UPDATE task SET completions = completions + 1 WHERE task_id = ?"

    @naming(lambda foreseen: frozenset({of_run("a")}))
    def looks(tx: Tx) -> list[Any]:
        assert tx.held is not None
        tx.insert("task", task_id="one", completions=1)
        tx.ahead(look, "one")
        found = [tx.value(look, "one")]
        tx.ahead(look, "one")
        tx.later(change, "one")
        found.append(tx.value(look, "one"))
        tx.ahead(look, "one")
        tx.now()
        tx.run(change, "one")
        tx.ahead(look, "one")
        return [*found, tx.value(look, "one")]

    at_once.begin([], Caps())
    assert at_once.ledgers[0].write(looks).result(20) == [1, 2, 3]


def test_what_writes_what_nobody_shares_is_done_again_alone(at_once: AtOnce) -> None:
    tries: list[bool] = []

    @naming(lambda foreseen: frozenset({of_run("a")}))
    def join(tx: Tx) -> None:
        tries.append(tx.held is None)
        tx.insert("member", task_id="done", claim_id="batch", epoch=1)

    at_once.begin([], Caps())
    at_once.ledgers[0].write(join).result(20)
    assert tries == [False, True]


class TestFollowers:
    """Who goes by the numbers of the journal, where a lower one becomes visible after a higher one."""

    @pytest.fixture
    def beside(self, at_once: AtOnce) -> Iterator[Any]:
        """A call of run `a` goes in doubt and one of run `b`, before that is visible."""
        before = [reserve("a1", "0-1"), reserve("b1", "1-1")]
        keys = at_once.begin(before, Caps())
        position = at_once.ledgers[2].read(history.position).result(20)
        with at_once.standing(99) as (reached, go, _):
            first = at_once.ledgers[0].write(Step("doubt", "a1", "0-1").operation(keys, Caps()))
            assert reached.wait(10)
            at_once.ledgers[1].write(Step("doubt", "b1", "1-1").operation(keys, Caps())).result(20)

            def end() -> None:
                go.set()
                first.result(20)

            yield at_once.ledgers[2], position, end

    def test_news_are_told_once_and_none_is_left_out(self, beside: Any) -> None:
        ledger, position, end = beside
        told = []
        for _ in range(2):
            found = ledger.read(history.news, position).result(20)
            position, told = found.now, told + [row["call_id"] for row in found.rows]
        end()
        for _ in range(2):
            found = ledger.read(history.news, position).result(20)
            position, told = found.now, told + [row["call_id"] for row in found.rows]
        assert told == ["0-1", "1-1"]

    def test_a_gate_hears_of_all_that_has_changed(self, beside: Any) -> None:
        ledger, position, end = beside
        first = ledger.read(snapshot.changes, position.entry).result(20)
        assert ([one.run["run_id"] for one in first.runs], first.seen) == (["b"], position.entry)
        end()
        then = ledger.read(snapshot.changes, first.seen).result(20)
        assert [one.run["run_id"] for one in then.runs] == ["a", "b"]
        assert then.seen > first.seen
        assert ledger.read(snapshot.changes, then.seen).result(20).runs == []

    def test_they_go_on_where_some_transaction_is_always_under_way(self, at_once: AtOnce) -> None:
        """The next one has begun before the last one ends: no look finds none."""
        calls = [("a1", "0-1"), ("b1", "1-1"), ("a2", "0-2"), ("b2", "1-2")]
        keys = at_once.begin([reserve(*call) for call in calls], Caps())
        follower = at_once.ledgers[2]
        position = follower.read(history.position).result(20)
        told: list[str] = []
        seen, last = position.entry, ExitStack()
        for number, call in enumerate(calls):
            doubt, this = Step("doubt", *call).operation(keys, Caps()), ExitStack()
            reached, go, _ = this.enter_context(at_once.standing(99, number % 2))
            this.callback(at_once.ledgers[number % 2].write(doubt).result, 20)
            this.callback(go.set)
            assert reached.wait(10)
            last.close()
            last = this
            found = follower.read(history.news, position).result(20)
            position, told = found.now, told + [row["call_id"] for row in found.rows]
            seen = follower.read(snapshot.changes, seen).result(20).seen
        last.close()
        assert told == ["0-1", "1-1"]
        assert seen == position.entry
        found = follower.read(history.news, position).result(20)
        assert [row["call_id"] for row in found.rows] == ["0-2", "1-2"]

    def test_with_a_position_that_is_not_settled_one_is_left_out(
        self, beside: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the tests above would find."""
        monkeypatch.setattr(ServerTx, "settled", lambda tx, position: position(tx))
        ledger, position, end = beside
        first = ledger.read(history.news, position).result(20)
        end()
        then = ledger.read(history.news, first.now).result(20)
        assert [row["call_id"] for found in (first, then) for row in found.rows] == ["1-1"]
