"""Budgets that follow luigi.cfg: they are made when a cap first applies, and count what was spent before.

A cap may be set when a run, or a day, is half over, or be there again after it was not. The calls made
meanwhile are put among those of the budget, as if it had been there: they are in its totals, and their later
ends and corrections will be, too.

Whoever reads its luigi.cfg brings them to what that says (`follow`). From then on a call only lowers them:
where processes of one ledger have other caps, the smaller one holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain

from luigi_spendguard.ledger.budgets import JournalEntry, KeptBudget, journal, open_budget, set_cap
from luigi_spendguard.ledger.database import MIDNIGHT, TODAY, Row, Tx
from luigi_spendguard.money import MAX_MICROS, Micros
from luigi_spendguard.settings.policy import Caps

_DAY_MS = 86_400_000
#: The beginning of UTC day ?3 in milliseconds since the epoch.
_MIDNIGHT = MIDNIGHT.format("?3")
#: Something was reserved for it.
_RESERVED = "call.verdict = 'allowed' AND call.state IS NOT NULL"
#: What calls hold in each of their budgets.
_HELD = (
    "sum(settled_micros + corrected_micros) AS spent, sum(overrun_micros) AS overrun,"
    " sum(CASE WHEN state IN ('pending','in_doubt') THEN reserved_micros ELSE 0 END) AS reserved"
)
#: Which calls are a budget's, by its scope; ?2: its subject, ?3: its part. A day's are those that were
#: reserved on it. Calls have no index by time: one of more than a day before (clocks are set back) ends the
#: search.
_CALLS = {
    "family": "call.run_id = ?2 AND call.family = ?3",
    "vendor": "call.run_id = ?2 AND call.vendor = ?3",
    "task": "call.run_id || '' = ?2 AND call.task_id = ?3",
    "day": f"""
        ?2 = '' AND call.rowid > coalesce((SELECT rowid FROM call WHERE created_at < {_MIDNIGHT} - {_DAY_MS}
                                           ORDER BY rowid DESC LIMIT 1), 0)
        AND call.granted_at >= {_MIDNIGHT} AND call.granted_at < {_MIDNIGHT} + {_DAY_MS}
        AND NOT EXISTS (SELECT 1 FROM call_budget WHERE call_id = call.id AND budget_id IN
                        (SELECT id FROM budget WHERE scope IN ('day','beyond_day') AND part = ?3))
        AND EXISTS (SELECT 1 FROM journal WHERE journal.call_id = call.id AND kind = 'reserve'
                    AND at >= {_MIDNIGHT} AND at < {_MIDNIGHT} + {_DAY_MS})
    """,
}
#: Runs that may spend, and their calls that are not among those of the budget they belong to.
_UNCOUNTED = f"""
    SELECT DISTINCT call.run_id AS subject, call.{{part}} AS part FROM run
    CROSS JOIN call ON call.run_id = run.run_id
    LEFT JOIN budget ON budget.scope = '{{part}}' AND budget.subject = call.run_id
    AND budget.part = call.{{part}}
    WHERE (run.state IN ('active','frozen') OR run.run_id IN
           (SELECT run_id FROM claim WHERE ended_at IS NULL AND state = 'open'))
    AND call.{{part}} IN (SELECT value FROM json_each(?)) AND {_RESERVED}
    AND NOT EXISTS (SELECT 1 FROM call_budget WHERE call_id = call.id AND budget_id = budget.id)
