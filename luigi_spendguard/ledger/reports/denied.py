"""What was denied, by why and by which budget, and what it would have cost."""

from __future__ import annotations

from typing import Any

from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.denials import ASKED
from luigi_spendguard.ledger.reports.period import MOST, ReportPeriod
from luigi_spendguard.money import plain_usd

#: What tells denied calls apart: who pays for what, at whom. Each try of one is a row of its own.
_SAME = (
    "CASE WHEN payment <> '' THEN payment WHEN task_id <> '' THEN task_id ELSE run_id END, vendor, account,"
    " operation, coalesce(target, ''), asked_micros"
)
#: The payer, target and operation of `call` are those of `later`.
_MADE = (
    "EXISTS (SELECT 1 FROM call AS later WHERE later.task_id = call.task_id AND call.task_id <> ''"
    " AND later.vendor = call.vendor AND later.account = call.account AND later.operation = call.operation"
    " AND coalesce(later.target, '') = coalesce(call.target, '') AND later.verdict <> 'denied'"
    " AND later.rowid > call.rowid)"
)
#: The last try of each call: by why it was denied, and by which budget where it was one.
_DENIED = (
    "SELECT reason, scope, part, count(*) AS calls, sum(tries) AS tries, sum(asked) AS usd,"
    " sum(made) AS made, sum(CASE WHEN made = 1 THEN asked ELSE 0 END) AS made_usd FROM (SELECT call.reason,"
    " CASE WHEN call.reason = 'cap' THEN claim.held_scope ELSE '' END AS scope,"
    " CASE WHEN call.reason = 'cap' AND claim.held_scope <> 'task' THEN claim.held_part ELSE '' END AS part,"
    f" last.tries, {ASKED} AS asked, CASE WHEN {_MADE} THEN 1 ELSE 0 END AS made"
    " FROM (SELECT max(rowid) AS number, count(*) AS tries FROM call WHERE verdict = 'denied'"
    f" AND operation <> '' AND created_at >= ?1 AND created_at < ?2{{of_run}} GROUP BY {_SAME}) AS last"
    " JOIN call ON call.rowid = last.number JOIN claim ON claim.id = call.claim_id) AS each"
    " GROUP BY reason, scope, part ORDER BY usd DESC, reason, scope, part LIMIT ?3"
)
_COUNTS, _AMOUNTS = ("calls", "tries", "made"), ("usd", "made_usd")


def denied(tx: Tx, period: ReportPeriod) -> dict[str, Any]:
    """Return what was denied in a period, each call once however often it was tried, the dearest first.

    `made`: how many of them were let pass later, which did cost something. Raises BadMessage, NotFound.
    """
    period.check(tx)
    of_run = "" if period.run_id is None else " AND run_id = ?4"
    named = [] if period.run_id is None else [period.run_id]
    rows = tx.all(_DENIED.format(of_run=of_run), *period.ends, MOST, *named)
    total = {name: sum(row[name] for row in rows) for name in (*_COUNTS, *_AMOUNTS)}
    return {
        "report": "denied",
        **period.shown(),
        "rows": [
            {"reason": row["reason"], "budget": row["scope"], "part": row["part"], **_shown(row)}
            for row in rows
        ],
        "total": _shown(total),
    }


def _shown(row: Row) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _COUNTS},
        "would_have_cost_usd": plain_usd(row["usd"]),
        "made_usd": plain_usd(row["made_usd"]),
    }
