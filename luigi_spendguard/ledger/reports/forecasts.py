"""What runs were expected to cost, against what they came to."""

from __future__ import annotations

from typing import Any

from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.reports import percent
from luigi_spendguard.ledger.reports.period import MOST, ReportPeriod
from luigi_spendguard.money import plain_usd

_RUNS = (
    "SELECT run.run_id, run.root_family, run.state, run.opened_at, run.first_forecast_micros AS forecast,"
    " run.first_estimated_micros AS estimated, run.first_unknown_tasks AS unknown_tasks,"
    " run.forecast_micros AS last, budget.spent_micros AS spent,"
    " budget.overrun_micros AS overrun, budget.reserved_micros AS reserved FROM run JOIN budget ON"
    " budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = ''"
    " WHERE run.opened_at >= ?1 AND run.opened_at < ?2{of_run} ORDER BY run.id DESC LIMIT ?3"
)
_TOTAL = (
    "SELECT count(*) AS runs, coalesce(sum(run.first_forecast_micros), 0) AS forecast,"
    " coalesce(sum(budget.spent_micros), 0) AS spent, coalesce(sum(budget.overrun_micros), 0) AS overrun"
    " FROM run JOIN budget ON budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = ''"
    " WHERE run.first_forecast_micros IS NOT NULL AND run.opened_at >= ?1 AND run.opened_at < ?2{of_run}"
)


def forecast(tx: Tx, period: ReportPeriod, limit: int = MOST) -> dict[str, Any]:
    """Return the runs that were opened in a period, newest first, with what was expected of them.

    That is what was foreseen when the root was scheduled first: a later forecast knows what was spent.

    `total` is of those that have a forecast. Raises BadMessage, NotFound.
    """
    period.check(tx)
    named = [] if period.run_id is None else [period.run_id]
    rows = tx.all(_RUNS.format(of_run=" AND run.run_id = ?4" if named else ""), *period.ends, limit, *named)
    total = tx.one(_TOTAL.format(of_run=" AND run.run_id = ?3" if named else ""), *period.ends, *named)
    assert total is not None, "a sum is always there"
    return {
        "report": "forecast",
        **period.shown(),
        "rows": [
            {name: row[name] for name in ("run_id", "root_family", "state", "opened_at", "unknown_tasks")}
            | {"last_forecast_usd": None if row["last"] is None else plain_usd(row["last"])}
            | {"estimated_usd": plain_usd(row["estimated"]), "reserved_usd": plain_usd(row["reserved"])}
            | _shown(row)
            for row in rows
        ],
        "total": {"runs": total["runs"], **_shown(total)},
    }


def _shown(row: Row) -> dict[str, str | None]:
    actual, expected = row["spent"] + row["overrun"], row["forecast"]
    return {
        "forecast_usd": None if expected is None else plain_usd(expected),
        "actual_usd": plain_usd(actual),
        "difference_usd": None if expected is None else plain_usd(actual - expected),
        "difference_percent": None if expected is None else percent(actual - expected, expected),
    }
