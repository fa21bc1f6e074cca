"""What a dispatch gate is told: figures of runs and budgets, all at the start and then what has changed.

With them goes which tasks have paid since they last completed: those are dispatched even at the cap, to be
replayed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from luigi_spendguard.ledger.batches import AS_MEMBERS, COMPLETIONS, NOT_COMPLETED, TASKS
from luigi_spendguard.ledger.budgets import REMAINING, WITH_REMAINING, last_entry, run_budget
from luigi_spendguard.ledger.database import MINUTE_S, NOT_DECLINED, TODAY, Row, Tx
from luigi_spendguard.ledger.database.late import LateChanges
from luigi_spendguard.ledger.following import follow
from luigi_spendguard.ledger.pruning import PRUNED_RUNS
from luigi_spendguard.ledger.runs import CLOSED
from luigi_spendguard.protocol.commands import CENT, rounded
from luigi_spendguard.settings.policy import Caps

#: Earlier runs whose tasks are averaged for a forecast.
RECENT_RUNS = 50


@dataclass(frozen=True)
class Figures:
    """One run as the gate sees it.

    Attributes:
        run: its row; one without a name only has the state.
        budgets: the budgets that may have changed (rows).
        seen: the journal's last entry when this was read: what was read earlier has a lower one.
        approvals: what tasks of it may cost by an operator's word; None: not read.

    """

    run: Row
    budgets: list[Row]
    seen: int = 0
    approvals: Mapping[str, int] | None = None


#: What a run has come to: what is in doubt (or under way) may have been spent.
CAME_TO = "spent_micros + overrun_micros + reserved_micros"
#: A run's columns for the gate, `last_micros` excepted.
COLUMNS = (
    "run.run_id, run.name, run.state, run.root_family, run.root_task_id, run.by_task_id,"
    " run.forecast_micros, run.estimated_micros, run.unknown_tasks,"
    " (SELECT amount_micros FROM approval WHERE approval.run_id = run.run_id AND task_id = '')"
    " AS approved_micros,"
    " (SELECT unknown_tasks FROM approval WHERE approval.run_id = run.run_id AND task_id = '')"
    " AS approved_unknown,"
    " (SELECT forecast FROM approval WHERE approval.run_id = run.run_id AND task_id = '')"
    " AS approved_forecast,"
    # Of one that is revoked: whether it had ended before.
    f" CASE WHEN run.state = 'revoked' AND {CLOSED.format('run.run_id')} THEN 1 ELSE 0 END AS was_closed"
)
#: With what the last run of the same root family came to that has spent something and was not revoked.
RUN = (
    f"SELECT {COLUMNS}, (SELECT {CAME_TO} FROM run earlier"
    " JOIN budget ON budget.scope = 'run' AND budget.subject = earlier.run_id AND budget.part = ''"
    " WHERE earlier.root_family = run.root_family AND earlier.id < run.id AND earlier.state <> 'revoked'"
    f" AND {CAME_TO} > 0 ORDER BY earlier.id DESC LIMIT 1) AS last_micros FROM run"
)


#: The budgets of a run that the gate decides by, its tasks' own excepted.
OF_GATE = f"(scope IN ('run','family','vendor') OR (scope = 'beyond_day' AND part = {TODAY}))"


def of_run(tx: Tx, run_id: str) -> Figures:
    """Return a run with all its budgets but its tasks' own. Raises NotFound."""
    row = tx.one(f"{RUN} WHERE run.run_id = ?", run_id)
    assert row is not None, "the caller has found the run"
    budgets = tx.all(f"{WITH_REMAINING} WHERE subject = ? AND {OF_GATE}", run_id)
    approved = tx.all("SELECT * FROM approval WHERE run_id = ? AND task_id <> ''", run_id)
    approvals = {row["task_id"]: row["amount_micros"] for row in approved}
    return Figures(row, budgets, last_entry(tx), approvals)


def of_known(tx: Tx, run_id: str) -> Figures | None:
    """Return a run as `of_run` does; None: there is none of that id."""
    return of_run(tx, run_id) if tx.value("SELECT 1 FROM run WHERE run_id = ?", run_id) else None


