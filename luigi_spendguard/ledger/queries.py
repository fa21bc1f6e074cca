"""What pages and the command line read of the books: one run, calls, what does not add up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.ledger import corrections, objects
from luigi_spendguard.ledger.budgets import REMAINING, WITH_REMAINING, beyond_day
from luigi_spendguard.ledger.claims import payment_keys_in
from luigi_spendguard.ledger.database import TODAY, Row, Tx
from luigi_spendguard.ledger.following import other_day_cap
from luigi_spendguard.ledger.runs import CLOSED, no_run
from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.protocol import DUPLICATE
from luigi_spendguard.settings.policy import Caps
from luigi_spendguard.vendors.model import Flows

#: The worst that the ledger knows of a run: one word for lists, pages and filters.
STATUS = (
    "CASE WHEN run.state IN ('revoked','frozen') THEN run.state"
    " WHEN EXISTS (SELECT 1 FROM call WHERE call.run_id = run.run_id AND call.state = 'in_doubt')"
    " THEN 'in_doubt' WHEN run.state = 'ended' THEN 'ended'"
    " WHEN (SELECT max(rowid) FROM call WHERE call.run_id = run.run_id AND verdict = 'denied')"
    " = (SELECT max(rowid) FROM call WHERE call.run_id = run.run_id)"
    # What an operator has done since lets it pass. Behind the last call little is entered but that.
    " AND NOT EXISTS (SELECT 1 FROM (SELECT kind, at FROM journal WHERE journal.run_id = run.run_id"
    " ORDER BY id DESC LIMIT 200) AS later, (SELECT created_at, reason FROM call"
    " WHERE call.run_id = run.run_id ORDER BY rowid DESC LIMIT 1) AS last WHERE later.at >= last.created_at"
    f" AND later.kind IN ('top_up','approve') AND last.reason IN ('cap','{DUPLICATE}'))"
    " THEN 'denied' ELSE run.state END"
)
#: Runs with what the API shows of them; a condition may follow.
RUNS = (
    f"SELECT run.*, {STATUS} AS status, cap_micros, spent_micros, reserved_micros, overrun_micros,"
    " shadow_micros,"
    " (SELECT amount_micros FROM approval WHERE approval.run_id = run.run_id AND task_id = '')"
    " AS approved_micros,"
    " (SELECT count(*) FROM call WHERE call.run_id = run.run_id AND call.verdict = 'allowed'"
    " AND call.reason = 'cap') AS shadow_calls,"
    f" {REMAINING} AS remaining_micros,"
    " (SELECT count(*) FROM call WHERE call.run_id = run.run_id AND call.verdict = 'denied')"
    " AS denied_calls,"
    " (SELECT count(*) FROM call WHERE call.run_id = run.run_id AND state = 'in_doubt')"
    " AS in_doubt_calls,"
    " (SELECT coalesce(sum(reserved_micros), 0) FROM call WHERE call.run_id = run.run_id"
    " AND state = 'in_doubt') AS in_doubt_micros,"
    # From vendor to vendor through the index, not over all calls of the run.
    " (WITH RECURSIVE seen (name) AS (SELECT min(vendor) FROM call WHERE call.run_id = run.run_id"
    " AND vendor > ''"  # Of a call that the ledger knows by its end alone, it may be unknown.
    " UNION ALL SELECT (SELECT min(vendor) FROM call WHERE call.run_id = run.run_id AND vendor > seen.name)"
    " FROM seen WHERE seen.name IS NOT NULL) SELECT json_group_array(name) FROM seen"
    " WHERE name IS NOT NULL) AS vendors"
    " FROM run JOIN budget ON budget.scope = 'run' AND budget.subject = run.run_id"
)


#: Calls in doubt that are named with their run.
DOUBTS = 5
_NO_CAPS, _NO_FLOWS = Caps(), Flows()


def has_run(tx: Tx, run_id: str) -> bool:
    """Return True for a run that was opened here. Raises NotFound."""
    check_run(tx, run_id)
    return True


def run(tx: Tx, run_id: str, inside: Caps = _NO_CAPS, flows: Flows = _NO_FLOWS) -> dict[str, Any]:
    """Return one run as the API shows it. Raises NotFound.

    With the budgets inside it that have been taken from, and those of `inside` that have not been yet; and
    what of its spent amount is inflow and outflow.
    """
    row = tx.one(f"{RUNS} WHERE run.run_id = ?", run_id)
    if row is None:
        raise no_run(run_id)
    shown = show_run(row)
    shown |= {f"{name}_usd": plain_usd(micros) for name, micros in _moved(tx, run_id, flows).items()}
    shown["budgets"] = [_show_budget(budget) for budget in sub_budgets(tx, run_id, inside)]
    shown["in_doubt"] = [
        {"id": call["id"], "usd": call["reserved_usd"], "object_id": call["object_id"]}
        for call in (
            calls(tx, CallFilter(run_id=run_id, state="in_doubt", limit=DOUBTS))
            if shown["in_doubt_calls"]
            else ()
        )
    ]
    shown["shared_tasks"] = _shared_tasks(tx, run_id)
    shown["root_completed"] = bool(tx.value(f"SELECT 1 WHERE {CLOSED.format('?')}", run_id))
    # Of a root that has completed, and was submitted again.
    shown["later_run_id"] = tx.value(
        "SELECT later.run_id FROM run JOIN run AS later ON later.name = run.name AND later.seq > run.seq"
        " WHERE run.run_id = ? ORDER BY later.seq DESC LIMIT 1",
        run_id,
    )
    approved = tx.all(
        "SELECT task_id, amount_micros, NULL AS call_id FROM approval WHERE run_id = ?1 UNION ALL"
        " SELECT task_id, amount_micros, call_id FROM duplicate_approval WHERE run_id = ?1 ORDER BY 1, 3",
        run_id,
    )
    shown["approvals"] = [
        {
            "task_id": row["task_id"] or None,
            "usd": plain_usd(row["amount_micros"]),
            "duplicate_of": row["call_id"],
        }
        for row in approved
    ]
    return shown


def _moved(tx: Tx, run_id: str, flows: Flows) -> dict[str, int]:
    """Return what a run's calls have spent on operations whose money has a counterparty of its own."""
    by_name = {one: name for name in ("inflow", "outflow") for one in getattr(flows, name)}
    moved = {"inflow": 0, "outflow": 0}
    for row in tx.all(
        "SELECT call.vendor || ' ' || call.operation AS one, sum(settled_micros + corrected_micros) AS micros"
        " FROM call WHERE run_id = ?1 AND (call.vendor || ' ' || call.operation) IN"
        " (SELECT value FROM json_each(?2)) GROUP BY 1",
        run_id,
        json.dumps(list(by_name)),
    ):
        moved[by_name[row["one"]]] += row["micros"]
    return moved