"""


#: Those whose cap luigi.cfg has.
_OF_FILE = ("day", "family", "vendor")


def keep_budget(tx: Tx, scope: str, subject: str, part: str, cap: Micros, *, was_read: bool = False) -> int:
    """Return the id of a budget whose cap is not pinned: made, or brought to `cap`, when need be.

    What operators have raised it by stays on top. A cap that is below what is counted already stops at that.
    One that is made begins with what its calls of before hold. `was_read`: as `keep_budgets`.
    """
    return keep_budgets(tx, [KeptBudget(scope, subject, part, cap)], was_read=was_read)[0]


def keep_budgets(
    tx: Tx, budgets: Sequence[KeptBudget], amount: Micros | None = None, *, was_read: bool = False
) -> list[int]:
    """Return the ids of budgets, each made, or brought to its cap, when need be.

    One of luigi.cfg's is raised where that `was_read` just now, else only lowered: another process may have
    a smaller cap.

    From here on nobody else takes from the day's budget before the transaction ends, unless all that is to be
    changed there is `amount`, which it has room for: that may be taken as it ends.
    """
    if not budgets:
        return []
    places = [(budget.scope, budget.subject, budget.part) for budget in budgets]
    has_day = any(budget.scope == "day" for budget in budgets)
    is_late = has_day and tx.late is not None and amount is not None
    values = list(chain.from_iterable(places))
    known = _placed(tx.all(_these(len(places), tx.for_update if has_day and not is_late else ""), *values))
    if is_late and not all(
        _may_wait(tx, budget, known.get(place), amount or 0)
        for budget, place in zip(budgets, places, strict=True)
        if budget.scope == "day"
    ):
        known = _placed(tx.all(_these(len(places), tx.for_update), *values))
    return [
        _kept(tx, budget, known.get(place), was_read=was_read)
        for budget, place in zip(budgets, places, strict=True)
    ]


def find_ahead(tx: Tx, budgets: Sequence[KeptBudget]) -> None:
    """Let these budgets be looked for with the next query, as `keep_budgets` does."""
    if tx.late is not None:
        places = [(budget.scope, budget.subject, budget.part) for budget in budgets]
        tx.ahead(_these(len(places), ""), *chain.from_iterable(places))


def _placed(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row["scope"], row["subject"], row["part"]): row for row in rows}


def _may_wait(tx: Tx, budget: KeptBudget, row: Row | None, amount: int) -> bool:
    """Return whether the day's budget has a cap that it may have, and room for `amount`."""
    assert tx.late is not None
    if row is None:
        return False
    if not row["shadow_micros"] and row["cap_micros"] <= _own_cap(budget, row):
        left = row["cap_micros"] - row["spent_micros"] - row["reserved_micros"] - row["overrun_micros"]
        if tx.late.may_take(row["id"], row["cap_micros"], left, amount):
            return True
    if row["id"] in tx.late:
        tx.check_alone("what was done before in this transaction is not in the day's budget yet")
    return False


def _own_cap(budget: KeptBudget, row: Row) -> int:
    return min(MAX_MICROS, budget.cap + int(row["raised_micros"]))


@cache
def _these(count: int, ending: str) -> str:
    """Return the query of so many budgets, each by its scope, subject and part."""
    one = "(scope = ? AND subject = ? AND part = ?)"
    return (
        "SELECT id, scope, subject, part, cap_micros, spent_micros, reserved_micros, overrun_micros,"
        f" shadow_micros, raised_micros FROM budget WHERE {' OR '.join([one] * count)}{ending}"
    )


def _kept(tx: Tx, budget: KeptBudget, row: Row | None, *, was_read: bool) -> int:
    if row is None:
        budget_id = open_budget(tx, budget.scope, budget.subject, budget.part, budget.cap)
        if budget.follows:
            count_earlier(tx, budget.scope, budget.subject, budget.part)
        return budget_id
    if budget.follows:
        counted = row["spent_micros"] + row["reserved_micros"]
        own = _own_cap(budget, row)
        cap = own if row["shadow_micros"] else max(own, counted)
        if was_read or budget.scope not in _OF_FILE or cap < row["cap_micros"] - row["shadow_micros"]:
            set_cap(tx, row, cap)
    return int(row["id"])


def day_budget(tx: Tx, cap: Micros, *, was_read: bool = False) -> int:
    """Return the id of today's budget of all runs; `was_read`: as `keep_budgets`."""
    return keep_budget(tx, "day", "", str(tx.value(f"SELECT {TODAY}")), cap, was_read=was_read)


def other_day_cap(row: Row | None, cap: Micros) -> Micros | None:
    """Return the cap that today's budget has from another process, or luigi.cfg of before; None: this one.

    `row`: today's budget, None where there is none. What is counted may have stopped a cap from being lower.
    """
    if row is None:
        return None
    own = row["cap_micros"] - row["shadow_micros"] - row["raised_micros"]
    return Micros(own) if own < cap or own > max(cap, row["spent_micros"] + row["reserved_micros"]) else None


