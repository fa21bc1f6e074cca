"""What each day has cost, split by vendor or by family, with the day's cap and what was denied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.reports import GROUPS, SPENT
from luigi_spendguard.ledger.reports.period import DAY_MS, ReportPeriod, day_of
from luigi_spendguard.money import Micros, plain_usd
from luigi_spendguard.protocol.messages import BadMessage

#: What a day may be split by; names of a split that are shown, the dearest; days that are shown where none
#: are said, and at the most.
SPLITS, NAMES, USUAL, MOST_DAYS = ("vendor", "root", "task"), 20, 30, 800


def days(tx: Tx, period: ReportPeriod, split: str, cap: Micros | None) -> dict[str, Any]:
    """Return what was spent (with overrun) on each UTC day of a period that has something, split by a name.

    Names beyond the dearest are one, null. `cap_usd` is the day's, as it was; of today `cap`, the one in
    force. Without a beginning it is the last days. Raises BadMessage, NotFound.
    """
    last = min(period.ends[1], tx.now())
    if period.since is None:
        period = replace(period, since=max(0, last // DAY_MS + 1 - USUAL) * DAY_MS)
    period.check(tx)
    since, until = period.ends
    if last - since > MOST_DAYS * DAY_MS:
        raise BadMessage(f"this report has {MOST_DAYS} days at the most: let it begin later, or end earlier")
    of_run = "" if period.run_id is None else " AND j.run_id = ?3"
    named = [] if period.run_id is None else [period.run_id]
    rows = tx.all(
        f"SELECT {GROUPS['day']} AS day, {GROUPS[split]} AS name, sum(j.spent_micros + j.overrun_micros)"
        f" AS micros{SPENT}{of_run} GROUP BY 1, 2",
        *period.ends,
        *named,
    )
    denied = tx.all(
        f"SELECT created_at / {DAY_MS} AS day, count(*) AS calls FROM call WHERE verdict = 'denied'"
        f" AND operation <> '' AND created_at >= ?1 AND created_at < ?2"
        f"{'' if not named else ' AND run_id = ?3'} GROUP BY 1",
        *period.ends,
        *named,
    )
    today = tx.now() // DAY_MS
    caps = {
        row["part"]: row["cap_micros"] - row["shadow_micros"]
        for row in tx.all("SELECT part, cap_micros, shadow_micros FROM budget WHERE scope = 'day'")
    }
    if cap is not None:
        caps.setdefault(day_of(today), cap)
    told = {row["day"]: row["calls"] for row in denied}
    within = range(since // DAY_MS, -(-min(until, tx.now() + 1) // DAY_MS))
    numbers = sorted({row["day"] for row in rows} | set(told) | {n for n in within if day_of(n) in caps})
    totals: dict[str, int] = {}
    for row in rows:
        totals[row["name"]] = totals.get(row["name"], 0) + row["micros"]
    order = sorted(totals, key=lambda name: (-totals[name], name))
    shown: list[str | None] = [*order[:NAMES], *([None] if len(order) > NAMES else [])]
    place = {name: min(number, NAMES) for number, name in enumerate(order)}
    amounts = [[0] * len(numbers) for _ in shown]
    at = {number: index for index, number in enumerate(numbers)}
    for row in rows:
        amounts[place[row["name"]]][at[row["day"]]] += row["micros"]
    return {
        "report": "days",
        "split": split,
        **period.shown(),
        "days": [day_of(number) for number in numbers],
        "series": [
            {"name": name, "spent_usd": [plain_usd(one) for one in each]}
            for name, each in zip(shown, amounts, strict=True)
        ],
        "total_usd": [plain_usd(sum(each[at[number]] for each in amounts)) for number in numbers],
        "cap_usd": [None if (one := caps.get(day_of(n))) is None else plain_usd(one) for n in numbers],
        "denied_calls": [told.get(number, 0) for number in numbers],
    }
