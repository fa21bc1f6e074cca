"""Operations of several processes at once, beside every order in which they may be done one after the other.

The ledger at a server lets them go on together. What they answer, and what the books are then, is to be
what some order has on a ledger in a file, where only one writes at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from luigi_spendguard.errors import SpendguardError
from luigi_spendguard.ledger import Ledger, calls, claims, corrections, reservations, runs, settlement
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.following import day_budget, keep_budget
from luigi_spendguard.ledger.foreseen import naming
from luigi_spendguard.ledger.keys import Terms, issue
from luigi_spendguard.ledger.schema import TABLES
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest, key_hash
from luigi_spendguard.settings.policy import Caps

#: Of each run; and of the day, where there is a cap.
CAP, DAY = 10, 14
#: Whose calls there are: by the key's name the run, the task, its family, what it says that it pays for, and
#: a batch's members. `old` is an attempt of a task that `new` has taken over, for another run; of the batches
#: each has a task that the other has, too, and a payment. What has no task is a vault key at a gateway.
SENDERS: dict[str, tuple[str, str, str, tuple[str, ...], tuple[str, ...]]] = {
    "a1": ("a", "Charge_a1", "Charge", (), ()),
    "a2": ("a", "Charge_a2", "Charge", (), ()),
    "b1": ("b", "Charge_b1", "Charge", (), ()),
    "b2": ("b", "Other_b2", "Other", (), ()),
    "pa": ("a", "Pay_a", "Pay", ("p",), ()),
    "pb": ("b", "Pay_b", "Pay", ("p",), ()),
    "old": ("a", "Charge_x", "Charge", (), ()),
    "new": ("b", "Charge_x", "Charge", (), ()),
    "batch a": ("a", "Pay_1_2", "Pay", ("p", "q"), ("Pay_1", "Pay_2")),
    "batch b": ("b", "Pay_2_3", "Pay", ("q", "r"), ("Pay_2", "Pay_3")),
    "key a": ("a", "", "", (), ()),
    "key b": ("b", "", "", (), ()),
}
State = tuple[Any, ...]


@dataclass(frozen=True)
class Step:
    """One thing that a process does: to reserve, an end, or what an operator does.

    Attributes:
        what: `reserve`, `settle`, `void`, `doubt`, `claim`, `finish` (`more`: how), `top_up`, `revoke`,
            `resolve` or `sweep`.
        who: the sender, or the run.
        call: its call's id.
        more: what else is said.

    """

    what: str
    who: str
    call: str = ""
    more: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def relayed(self) -> bool:
        """Whether a gateway does it."""
        return self.who in SENDERS and not SENDERS[self.who][1]

    def operation(self, keys: dict[str, str], caps: Caps) -> Callable[[Tx], Any]:
        """Return what it does to the books."""
        if self.what == "reserve":
            return self._reserve(keys[self.who], caps)
        if self.what in ("settle", "void", "doubt"):
            return self._end(keys[self.who])
        if self.what in ("claim", "finish"):
            return self._attempt()
        return self._other()

    def _reserve(self, key: str, caps: Caps) -> Callable[[Tx], Any]:
        ask = ReserveRequest(
            **{
                **{"call_id": self.call, "vendor": "stripe", "account": "stripe:test", "target": "cus"},
                **{"operation": "payment_intents.create", "method": "POST", "path": "/v1/payment_intents"},
                **{"fingerprint": "same", "body": "amount=1", "repeatable": True, "total_micros": 1},
                **self.more,
            }
        )

        @naming(lambda foreseen: foreseen.reserve(key_hash(key), ask))
        def reserve(tx: Tx) -> State:
            scope = calls.find_scope(tx, key, caps, relayed=self.relayed, call_id=self.call)
            assert scope is not None
            said = reservations.reserve(tx, scope, ask)
            return (
                said.verdict,
                said.reason,
                said.call_id,
                said.ask,
                said.wire_key,
                said.object_id,
                said.status,
            )

        return reserve

    def _end(self, key: str) -> Callable[[Tx], Any]:
        end = EndRequest(
            self.what,
            self.call,
            **{
                **({"status": 200, "answer_body": "{}", "total_micros": 1} if self.what == "settle" else {}),
                **self.more,
            },
        )

        @naming(lambda foreseen: foreseen.ends(key_hash(key), [end]))
        def apply(tx: Tx) -> State | None:
            scope = calls.find_scope(tx, key, Caps(), relayed=self.relayed, call_id=self.call)
            assert scope is not None
            row = settlement.end(tx, scope, end)
            if row is None:
                return None
            return tuple(row[name] for name in ("id", "state", "settled_micros", "overrun_micros"))

        return apply

    def _attempt(self) -> Callable[[Tx], Any]:
        request, outcome = claim_of(self.who, f"{self.who} again"), self.more.get("outcome", "")

        @naming(lambda foreseen: foreseen.claim(request))
        def claim(tx: Tx) -> State:
            return (claims.claim(tx, request)[0]["state"],)

        @naming(lambda foreseen: foreseen.finish(self.who, []))
        def finish(tx: Tx) -> State:
            row = claims.finish(tx, self.who, outcome)
            return (row and row["state"],)

        return claim if self.what == "claim" else finish

    def _other(self) -> Callable[[Tx], Any]:
        def act(tx: Tx) -> State:
            if self.what == "top_up":
                row = runs.top_up(tx, self.who, Micros(5), f"{self.who} more")
            elif self.what == "revoke":
                row = runs.revoke(tx, self.who)
            elif self.what == "resolve":
                row = corrections.resolve(
                    tx, self.call, corrections.Resolution(Micros(1)), f"{self.call} was"
                )
            else:
                return tuple(settlement.sweep(tx))
            return (row["state"],)

        return act


def claim_of(sender: str, claim_id: str) -> claims.NewClaim:
    """Return an attempt of a sender's task."""
    run_id, task_id, family, payment_keys, members = SENDERS[sender]
    worker = f"worker of {run_id}"
    return claims.NewClaim(
        claim_id, run_id, task_id, family, {}, worker, members=members, payment_keys=payment_keys
    )