def follow(tx: Tx, caps: Caps) -> None:
    """Bring the budgets that follow luigi.cfg to what it says now, and let them count what they do not yet.

    All calls of runs that go on are looked at: this is for when luigi.cfg was read.
    """
    wanted = {("family", part): cap for part, cap in caps.task_families.items()}
    wanted |= {("vendor", part): cap for part, cap in caps.vendors.items()}
    for (scope, part), cap in wanted.items():
        for row in tx.all("SELECT subject FROM budget WHERE scope = ? AND part = ?", scope, part):
            keep_budget(tx, scope, row["subject"], part, cap, was_read=True)
    for scope, subject, part in _uncounted(tx, caps):
        keep_budget(tx, scope, subject, part, wanted[scope, part], was_read=True)
        count_earlier(tx, scope, subject, part)
    today = str(tx.value(f"SELECT {TODAY}"))
    if caps.day is None:
        return
    if _find(tx, "day", "", today) is not None:
        day_budget(tx, caps.day, was_read=True)
        count_earlier(tx, "day", "", today)
    elif tx.value(f"SELECT 1 FROM call WHERE {_CALLS['day']} AND {_RESERVED} LIMIT 1", None, "", today):
        day_budget(tx, caps.day, was_read=True)


def _uncounted(tx: Tx, caps: Caps) -> Iterator[tuple[str, str, str]]:
    """Yield scope, subject and part of the budgets that do not count all calls of theirs."""
    for scope, parts in (("family", caps.task_families), ("vendor", caps.vendors)):
        if parts:
            for row in tx.all(_UNCOUNTED.format(part=scope), json.dumps(list(parts))):
                yield scope, row["subject"], row["part"]


def count_earlier(tx: Tx, scope: str, subject: str, part: str) -> int:
    """Put calls among a budget's that are not yet, with what they hold; return its id.

    Where that is more than its cap, the cap is that.
    """
    row = _find(tx, scope, subject, part)
    assert row is not None, "it was made before"
    held = _link(tx, row)
    if held is None:
        return int(row["id"])
    counted = row["spent_micros"] + row["reserved_micros"] + held["spent"] + held["reserved"]
    short = max(0, counted - row["cap_micros"])
    tx.run(
        "UPDATE budget SET spent_micros = spent_micros + ?, reserved_micros = reserved_micros + ?,"
        " overrun_micros = overrun_micros + ?, cap_micros = cap_micros + ?, shadow_micros = shadow_micros + ?"
        " WHERE id = ?",
        held["spent"],
        held["reserved"],
        held["overrun"],
        short,
        short if row["shadow_micros"] else 0,
        row["id"],
    )
    # The amounts are in the calls' own entries.
    note = f"{held['calls']} calls from before its cap was set"
    journal(tx, JournalEntry("count", budget_id=row["id"], cap=short, note=note))
    return int(row["id"])


def _link(tx: Tx, budget: Row) -> Row | None:
    """Let calls of a budget's that it does not count yet take from it; return what they hold, None: none."""
    calls = (
        f"FROM call WHERE {_CALLS[budget['scope']]} AND {_RESERVED}"
        " AND NOT EXISTS (SELECT 1 FROM call_budget WHERE call_id = call.id AND budget_id = ?1)"
    )
    values = (budget["id"], budget["subject"], budget["part"])
    held = tx.one(f"SELECT count(*) AS calls, {_HELD} {calls}", *values)
    if held is None or not held["calls"]:
        return None
    # In order: each page of the table is then written once.
    tx.run(
        f"INSERT INTO call_budget (call_id, budget_id) SELECT call.id, ?1 {calls} ORDER BY call.id", *values
    )
    return held


def _find(tx: Tx, scope: str, subject: str, part: str) -> Row | None:
    return tx.one("SELECT * FROM budget WHERE scope = ? AND subject = ? AND part = ?", scope, subject, part)
