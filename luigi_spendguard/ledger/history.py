"""What has happened to runs, as the journal has it: what people have done, and what nobody may overlook."""

from __future__ import annotations

from luigi_spendguard.ledger.budgets import last_entry
from luigi_spendguard.ledger.database import Row, Tx

#: Kinds of journal entries that are news; money that is reserved and settled as it should be is none.
NEWS = ("open", "top_up", "approve", "revoke", "operator", "issue", "doubt", "close")
#: So many are told at once.
MOST = 1000


def news(tx: Tx, since: int) -> tuple[int, list[Row]]:
    """Return up to which entry of the journal was looked, and what has happened after `since`, oldest first.

    A row has, beside its entry, the `scope`, `part` and `own_micros` (its cap of now) of the budget that it
    concerns, and the `held_micros` of the call.
    """
    last = last_entry(tx)
    if last <= since:
        return last, []
    rows = tx.all(
        "SELECT journal.*, budget.scope, budget.part, budget.cap_micros - budget.shadow_micros AS own_micros,"
        " call.reserved_micros AS held_micros FROM journal"
        " LEFT JOIN budget ON budget.id = journal.budget_id LEFT JOIN call ON call.id = journal.call_id"
        f" WHERE journal.id > ? AND journal.id <= ? AND kind IN ({','.join('?' * len(NEWS))})"
        " AND journal.run_id <> '' ORDER BY journal.id LIMIT ?",
        since,
        last,
        *NEWS,
        MOST,
    )
    return (rows[-1]["id"] if len(rows) == MOST else last), rows