def prepare(tx: Tx, steps: Sequence[Step], caps: Caps) -> dict[str, str]:
    """Open two runs, claim their tasks, and do some steps one after the other; return the vault keys."""
    for run_id in ("a", "b"):
        runs.open_run(tx, runs.RunRequest(run_id, False, "Root", run_id, Micros(CAP)))
        for family, cap in caps.task_families.items():
            keep_budget(tx, "family", run_id, family, cap)
    if caps.day is not None:
        day_budget(tx, caps.day)
    keys = {}
    for sender, (run_id, task_id, *_) in SENDERS.items():
        if task_id:
            keys[sender] = claims.claim(tx, claim_of(sender, sender))[1]
        else:
            terms = Terms("stripe", run_id, run_cap=Micros(8), ttl_ms=3_600_000)
            keys[sender] = issue(tx, terms, caps)[1]
    for step in steps:
        done(tx, step.operation(keys, caps))
    return keys


def done(tx: Tx, operation: Callable[[Tx], Any]) -> Any:
    """Return what something has come to: its answer, or which error of ours it was."""
    try:
        with tx.savepoint():
            return operation(tx)
    except SpendguardError as error:
        return type(error).__name__


def state_of(tx: Tx) -> State:
    """Return what the books have, but for times; they add up, and no budget is passed."""
    assert discrepancies(tx) == []
    assert not tx.all("SELECT * FROM budget WHERE spent_micros + reserved_micros > cap_micros")
    return tuple(tuple(sorted(tuple(row.values()) for row in tx.all(sql))) for sql in _BOOKS)


#: A vault key's id is drawn.
_NAMED = "CASE WHEN {0} LIKE 'key%' THEN 'key' ELSE {0} END"
_AMOUNTS = "spent_micros, reserved_micros, overrun_micros"
_BOOKS = (
    f"SELECT scope, subject, part, cap_micros, shadow_micros, {_AMOUNTS} FROM budget",
    f"SELECT id, run_id, {_NAMED.format('claim_id')} AS claim_id, verdict, reason,"
    " coalesce(state, '') AS state, reserved_micros, settled_micros,"
    " corrected_micros, overrun_micros, coalesce(object_id, '') AS object_id, ordinal, tries,"
    " wire_key, sender, ask, unknown, coalesce(replay_of, '') AS replay_of FROM call",
    "SELECT object_id, run_id, call_id, counted_micros, worth_micros FROM vendor_object",
    f"SELECT kind, run_id, coalesce(call_id, '') AS call_id, cap_micros, {_AMOUNTS} FROM journal",
    "SELECT run_id, state FROM run",
    "SELECT object_id, call_id, alone FROM turn",
    "SELECT task_id, completions FROM task",
    "SELECT target, call_id FROM call_target",
    f"SELECT {_NAMED.format('id')} AS id, run_id, state, coalesce(outcome, '') AS outcome, held_scope,"
    " held_micros FROM claim",
)


