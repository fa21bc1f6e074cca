"""Runs: opening, freezing, revoking, topping up, forecasts and approvals; `claims` closes them.

A run that has ended (its root has completed) is not continued by its root's next submission, which opens
another one. What workers announced in it before goes on in it, within its cap: so it is revoked, topped up
and approved like one that has not ended.

Each function is one operation inside a transaction and idempotent by what the caller names.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from luigi_spendguard.counted import counted
from luigi_spendguard.errors import Conflict, KeyRevoked, NotFound
from luigi_spendguard.ledger.budgets import (
    JournalEntry,
    beyond_day,
    check_raise,
    journal,
    key_budgets,
    open_budget,
    raise_cap,
    run_budget,
    set_cap,
    was_made,
)
from luigi_spendguard.ledger.database import NOW, TODAY, Row, Tx, over
from luigi_spendguard.ledger.following import day_budget, keep_budget, keep_budgets
from luigi_spendguard.money import MAX_MICROS, Micros, format_usd
from luigi_spendguard.protocol import GRANT_SECONDS
from luigi_spendguard.protocol.commands import approve_forecast

#: Nothing younger is pruned, in milliseconds: turns at objects, and keys that vendors know, last for a day;
#: another scheduler may go on with a run that has ended.
YOUNGEST_MS = 2 * 86_400_000


@dataclass(frozen=True)
class RunRequest:
    """What a worker knows of a root task when it asks for the run.

    Attributes:
        name: the root's `run_id`, or its task_id when `by_task_id`.
        cap: granted cap in micro-dollars, pinned when the run is opened by this request.
        note: why the cap is what it is, said on the run.
        looked_ms: for how long the worker has looked by now what is complete, in milliseconds.
        tags: what it is counted under in reports.

    """

    name: str
    by_task_id: bool
    root_family: str
    root_task_id: str
    cap: Micros
    asked: Micros | None = None
    note: str = ""
    label: str = ""
    looked_ms: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)


def open_run(tx: Tx, request: RunRequest) -> Row:
    """Return the current run of that name, opened now if there is none or the last one has ended.

    An existing run keeps its cap whatever is asked, and begins earlier if this worker has begun to look
    before it, or says so again of what has arrived late. The row has the budget's totals.
    """
    last = tx.one("SELECT * FROM run WHERE name = ? ORDER BY seq DESC LIMIT 1", request.name)
    if last is None or has_ended(tx, last):
        seq = 1 if last is None else last["seq"] + 1
        run_id = request.name if seq == 1 else f"{request.name}~{seq}"
        if tx.value("SELECT 1 FROM run WHERE run_id = ?", run_id):
            raise Conflict(f"the name {run_id} is taken by a run of another root: choose a run_id")
        tx.run(
            "INSERT INTO run (run_id, name, seq, by_task_id, root_family, root_task_id, label, state,"
            " asked_micros, note, tags, estimated_micros, unknown_tasks, opened_at)"
            f" VALUES (?,?,?,?,?,?,?,'active',?,?,?,0,0,{NOW})",
            run_id,
            request.name,
            seq,
            int(request.by_task_id),
            request.root_family,
            request.root_task_id,
            request.label,
            request.asked,
            request.note,
            json.dumps(dict(request.tags), ensure_ascii=False, sort_keys=True),
        )
        open_budget(tx, "run", run_id, "", request.cap)
        first = tx.value("SELECT min(id) FROM journal WHERE run_id = ?", run_id)
        tx.run("UPDATE run SET begun = ? WHERE run_id = ?", first, run_id)
    else:
        run_id = last["run_id"]
    tx.run(_BEGIN, request.looked_ms, run_id)
    return run_row(tx, run_id)


#: A run (?2) begins behind what was there ?1 ms ago, and never later than it did.
_BEGIN = f"""
    UPDATE run SET begun = coalesce((
        SELECT id + 1 FROM journal WHERE id < run.begun AND at <= {NOW} - ?1 ORDER BY id DESC LIMIT 1
    ), 0) WHERE run_id = ?2 AND ?1 > 0
"""


#: The root of that run (`{0}`) has completed, whether or not it was revoked later.
CLOSED = "EXISTS (SELECT 1 FROM journal WHERE journal.run_id = {0} AND kind = 'close')"


def has_ended(tx: Tx, row: Row) -> bool:
    """Return whether a run's root has completed, revoked since or not: its next submission is another run."""
    closed = f"SELECT 1 WHERE {CLOSED.format('?')}"
    return row["state"] == "ended" or (row["state"] == "revoked" and bool(tx.value(closed, row["run_id"])))


