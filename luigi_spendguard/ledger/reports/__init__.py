"""Reports: what was spent in a period, summed by the database, and against what was spent before.

An amount counts in the period in which it was booked, by the journal's time: what a call came to when it was
settled, and each later correction when it was made. So the report of a day that is over never changes. What
was pruned is in no row; `pruned_usd` is what may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from luigi_spendguard.errors import NotFound
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.objects import CUSTOMER
from luigi_spendguard.ledger.reports.period import DAY_MS, END, MOST, ReportPeriod, day_of
from luigi_spendguard.ledger.totals import pruned
from luigi_spendguard.money import micros_of, plain_usd
from luigi_spendguard.protocol.messages import BadMessage
from luigi_spendguard.tags import is_tag_name
from luigi_spendguard.vendors.model import Flows

#: What costs are grouped by, beside a tag (`tag:NAME`).
GROUPS: Mapping[str, str] = {
    "run": "call.run_id",
    "root": "run.root_family",
    "task": "call.family",
    "vendor": "call.vendor",
    "operation": "call.vendor || ' ' || call.operation",
    "customer": CUSTOMER,
    "day": f"j.at / {DAY_MS}",
}
#: Entries of the journal that say what calls came to: of period ?1 to ?2, each with its call and run.
SPENT = (
    " FROM journal AS j CROSS JOIN call ON call.id = j.call_id CROSS JOIN run ON run.run_id = call.run_id"
    " WHERE (j.spent_micros <> 0 OR j.overrun_micros <> 0) AND j.budget_id IS NULL"
    " AND j.at >= ?1 AND j.at < ?2"
)
_OPERATION = "(call.vendor || ' ' || call.operation)"
#: What each row has: amounts in micro-dollars. ?3 and ?4: the operations of inflow and of outflow.
_SUMS = (
    "count(*) FILTER (WHERE j.kind IN ('settle','resolve')) AS calls, sum(j.spent_micros) AS spent,"
    " sum(j.overrun_micros) AS overrun, sum(CASE WHEN j.kind IN ('settle','resolve') THEN 0"
    " ELSE j.spent_micros + j.overrun_micros END) AS corrections,"
    f" sum(CASE WHEN {_OPERATION} IN (SELECT value FROM json_each(?3)) THEN j.spent_micros ELSE 0 END)"
    f" AS inflow, sum(CASE WHEN {_OPERATION} IN (SELECT value FROM json_each(?4)) THEN j.spent_micros"
    " ELSE 0 END) AS outflow"
)
_AMOUNTS = ("spent", "overrun", "corrections", "inflow", "outflow")


def check_group(by: str) -> None:
    """Raise BadMessage for what no report is grouped by."""
    kind, colon, name = by.partition(":")
    if by not in GROUPS and not (kind == "tag" and colon and is_tag_name(name)):
        raise BadMessage(f"'by' must be one of {', '.join(GROUPS)}, or tag:NAME, not {by[:60]!r}")


def cost(
    tx: Tx, flows: Flows, period: ReportPeriod, by: str, compare: bool = False, limit: int = MOST
) -> dict[str, Any]:
    """Return what calls came to in a period, grouped `by`, the most first (days in their order).

    `others` is what more rows than `limit` come to. `compare`: each row with what it came to before, in the
    period of the same length right before; of a run, in the run of its root family before it. Raises
    BadMessage, NotFound.
    """
    check_group(by)
    period.check(tx)
    _check_tag(tx, by)
    found = _grouped(tx, flows, period, by, limit + 1)
    rows = found[:limit]
    total = {name: sum(row[name] for row in rows) for name in ("calls", *_AMOUNTS)}
    if len(found) > limit:
        (total,) = _sums(tx, flows, period, "''", 1)
    shown = [{"name": row["name"], **_shown(row)} for row in rows]
    about: dict[str, Any] = {"report": "cost", "by": by, **period.shown()}
    if compare:
        about["before"] = _compare(tx, flows, period, by, shown)
    rest = {name: (total[name] or 0) - sum(row[name] for row in rows) for name in ("calls", *_AMOUNTS)}
    return about | {
        "rows": shown,
        "others": _shown(rest) if any(rest.values()) else None,
        "total": _shown(total),
        "pruned_usd": plain_usd(pruned(tx, *period.ends) if period.run_id is None else 0),
    }


def _check_tag(tx: Tx, by: str) -> None:
    name = by.partition(":")[2]
    if name and not tx.value("SELECT 1 FROM run WHERE instr(tags, ?) > 0 LIMIT 1", f'"{name}": '):
        raise NotFound(f"no run has a tag {name}: a root's spend_tags or [spendguard_tags] name tags")


def _sums(
    tx: Tx, flows: Flows, period: ReportPeriod, group: str, limit: int, order: str = "2 DESC"
) -> list[Row]:
    """Return sums for each value of an expression, so many groups at the most."""
    of_run = "" if period.run_id is None else " AND j.run_id = ?6"
    grouped = "" if group == "''" else " GROUP BY 1"
    return tx.all(
        f"SELECT {group} AS name, {_SUMS}{SPENT}{of_run}{grouped} ORDER BY {order} LIMIT ?5",
        *period.ends,
        json.dumps(flows.inflow),
        json.dumps(flows.outflow),
        limit,
        *([] if period.run_id is None else [period.run_id]),
    )


def _grouped(tx: Tx, flows: Flows, period: ReportPeriod, by: str, limit: int) -> list[Row]:
    if by == "day":
        rows = _sums(tx, flows, period, GROUPS[by], limit, "1")
        return [{**row, "name": day_of(row["name"])} for row in rows]
    if by in GROUPS:
        return _sums(tx, flows, period, GROUPS[by], limit, "spent DESC, name")
    name, named = by.partition(":")[2], dict[str, Row]()
    # As many as there are different sets of tags.
    for row in _sums(tx, flows, period, "run.tags", END):
        value = json.loads(row["name"]).get(name, "")
        known = named.setdefault(value, {"name": value, **dict.fromkeys(("calls", *_AMOUNTS), 0)})
        for each in ("calls", *_AMOUNTS):
            known[each] += row[each]
    return sorted(named.values(), key=lambda row: (-row["spent"], row["name"]))[:limit]


def _compare(
    tx: Tx, flows: Flows, period: ReportPeriod, by: str, shown: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Add to each row what it came to before, and how that has changed; return of when that is."""
    if by == "run":
        before, about = _runs_before(tx, [row["name"] for row in shown]), None
    else:
        earlier, shift = _earlier(tx, period, by)
        rows = [] if earlier is None else _grouped(tx, flows, earlier, by, MOST)
        before = {_later(row["name"], shift): row["spent"] for row in rows}
        about = None if earlier is None else earlier.shown()
    for row in shown:
        row.update(_change(micros_of(row["spent_usd"]), before.get(row["name"])))
    there = {row["name"] for row in shown}
    nothing = _shown(dict.fromkeys(("calls", *_AMOUNTS), 0))
    shown += [
        {"name": name, **nothing, **_change(0, micros)}
        for name, micros in before.items()
        if micros and name not in there and by != "run"
    ]
    if by == "day":
        shown.sort(key=lambda row: str(row["name"]))
    return about


