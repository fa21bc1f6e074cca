"""The day's budget, which all runs take from at a PostgreSQL server, each as its transaction ends."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import Conflict, LedgerUnavailable
from luigi_spendguard.ledger import snapshot
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.foreseen import naming
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.redaction import Secret
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books
from tests.support.orders import AtOnce, Step, state_of
from tests.support.postgres import SERVER, PostgresServer, database_url

DAY = Caps(day=Micros(14))


@pytest.fixture(scope="module")
def at_once(server: PostgresServer) -> Iterator[AtOnce]:
    desk = AtOnce(Secret(database_url(server.url, server.folder)))
    yield desk
    desk.close()


def reserve(who: str, call: str, amount: int) -> Step:
    return Step("reserve", who, call, {"target": call, "total_micros": amount})


def day(at_once: AtOnce) -> tuple[int, int, int]:
    """Return cap, spent and reserved of the day, once the books were found to add up."""
    at_once.ledgers[0].read(state_of).result(20)
    found = at_once.ledgers[0].read(snapshot.today).result(20)
    assert found is not None
    return found["cap_micros"], found["spent_micros"], found["reserved_micros"]


def verdicts(doing: list[Future[Any]]) -> list[str]:
    return [one.result(20)[0] for one in doing]


def test_who_takes_from_it_lets_another_run_take_until_it_ends(at_once: AtOnce) -> None:
    keys = at_once.begin([], DAY)
    with at_once.standing(99) as (reached, go, _):
        first = at_once.ledgers[0].write(reserve("a1", "0-1", 6).operation(keys, DAY))
        assert reached.wait(10)
        other = at_once.ledgers[1]
        assert other.write(reserve("b1", "1-1", 6).operation(keys, DAY)).result(20)[0] == "allowed"
        paid = Step("settle", "b1", "1-1", {"total_micros": 4})
        assert other.write(paid.operation(keys, DAY)).result(20)[1] == "settled"
        assert not first.done()
        assert day(at_once) == (14, 4, 0)
        go.set()
        assert first.result(20)[0] == "allowed"
    assert day(at_once) == (14, 4, 6)


@pytest.mark.parametrize(
    ("cap", "amount", "answer", "after"), [(10, 2, "allowed", (10, 0, 10)), (20, 10, "denied", (14, 0, 10))]
)
def test_the_smaller_cap_holds_for_both(
    at_once: AtOnce, cap: int, amount: int, answer: str, after: tuple[int, int, int]
) -> None:
    """Another luigid has another `daily_cap_usd`, and lowers the budget to that, if it is less."""
    keys, other = at_once.begin([], DAY), Caps(day=Micros(cap))
    with at_once.standing(99) as (reached, go, _):
        first = at_once.ledgers[0].write(reserve("a1", "0-1", 8).operation(keys, DAY))
        assert reached.wait(10)
        at_once.ledgers[1].write(reserve("b1", "1-1", amount).operation(keys, other)).result(20)
        assert day(at_once) == (after[0], 0, amount)
        go.set()
        assert first.result(20)[0] == answer
    assert day(at_once) == after


#: What is done, one after the other, what is committed together then, its verdicts, and what is reserved.
TOGETHER = (
    # What one gives back is there for the next.
    ([reserve("b2", "1-1", 10)], [Step("void", "b2", "1-1"), reserve("a2", "0-2", 8)], ["1-1", "allowed"], 9),
    (
        [],
        [reserve("a2", "0-2", 6), reserve("b1", "1-1", 6), reserve("b2", "1-2", 2)],
        ["allowed", "allowed", "denied"],
        13,
    ),
)


@pytest.mark.parametrize(("before", "steps", "answers", "reserved"), TOGETHER)
def test_calls_that_are_committed_together_share_it(
    at_once: AtOnce, before: list[Step], steps: list[Step], answers: list[str], reserved: int
) -> None:
    keys, ledger = at_once.begin(before, DAY), at_once.ledgers[0]
    with at_once.standing(99) as (reached, go, _):
        doing = [ledger.write(reserve("a1", "0-1", 1).operation(keys, DAY))]
        assert reached.wait(10)
        doing += [ledger.write(step.operation(keys, DAY)) for step in steps]
        go.set()
        assert verdicts(doing) == ["allowed", *answers]
    assert day(at_once) == (14, 0, reserved)


def test_what_fails_takes_nothing(at_once: AtOnce) -> None:
    keys, ledger = at_once.begin([], DAY), at_once.ledgers[0]
    step: Any = reserve("a2", "0-2", 2).operation(keys, DAY)

    @naming(step.names)
    def failing(tx: Tx) -> None:
        assert step(tx)[0] == "allowed"
        assert tx.late is not None
        raise Conflict("not this one")

    with at_once.standing(99) as (reached, go, _):
        doing = [ledger.write(reserve("a1", "0-1", 1).operation(keys, DAY))]
        assert reached.wait(10)
        doing.append(ledger.write(reserve("b1", "1-1", 3).operation(keys, DAY)))
        failed = ledger.write(failing)
        doing.append(ledger.write(reserve("b2", "1-2", 5).operation(keys, DAY)))
        go.set()
        assert verdicts(doing) == ["allowed"] * 3
        with pytest.raises(Conflict, match="not this one"):
            failed.result(20)
    assert day(at_once) == (14, 0, 9)


def test_the_gate_hears_of_it_as_it_will_be(at_once: AtOnce) -> None:
    keys, ledger = at_once.begin([reserve("b1", "1-1", 2)], DAY), at_once.ledgers[0]
    step: Any = reserve("a1", "0-1", 5).operation(keys, DAY)

    @naming(step.names)
    def told(tx: Tx) -> list[Any]:
        assert tx.late is not None
        step(tx)
        return snapshot.of_call(tx, "a", "0-1").budgets

    found = {row["scope"]: row for row in ledger.write(told).result(20)}
    assert {scope: row["reserved_micros"] for scope, row in found.items()} == {"run": 5, "day": 7}
    assert found["day"]["remaining_micros"] == 7


#: Processes that take from one day at the same time, its cap, and what each call costs, in micro-dollars.
PROCESSES, CAP, COSTS = 8, 61, (3, 1, 2)


def _spend(place: Path, run_id: str, begin: Any, sent: Any) -> None:
    """Make calls until a dollar is denied; `sent` is what the vendor has counted of each process."""
    books = Books(place, cap=1000, run_id=run_id, daily=CAP)
    books.checked = False  # At a server an entry may be seen behind one with a higher number.
    key, bill = books.claim(f"task-{run_id}"), 0
    begin.wait(60)
    for number in range(200):
        cost = COSTS[number % len(COSTS)]
        answer = books.reserve(key, ask := books.ask(cost))
        if answer.verdict == "allowed":
            less = number % 4 == 0  # It costs less than was reserved: the rest is free again.
            bill += cost - less
            end = EndRequest("settle", ask.call_id, 1, total_micros=cost - less, status=200, answer_body="{}")
            books.end(key, end)
        elif cost == 1:
            break
    sent.put(bill)
    books.ledger.close()


def test_eight_processes_spend_a_day_to_its_last_cent(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER, server.url)
    books, fork = Books(tmp_path / "day.db", daily=CAP), multiprocessing.get_context("fork")
    begin, sent = fork.Barrier(PROCESSES), fork.SimpleQueue()
    children = [
        fork.Process(target=_spend, args=(tmp_path / "day.db", f"run-{number}", begin, sent))
        for number in range(PROCESSES)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * PROCESSES
    counted = sum(sent.get() for _ in children)
    today = books.read(snapshot.today)
    assert (counted, today["spent_micros"], today["reserved_micros"]) == (CAP, CAP, 0)
    assert books.audit() == []
    books.ledger.close()


def test_who_waits_for_it_in_vain_is_refused_and_goes_on_later(at_once: AtOnce) -> None:
    """What holds the row stands still: nothing was reserved, and the next call is as any other."""
    keys, ledger = at_once.begin([], DAY), at_once.ledgers[0]
    with at_once.watch.transaction():
        at_once.watch.execute(b"SELECT id FROM budget WHERE scope = 'day' FOR UPDATE")
        with pytest.raises(LedgerUnavailable, match="one holds its lock"):
            ledger.write(reserve("a1", "0-1", 5).operation(keys, DAY)).result(20)
    assert day(at_once) == (14, 0, 0)
    assert verdicts([ledger.write(reserve("a1", "0-1", 5).operation(keys, DAY))]) == ["allowed"]
    assert day(at_once) == (14, 0, 5)
