"""Pruning: delete calls and attempts of runs that are over, but not what keeps anybody from paying twice.

A run stays with its budgets' totals; the journal says what was pruned and when, with an entry for each budget
that takes the place of those of the calls. What decides whether a later call is a repeated one (see
`identity`) stays as long as it does; so does what is in doubt, and whatever that may be confused with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luigi_spendguard.counted import counted
from luigi_spendguard.ledger import queries, reconciliations
from luigi_spendguard.ledger.audit.blocks import sealed_entry
from luigi_spendguard.ledger.batches import COMPLETIONS, NOT_COMPLETED, may_repeat
from luigi_spendguard.ledger.budgets import JournalEntry, cost_so_far, journal, last_entry, run_budget
from luigi_spendguard.ledger.database import MINUTE_S, NOW, Row, Tx
from luigi_spendguard.ledger.runs import YOUNGEST_MS
from luigi_spendguard.settings.policy import moment

#: Calls that are deleted in one transaction at the most, and runs that are looked at: calls wait meanwhile.
MOST_CALLS, MOST_RUNS = 1000, 200
#: After so many calls that are deleted or stay no further run is looked at.
_ENOUGH = 10 * MOST_CALLS

#: Of `run`: it spends nothing any more, was over before ?1, and nothing of it is open.
_IS_OVER = """
    run.state IN ('ended','revoked') AND run.ended_at < ?1
    AND NOT EXISTS (SELECT 1 FROM call WHERE call.run_id = run.run_id
                    AND call.state IN ('pending','in_doubt'))
    AND NOT EXISTS (SELECT 1 FROM claim WHERE claim.run_id = run.run_id AND claim.state = 'open')
    AND NOT EXISTS (SELECT 1 FROM price_due JOIN call ON call.id = price_due.call_id
                    WHERE call.run_id = run.run_id)
"""
#: Where the oldest run begins that may go on: what was paid for later is not paid for again in that. With one
#: that has ended another scheduler may go on, until `runs.check_remembered` refuses it. (A vault key's own
#: run has no tasks that others could have, too.)
_OLDEST = """
    SELECT run_id, run.begun AS entry FROM run
    WHERE (state IN ('active','frozen') OR state = 'ended' AND ended_at >= ?1)
    AND run_id NOT IN (SELECT id FROM key_terms) ORDER BY entry LIMIT 1
"""
#: The same of runs that have ended, but an attempt of theirs has not, as far as is known: it is at its own
#: task, but a key of its caller's own may be another's.
_OLDEST_ATTEMPT = """
    SELECT min(run.begun) FROM run WHERE state = 'ended' AND run_id IN
    (SELECT run_id FROM claim WHERE ended_at IS NULL AND state = 'open')
"""
#: Tasks (and payments) of attempts that go on.
_AT_WORK = """
    SELECT task_id AS name FROM claim WHERE ended_at IS NULL AND state = 'open' AND task_id <> ''
    UNION SELECT each.value FROM claim, json_each(claim.members) AS each
    WHERE ended_at IS NULL AND state = 'open'
    UNION SELECT each.value FROM claim, json_each(CASE WHEN mixed LIKE '[%' THEN mixed ELSE
    json_array(mixed) END) AS each WHERE ended_at IS NULL AND state = 'open' AND mixed <> ''
"""
#: Why a call (of ?1) stays; null: it need not. ?2: before when it ended; ?3: the entry of `_OLDEST`;
#: ?4: what `_AT_WORK` names; ?5: `_OLDEST_ATTEMPT`; ?6: up to which entry the audit is sealed.
_WHY = f"""
    CASE
    WHEN EXISTS (SELECT 1 FROM journal WHERE journal.call_id = call.id AND journal.id > ?6) THEN 'unsealed'
    WHEN call.created_at >= ?2 OR coalesce(call.ended_at, 0) >= ?2 THEN 'newer'
    WHEN call.verdict = 'allowed' AND call.task_id <> ''
         AND (call.base IS NOT NULL OR call.key_id IS NOT NULL)
    THEN CASE
        WHEN call.payment <> '' THEN 'payment_key'
        WHEN {NOT_COMPLETED} THEN 'not_completed'
        WHEN call.task_id IN (SELECT value FROM json_each(?4)) THEN 'open'
        WHEN call.state = 'settled' AND call.declined = 0
             AND {may_repeat("CASE WHEN call.base IS NULL THEN min(?3, ?5) ELSE ?3 END")} THEN 'open'
        WHEN {{beside}} THEN 'open'
        END
    WHEN call.verdict = 'allowed' AND ({{beside}}) THEN 'open'
    END