def check_run(tx: Tx, run_id: str) -> None:
    """Raise NotFound for a run that was never opened here."""
    if not tx.value("SELECT 1 FROM run WHERE run_id = ?", run_id):
        raise no_run(run_id)


#: What becomes of a budget's money.
_USED = ("spent", "reserved", "overrun")


def day(tx: Tx, cap: Micros | None) -> dict[str, Any]:
    """Return what all runs have spent today (UTC) beside `daily_cap_usd`; amounts are null without one.

    What single runs spend beyond that cap, by a top-up, is spent as well; what remains is of the cap: of a
    smaller one, where another process of this ledger has that.
    """
    today = str(tx.value(f"SELECT {TODAY}"))
    row = tx.one(f"{WITH_REMAINING} WHERE scope = 'day' AND part = ?", today) or {}
    beyond = tx.one(
        f"SELECT {', '.join(f'coalesce(sum({name}_micros), 0) AS {name}' for name in _USED)} FROM budget"
        " WHERE scope = 'beyond_day' AND part = ?",
        today,
    )
    assert beyond is not None, "a sum is always there"
    amounts = {name: row.get(f"{name}_micros", 0) + beyond[name] for name in _USED}
    amounts["remaining"] = row.get("remaining_micros", cap or 0)
    amounts |= {f"beyond_{name}": beyond[name] for name in ("spent", "reserved")}
    shown = {f"{name}_usd": None if cap is None else plain_usd(one) for name, one in amounts.items()}
    if cap is not None and row and (other := other_day_cap(row, cap)) is not None:
        cap = min(cap, other)
    return {"day": today, "cap_usd": _usd(cap), **shown}


def sub_budgets(tx: Tx, run_id: str, inside: Caps = _NO_CAPS) -> list[Row]:
    """Return the budgets inside a run, tasks' own ones excepted: those of `inside` before they are used, too.

    The day's is that of all runs; what the run may spend beyond it today is its own.
    """
    rows = tx.all(f"{WITH_REMAINING} WHERE subject = ? AND scope IN ('family','vendor')", run_id)
    if inside.day is not None:
        day = str(tx.value(f"SELECT {TODAY}"))
        today = tx.one(f"{WITH_REMAINING} WHERE scope = 'day' AND part = ?", day)
        beyond = beyond_day(tx, run_id)
        rows += [one for one in (today or _unused("day", day, inside.day), beyond) if one is not None]
    known = {(row["scope"], row["part"]) for row in rows}
    named = [("family", part, cap) for part, cap in inside.task_families.items()]
    named += [("vendor", part, cap) for part, cap in inside.vendors.items()]
    rows += [_unused(*one) for one in named if one[:2] not in known]
    order = ("family", "vendor", "day", "beyond_day")
    return sorted(rows, key=lambda row: (order.index(row["scope"]), row["part"]))