def _earlier(tx: Tx, period: ReportPeriod, by: str) -> tuple[ReportPeriod | None, int]:
    """Return what a period is compared with, None: nothing, and by how many days that is earlier."""
    if period.run_id is not None and period.since is None:
        if by == "day":
            raise BadMessage("the days of two runs are not compared: group by task, say, or name a period")
        row = tx.one(
            "SELECT before.run_id FROM run JOIN run AS before ON before.root_family = run.root_family"
            " AND before.id < run.id WHERE run.run_id = ? ORDER BY before.id DESC LIMIT 1",
            period.run_id,
        )
        return (None if row is None else ReportPeriod(run_id=row["run_id"])), 0
    if period.since is None:
        raise BadMessage(
            "compare with what? Name since when it is (as long before is compared), a run, or group by run"
        )
    until = tx.now() if period.until is None else period.until
    long = until - period.since
    shift = -(-long // DAY_MS)
    if by == "day":
        long = shift * DAY_MS
    earlier = replace(period, since=period.since - long, until=period.since)
    return (earlier if earlier.ends[1] > 0 else None), shift


def _later(name: str, days: int) -> str:
    """Return the day so many days later; another name as it is."""
    try:
        at = datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError:
        return name
    return day_of(int(at.timestamp() * 1000) // DAY_MS + days)


def _runs_before(tx: Tx, run_ids: list[str]) -> dict[str, int]:
    """Return what the run of the same root family before each of some has spent."""
    rows = tx.all(
        "SELECT run.run_id, budget.spent_micros AS spent FROM run JOIN run AS before ON before.id = (SELECT"
        " max(id) FROM run AS each WHERE each.root_family = run.root_family AND each.id < run.id)"
        " JOIN budget ON budget.scope = 'run' AND budget.subject = before.run_id AND budget.part = ''"
        " WHERE run.run_id IN (SELECT value FROM json_each(?))",
        json.dumps(run_ids),
    )
    return {row["run_id"]: row["spent"] for row in rows}


def _change(now: int, before: int | None) -> dict[str, str | None]:
    """Return what an amount was before, None: nothing is known of it, and how that has changed."""
    change = now - (before or 0)
    return {
        "before_usd": None if before is None else plain_usd(before),
        "change_usd": plain_usd(change),
        "change_percent": percent(change, before or 0),
    }


def percent(part: int, whole: int) -> str | None:
    """Return a part of a whole in %, with one decimal; None: the whole is nothing."""
    if not whole:
        return None
    permille = (2000 * abs(part) + whole) // (2 * whole)  # Rounded half up.
    return f"{'-' if part < 0 else ''}{permille // 10}.{permille % 10}"


def _shown(row: Row) -> dict[str, Any]:
    """Return a row's sums; what no group has is null in a total of nothing."""
    return {"calls": row["calls"] or 0} | {f"{name}_usd": plain_usd(row[name] or 0) for name in _AMOUNTS}
