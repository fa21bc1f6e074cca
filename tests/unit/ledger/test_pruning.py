"""What is over is deleted and its totals stay; nobody is paid twice for it, and no money comes free."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import Conflict, KeyRevoked
from luigi_spendguard.ledger import claims, pruning, queries, runs, snapshot
from luigi_spendguard.ledger.pruning import Pruned
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveReply
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books

#: Everything was over before then.
LATER = 4_000_000_000_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "spendguard.db", cap=1000, daily=1000)
    books.write(runs.revoke, "run")  # It came first, and would keep all that came later.
    yield books
    assert books.audit() == []
    books.ledger.close()


def opened(books: Books, run_id: str) -> str:
    books.write(runs.open_run, runs.RunRequest(run_id, True, "Root", run_id, Micros(1000)))
    return run_id


def paid(books: Books, task_id: str, run_id: str, *, completed: bool = True, **more: Any) -> ReserveReply:
    """Let a task of a run charge 10 for itself, and complete."""
    claimed = {name: more.pop(name) for name in ("payment_keys", "members") if name in more}
    key = books.claim(task_id, run_id, max_cost=Micros(50), **claimed)
    ask = books.ask(more.pop("amount", 10), **{"target": f"cus_{task_id}", **more})
    answer = books.reserve(key, ask)
    if answer.verdict == "allowed":
        total = more.get("total_micros", 10)
        said = EndRequest("settle", ask.call_id, total_micros=total, status=200, answer_body="{}")
        books.end(key, said)
    books.write(claims.finish, books.last_claim, "completed" if completed else "failed")
    return answer


def over(books: Books, run_id: str) -> str:
    """Let a run's root complete."""
    assert books.write(claims.close_run, run_id)["state"] == "ended"
    return run_id


def pruned(books: Books, before: int = LATER) -> Pruned:
    """Prune until there is no more; what was said beforehand is what is done."""
    looked = summed(books.read, pruning.look, before)
    found = summed(books.write, pruning.prune, before)
    assert looked == found
    assert books.audit() == []
    return found


def summed(run: Any, operation: Any, before: int) -> Pruned:
    found = Pruned(next=0)
    while found.next is not None:
        some = run(operation, before, found.next)
        for name in ("calls", "attempts", "spent_micros"):
            setattr(found, name, getattr(found, name) + getattr(some, name))
        for why, number in some.stay.items():
            found.stay[why] = found.stay.get(why, 0) + number
        found.next = some.next
    return found


def left(books: Books) -> list[str]:
    """Return the tasks whose calls are left."""
    rows = books.read(lambda tx: tx.all("SELECT task_id FROM call ORDER BY rowid"))
    return [row["task_id"] for row in rows]


def rows(books: Books, table: str) -> int:
    return int(books.read(lambda tx: tx.value(f"SELECT count(*) FROM {table}")))


def test_a_run_that_is_over_keeps_its_totals_and_says_what_is_gone(books: Books) -> None:
    opened(books, "A")
    for number in range(3):
        paid(books, f"t{number}", "A")
    books.reserve(books.claim("t9", "A"), books.ask(5000))  # Denied.
    books.write(claims.finish, books.last_claim, "failed")
    over(books, "A")
    before = books.read(queries.run, "A")
    found = pruned(books)
    assert (found.calls, found.attempts, found.spent_micros, found.stay) == (4, 4, 30, {})
    after = books.read(queries.run, "A")
    assert (after["spent_usd"], after["state"]) == (before["spent_usd"], "ended") == ("0.00003", "ended")
    assert "were pruned on 20" in after["note"]
    entries = books.read(lambda tx: tx.all("SELECT * FROM journal WHERE kind IN ('prune','finish')"))
    assert {entry["note"] for entry in entries if entry["note"]} == {
        f"4 calls and 4 attempts from before {before_text()} were pruned"
    }
    for table in ("call", "claim", "exchange", "call_budget", "vendor_object"):
        assert rows(books, table) == 0, table
    assert books.read(lambda tx: tx.value("SELECT spent_micros FROM budget WHERE scope = 'day'")) == 30
    assert books.read(lambda tx: tx.value("SELECT count(*) FROM budget WHERE scope = 'task'")) == 0
    assert pruned(books).calls == 0
    with pytest.raises(Exception, match="append-only"):
        books.write(lambda tx: tx.run("DELETE FROM journal"))