def run_row(tx: Tx, run_id: str) -> Row:
    """Return a run with its budget's totals. Raises NotFound."""
    row = tx.one("SELECT * FROM run WHERE run_id = ?", run_id)
    if row is None:
        raise no_run(run_id)
    budget = run_budget(tx, run_id)
    row["budget_id"] = budget["id"]
    for column in ("cap", "spent", "reserved", "overrun", "shadow", "remaining"):
        row[f"{column}_micros"] = budget[f"{column}_micros"]
    row["approved_micros"] = tx.value(
        "SELECT amount_micros FROM approval WHERE run_id = ? AND task_id = ''", run_id
    )
    return row


def no_run(run_id: str) -> NotFound:
    """Return the error of a run that was never opened here."""
    return NotFound(f"there is no run {run_id}: `spendguard runs` lists them")


#: Something was pruned since run ?1 has ended, of itself or a run that ended after it was opened: by the
#: journal's order, for clocks are set back. What had ended (?2: when) lately kept what it may repeat.
_FORGOTTEN = f"""
    SELECT 1 FROM journal AS gone WHERE kind = 'prune' AND at >= ?2 + {YOUNGEST_MS}
    AND id > (SELECT max(id) FROM journal WHERE run_id = ?1 AND kind = 'close')
    AND (SELECT max(id) FROM journal WHERE run_id = gone.run_id AND kind IN ('close','revoke')) >
        (SELECT begun FROM run WHERE run_id = ?1) LIMIT 1
"""


def check_remembered(tx: Tx, row: Row) -> None:
    """Raise Conflict for a run that has ended, and what it would repeat may have been pruned."""
    if row["state"] == "ended" and tx.value(_FORGOTTEN, row["run_id"], row["ended_at"]):
        raise Conflict(
            f"run {row['run_id']} has ended, and calls were pruned since: whether its tasks have paid is not "
            "known any more. Submit its root again, for a new run"
        )


def freeze(tx: Tx, run_id: str) -> None:
    """Let an active run pay for nothing new: a vendor has billed more than was reserved."""
    tx.run("UPDATE run SET state = 'frozen' WHERE run_id = ? AND state = 'active'", run_id)


def revoked(run_id: str, by_task_id: bool) -> KeyRevoked:
    """Return the error that says a run is revoked and how to start anew."""
    fresh = (
        "set SPENDGUARD_RUN_ID in the worker's environment to start anew"
        if by_task_id
        else "give its root another run_id to start anew"
    )
    return KeyRevoked("revoked", f"run {run_id} is revoked for good; {fresh}", {"run_id": run_id})


def revoke(tx: Tx, run_id: str) -> Row:
    """Revoke a run for good, ended or not; repeating it changes nothing. Returns its row. Raises NotFound.

    Nobody can tell whether a worker still has tasks of one that has ended.
    """
    row = run_row(tx, run_id)
    if row["state"] != "revoked":
        tx.run(f"UPDATE run SET state = 'revoked', ended_at = {NOW} WHERE run_id = ?", run_id)
        tx.run("UPDATE claim SET state = 'revoked' WHERE run_id = ? AND state = 'open'", run_id)
        journal(tx, JournalEntry("revoke", run_id=run_id))
    return run_row(tx, run_id)


#: More entries than a journal gets while a grant may be used.
_LATELY = 20_000
#: Calls that may still be sent. One that is sent again may be ended meanwhile, by what an earlier send of it
#: has come to: whoever was let send it has not heard so.
SENDABLE = (
    "SELECT id FROM call WHERE state = 'pending' UNION"
    " SELECT call_id FROM journal JOIN call ON call.id = journal.call_id"
    f" WHERE journal.id > (SELECT max(id) FROM journal) - {_LATELY} AND kind IN ('settle','doubt')"
    f" AND unknown = 1 AND NOT {over('granted_at', str(int(GRANT_SECONDS * 1000)))}"
)


def pending_calls(tx: Tx, run_id: str) -> int:
    """Return how many calls a run may still send, an earlier run's that it sends again included."""
    return int(
        tx.value(
            "SELECT count(*) FROM call JOIN claim ON claim.id = call.claim_id"
            f" WHERE call.id IN ({SENDABLE}) AND ? IN (call.run_id, claim.run_id)",
            run_id,
        )
    )