def _unused(scope: str, part: str, cap: int) -> Row:
    """Return the row that a budget will have when it is first taken from."""
    nothing = dict.fromkeys(
        ("spent_micros", "reserved_micros", "overrun_micros", "shadow_micros", "raised_micros"), 0
    )
    return {"scope": scope, "part": part, "cap_micros": cap, "remaining_micros": cap, **nothing}


def in_doubt(tx: Tx, run_ids: list[str]) -> list[Row]:
    """Return the runs among these of which calls are in doubt: how many, and what they may have cost."""
    return tx.all(
        "SELECT run_id, count(*) AS calls, sum(reserved_micros) AS micros FROM call WHERE state = 'in_doubt'"
        " AND run_id IN (SELECT value FROM json_each(?)) GROUP BY run_id ORDER BY run_id",
        json.dumps(run_ids),
    )


def lent(tx: Tx, run_ids: list[str]) -> list[Row]:
    """Return the budgets in which shadow mode has lent something to one of these runs, by `run_id`."""
    columns = "scope, part, cap_micros, cap_micros - shadow_micros AS own_micros"
    return tx.all(
        f"SELECT subject AS run_id, {columns} FROM budget WHERE shadow_micros > 0 AND subject IN"
        f" (SELECT value FROM json_each(?1)) UNION SELECT call.run_id, {columns} FROM call"
        " JOIN call_budget ON call_budget.call_id = call.id JOIN budget ON budget.id = budget_id"
        " WHERE budget.scope = 'day' AND shadow_micros > 0 AND call.verdict = 'allowed'"
        " AND call.reason = 'cap' AND call.run_id IN (SELECT value FROM json_each(?1))"
        " ORDER BY run_id, scope, part",
        json.dumps(run_ids),
    )


def _show_budget(row: Row) -> dict[str, Any]:
    own = {**row, "cap_micros": row["cap_micros"] - row["shadow_micros"]}
    amounts = ("cap", "spent", "reserved", "overrun", "remaining", "raised")
    return {"scope": row["scope"], "part": row["part"]} | {
        f"{name}_usd": plain_usd(own[f"{name}_micros"]) for name in amounts
    }


def _shared_tasks(tx: Tx, run_id: str) -> list[dict[str, Any]]:
    """Return the tasks that belong to other runs too, and which run each was dispatched for."""
    rows = tx.all(
        "SELECT task_id, run_id, also FROM claim WHERE also <> '[]' AND (run_id = ?1 OR EXISTS"
        " (SELECT 1 FROM json_each(claim.also) WHERE value = ?1)) ORDER BY claimed_at",
        run_id,
    )
    shared = {
        row["task_id"]: {
            "task_id": row["task_id"],
            "paid_by": row["run_id"],
            "runs": sorted({row["run_id"], *json.loads(row["also"])}),
        }
        for row in rows
    }
    return list(shared.values())


def show_run(row: Row) -> dict[str, Any]:
    """Return a run row for people and scripts: amounts as decimal strings."""
    shown = {name: row[name] for name in ("run_id", "root_family", "root_task_id", "label", "state")}
    # What shadow mode has lent beyond the cap is no cap; with it, the cap would have sufficed.
    shown["cap_usd"] = plain_usd(row["cap_micros"] - row["shadow_micros"])
    for name in ("spent", "reserved", "overrun", "remaining", "in_doubt"):
        if f"{name}_micros" in row:
            shown[f"{name}_usd"] = plain_usd(row[f"{name}_micros"])
    shown["forecast_usd"] = _usd(row["forecast_micros"])
    shown["estimated_usd"] = plain_usd(row["estimated_micros"])
    shown["unknown_tasks"] = row["unknown_tasks"]
    shown["approved_usd"] = _usd(row["approved_micros"])
    shown["sufficient_cap_usd"] = plain_usd(row["cap_micros"])
    for name in ("status", "denied_calls", "in_doubt_calls", "shadow_calls"):
        if name in row:
            shown[name] = row[name]
    if "vendors" in row:
        shown["vendors"] = json.loads(row["vendors"])
    shown["tags"] = json.loads(row["tags"])
    shown["note"] = row["note"]
    shown["opened_at"] = row["opened_at"]
    shown["ended_at"] = row["ended_at"]
    return shown


def _usd(micros: int | None) -> str | None:
    return None if micros is None else plain_usd(micros)


_SHOWN = [
    "id",
    "run_id",
    "task_id",
    "family",
    "vendor",
    "account",
    "operation",
    "method",
    "path",
    "target",
    "object_id",
    "verdict",
    "reason",
    "message",
    "replay_of",
    "state",
    "status",
    "vendor_request",
    "currency",
    "created_at",
    "ended_at",
]