"""
#: Something that is not over may be about the same object, or may turn out to be what this call has made.
_BESIDE = """
    EXISTS (SELECT 1 FROM call AS other JOIN run ON run.run_id = other.run_id WHERE call.object_id IS NOT NULL
            AND other.object_id = call.object_id AND other.vendor = call.vendor
            AND other.account = call.account AND other.run_id <> ?1
            AND (run.state NOT IN ('ended','revoked') OR run.ended_at >= ?2))
    OR EXISTS (SELECT 1 FROM call AS other WHERE other.state IN ('pending','in_doubt')
               AND other.vendor = call.vendor AND other.account = call.account AND other.rowid < call.rowid)
"""
_STAYS = _WHY.format(beside=_BESIDE)


@dataclass
class Pruned:
    """What was pruned, or would be.

    Attributes:
        runs: of so many runs.
        calls, spent_micros: so many calls, and what they have cost in micro-dollars.
        attempts: so many attempts of tasks, and vault keys.
        stay: how many calls of these and other runs that are over stay, by why: `newer` than asked for,
            `payment_key`, `not_completed` (their tasks), `open` (a run, a call or an attempt that goes on),
            `unsealed` (the audit has not all of them yet).
        next: which run comes next; None: it was the last.

    """

    runs: int = 0
    calls: int = 0
    spent_micros: int = 0
    attempts: int = 0
    stay: dict[str, int] = field(default_factory=dict)
    next: int | None = None

    @property
    def looked_at(self) -> int:
        """How many calls were looked at for this."""
        return self.calls + sum(self.stay.values())


def kept_runs(tx: Tx, before: int) -> dict[str, int]:
    """Return how many runs opened before then are not pruned at all, by why: `active`, or `open` parts."""
    active = tx.value("SELECT count(*) FROM run WHERE state IN ('active','frozen') AND opened_at < ?", before)
    over = tx.value("SELECT count(*) FROM run WHERE state IN ('ended','revoked') AND ended_at < ?", before)
    free = tx.value(f"SELECT count(*) FROM run WHERE {_IS_OVER}", before)
    return {"active": int(active), "open": int(over - free)}


def oldest_open_run(tx: Tx, before: int) -> Row | None:
    """Return the oldest run that may go on, which keeps calls made since; None: there is none."""
    return tx.one(_OLDEST, before)


def look(tx: Tx, before: int, after: int = 0) -> Pruned:
    """Return what `prune` would delete; nothing is changed."""
    found = Pruned()
    for run in _runs(tx, before, after, found):
        free = _free(tx, run["run_id"], before, 2**62)
        attempts = _attempts(tx, run["run_id"], before, 2**62, [row["id"] for row in free])
        _count(found, free, len(attempts))
        _count_stay(tx, found, run["run_id"], before)
        if found.looked_at >= _ENOUGH:
            found.next = run["id"]
            break
    return found


def prune(tx: Tx, before: int, after: int = 0) -> Pruned:
    """Delete calls and attempts of runs that ended before then, as many as one transaction may take.

    `before`: milliseconds since the epoch; `after`: the `next` of the last time. Whoever repeats this until
    there is none has pruned all of them.
    """
    tx.take_time(MINUTE_S)
    found, done = Pruned(), []
    for run in _runs(tx, before, after, found):
        run_id, room = run["run_id"], MOST_CALLS - found.calls - found.attempts
        calls = _free(tx, run_id, before, room)
        entries = _delete_calls(tx, run_id, [row["id"] for row in calls])
        attempts = _attempts(tx, run_id, before, room - len(calls))
        entries += _delete_attempts(tx, attempts)
        if calls or attempts:
            _say(tx, run_id, before, len(calls), len(attempts))
            _account(tx, len(calls), entries)
        _count(found, calls, len(attempts))
        if len(calls) + len(attempts) == room:  # There may be more of it.
            found.next = run["id"] - 1
            break
        done.append(run_id)
        _count_stay(tx, found, run_id, before)
        if found.looked_at >= _ENOUGH:
            found.next = run["id"]
            break
    _delete_budgets(tx, done)
    if found.next is None:
        reconciliations.forget(tx, before)
    return found


def _runs(tx: Tx, before: int, after: int, found: Pruned) -> list[Row]:
    """Return runs that are over; there may be more, then `next` of `found` says so."""
    rows = tx.all(
        f"SELECT id, run_id FROM run WHERE id > ?2 AND {_IS_OVER} ORDER BY id LIMIT {MOST_RUNS}",
        before,
        after,
    )
    found.next = rows[-1]["id"] if len(rows) == MOST_RUNS else None
    return rows


def _of_calls(tx: Tx, run_id: str, before: int) -> tuple[str, list[Any]]:
    """Return a query of a run's calls, each with why it stays (null: it need not), and its values."""
    oldest = tx.one(_OLDEST, before)
    values = [
        run_id,
        before,
        2**62 if oldest is None else oldest["entry"],
        json.dumps([row["name"] for row in tx.all(_AT_WORK)]),
        tx.value(_OLDEST_ATTEMPT) or 2**62,
        _sealed(tx),
    ]
    return f"(SELECT call.*, {_STAYS} AS why FROM call WHERE run_id = ?1 ORDER BY rowid) AS call", values