def top_up(tx: Tx, run_id: str, amount: Micros, request_id: str) -> Row:
    """Raise a run's cap by `amount`, once for each `request_id`. A frozen run is active again.

    Raises NotFound, Conflict (revoked, too much, or the request id was used otherwise).
    """
    row = run_row(tx, run_id)
    entry = JournalEntry("top_up", run_id=run_id, request_id=request_id, note=str(amount))
    if was_made(tx, entry):
        return row
    _check_open(row)
    budget = run_budget(tx, run_id)
    check_raise(budget, amount)
    own = budget["cap_micros"] - budget["shadow_micros"]
    set_cap(tx, budget, own + amount, entry)
    for key_budget in _budgets_of_keys(tx, run_id):
        own = key_budget["cap_micros"] - key_budget["shadow_micros"]
        set_cap(tx, key_budget, min(MAX_MICROS, own + amount))
    tx.run("UPDATE run SET state = 'active' WHERE run_id = ? AND state = 'frozen'", run_id)
    return run_row(tx, run_id)


def check_can_be_topped_up(tx: Tx, run_id: str) -> None:
    """Raise Conflict for a run that no top-up helps, NotFound for none."""
    _check_open(run_row(tx, run_id))


def _check_open(row: Row) -> None:
    """Raise Conflict for a run that no top-up helps."""
    if row["state"] == "revoked":
        raise Conflict(f"run {row['run_id']} is revoked for good and cannot be topped up")


@dataclass(frozen=True)
class Inside:
    """A budget inside a run that luigi.cfg caps: `scope` family or vendor with its name, or `day`.

    Attributes:
        cap: what luigi.cfg says, in micro-dollars; None: nothing.
        known: the names for which luigi.cfg has one.

    """

    scope: str
    part: str
    cap: Micros | None
    known: tuple[str, ...] = ()


#: Where luigi.cfg caps what is inside a run.
_WHERE = {
    "family": "[spendguard_family_caps] names no {part}",
    "vendor": "[spendguard_{part}] has no run_cap_usd",
    "day": "there is no daily_cap_usd",
}