def of_call(tx: Tx, run_id: str, call_id: str) -> Figures:
    """Return a run's state, and the budgets that a call's reservation is made in."""
    rows = tx.all(_OF_CALL, call_id, run_id)
    assert rows, "a call has a run"
    run = {"run_id": run_id, "state": rows[0]["run_state"]}
    budgets = rows if rows[0]["id"] is not None else [run_budget(tx, run_id)]
    if tx.late is not None:
        budgets = [_as_it_ends(tx.late, row) for row in budgets]
    return Figures(run, budgets, rows[0]["seen"] or 0)


def _as_it_ends(late: LateChanges, row: Row) -> Row:
    """Return a budget as it is when the transaction has ended."""
    changes = late.of(row["id"])
    names = ("spent_micros", "reserved_micros", "overrun_micros")
    changed = {name: row[name] + change for name, change in zip(names, changes, strict=True)}
    left = row["cap_micros"] - row["shadow_micros"] - sum(changed.values())
    return {**row, **changed, "remaining_micros": max(0, left)}


#: The budgets of call ?1, with what is asked of its run ?2, and the journal's last entry; without any, those.
_OF_CALL = (
    "SELECT run.state AS run_state, (SELECT max(id) FROM journal) AS seen, budget.*,"
    f" {REMAINING} AS remaining_micros FROM run LEFT JOIN call_budget ON call_budget.call_id = ?1"
    " LEFT JOIN budget ON budget.id = call_budget.budget_id WHERE run.run_id = ?2"
)


def task_left(tx: Tx, run_id: str, task_id: str) -> tuple[int, int] | None:
    """Return what a task's own budget has left, and its cap, in micro-dollars; None where it has none."""
    row = tx.one(
        f"SELECT {REMAINING} AS left_micros, cap_micros - shadow_micros AS cap FROM budget"
        " WHERE scope = 'task' AND subject = ? AND part = ?",
        run_id,
        task_id,
    )
    return None if row is None else (int(row["left_micros"]), int(row["cap"]))


#: `elsewhere`: attempts that paid nothing, for another run's or another task's payment answered them, with
#: the attempts that had paid (null: it was pruned, or its run is an older one). `counted`: the attempts that
#: have completed; in place of one of `elsewhere` the one that had paid. `unfinished`: whose calls (all of a
#: task's in a run) have paid for none of those, nor for what one of those repeats beside what it paid itself.
_COUNTED = f"""
    WITH recent AS MATERIALIZED (SELECT run_id FROM run WHERE run_id NOT IN ({PRUNED_RUNS})
                                 ORDER BY id DESC LIMIT {RECENT_RUNS}),
    elsewhere AS MATERIALIZED (
        SELECT DISTINCT again.claim_id, source.claim_id AS payer FROM call AS again
        LEFT JOIN call AS source ON source.id = again.replay_of
             AND source.run_id IN (SELECT run_id FROM recent)
        WHERE again.run_id IN (SELECT run_id FROM recent) AND again.verdict = 'replayed'
          AND again.asked_micros > 0
          AND (source.id IS NULL OR source.run_id <> again.run_id OR source.task_id <> again.task_id)
          AND NOT EXISTS (SELECT 1 FROM call WHERE call.claim_id = again.claim_id AND asked_micros > 0
                          AND state IN ('pending','settled','in_doubt') AND {NOT_DECLINED})),
    counted AS (
        SELECT family, run_id, task_id, members FROM claim
        WHERE outcome = 'completed' AND run_id IN (SELECT run_id FROM recent)
          AND id NOT IN (SELECT claim_id FROM elsewhere)
        UNION ALL SELECT payer.family, payer.run_id, payer.task_id, payer.members FROM elsewhere
        CROSS JOIN claim AS again ON again.id = elsewhere.claim_id AND again.outcome = 'completed'
        CROSS JOIN claim AS payer ON payer.id = elsewhere.payer),
    unfinished AS MATERIALIZED (
        SELECT run_id, task_id FROM claim WHERE coalesce(outcome, '') <> 'completed'
          AND run_id IN (SELECT run_id FROM recent)
          AND NOT EXISTS (SELECT 1 FROM claim AS done WHERE done.task_id = claim.task_id
                          AND done.run_id = claim.run_id AND done.outcome = 'completed')
        EXCEPT SELECT source.run_id, source.task_id FROM call AS again
        CROSS JOIN call AS source ON source.id = again.replay_of
          AND (source.run_id <> again.run_id OR source.task_id <> again.task_id)
        CROSS JOIN claim ON claim.id = again.claim_id AND claim.outcome = 'completed'
        WHERE again.run_id IN (SELECT run_id FROM recent) AND again.verdict = 'replayed'
          AND again.asked_micros > 0)
"""


