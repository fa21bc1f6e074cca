"""What is done from time to time: pending calls whose sender is gone, answers that are too old."""

from __future__ import annotations

from luigi_spendguard.ledger.budgets import in_doubt
from luigi_spendguard.ledger.engine import NOW, Tx
from luigi_spendguard.ledger.repeating import GRANT_MS


def sweep(tx: Tx) -> list[str]:
    """Put in doubt every pending call whose sender must be gone; return the runs concerned."""
    overdue = f"state = 'pending' AND granted_at + timeout_ms + {GRANT_MS} < {NOW}"
    rows = tx.all(f"SELECT id, run_id FROM call WHERE {overdue}")
    for row in rows:
        in_doubt(tx, row, "its sender is gone")
    return sorted({row["run_id"] for row in rows})


def forget(tx: Tx, days: int) -> int:
    """Delete answers older than `days`; identity and amounts stay. In-doubt calls keep theirs."""
    # Nobody goes on with a price that was looked up a day ago.
    tx.run(f"DELETE FROM turn WHERE call_id IN (SELECT id FROM call WHERE created_at < {NOW} - 86400000)"
           " AND call_id NOT IN (SELECT id FROM call WHERE state = 'pending')")  # fmt: skip
    return tx.run(
        f"DELETE FROM exchange WHERE stored_at < {NOW} - ? AND call_id NOT IN"
        " (SELECT id FROM call WHERE state IN ('pending','in_doubt'))",
        days * 86_400_000,
    )