class InOrder:
    """Does steps one after the other, on a ledger in a file that stays empty."""

    def __init__(self, folder: Path) -> None:
        self._ledger = Ledger(folder / "orders.db")

    def all(self, before: Sequence[Step], steps: Sequence[Step], caps: Caps) -> list[State]:
        """Return what steps have come to, and the books then, in each order of them."""

        def each(tx: Tx) -> list[State]:
            found: list[State] = []
            for order in itertools.permutations(range(len(steps))):
                with contextlib.suppress(_Undone), tx.savepoint():
                    keys = prepare(tx, before, caps)
                    come = {n: done(tx, steps[n].operation(keys, caps)) for n in order}
                    found.append((tuple(come[n] for n in range(len(steps))), state_of(tx)))
                    raise _Undone
            return found

        return self._ledger.write(each).result(60)

    def close(self) -> None:
        """Close the books."""
        self._ledger.close()


class _Undone(Exception):
    """Ends a part of which nothing is to stay."""


#: Who waits for a lock for so many seconds waits for what stands still.
_WAITS_S, _DONE_S = 0.03, 5.0


class AtOnce:
    """Does steps at the same time, each by a process of its own, on a ledger at a server."""

    def __init__(self, url: str, processes: int = 3) -> None:
        self.ledgers = [Ledger(url) for _ in range(processes)]
        for ledger in self.ledgers:
            ledger.write(lambda tx: tx.now()).result(20)  # The first transaction of each is alone.
        #: A connection of its own, which looks at what the others wait for.
        self.watch = psycopg.connect(url, autocommit=True)
        self._rounds = 0
        #: Which of the last steps but the first were done while that stood still.
        self.done_before: list[bool] = []

    def begin(self, before: Sequence[Step], caps: Caps) -> dict[str, str]:
        """Empty the books, and do some steps one after the other; return the vault keys of the senders."""
        self._empty()
        keys: dict[str, str] = self.ledgers[0].write(prepare, before, caps).result(60)
        return keys

    def standing(
        self, pause: int, process: int = 0
    ) -> contextlib.AbstractContextManager[tuple[threading.Event, threading.Event, list[int]]]:
        """Let a process's next transaction stand still at that statement, or before its end."""
        return _pausing(self.ledgers[process], pause)

    def do(
        self, before: Sequence[Step], steps: Sequence[Step], caps: Caps, pause: int, *, waits: bool = True
    ) -> tuple[State, int]:
        """Do steps: the first stands still at its statement `pause`, until the others are done or wait.

        `waits`: they may wait; else they are to be done meanwhile.
        Return what they have come to with the books then, and how many statements the first has made.
        """
        keys = self.begin(before, caps)
        with self.standing(pause) as (reached, go, made):
            doing = [self.ledgers[0].write(steps[0].operation(keys, caps))]
            assert reached.wait(10)
            for step, ledger in zip(steps[1:], self.ledgers[1:], strict=False):
                doing.append(ledger.write(step.operation(keys, caps)))
            since = time.monotonic()
            while left := sum(not one.done() for one in doing[1:]):
                now = time.monotonic()
                since = since if self._waiting() >= left else now
                if now - since > (_WAITS_S if waits else _DONE_S):
                    break
                time.sleep(0.002)
            self.done_before = [one.done() for one in doing[1:]]
            go.set()
            outcomes = tuple(_outcome(one) for one in doing)
        return (outcomes, self.ledgers[0].read(state_of).result(20)), made[0]

    def _empty(self) -> None:
        names = [vars(table)["_meta"].table_name for table in TABLES[1:]]
        if self._rounds % 200 == 0:
            statement = f"TRUNCATE {', '.join(names)}"
        else:  # That takes long for tables that are nearly empty. Triggers, which keep the journal, are off.
            deleting = "; ".join(f"DELETE FROM {name}" for name in names)
            statement = f"SET session_replication_role = replica; {deleting}"
        self._rounds += 1
        self.watch.execute(statement.encode())

    def _waiting(self) -> int:
        found = self.watch.execute(
            b"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            b" AND datname = current_database()"
        ).fetchone()
        return int(found[0]) if found else 0

    def close(self) -> None:
        """Close the books."""
        for ledger in self.ledgers:
            ledger.close()
        self.watch.close()


def _outcome(doing: Future[Any]) -> Any:
    try:
        return doing.result(30)
    except SpendguardError as error:
        return type(error).__name__