def before_text() -> str:
    return str(pruning.moment(LATER))


def test_many_calls_are_pruned_by_and_by(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "MOST_CALLS", 2)
    monkeypatch.setattr(pruning, "MOST_RUNS", 2)
    for run_id in ("A", "B", "C"):
        opened(books, run_id)
        for number in range(3):
            paid(books, f"{run_id}{number}", run_id)
        over(books, run_id)
    assert pruned(books).calls == 9
    assert (rows(books, "call"), rows(books, "claim")) == (0, 0)


def test_what_stays_holds_no_transaction_up(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait while it is looked at, so many runs of payments that stay are looked at by and by."""
    monkeypatch.setattr(pruning, "_ENOUGH", 3)
    for run_id in ("A", "B", "C"):
        opened(books, run_id)
        for number in range(2):
            paid(books, f"{run_id}{number}", run_id, payment_keys=(f"{run_id}{number}",))
        over(books, run_id)
    first = books.write(pruning.prune, LATER)
    assert (first.stay, first.next is None) == ({"payment_key": 4}, False)
    assert pruned(books).stay == {"payment_key": 6}


def test_a_task_that_is_due_again_is_paid_again_under_another_key(books: Books) -> None:
    opened(books, "A")
    first = paid(books, "t", "A")
    over(books, "A")
    pruned(books)
    opened(books, "B")
    again = paid(books, "t", "B")
    assert again.verdict == "allowed"
    assert again.wire_key != first.wire_key


def test_what_has_a_payment_key_is_not_paid_again(books: Books) -> None:
    opened(books, "A")
    paid(books, "t", "A", payment_keys=("2026-11-ann",), target="cus_ann")
    over(books, "A")
    assert pruned(books).stay == {"payment_key": 1}
    opened(books, "B")
    again = paid(books, "t2", "B", payment_keys=("2026-11-ann",), target="cus_ann")
    assert again.verdict == "replayed"
    corrected = paid(books, "t3", "B", payment_keys=("2026-11-ann",), target="cus_ann", fingerprint="9")
    assert corrected.reason == "idempotency_mismatch"


@pytest.mark.parametrize("key", [None, "a-key-of-its-own"])
def test_a_task_that_has_not_completed_is_not_paid_again(books: Books, key: str | None) -> None:
    opened(books, "A")
    paid(books, "t", "A", completed=False, key=key, key_is_callers=True)
    books.write(runs.revoke, "A")
    assert pruned(books).stay == {"not_completed": 1}
    opened(books, "B")
    assert paid(books, "t", "B", key=key, key_is_callers=True).verdict == "replayed"


def test_a_batch_stays_until_all_of_its_members_have_completed(books: Books) -> None:
    opened(books, "A")
    paid(books, "batch", "A", members=("m1", "m2"), completed=False)
    books.write(lambda tx: claims.count_completion(tx, "batch"))
    books.write(lambda tx: claims.count_completion(tx, "m1"))
    books.write(runs.revoke, "A")
    assert pruned(books).calls == 1, "the batch itself has completed"
    opened(books, "B")
    paid(books, "other", "B", members=("m3", "m4"), completed=False)
    books.write(lambda tx: claims.count_completion(tx, "m3"))
    books.write(runs.revoke, "B")
    assert pruned(books).stay == {"not_completed": 1}
    for task_id in ("other", "m4"):
        books.write(lambda tx, one=task_id: claims.count_completion(tx, one))
    assert pruned(books).calls == 1


def test_what_a_run_that_goes_on_may_repeat_stays(books: Books) -> None:
    opened(books, "early")
    opened(books, "A")
    paid(books, "t", "A")
    over(books, "A")
    assert pruned(books).stay == {"open": 1}
    assert books.read(pruning.oldest_open_run, LATER)["run_id"] == "early"
    assert paid(books, "t", "early").verdict == "replayed"
    books.write(runs.revoke, "early")
    # Both are over by now, the call and its repetition.
    assert (pruned(books).calls, rows(books, "call")) == (2, 0)


def test_a_run_with_something_open_stays(books: Books) -> None:
    opened(books, "A")
    paid(books, "t", "A")
    key = books.claim("doubt", "A")
    ask = books.ask(10)
    books.reserve(key, ask)
    books.end(key, EndRequest("doubt", ask.call_id, note="lost"))
    books.write(claims.finish, books.last_claim, "failed")
    over(books, "A")
    opened(books, "B")
    books.claim("at work", "B")
    over(books, "B")
    assert books.read(pruning.kept_runs, LATER) == {"active": 0, "open": 2}
    assert pruned(books).calls == 0
    assert (len(left(books)), books.read(queries.run, "A")["reserved_usd"]) == (2, "0.00001")


def test_what_a_call_in_doubt_may_be_confused_with_stays(books: Books) -> None:
    opened(books, "A")
    key, ask = books.claim("doubt", "A"), books.ask(10, repeatable=False)
    books.reserve(key, ask)
    books.end(key, EndRequest("doubt", ask.call_id, note="lost"))
    books.write(claims.finish, books.last_claim, "failed")
    books.write(runs.revoke, "A")
    opened(books, "B")
    paid(books, "t", "B")
    over(books, "B")
    assert pruned(books).stay == {"open": 1}


def test_an_object_stays_while_a_run_that_goes_on_acts_on_it(books: Books) -> None:
    opened(books, "A")
    paid(books, "t", "A", object_id="pi_1")
    over(books, "A")
    opened(books, "B")
    paid(books, "t2", "B", object_id="pi_1", completed=False)
    assert pruned(books).stay == {"open": 1}
    over(books, "B")
    assert pruned(books).stay == {"not_completed": 1}


def test_a_run_that_is_revoked_stays_so(books: Books) -> None:
    opened(books, "A")
    paid(books, "t", "A")
    books.write(runs.revoke, "A")
    assert pruned(books).calls == 1
    with pytest.raises(Exception, match="revoked for good"):
        books.claim("t", "A")
    assert opened(books, "A") == "A"
    assert books.read(runs.run_row, "A")["state"] == "revoked"


def test_what_is_younger_stays(books: Books) -> None:
    opened(books, "A")
    paid(books, "t", "A")
    over(books, "A")
    assert pruned(books, 1).calls == 0
    assert not books.read(pruning.check_age, books.read(lambda tx: tx.now()))


def test_no_average_is_made_of_what_is_left(books: Books) -> None:
    opened(books, "A")
    for number in range(9):
        paid(books, f"t{number}", "A")
    paid(books, "t", "A", payment_keys=("k",))
    over(books, "A")
    assert books.read(snapshot.averages) == {"Charge": 10}
    pruned(books)
    assert books.read(snapshot.averages) == {}
    assert books.write(snapshot.start, Caps()).paid == []


class Twin:
    """Two ledgers to which the same is done; one is pruned again and again."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.both = [Books(folder / name, cap=1000, run_id="R0", daily=10**6) for name in ("whole", "small")]
        for books in self.both:
            books.write(runs.revoke, "R0")  # It came first, and would keep all that came later.
        self.claims: dict[str, list[str]] = {}
        self.pruned = self.refused = 0

    def on_both(self, operation: Any, *args: Any) -> Any:
        """Do it to both; return what the first says."""
        results = []
        for books in self.both:
            try:
                results.append(books.write(operation, *args))
            except Conflict as error:
                results.append(error)
        assert type(results[0]) is type(results[1])
        return results[0]

    def step(self) -> None:
        chance = self.chance
        run_id = f"R{chance.randrange(1, 5)}"
        task = f"t{chance.randrange(5)}"
        what = chance.choice(["open", *["call"] * 4, "finish", "finish", "close", "revoke", "prune"])
        if what == "open":
            by_task_id = run_id != "R4"
            self.on_both(runs.open_run, runs.RunRequest(run_id, by_task_id, "Root", run_id, Micros(10**5)))
        elif what == "call":
            self.call(run_id, task)
        elif what == "finish" and task in self.claims:
            outcome = chance.choice(["completed", "failed", "died"])
            for books, claim in zip(self.both, self.claims.pop(task), strict=True):
                books.write(claims.finish, claim, outcome)
        elif what == "close":
            self.on_both(claims.close_run, run_id)
        elif what == "revoke" and chance.random() < 0.2:
            if self.both[0].read(lambda tx: tx.value("SELECT 1 FROM run WHERE run_id = ?", run_id)):
                self.on_both(runs.revoke, run_id)
        elif what == "prune":
            self.pruned += summed(self.both[1].write, pruning.prune, LATER).calls

    def call(self, run_id: str, task: str) -> None:
        """Let a task make a call; both ledgers decide alike, whatever one of them has forgotten.

        Its run may have ended: another scheduler goes on with it.
        """
        chance = self.chance
        current = self.both[0].read(
            lambda tx: tx.value("SELECT run_id FROM run WHERE name = ? ORDER BY seq DESC LIMIT 1", run_id)
        )
        if current is None:
            return
        how: dict[str, Any] = {"key": None}
        own = {"key": f"own-{chance.randrange(3)}", "key_is_callers": True}
        how |= chance.choice([{}, {"target": "cus_1"}, own])
        how = {"target": f"cus_{task}", "fingerprint": chance.choice(["1", "1", "2"]), **how}
        claimed: dict[str, Any] = {"payment_keys": (f"p-{task}",)} if task == "t0" else {}
        if task in ("t3", "t4") and chance.random() < 0.5:
            task, claimed = "batch", {"members": ("t3", "t4")}
        ends = chance.choice(["settle", "settle", "settle", "void", "decline"])
        said = []
        for books in reversed(self.both):
            try:
                key = books.claim(task, current, **claimed)
            except KeyRevoked:
                said.append("revoked")
                continue
            except Conflict:  # Something was pruned since its run has ended.
                self.refused += 1
                return
            self.claims[task] = [books.last_claim, *self.claims.get(task, [])[:1]]
            ask = books.ask(10, **how)
            answer = books.reserve(key, ask)
            if answer.verdict == "allowed":
                books.end(key, ended(ask.call_id, ends))
            # Which keys declines have used up is not compared: vendors have forgotten them after two days.
            said.append(f"{answer.verdict} {answer.reason}")
        assert said[0] == said[1]


def ended(call_id: str, how: str) -> EndRequest:
    if how == "settle":
        return EndRequest("settle", call_id, total_micros=10, status=200, answer_body="{}")
    return EndRequest("void", call_id, status=402 if how == "decline" else 0)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be too young to be pruned."""
    monkeypatch.setattr(runs, "_FORGOTTEN", runs._FORGOTTEN.replace(str(runs.YOUNGEST_MS), "0"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("seed", range(25))
def test_a_pruned_ledger_decides_as_a_whole_one_does(tmp_path: Path, seed: int) -> None:
    twin = Twin(tmp_path, random.Random(seed))
    for _ in range(80):
        twin.step()
    assert all(books.audit() == [] for books in twin.both)
    whole, small = (
        books.read(lambda tx: tx.all("SELECT scope, subject, spent_micros FROM budget WHERE scope <> 'task'"))
        for books in twin.both
    )
    assert whole == small
    for books in twin.both:
        books.ledger.close()


@pytest.mark.usefixtures("at_once")
def test_the_twins_prune_something(tmp_path: Path) -> None:
    twin = Twin(tmp_path, random.Random(1))
    for _ in range(300):
        twin.step()
    assert twin.pruned > 5
    assert twin.refused > 0
    for books in twin.both:
        books.ledger.close()


@pytest.mark.usefixtures("at_once")
def test_what_a_run_that_has_ended_would_repeat_is_asked_for_no_more(books: Books) -> None:
    """Another scheduler has its root: it claims what it has not got to."""
    opened(books, "A")
    paid(books, "t", "A")
    over(books, "A")
    opened(books, "B")
    assert paid(books, "t", "A").verdict == "replayed", "nothing was pruned since"
    books.write(runs.revoke, "B")
    assert pruned(books).calls == 2
    with pytest.raises(Conflict, match="calls were pruned since"):
        books.claim("t", "A")
    opened(books, "A")
    assert paid(books, "t", "A~2").verdict == "allowed", "a new run is due again"


def test_a_customers_calls_are_forgotten_but_those_that_are_open(books: Books) -> None:
    opened(books, "A")
    first = paid(books, "t", "A", target="cus_ann cus_bob", completed=False)
    paid(books, "t2", "A", target="cus_eve", completed=False)
    key, ask = books.claim("doubt", "A"), books.ask(10, target="cus_ann")
    books.reserve(key, ask)
    books.end(key, EndRequest("doubt", ask.call_id, note="lost"))
    found = books.read(pruning.calls_of, "cus_ann")
    assert found == [first.call_id, ask.call_id]
    assert books.write(pruning.forget_calls, found) == (1, 1)
    assert books.write(pruning.forget_calls, found) == (0, 1)
    assert rows(books, "exchange") == 2
    again = paid(books, "t", "A", target="cus_ann cus_bob")
    assert (again.reason, again.wire_key) == ("idempotency_mismatch", "")
    assert books.reserve(books.claim("doubt", "A"), books.ask(10, target="cus_ann")).body == ask.body


@pytest.mark.usefixtures("at_once")
def test_what_was_over_before_a_run_was_opened_is_nothing_that_it_would_repeat(books: Books) -> None:
    opened(books, "old")
    paid(books, "t", "old")
    over(books, "old")
    opened(books, "A")
    over(books, "A")
    opened(books, "B")
    assert pruned(books).calls == 1
    assert paid(books, "t", "A").verdict == "allowed"


def test_a_run_that_has_ended_lately_keeps_what_it_may_repeat(books: Books) -> None:
    opened(books, "early")
    opened(books, "A")
    paid(books, "t", "A")
    over(books, "A")
    soon = books.read(lambda tx: tx.now()) + 60_000
    older = "UPDATE run SET ended_at = ?1 - 1 WHERE run_id = 'A'"
    books.write(lambda tx: tx.run(older, soon))
    books.write(lambda tx: tx.run("UPDATE call SET created_at = 1, ended_at = 1"))
    over(books, "early")
    books.write(lambda tx: tx.run("UPDATE run SET ended_at = ? WHERE run_id = 'early'", soon))
    assert pruned(books, soon).stay == {"open": 1}
    assert paid(books, "t", "early").verdict == "replayed"


def test_an_attempt_of_a_run_that_has_ended_keeps_what_it_may_repeat(books: Books) -> None:
    """Which task a key of its caller's own comes from does not matter."""
    own = {"key": "order-17", "key_is_callers": True, "target": "cus_ann"}
    opened(books, "early")
    key = books.claim("other", "early")
    over(books, "early")
    opened(books, "A")
    paid(books, "t", "A", **own)
    paid(books, "t", "A")
    over(books, "A")
    found = pruned(books)
    assert (found.calls, found.stay) == (1, {"open": 1}), "nobody ends it where its worker was killed"
    assert books.reserve(key, books.ask(10, **own)).verdict == "replayed"
