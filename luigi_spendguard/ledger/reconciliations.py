"""Nightly comparisons with the vendors' own books: whose turn it is, and what they have found.

Owns the table `reconciliation`. Of several luigids one does it: the one whose row it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luigi_spendguard.ledger.database import NOW, Row, Tx
from luigi_spendguard.money import plain_usd
from luigi_spendguard.settings.policy import moment

DAY_MS = 86_400_000
#: How many missed days are caught up at the most.
MOST_DAYS = 31
#: Milliseconds after which one that does not go on is taken over, and one that has failed is tried again.
LEASE_MS, AGAIN_MS = 3_600_000, 3_600_000

_INSERT = (
    "INSERT INTO reconciliation (vendor, account, until_ms, since_ms, state, owner, payments, differences,"
    " vendor_only_micros, ledger_only_micros, kinds, note, at)"
)


@dataclass(frozen=True)
class NightFinding:
    """What was found in an account; amounts are in micro-dollars."""

    account: str
    payments: int = 0
    differences: int = 0
    vendor_only: int = 0
    ledger_only: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


def take(tx: Tx, vendor: str, until_ms: int, owner: str) -> int | None:
    """Take what is to be compared until then; return where it begins, None where there is nothing to do.

    All in milliseconds since the epoch. It is done, another process is at it, or it has failed not long ago.
    """
    last = tx.value(
        "SELECT max(until_ms) FROM reconciliation"
        " WHERE vendor = ? AND account = '' AND state = 'done' AND until_ms <= ?",
        vendor,
        until_ms,
    )
    if last is not None and last >= until_ms:
        return None
    since = max(until_ms - DAY_MS if last is None else last, until_ms - MOST_DAYS * DAY_MS)
    taken = tx.run(
        f"{_INSERT} VALUES (?, '', ?, ?, 'under_way', ?, 0, 0, 0, 0, '{{}}', '', {NOW})"
        " ON CONFLICT (vendor, account, until_ms) DO NOTHING",
        vendor,
        until_ms,
        since,
        owner,
    ) or tx.run(
        f"UPDATE reconciliation SET state = 'under_way', owner = ?, since_ms = ?, at = {NOW}"
        " WHERE vendor = ? AND account = '' AND until_ms = ?"
        f" AND (state = 'under_way' AND at + ? < {NOW} OR state = 'failed' AND at + ? < {NOW})",
        owner,
        since,
        vendor,
        until_ms,
        LEASE_MS,
        AGAIN_MS,
    )
    return since if taken else None


def go_on(tx: Tx, vendor: str, until_ms: int, owner: str) -> bool:
    """Say that it goes on; return whether it is still this process's to do."""
    return bool(
        tx.run(
            f"UPDATE reconciliation SET at = {NOW} WHERE vendor = ? AND account = '' AND until_ms = ?"
            " AND owner = ? AND state = 'under_way'",
            vendor,
            until_ms,
            owner,
        )
    )


def keep(tx: Tx, vendor: str, period: tuple[int, int], finding: NightFinding, state: str) -> None:
    """Keep what was found in an account; `period` is from when until when, `state` how that has ended."""
    tx.run(
        f"{_INSERT} VALUES (?1, ?2, ?3, ?4, ?5, '', ?6, ?7, ?8, ?9, ?10, ?11, {NOW})"
        " ON CONFLICT (vendor, account, until_ms) DO UPDATE SET state = ?5, since_ms = ?4, payments = ?6,"
        " differences = ?7, vendor_only_micros = ?8, ledger_only_micros = ?9, kinds = ?10, note = ?11,"
        f" at = {NOW}",
        vendor,
        finding.account,
        period[1],
        period[0],
        state,
        finding.payments,
        finding.differences,
        finding.vendor_only,
        finding.ledger_only,
        json.dumps(dict(finding.kinds), sort_keys=True),
        finding.note,
    )


def forget(tx: Tx, before: int) -> None:
    """Delete what was found of nights that ended before then; of each vendor the last one stays, as the next
    begins where that has ended.
    """
    tx.run(
        "DELETE FROM reconciliation WHERE until_ms < ? AND NOT (state = 'under_way' AND"
        f" at + ? >= {NOW}) AND until_ms < (SELECT max(done.until_ms) FROM reconciliation AS done"
        " WHERE done.vendor = reconciliation.vendor AND done.account = '' AND done.state = 'done')",
        before,
        LEASE_MS,
    )


def listed(tx: Tx, vendor: str | None, limit: int) -> list[dict[str, Any]]:
    """Return what was found, the latest first: accounts, and what is under way or has failed."""
    rows = tx.all(
        "SELECT * FROM reconciliation WHERE (account <> '' OR state <> 'done')"
        " AND coalesce(?, vendor) = vendor ORDER BY until_ms DESC, vendor, account LIMIT ?",
        vendor,
        limit,
    )
    return [_show(row) for row in rows]


def _show(row: Row) -> dict[str, Any]:
    return {
        "vendor": row["vendor"],
        "account": row["account"] or None,
        "since": moment(row["since_ms"]),
        "until": moment(row["until_ms"]),
        "state": row["state"],
        "payments": row["payments"],
        "differences": row["differences"],
        "vendor_only_usd": plain_usd(row["vendor_only_micros"]),
        "ledger_only_usd": plain_usd(row["ledger_only_micros"]),
        "kinds": json.loads(row["kinds"]),
        "note": row["note"],
        "at": row["at"],
    }
