"""Who has raised what of a run: what one operator alone may do is bounded by what they have done."""

from __future__ import annotations

from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.money import Micros


def amount_of(note: str) -> Micros:
    """Return by how much a top-up has raised a budget, by the entry's note."""
    return Micros(int(note.partition(" ")[0]))


def raised_by(tx: Tx, run_id: str, who: str) -> Micros:
    """Return by how much somebody has raised a run's budgets, whichever, in micro-dollars.

    `who`: as the actor of an entry begins, before ` at ADDRESS`.
    """
    begins = f"{who} at "
    rows = tx.all(
        "SELECT note FROM journal WHERE run_id = ? AND kind = 'top_up' AND substr(actor, 1, ?) = ?",
        run_id,
        len(begins),
        begins,
    )
    return Micros(sum(amount_of(row["note"]) for row in rows))