#: Of a call: its target names one of these (JSON). Of several it has blanks between, and may end in a digest.
_NAMES = (
    "EXISTS (SELECT 1 FROM json_each(?) AS one WHERE"
    " instr(' ' || replace(call.target, '#', ' ') || ' ', ' ' || one.value || ' ') > 0)"
)


@dataclass(frozen=True)
class CallFilter:
    """Which calls are asked for; None: any.

    Attributes:
        verdict: one of the ledger's, or `denied:<reason>`.
        state: one of CALL_STATES.
        prefix: how a call's id begins; case does.
        customer: whom a call concerned, by its target or by the object that it opened or acted on.
        since, until: milliseconds since the epoch; made from then on, and before then.
        before, limit: so many, made before the one that is shown with this `seq`.

    """

    run_id: str | None = None
    task_id: str | None = None
    verdict: str | None = None
    state: str | None = None
    vendor: str | None = None
    customer: str | None = None
    prefix: str | None = None
    since: int | None = None
    until: int | None = None
    before: int | None = None
    limit: int = 1000


_ANY = CallFilter()


def calls(tx: Tx, which: CallFilter = _ANY) -> list[dict[str, Any]]:
    """Return calls, newest first. Raises NotFound.

    The `seq` of a call is higher than those of all that were made before, and stays: who goes on before the
    last one that was shown gets none twice and misses none, however many are made meanwhile.
    """
    where, values = wanted(tx, which)
    if which.before is not None:
        where, values = f"{where} AND call.rowid < ?", [*values, which.before]
    rows = tx.all(
        "SELECT call.rowid AS seq, call.*, claim.params,"
        " (SELECT json_group_array(payment) FROM batch_payment WHERE batch = call.payment) AS payments,"
        " EXISTS (SELECT 1 FROM price_due WHERE call_id = call.id) AS price_due,"
        " (SELECT tags FROM run WHERE run.run_id = call.run_id) AS tags FROM call"
        f" LEFT JOIN claim ON claim.id = call.claim_id WHERE {where} ORDER BY call.rowid DESC LIMIT ?",
        *values,
        which.limit,
    )
    corrected = corrections.of_calls(tx, [row["id"] for row in rows])
    return [show_call(row, corrected.get(row["id"], ())) for row in rows]


def count_calls(tx: Tx, which: CallFilter) -> int:
    """Return how many calls there are on all pages. Raises NotFound."""
    where, values = wanted(tx, which)
    return int(tx.value(f"SELECT count(*) FROM call WHERE {where}", *values))


def wanted(tx: Tx, which: CallFilter) -> tuple[str, list[Any]]:
    """Return the condition of a filter and its values, but for the page. Raises NotFound."""
    if which.run_id is not None:
        check_run(tx, which.run_id)
    verdict, _, reason = (which.verdict or "").partition(":")
    asked = {
        "call.run_id = ?": which.run_id,
        "call.task_id = ?": which.task_id,
        "call.vendor = ?": which.vendor,
        "call.created_at >= ?": which.since,
        "call.created_at < ?": which.until,
        "verdict = ?": verdict or None,
        "reason = ?": reason or None,
        "call.state = ?": which.state,
    }
    wanted = {condition: [value] for condition, value in asked.items() if value is not None}
    if which.customer is not None:
        # Mail addresses are kept in lower case.
        names = json.dumps(sorted({which.customer, which.customer.lower()}))
        wanted[f"({_NAMES} OR {objects.OF_CUSTOMER})"] = [names, names]
    if which.prefix is not None:
        # The first lets the index be used, in whatever order a server has texts.
        wanted["call.id >= ? AND substr(call.id, 1, length(?)) = ?"] = [which.prefix] * 3
    return " AND ".join(wanted) or "1 = 1", [value for values in wanted.values() for value in values]


def show_call(row: Row, corrected: Sequence[Row] = ()) -> dict[str, Any]:
    """Return a call with its corrections for people and scripts; no answer, no body, no key."""
    shown = {name: row[name] for name in _SHOWN}
    shown["seq"] = row.get("seq")
    shown["params"] = json.loads(row.get("params") or "{}")
    shown["tags"] = json.loads(row.get("tags") or "{}")
    shown["payment_keys"] = payment_keys_in(row["payment"], json.loads(row.get("payments") or "[]"))
    if row["verdict"] == "denied":
        shown["verdict"] = f"denied:{row['reason']}"
        shown["reason"] = row["reason"]
    for name in ("asked", "reserved", "overrun"):
        shown[f"{name}_usd"] = plain_usd(row[f"{name}_micros"])
    shown["spent_usd"] = plain_usd(row["settled_micros"] + row["corrected_micros"])
    shown["estimated"] = bool(row.get("price_due"))
    shown["corrections"] = [
        {"at": one["at"], "usd": plain_usd(one["change_micros"]), "note": one["note"]} for one in corrected
    ]
    return shown