def averages(tx: Tx) -> dict[str, int]:
    """Return what a completed task of each family has cost on average, in micro-dollars (whole cents).

    Over the newest runs of which nothing was pruned; a batch counts as many tasks as it had members. A task
    counts once in a run, however often it was attempted or has completed there, for its calls are charged
    once; where all that it asked to pay was paid before, by another run or task, that payment counts, once.
    What a task has paid of which nobody has said that it completed is no cost, as it is no task: its worker
    was killed, or its next attempt is still to come.
    """
    rows = tx.all(
        f"{_COUNTED} SELECT done.family, total, number FROM (SELECT family,"
        " count(DISTINCT run_id || ' ' || coalesce(each.value, task_id)) AS number"
        " FROM counted LEFT JOIN json_each(members) AS each ON 1 = 1 GROUP BY family) done"
        " JOIN (SELECT family, sum(settled_micros + corrected_micros + overrun_micros) AS total FROM call"
        " WHERE run_id IN (SELECT run_id FROM recent) AND (run_id, task_id) NOT IN"
        " (SELECT run_id, task_id FROM unfinished) GROUP BY family) spent"
        " ON spent.family = done.family"
    )
    return {row["family"]: _guess(-(-row["total"] // row["number"])) for row in rows}


def _guess(average: int) -> int:
    """Return an average as a guess, rounded up to whole cents unless it is less than one."""
    return rounded(average) if average >= CENT else average


def vendors_called(tx: Tx) -> dict[str, tuple[str, ...]]:
    """Return which vendors tasks of each family have asked to pay, in the newest runs."""
    rows = tx.all(
        "SELECT DISTINCT family, vendor FROM call WHERE asked_micros > 0 AND run_id IN"
        f" (SELECT run_id FROM run ORDER BY id DESC LIMIT {RECENT_RUNS}) ORDER BY family, vendor"
    )
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        found[row["family"]] = (*found.get(row["family"], ()), row["vendor"])
    return found


def have_paid(tx: Tx, call_ids: Sequence[str] | None = None) -> list[str]:
    """Return the tasks, and the members of batches, that have paid and not completed since.

    A call has paid when it costs something and is under way, settled or in doubt. `call_ids`: look at these
    calls only.
    """
    rows = tx.all(
        "WITH paying AS (SELECT task_id, claim_id, epoch FROM call WHERE (CAST(?1 AS TEXT) IS NULL OR id IN"
        " (SELECT value FROM json_each(?1))) AND verdict = 'allowed'"
        f" AND asked_micros > 0 AND state IN ('pending','settled','in_doubt') AND {NOT_DECLINED})"
        f" SELECT task_id FROM paying WHERE task_id <> '' AND epoch = {COMPLETIONS.format('paying')}"
        " UNION SELECT member.task_id FROM paying JOIN claim ON claim.id = paying.claim_id"
        f" JOIN {TASKS} ON 1 = 1 JOIN {AS_MEMBERS} AND member.epoch = {COMPLETIONS.format('member')}"
        " WHERE claim.members <> '[]' OR claim.task_id <> paying.task_id",
        None if call_ids is None else json.dumps(list(call_ids)),
    )
    return [row["task_id"] for row in rows]


@dataclass(frozen=True)
class Changes:
    """What has changed after one entry of the journal, up to entry `seen`.

    Attributes:
        runs: the runs concerned, each with those of its budgets (its tasks' own too) that have changed.
        day: today's budget of all runs, changed or not.
        paid: tasks that have paid, a batch's members too.
        ended: the attempts that have ended, or of which it is known now that they have completed.
        claims: of each task that has not completed since, the latest claim, oldest first; where its end was
            not heard the task may be running. Of what has changed: whose calls, or whose end, it is about.
        batches: batches that have been attempted and must come back with the same members, newest last.

    """

    seen: int
    runs: list[Figures] = field(default_factory=list)
    day: Row | None = None
    paid: list[str] = field(default_factory=list)
    ended: list[Row] = field(default_factory=list)
    claims: list[Row] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Start(Changes):
    """What a gate that knows nothing starts from.

    Attributes:
        complete: of each run that goes on the tasks that have completed in it.

    """

    complete: dict[str, list[str]] = field(default_factory=dict)


_FRESH = "WITH fresh AS (SELECT id, kind, run_id, call_id, budget_id, note FROM journal WHERE id > ?)"


def changes(tx: Tx, since: int) -> Changes:
    """Return what has changed after the journal's entry `since`."""
    # First: what is written meanwhile is looked at again the next time.
    settled, last = tx.settled(last_entry), last_entry(tx)
    # Else what is there by now is told, and looked at again with what may still come before it.
    seen = since if settled is None else max(since, settled)
    if last <= since:
        return Changes(seen, day=today(tx))
    budgets = tx.all(
        f"{_FRESH} {WITH_REMAINING} WHERE scope <> 'day' AND id IN"
        " (SELECT budget_id FROM fresh UNION SELECT call_budget.budget_id FROM fresh"
        " JOIN call_budget ON call_budget.call_id = fresh.call_id WHERE fresh.budget_id IS NULL"
        # Who has forgotten a run that had ended, and hears that it was revoked, counts what it has spent.
        " UNION SELECT own.id FROM fresh JOIN budget own ON scope = 'run' AND subject = fresh.run_id)",
        since,
    )
    named = [row["run_id"] for row in tx.all(f"{_FRESH} SELECT DISTINCT run_id FROM fresh", since)]
    concerned = json.dumps(sorted({*named, *(row["subject"] for row in budgets)}))
    rows = tx.all(f"{RUN} WHERE run.run_id IN (SELECT value FROM json_each(?)) ORDER BY run.id", concerned)
    approvals = tx.all(
        "SELECT * FROM approval WHERE task_id <> '' AND run_id IN (SELECT value FROM json_each(?))", concerned
    )
    ended = tx.all(
        f"{_FRESH} SELECT claim.rowid AS seq, claim.id, claim.run_id, task_id, members, outcome FROM fresh"
        " JOIN claim ON claim.id = note WHERE kind = 'finish' ORDER BY fresh.id",
        since,
    )
    # Behind those: what has paid after it had completed has paid.
    reserved = tx.all(f"{_FRESH} SELECT call_id FROM fresh WHERE kind IN ('reserve','take')", since)
    return Changes(
        seen,
        _together(rows, budgets, approvals, last if settled is None else seen),
        today(tx),
        have_paid(tx, [row["call_id"] for row in reserved]),
        ended,
        tx.all(_CLAIMS_CONCERNED, since),
        _members(tx.all(_BATCHES_CONCERNED, since)),
    )


#: The latest claims of tasks that have not completed since; which claims are looked at may follow.
_CLAIMS = (
    # Without a budget of its own a task has no such amount: a server's greatest() would say 0.
    "SELECT claim.rowid AS seq, claim.*,"
    f" CASE WHEN budget.id IS NOT NULL THEN {REMAINING} END AS left_micros,"
    " budget.cap_micros - budget.shadow_micros AS of_micros,"
    " (SELECT task_id FROM call WHERE id = claim.held_part AND claim.held_scope = 'duplicate'"
    f" AND {NOT_COMPLETED}) AS beside_task"
    " FROM claim"
    " JOIN run ON run.run_id = claim.run_id AND run.state <> 'ended'"
    " LEFT JOIN budget ON budget.scope = 'task' AND budget.subject = claim.run_id"
    " AND budget.part = claim.task_id"
    " WHERE claim.task_id <> '' AND claim.rowid IN (SELECT max(rowid) FROM claim {} GROUP BY task_id)"
    " AND (claim.ended_at IS NULL OR (coalesce(claim.outcome, '') <> 'completed' AND NOT EXISTS"
    " (SELECT 1 FROM member JOIN claim batch ON batch.id = member.claim_id WHERE"
    " member.task_id = claim.task_id AND batch.rowid > claim.rowid AND batch.outcome = 'completed')))"
    " ORDER BY claim.rowid"
)
_CONCERNED = (
    "(SELECT call.claim_id FROM fresh JOIN call ON call.id = fresh.call_id"
    " UNION SELECT note FROM fresh WHERE kind = 'finish')"
)
_CLAIMS_CONCERNED = f"{_FRESH} " + _CLAIMS.format(
    f"WHERE task_id IN (SELECT task_id FROM claim WHERE id IN {_CONCERNED})"
)
#: The members of batches that have paid and of which none has completed since; which claims may follow.
_BATCHES = (
    "SELECT members FROM claim WHERE members <> '[]' {} AND EXISTS (SELECT 1 FROM call WHERE"
    f" call.claim_id = claim.id AND call.state IN ('pending','settled','in_doubt') AND {NOT_DECLINED}"
    " AND asked_micros > 0)"
    " AND NOT EXISTS (SELECT 1 FROM member JOIN task ON task.task_id = member.task_id"
    " WHERE member.claim_id = claim.id AND task.completions > member.epoch) ORDER BY claimed_at"
)
_BATCHES_CONCERNED = f"{_FRESH} " + _BATCHES.format(f"AND id IN {_CONCERNED}")


def _members(batches: list[Row]) -> list[list[str]]:
    return [json.loads(row["members"]) for row in batches]


def start(tx: Tx, caps: Caps, known: Collection[str] = ()) -> Start:
    """Bring budgets to the configured caps, and return all that the gate counts from.

    `known`: the runs that the gate knows tasks of already, ended or not.
    """
    tx.take_time(MINUTE_S)
    follow(tx, caps)
    return Start(
        last_entry(tx),
        _all_runs(tx, json.dumps(sorted(known))),
        today(tx),
        have_paid(tx),
        [],
        tx.all(_CLAIMS.format("")),
        _members(tx.all(_BATCHES.format(""))),
        _complete(tx, json.dumps(sorted(known))),
    )


def _complete(tx: Tx, known: str) -> dict[str, list[str]]:
    """Return the tasks, and batches with their members, that have completed in runs that go on, by run."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for row in tx.all(
        "SELECT claim.run_id, task_id, members FROM claim JOIN run ON run.run_id = claim.run_id"
        " AND (run.state <> 'ended' OR run.run_id IN (SELECT value FROM json_each(?)))"
        " WHERE outcome = 'completed' AND task_id <> ''",
        known,
    ):
        found[row["run_id"]].append(row["task_id"])
        if row["members"] != "[]":
            found[row["run_id"]] += json.loads(row["members"])
    return found


def _all_runs(tx: Tx, known: str) -> list[Figures]:
    """Return the runs whose roots have not completed, and those `known`, with their budgets but their tasks'
    own.
    """
    over = f"(run.state = 'ended' OR run.state = 'revoked' AND {CLOSED.format('run.run_id')})"
    which = f"(NOT {over} OR run.run_id IN (SELECT value FROM json_each(?)))"
    rows = tx.all(f"SELECT {COLUMNS} FROM run WHERE {which} ORDER BY id", known)
    last = _precedents(tx)
    for row in rows:
        row["last_micros"] = last[row["run_id"]]
    budgets = tx.all(
        f"SELECT budget.*, {REMAINING} AS remaining_micros FROM budget JOIN run ON run.run_id = subject"
        f" WHERE {which} AND {OF_GATE}",
        known,
    )
    approvals = tx.all("SELECT * FROM approval WHERE task_id <> ''")
    return _together(rows, budgets, approvals, last_entry(tx))


def _precedents(tx: Tx) -> dict[str, int | None]:
    """Return what the last run of the same root family came to, for each run, as `RUN` does for one.

    In one pass: asked for run by run, 5,000 runs that have spent nothing are gone through 5,000 times.
    """
    came_to: dict[str, int] = {}
    last: dict[str, int | None] = {}
    for row in tx.all(
        f"SELECT run.run_id, root_family, state, {CAME_TO} AS came_to FROM run JOIN budget"
        " ON budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = '' ORDER BY run.id"
    ):
        last[row["run_id"]] = came_to.get(row["root_family"])
        if row["came_to"] and row["state"] != "revoked":
            came_to[row["root_family"]] = row["came_to"]
    return last


def _together(rows: list[Row], budgets: list[Row], approvals: list[Row], seen: int) -> list[Figures]:
    """Return figures of runs, each with its budgets and its tasks' approvals."""
    budgets_of: defaultdict[str, list[Row]] = defaultdict(list)
    for budget in budgets:
        budgets_of[budget["subject"]].append(budget)
    approvals_of: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in approvals:
        approvals_of[row["run_id"]][row["task_id"]] = row["amount_micros"]
    return [Figures(row, budgets_of[row["run_id"]], seen, dict(approvals_of[row["run_id"]])) for row in rows]


def today(tx: Tx) -> Row | None:
    """Return today's budget of all runs, None where nothing was taken from it yet."""
    return tx.one(f"{WITH_REMAINING} WHERE scope = 'day' AND part = {TODAY}")
