"""What is done from time to time: pending calls whose sender is gone, answers that are too old."""

from __future__ import annotations

from luigi_spendguard.ledger.budgets import in_doubt
from luigi_spendguard.ledger.engine import NOW, SKEW_MS, Tx, over
from luigi_spendguard.ledger.keys import EXPIRED
from luigi_spendguard.ledger.repeating import GRANT_MS


def sweep(tx: Tx) -> list[str]:
    """Put in doubt every pending call whose sender must be gone, and end expired keys.

    Returns the runs whose calls are concerned.
    """
    overdue = f"state = 'pending' AND {over('granted_at', f'timeout_ms + {GRANT_MS}')}"
    rows = tx.all(f"SELECT id, run_id FROM call WHERE {overdue}")
    for row in rows:
        in_doubt(tx, row, "its sender is gone")
    # For good: an expired key stays so, whatever the clock says later.
    tx.run(
        f"UPDATE claim SET state = 'ended', ended_at = {NOW} WHERE state = 'open' AND task_id = ''"
        f" AND EXISTS (SELECT 1 FROM key_terms WHERE key_terms.id = claim.id AND ({EXPIRED}))"
    )
    return sorted({row["run_id"] for row in rows})


def forget(tx: Tx, days: int) -> int:
    """Delete answers older than `days`; identity and amounts stay. In-doubt calls keep theirs.

    One from the future is as old as can be known: it begins to age now.
    """
    # Nobody goes on with a price that was looked up a day ago.
    tx.run("DELETE FROM turn WHERE EXISTS (SELECT 1 FROM call WHERE call.id = turn.call_id"
           f" AND created_at < {NOW} - 86400000 AND (state IS NULL OR state <> 'pending'))")  # fmt: skip
    tx.run(f"UPDATE exchange SET stored_at = {NOW} WHERE stored_at > {NOW} + {SKEW_MS}")
    return tx.run(
        f"DELETE FROM exchange WHERE stored_at < {NOW} - ? AND call_id NOT IN"
        " (SELECT id FROM call WHERE state IN ('pending','in_doubt'))",
        days * 86_400_000,
    )