def _sealed(tx: Tx) -> int:
    """Return up to which entry the audit is sealed, as what came later stays; without one, all is free."""
    sealed = sealed_entry(tx)
    return 2**62 if sealed is None else sealed


def _free(tx: Tx, run_id: str, before: int, most: int) -> list[Row]:
    """Return calls of a run that need not stay."""
    query, values = _of_calls(tx, run_id, before)
    columns = "id, settled_micros, corrected_micros, overrun_micros"
    return tx.all(f"SELECT {columns} FROM {query} WHERE why IS NULL LIMIT ?7", *values, most)


def _attempts(tx: Tx, run_id: str, before: int, most: int, gone: Sequence[str] = ()) -> list[str]:
    """Return attempts (and keys) of a run that no call needs but those that are `gone`."""
    rows = tx.all(
        "SELECT id FROM claim WHERE run_id = ?1 AND state <> 'open' AND claimed_at < ?2"
        " AND (ended_at IS NOT NULL OR task_id = '')"  # Its completion may still be said.
        " AND NOT EXISTS (SELECT 1 FROM call WHERE call.claim_id = claim.id"
        " AND call.id NOT IN (SELECT value FROM json_each(?3)))"
        # What a task's last attempt came to is asked for with each of its calls.
        " AND NOT EXISTS (SELECT 1 FROM call WHERE claim.task_id <> '' AND call.task_id = claim.task_id"
        f" AND call.verdict = 'allowed' AND call.epoch = {COMPLETIONS.format('call')}"
        " AND call.id NOT IN (SELECT value FROM json_each(?3)))"
        " AND NOT (claim.payment <> '' AND EXISTS (SELECT 1 FROM call WHERE call.payment = claim.payment"
        " AND call.payment <> '' AND call.verdict = 'allowed'))"
        " AND NOT EXISTS (SELECT 1 FROM journal WHERE journal.run_id = ?1 AND journal.id > ?5"
        " AND kind = 'finish' AND note = claim.id) LIMIT ?4",
        run_id,
        before,
        json.dumps(gone),
        most,
        _sealed(tx),
    )
    return [row["id"] for row in rows]


def _count(found: Pruned, calls: list[Row], attempts: int) -> None:
    found.runs += bool(calls or attempts)
    found.calls += len(calls)
    found.attempts += attempts
    found.spent_micros += sum(cost_so_far(row) for row in calls)


def _count_stay(tx: Tx, found: Pruned, run_id: str, before: int) -> None:
    query, values = _of_calls(tx, run_id, before)
    for row in tx.all(f"SELECT why, count(*) AS n FROM {query} WHERE why IS NOT NULL GROUP BY why", *values):
        found.stay[row["why"]] = found.stay.get(row["why"], 0) + row["n"]


def _delete_calls(tx: Tx, run_id: str, call_ids: list[str]) -> int:
    """Delete calls with all that is kept of them; what they have moved is kept in one entry a budget.

    Returns how many entries were deleted.
    """
    if not call_ids:
        return 0
    ids = json.dumps(call_ids)
    among = "call_id IN (SELECT value FROM json_each(?))"
    moved = tx.all(
        "SELECT call_budget.budget_id, sum(spent_micros) AS spent, sum(reserved_micros) AS reserved,"
        " sum(overrun_micros) AS overrun FROM call_budget JOIN journal ON journal.call_id ="
        " call_budget.call_id AND journal.budget_id IS NULL WHERE call_budget.call_id IN"
        " (SELECT value FROM json_each(?)) GROUP BY call_budget.budget_id",
        ids,
    )
    for row in moved:
        amounts = {name: row[name] for name in ("spent", "reserved", "overrun")}
        journal(tx, JournalEntry("prune", run_id=run_id, budget_id=row["budget_id"], **amounts))
    for table in ("call_budget", "exchange", "call_target", "turn", "vendor_object"):
        tx.run(f"DELETE FROM {table} WHERE {among}", ids)
    entries = _delete_entries(tx, f"request_id IS NULL AND {among}", ids)
    tx.run("DELETE FROM call WHERE id IN (SELECT value FROM json_each(?))", ids)
    return entries


def _delete_entries(tx: Tx, which: str, value: str) -> int:
    """Delete entries of the journal that others stand for; what operators did stays. Returns how many."""
    with tx.deleting_entries():
        return tx.run(f"DELETE FROM journal WHERE {which}", value)


def _account(tx: Tx, calls: int, entries: int) -> None:
    """Keep with the journal's last entry what it has taken out of the books, where that was sealed."""
    if sealed_entry(tx) is not None:
        tx.insert("audit_pruned", entry=last_entry(tx), calls=calls, entries=entries)


