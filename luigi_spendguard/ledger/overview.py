"""What the Budgets tab reads beside single runs: pages of runs, spending over time, what tasks have cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.errors import NotFound
from luigi_spendguard.ledger.budgets import REMAINING, run_budget
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.queries import RUNS, STATUS, check_run, show_run
from luigi_spendguard.ledger.runs import no_run
from luigi_spendguard.money import plain_usd

#: What runs can be sorted by, as the API names it.
SORTS = {
    "opened_at": "run.id",
    "run_id": "run.run_id",
    "root_family": "run.root_family",
    "label": "run.label",
    "state": "run.state",
    "cap_usd": "cap_micros - shadow_micros",
    "spent_usd": "spent_micros",
    "reserved_usd": "reserved_micros",
    "remaining_usd": REMAINING,
    "overrun_usd": "overrun_micros",
    "forecast_usd": "coalesce(forecast_micros, -1)",  # None comes first; engines differ about it.
    "denied_calls": "(SELECT count(*) FROM call WHERE call.run_id = run.run_id AND verdict = 'denied')",
    "in_doubt_calls": "(SELECT count(*) FROM call WHERE call.run_id = run.run_id AND state = 'in_doubt')",
}
#: Points of a run's spending over time at the most, and names that it is split by.
POINTS, NAMES = 199, 9
#: What a call has cost, and may still cost.
_COST = "call.settled_micros + call.corrected_micros + call.overrun_micros"
_OPEN = "CASE WHEN call.state IN ('pending','in_doubt') THEN call.reserved_micros ELSE 0 END"
#: Of a call that the ledger knows by its end alone the vendor may be unknown.
_KNOWN = {"vendor": " AND call.vendor <> ''", "family": ""}


@dataclass(frozen=True)
class Page:
    """Which runs are asked for.

    Attributes:
        search: a part of a run's id, root family or label; case does not matter.
        prefix: how a run's id begins; case does.
        statuses: as the ledger knows them (`queries.STATUS`); empty: any.
        among, without: only these runs; none of those.
        since, until: milliseconds since the epoch; opened from then on, and before then.
        before: those opened before this run; of the newest first.
        sort, descending: a key of SORTS.
        limit, offset: so many, behind so many.

    """

    search: str = ""
    prefix: str = ""
    statuses: tuple[str, ...] = ()
    among: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    before: str | None = None
    sort: str = "opened_at"
    descending: bool = True
    limit: int = 1000
    offset: int = 0


def families(tx: Tx, most: int) -> list[str]:
    """Return the families of roots and tasks that have spent, or have asked to, `most` of them."""
    rows = tx.all(
        "SELECT root_family AS family FROM run UNION SELECT family FROM claim ORDER BY family LIMIT ?", most
    )
    return [row["family"] for row in rows if row["family"]]


def run_named(tx: Tx, name: str, last: str) -> str:
    """Return the run of that id, or the only one whose id begins so; `last` names the one opened last.

    Raises NotFound.
    """
    if tx.value(
        "SELECT 1 FROM run WHERE run_id = ? UNION SELECT 1 FROM audit_row WHERE run_id = ?", name, name
    ):
        return name
    if name == last and (newest := tx.value("SELECT run_id FROM run ORDER BY id DESC LIMIT 1")) is not None:
        return str(newest)
    found = tx.all(
        "SELECT run_id FROM run WHERE substr(run_id, 1, length(?1)) = ?1 ORDER BY run_id LIMIT 4", name
    )
    if not found or not name:
        raise no_run(name[:200])
    if len(found) > 1:
        listed = ", ".join(row["run_id"] for row in found)
        raise NotFound(f"several runs begin with {name[:200]}: {listed}; `spendguard runs` lists them")
    return str(found[0]["run_id"])


def runs(tx: Tx, page: Page) -> tuple[list[dict[str, Any]], int]:
    """Return a page of runs as the API shows them, and how many there are on all pages. Raises NotFound.

    Pages by `offset` shift when a run is opened meanwhile; those by `before` do not.
    """
    where, values = _wanted(page)
    joined = "run JOIN budget ON budget.scope = 'run' AND budget.subject = run.run_id AND budget.part = ''"
    total = int(tx.value(f"SELECT count(*) FROM {joined} WHERE {where}", *values))
    order = "DESC" if page.descending else "ASC"
    if page.before is not None:
        check_run(tx, page.before)
        where += " AND run.id < (SELECT id FROM run WHERE run_id = ?)"
        values.append(page.before)
    # First which runs, then what there is to say of them: counting calls of all runs would take long.
    ids = tx.all(
        f"SELECT run.id FROM {joined} WHERE {where} ORDER BY {SORTS[page.sort]} {order}, run.id {order}"
        " LIMIT ? OFFSET ?",
        *values,
        page.limit,
        page.offset,
    )
    place = {row["id"]: number for number, row in enumerate(ids)}
    rows = tx.all(
        f"{RUNS} WHERE run.id IN (SELECT CAST(value AS BIGINT) FROM json_each(?))", json.dumps(list(place))
    )
    rows.sort(key=lambda row: place[row["id"]])
    return [show_run(row) for row in rows], total


def _wanted(page: Page) -> tuple[str, list[Any]]:
    conditions, values = ["1 = 1"], list[Any]()
    if page.search:
        mark = page.search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        names = ("run.run_id", "run.root_family", "run.label")
        conditions.append("(" + " OR ".join(f"{name} LIKE ? ESCAPE '\\'" for name in names) + ")")
        values += [f"%{mark}%"] * len(names)
    if page.prefix:
        conditions.append("substr(run.run_id, 1, length(?)) = ?")
        values += [page.prefix] * 2
    if page.since is not None:
        conditions.append("run.opened_at >= ?")
        values.append(page.since)
    if page.until is not None:
        conditions.append("run.opened_at < ?")
        values.append(page.until)
    if page.statuses:
        conditions.append(f"{STATUS} IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(page.statuses))
    if page.among is not None:
        conditions.append("run.run_id IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(page.among))
    if page.without:
        conditions.append("run.run_id NOT IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(page.without))
    return " AND ".join(conditions), values


def spending(tx: Tx, run_id: str, by: str) -> dict[str, Any]:
    """Return what a run has spent until when, split `by` "vendor" or "family", and its caps over time.

    Overrun counts as spent here. Raises NotFound.
    """
    check_run(tx, run_id)
    start = int(tx.value("SELECT opened_at FROM run WHERE run_id = ?", run_id))
    end = int(tx.value("SELECT at FROM journal WHERE run_id = ? ORDER BY id DESC LIMIT 1", run_id) or start)
    step = -(-(end - start + 1) // POINTS)
    rows = tx.all(
        f"SELECT min(?4, max(0, j.at - ?1) / ?2) AS bucket, call.{by} AS name, max(j.at) AS at,"
        " sum(j.spent_micros + j.overrun_micros) AS micros FROM journal j JOIN call ON call.id = j.call_id"
        " WHERE j.run_id = ?3 AND (j.spent_micros <> 0 OR j.overrun_micros <> 0) GROUP BY 1, 2",
        start,
        step,
        run_id,
        POINTS - 1,
    )
    totals = tx.all(
        f"SELECT call.{by} AS name, count(*) AS calls, sum({_COST}) AS spent, sum({_OPEN}) AS reserved,"
        " count(*) FILTER (WHERE call.verdict = 'denied') AS denied FROM call WHERE call.run_id = ?"
        f"{_KNOWN[by]} GROUP BY 1 ORDER BY spent DESC, calls DESC, name",
        run_id,
    )
    shown = {row["name"] for row in totals[:NAMES]}
    return {
        "by": by,
        "times": _times(rows, start),
        "spent_usd": _cumulated(rows, shown),
        "totals": [
            {
                "name": row["name"],
                "calls": row["calls"],
                "spent_usd": plain_usd(row["spent"]),
                "reserved_usd": plain_usd(row["reserved"]),
                "denied_calls": row["denied"],
            }
            for row in totals
        ],
        "caps": _caps(tx, run_id),
    }


def _times(rows: list[Row], start: int) -> list[int]:
    """Return when a run was opened, and the moment of the last change in each bucket; none comes twice."""
    last: dict[int, int] = {}
    for row in rows:
        last[row["bucket"]] = max(row["at"], last.get(row["bucket"], 0))
    times = [start]
    for bucket in sorted(last):  # Clocks are set back, too.
        times.append(max(last[bucket], times[-1] + 1))
    return times


def _cumulated(rows: list[Row], shown: set[str]) -> list[dict[str, Any]]:
    """Return for each name what was spent until each time; names that are not `shown` are one, null."""
    buckets = sorted({row["bucket"] for row in rows})
    place = {bucket: number + 1 for number, bucket in enumerate(buckets)}
    changes: dict[str | None, list[int]] = {}
    for row in rows:
        name = row["name"] if row["name"] in shown else None
        changes.setdefault(name, [0] * (len(buckets) + 1))[place[row["bucket"]]] += row["micros"]
    spent = []
    for name in sorted(changes, key=lambda name: (name is None, name)):
        total, amounts = 0, list[str]()
        for change in changes[name]:
            total += change
            amounts.append(plain_usd(total))
        spent.append({"name": name, "until": amounts})
    return spent


def _caps(tx: Tx, run_id: str) -> list[dict[str, Any]]:
    """Return a run's cap when it was opened, and after each top-up."""
    cap, caps = 0, []
    for row in tx.all(
        "SELECT at, kind, cap_micros FROM journal WHERE run_id = ? AND budget_id = ?"
        " AND kind IN ('open','top_up') ORDER BY id",
        run_id,
        run_budget(tx, run_id)["id"],
    ):
        cap += row["cap_micros"]
        caps.append({"at": row["at"], "cap_usd": plain_usd(cap), "top_up": row["kind"] == "top_up"})
    return caps


def costs(tx: Tx, task_ids: list[str]) -> list[dict[str, Any]]:
    """Return what tasks have cost in each run that has paid for them."""
    rows = tx.all(
        f"SELECT task_id, run_id, sum({_COST}) AS spent, sum({_OPEN}) AS reserved, count(*) AS calls"
        " FROM call WHERE task_id IN (SELECT value FROM json_each(?))"
        " GROUP BY task_id, run_id ORDER BY min(rowid)",
        json.dumps(task_ids),
    )
    return [
        {
            "task_id": row["task_id"],
            "run_id": row["run_id"],
            "calls": row["calls"],
            "spent_usd": plain_usd(row["spent"]),
            "reserved_usd": plain_usd(row["reserved"]),
        }
        for row in rows
    ]


def named(tx: Tx, run_ids: list[str]) -> list[dict[str, Any]]:
    """Return some runs as the API shows them."""
    return [
        show_run(row)
        for row in tx.all(
            f"{RUNS} WHERE run.run_id IN (SELECT value FROM json_each(?)) ORDER BY run.id",
            json.dumps(run_ids),
        )
    ]