def check_inside(run_id: str, inside: Inside) -> Micros:
    """Return a budget's cap. Raises Conflict where luigi.cfg says none: there is nothing to be raised."""
    if inside.cap is None:
        why = _WHERE[inside.scope].format(part=inside.part)
        near = difflib.get_close_matches(inside.part, inside.known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise Conflict(f"{why}: run {run_id} has no such budget that a top-up could raise{meant}")
    return inside.cap


def top_up_inside(tx: Tx, run_id: str, inside: Inside, amount: Micros, request_id: str) -> Row:
    """Raise one run's budget of a task family, of a vendor, or beyond the day's cap, by `amount`.

    Once for each `request_id`. Neither the run's cap nor any other run gets more of it; a frozen run stays
    frozen. Raises NotFound, Conflict (revoked, too much, luigi.cfg has no such budget).
    """
    row = run_row(tx, run_id)
    note = f"{amount} {inside.scope} {inside.part}".rstrip()
    entry = JournalEntry("top_up", run_id=run_id, request_id=request_id, note=note)
    if was_made(tx, entry):
        return row
    _check_open(row)
    cap = check_inside(run_id, inside)
    if inside.scope == "day":
        day_budget(tx, cap)
        today = str(tx.value(f"SELECT {TODAY}"))
        beyond = beyond_day(tx, run_id)
        budget_id = (
            open_budget(tx, "beyond_day", run_id, today, Micros(0)) if beyond is None else beyond["id"]
        )
    else:
        budget_id = keep_budget(tx, inside.scope, run_id, inside.part, cap)
    raise_cap(tx, budget_id, amount, entry)
    return run_row(tx, run_id)


def _budgets_of_keys(tx: Tx, run_id: str) -> list[Row]:
    """Return what a top-up of a run raises beside its cap: its own keys' caps, the daily ones for today."""
    keys = tx.all(
        "SELECT key_terms.* FROM key_terms JOIN claim ON claim.id = key_terms.id"
        " WHERE claim.run_id = ? AND claim.state = 'open'",
        run_id,
    )
    today = str(tx.value(f"SELECT {TODAY}"))
    ids = sorted({budget for key in keys for budget in keep_budgets(tx, key_budgets(run_id, key, today))})
    rows = [tx.one("SELECT * FROM budget WHERE id = ?", budget) for budget in ids]
    return [row for row in rows if row is not None]


def set_forecast(tx: Tx, run_id: str, known: Micros, estimated: Micros, unknown: int) -> Row:
    """Remember what the run's vendor tasks may cost: `known`, of it `estimated`; tasks of `unknown` cost.

    The first is kept beside the last, which knows what was spent meanwhile.
    """
    said = (known, estimated, unknown, run_id)
    tx.run(
        "UPDATE run SET first_forecast_micros = ?, first_estimated_micros = ?, first_unknown_tasks = ?"
        " WHERE run_id = ? AND first_forecast_micros IS NULL",
        *said,
    )
    tx.run(
        "UPDATE run SET forecast_micros = ?, estimated_micros = ?, unknown_tasks = ? WHERE run_id = ?", *said
    )
    return run_row(tx, run_id)


def check_known(tx: Tx, run_id: str, task_id: str) -> None:
    """Raise NotFound for a task that the ledger has never met in a run."""
    run_row(tx, run_id)
    if tx.value("SELECT 1 FROM claim WHERE run_id = ? AND task_id = ?", run_id, task_id) is None:
        raise NotFound(
            f"run {run_id} has no task {task_id[:200]}: `spendguard run` lists the tasks that wait for an "
            "approval, and a worker's summary names them; one that luigid does not know has to be submitted "
            "first"
        )


def _forecast(known: Micros, unknown: int) -> str:
    return format_usd(known) + (f" and {counted(unknown, 'task')} of unknown cost" if unknown else "")


@dataclass(frozen=True)
class Approved:
    """What an operator lets pass of a forecast.

    Attributes:
        unknown: how many tasks of unknown cost beside the amount.
        up_to: the amount is a ceiling, not the forecast that was shown.
        parts: what the forecast is made of now, as JSON; "": not known.
        needless: why nothing of it has to be approved; "": it has.

    """

    unknown: int = 0
    up_to: bool = False
    parts: str = ""
    needless: str = ""


_AS_SHOWN = Approved()


def approve(
    tx: Tx, run_id: str, task_id: str, amount: Micros, request_id: str, approved: Approved = _AS_SHOWN
) -> Row:
    """Let a run's forecast pass (no `task_id`), or one task's cost, up to `amount`.

    Once for each `request_id`. Raises NotFound, Conflict (revoked, nothing of it has to be approved,
    the forecast is another one now than the one that was shown, or above the ceiling).
    """
    row, unknown = run_row(tx, run_id), approved.unknown
    note = f"{task_id} {amount}" + (f" {unknown}" if unknown else "") + (" up to" if approved.up_to else "")
    entry = JournalEntry("approve", run_id=run_id, request_id=request_id, note=note)
    if was_made(tx, entry):
        return row
    if row["state"] == "revoked":
        raise Conflict(f"run {run_id} is revoked: there is nothing to approve")
    if not task_id and row["forecast_micros"] is None:
        raise Conflict(f"run {run_id} has no forecast yet: nothing of it was scheduled completely")
    if not task_id:
        _check_forecast(row, amount, approved)
    tx.run(
        "INSERT INTO approval (run_id, task_id, amount_micros, unknown_tasks, forecast)"
        " VALUES (?1,?2,?3,?4,?5)"
        " ON CONFLICT (run_id, task_id) DO UPDATE SET amount_micros = ?3, unknown_tasks = ?4, forecast = ?5",
        run_id,
        task_id,
        amount,
        unknown,
        approved.parts,
    )
    budget = tx.one("SELECT * FROM budget WHERE scope = 'task' AND subject = ? AND part = ?", run_id, task_id)
    if task_id and budget is not None and amount > budget["cap_micros"] - budget["shadow_micros"]:
        set_cap(tx, budget, amount)
        tx.run(
            "UPDATE claim SET max_cost_micros = ? WHERE run_id = ? AND task_id = ? AND state = 'open'",
            amount,
            run_id,
            task_id,
        )
    journal(tx, entry)
    return run_row(tx, run_id)


def _check_forecast(row: Row, amount: Micros, approved: Approved) -> None:
    """Raise Conflict where an approval is not for the forecast as it is now."""
    known, unknown, run_id = row["forecast_micros"], row["unknown_tasks"], row["run_id"]
    now, then = _forecast(known, unknown), _forecast(amount, approved.unknown)
    if approved.up_to and (known > amount or unknown > approved.unknown):
        raise Conflict(
            f"the forecast of run {run_id} is {now}, more than {then}: that would let nothing pass; "
            f"{approve_forecast(run_id, max(known, amount), max(unknown, approved.unknown))} lets it pass"
        )
    if not approved.up_to and (known, unknown) != (amount, approved.unknown):
        raise Conflict(
            f"the forecast of run {run_id} is {now} now, not {then}: look at it again, then approve that"
        )
    if approved.needless:
        raise Conflict(approved.needless)
