"""What calls of all runs have come to, by vendor and by task family."""

from __future__ import annotations

from typing import Any

from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.money import Micros, plain_usd

_AMOUNTS = ("spent", "reserved", "overrun", "in_doubt", "corrections")
_COUNTS = ("calls", "denied_calls", "in_doubt_calls")
_SUMS = (
    "count(*) AS calls, count(*) FILTER (WHERE verdict = 'denied') AS denied_calls,"
    " count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt_calls,"
    " sum(settled_micros + corrected_micros) AS spent, sum(corrected_micros) AS corrections,"
    " sum(overrun_micros) AS overrun,"
    " sum(CASE WHEN state IN ('pending','in_doubt') THEN reserved_micros ELSE 0 END) AS reserved,"
    " sum(CASE WHEN state = 'in_doubt' THEN reserved_micros ELSE 0 END) AS in_doubt"
)


def totals(tx: Tx, since: int | None, until: int | None) -> dict[str, Any]:
    """Return what calls made from `since` on and before `until` (milliseconds since the epoch) came to.

    What was pruned is in none of them; `pruned_usd` is what may be missing.
    """
    where = "created_at >= ?1 AND created_at < ?2"
    made = (0 if since is None else since, 2**62 if until is None else until)
    rows = tx.all(f"SELECT vendor, family, {_SUMS} FROM call WHERE {where} GROUP BY vendor, family", *made)
    runs = tx.value(f"SELECT count(DISTINCT run_id) FROM call WHERE {where}", *made)
    return nothing(since, until) | {
        "runs": runs,
        **_shown(rows),
        "pruned_usd": plain_usd(pruned(tx, *made)),
        "by_vendor": _by(rows, "vendor"),
        "by_family": _by(rows, "family"),
    }


def pruned(tx: Tx, since: int, until: int) -> Micros:
    """Return what calls have cost that were pruned, and may have been made in a period."""
    found = tx.value(
        "SELECT sum(journal.spent_micros + journal.overrun_micros) FROM run JOIN budget ON"
        " budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = '' JOIN journal"
        " ON journal.run_id = run.run_id AND journal.kind = 'prune' AND journal.budget_id = budget.id"
        " WHERE run.opened_at < ?2"
        " AND journal.at >= ?1 AND instr(run.note, 'were pruned on') > 0",
        since,
        until,
    )
    return Micros(found or 0)


def nothing(since: int | None, until: int | None) -> dict[str, Any]:
    """Return the totals of no call."""
    about = {"since": since, "until": until, "runs": 0, **_shown([])}
    return about | {"pruned_usd": "0.00", "by_vendor": [], "by_family": []}


def _by(rows: list[Row], column: str) -> list[dict[str, Any]]:
    """Return the sums for each value of a column, the greatest first."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        if column == "vendor" and not row[column]:
            continue  # Of a call that the ledger knows by its end alone: nothing was sent.
        parts.setdefault(row[column], []).append(row)
    order = sorted(parts, key=lambda name: (-sum(row["spent"] for row in parts[name]), name))
    return [{"name": name, **_shown(parts[name])} for name in order]


def _shown(rows: list[Row]) -> dict[str, Any]:
    sums = {name: sum(row[name] for row in rows) for name in (*_COUNTS, *_AMOUNTS)}
    amounts = {f"{name}_usd": plain_usd(sums[name]) for name in _AMOUNTS}
    return {name: sums[name] for name in _COUNTS} | amounts