def _delete_attempts(tx: Tx, claim_ids: list[str]) -> int:
    """Delete attempts; return how many entries were."""
    if not claim_ids:
        return 0
    ids = json.dumps(claim_ids)
    among = "(SELECT value FROM json_each(?1))"
    entries = _delete_entries(
        tx,
        f"kind = 'finish' AND note IN {among} AND run_id IN (SELECT run_id FROM claim WHERE id IN {among})",
        ids,
    )
    tx.run("DELETE FROM member WHERE claim_id IN (SELECT value FROM json_each(?))", ids)
    for table in ("key_terms", "claim"):
        tx.run(f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))", ids)
    return entries


def _delete_budgets(tx: Tx, run_ids: list[str]) -> None:
    """Delete the budgets of single tasks of these runs of which no call is left."""
    rows = tx.all(
        "SELECT id, subject FROM budget WHERE scope = 'task' AND subject IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM call WHERE call.run_id = subject AND call.task_id = part)"
        " AND NOT EXISTS (SELECT 1 FROM claim WHERE claim.run_id = subject AND claim.task_id = part)",
        json.dumps(run_ids),
    )
    among = "budget_id IN (SELECT CAST(value AS BIGINT) FROM json_each(?))"
    unsealed = {
        row["budget_id"]
        for row in tx.all(
            f"SELECT DISTINCT budget_id FROM journal WHERE {among} AND id > ? AND kind <> 'prune'",
            json.dumps([row["id"] for row in rows]),
            _sealed(tx),
        )
    }
    gone = [row for row in rows if row["id"] not in unsealed]
    if not gone:
        return
    ids = json.dumps([row["id"] for row in gone])
    of_runs = f"SELECT run_id, count(*) AS n FROM journal WHERE {among} AND id <= ? GROUP BY run_id"
    counted_out = tx.all(of_runs, ids, sealed_entry(tx) or 0)
    tx.run("DELETE FROM budget WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each(?))", ids)
    _delete_entries(tx, among, ids)
    own = run_budget(tx, gone[0]["subject"])["id"]
    for row in counted_out:  # With a budget it is no entry of its own for who reads what was done.
        journal(tx, JournalEntry("prune", run_id=row["run_id"], budget_id=own))
        _account(tx, 0, row["n"])


def _say(tx: Tx, run_id: str, before: int, calls: int, attempts: int) -> None:
    """Put on the run, and into the journal, what of it was pruned and when."""
    until = moment(before)
    note = f"{counted(calls, 'call')} and {counted(attempts, 'attempt')} from before {until} were pruned"
    journal(tx, JournalEntry("prune", run_id=run_id, note=note))
    remark = f"its calls from before {until} were pruned on {str(moment(tx.now()))[:10]}"
    tx.run(
        "UPDATE run SET note = CASE note WHEN '' THEN ?1 ELSE note || '; ' || ?1 END"
        " WHERE run_id = ?2 AND instr(note, ?1) = 0",
        remark,
        run_id,
    )


def calls_of(tx: Tx, customer: str) -> list[str]:
    """Return the calls that concerned a customer. All calls are looked at: nobody should wait for that."""
    where, values = queries.wanted(tx, queries.CallFilter(customer=customer))
    return [row["id"] for row in tx.all(f"SELECT call.id FROM call WHERE {where}", *values)]


def forget_calls(tx: Tx, call_ids: Sequence[str]) -> tuple[int, int]:
    """Delete what was sent and answered in calls, as `replay_days` does in time.

    Money and identities stay: a call that is made again is refused. Returns of how many calls, and how many
    are open and keep theirs, so that they can be sent again.
    """
    tx.take_time(MINUTE_S)
    ids = json.dumps(call_ids)
    among = "id IN (SELECT value FROM json_each(?))"
    kept = tx.value(f"SELECT count(*) FROM call WHERE {among} AND state IN ('pending','in_doubt')", ids)
    gone = tx.run(
        f"DELETE FROM exchange WHERE call_id IN (SELECT id FROM call WHERE {among}"
        " AND (state IS NULL OR state IN ('settled','voided')))",
        ids,
    )
    if gone:
        what = f"what was sent and answered in {counted(gone, 'call')} of a customer"
        journal(tx, JournalEntry("forget", note=what))
    return gone, int(kept)


#: Runs of which something was pruned: what their tasks have cost on average cannot be said any more.
PRUNED_RUNS = "SELECT run_id FROM journal WHERE kind = 'prune'"


def check_age(tx: Tx, before: int) -> bool:
    """Return whether what is older than that is old enough to be pruned."""
    return bool(tx.value(f"SELECT ? <= {NOW} - {YOUNGEST_MS}", before))
