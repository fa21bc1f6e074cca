"""Whether the books add up: every total is computed again from the journal."""

from __future__ import annotations

from luigi_spendguard.ledger.database import Tx

_AMOUNTS = ("cap", "spent", "reserved", "overrun")
_TOTALS = (
    "SELECT budget.id, scope, subject, part, budget.cap_micros, budget.spent_micros,"
    " budget.reserved_micros, budget.overrun_micros,"
    f" {', '.join(f'coalesce(sum(entry.{name}), 0) AS {name}' for name in _AMOUNTS)}"
    " FROM budget LEFT JOIN (SELECT budget_id, cap_micros AS cap, spent_micros AS spent,"
    " reserved_micros AS reserved, overrun_micros AS overrun FROM journal WHERE budget_id IS NOT NULL"
    " UNION ALL SELECT call_budget.budget_id, cap_micros, spent_micros, reserved_micros, overrun_micros"
    " FROM journal JOIN call_budget ON call_budget.call_id = journal.call_id WHERE journal.budget_id IS NULL"
    ") entry ON entry.budget_id = budget.id GROUP BY budget.id, scope, subject, part, budget.cap_micros,"
    " budget.spent_micros, budget.reserved_micros, budget.overrun_micros HAVING"
    f" {' OR '.join(f'budget.{name}_micros <> coalesce(sum(entry.{name}), 0)' for name in _AMOUNTS)}"
    " ORDER BY budget.id"
)


def discrepancies(tx: Tx) -> list[str]:
    """Return each total of a budget that is not the sum of its entries, in micro-dollars, one line each."""
    return [
        f"budget {row['scope']} {row['subject']} {row['part']}: {name} is {row[f'{name}_micros']}, "
        f"the journal says {row[name]}"
        for row in tx.all(_TOTALS)
        for name in _AMOUNTS
        if row[f"{name}_micros"] != row[name]
    ]