def _send_each(tx: Any, count: Callable[[], None]) -> None:
    """Let each statement of a transaction go alone, after `count`: a server does others' between any two."""
    execute, later, ahead = tx._execute, tx.later, tx.ahead

    def counted(sql: str, values: Any = ()) -> Any:
        count()
        return execute(sql, values)

    def put(how: Callable[..., None], sql: str, *values: Any) -> None:
        if tx.held is None:
            how(sql, *values)
            return
        count()
        how(sql, *values)
        tx._send()

    tx._execute, tx.later, tx.ahead = counted, partial(put, later), partial(put, ahead)


@contextlib.contextmanager
def _pausing(ledger: Ledger, pause: int) -> Iterator[tuple[threading.Event, threading.Event, list[int]]]:
    """Let the next transaction of a ledger stand still at its statement of that number, or before its end."""
    db: Any = ledger._db
    reached, go, made = threading.Event(), threading.Event(), [0]

    def stand() -> None:
        if not reached.is_set():
            reached.set()
            assert go.wait(20)

    def count() -> None:
        if made[0] == pause:
            stand()
        made[0] += 1

    @contextlib.contextmanager
    def writing(names: Any = None) -> Iterator[Tx]:
        with type(db).writing(db, names) as tx:
            _send_each(tx, count)
            yield tx
            stand()

    db.writing = writing
    try:
        yield reached, go, made
    finally:
        go.set()
        del db.writing


def drawn(draw: random.Random) -> tuple[list[Step], list[Step], Caps]:
    """Return some steps, what they are done at once after, and under which caps."""
    caps = Caps(
        day=draw.choice([None, None, Micros(DAY)]),
        suspects=draw.choice(["hold", "warn"]),
        task_families=draw.choice([{}, {"Charge": Micros(7)}]),
    )
    numbers = itertools.count(1)
    made: list[Step] = []

    def reserve() -> Step:
        more: dict[str, Any] = {
            "target": draw.choice(["cus", "cus", "other", None]),
            "total_micros": draw.choice([1, 1, 3, 6]),
        }
        if draw.random() < 0.15:
            more["targets"] = ("one", draw.choice(["two", "three"]))
        if draw.random() < 0.3:
            more |= {"key": draw.choice(["order-1", "order-2"]), "key_is_callers": True}
        if draw.random() < 0.4:
            more["object_id"] = draw.choice(["pi_1", "pi_2"])
            if draw.random() < 0.3:
                more["covers"] = (draw.choice(["pi_1", "pi_3"]),)
        if draw.random() < 0.3:
            more[draw.choice(["acts_on", "priced_by"])] = (draw.choice(["pi_1", "in_1"]),)
        step = Step(
            "reserve", draw.choice(list(SENDERS)), f"0000000{draw.randint(1, 2)}-{next(numbers)}", more
        )
        made.append(step)
        return step

    def end() -> Step:
        if not made:
            return reserve()
        of = draw.choice(made)
        kind = draw.choice(["settle", "settle", "void", "doubt"])
        more: dict[str, Any] = {}
        if kind == "settle":
            asked = int(of.more["total_micros"])
            more = {"total_micros": draw.choice([asked, asked, 0, asked + 1])}
            if draw.random() < 0.4:
                more["object_id"] = of.more.get("object_id") or draw.choice(["pi_1", "pi_3"])
            if draw.random() < 0.15:
                more |= {"only_less": True}
            if draw.random() < 0.2:
                more |= {"status": 402}
            if draw.random() < 0.1:
                more |= {"opened": {"pi_4": "1", "pi_2": "1"}}
        elif kind == "void":
            more = {"definite": draw.random() < 0.5}
        return Step(kind, draw.choice([of.who, of.who, of.who, draw.choice(list(SENDERS))]), of.call, more)

    def other() -> Step:
        what = draw.choice(["top_up", "revoke", "resolve", "sweep"] + ["claim"] * 4 + ["finish"] * 4)
        who = draw.choice(["a", "b"])
        if what in ("claim", "finish"):
            who = draw.choice([sender for sender, (_, task_id, *_) in SENDERS.items() if task_id])
            return Step(
                what, who, more={"outcome": draw.choice(["completed", "completed", "failed", "died"])}
            )
        return Step(what, who, draw.choice(made).call if made else "none")

    before = [draw.choices([reserve, end, other], [6, 3, 1])[0]() for _ in range(draw.randint(0, 4))]
    steps = [draw.choices([reserve, end, other], [5, 4, 3])[0]() for _ in range(draw.choice([2, 2, 2, 3]))]
    return before, steps, caps
