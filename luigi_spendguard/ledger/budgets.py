"""Budgets: the rows that money is taken from, and the journal of every change to them.

Everything here runs inside one transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luigi_spendguard.ledger.engine import NOW, TODAY, Row, Tx
from luigi_spendguard.money import Micros

#: remaining = cap - spent - reserved - overrun, never below 0.
REMAINING = "max(0, cap_micros - spent_micros - reserved_micros - overrun_micros)"


def journal(
    tx: Tx,
    kind: str,
    *,
    run_id: str = "",
    call_id: str | None = None,
    budget_id: int | None = None,
    cap: int = 0,
    spent: int = 0,
    reserved: int = 0,
    overrun: int = 0,
    request_id: str | None = None,
    note: str = "",
) -> None:
    """Append one entry: `cap`, `spent`, `reserved`, `overrun` are changes in micro-dollars."""
    tx.run(
        "INSERT INTO journal (at, kind, run_id, call_id, budget_id, cap_micros, spent_micros,"
        " reserved_micros, overrun_micros, request_id, note)"
        f" VALUES ({NOW},?,?,?,?,?,?,?,?,?,?)",
        kind,
        run_id,
        call_id,
        budget_id,
        cap,
        spent,
        reserved,
        overrun,
        request_id,
        note,
    )


def run_budget(tx: Tx, run_id: str) -> Row:
    """Return the budget row of a run, with `remaining_micros`."""
    row = tx.one(
        f"SELECT *, {REMAINING} AS remaining_micros FROM budget"
        " WHERE scope = 'run' AND subject = ? AND window = ''",
        run_id,
    )
    assert row is not None, "a run is opened together with its budget"
    return row


def open_budget(tx: Tx, scope: str, subject: str, window: str, cap: Micros) -> int:
    """Make a budget and journal its cap; return its id."""
    budget_id = tx.insert("budget", scope=scope, subject=subject, window=window, cap_micros=cap,
                          spent_micros=0, reserved_micros=0, overrun_micros=0)  # fmt: skip
    run_id = subject if scope == "run" else ""
    journal(tx, "open", run_id=run_id, budget_id=budget_id, cap=cap)
    return budget_id


def day_budget(tx: Tx, cap: Micros) -> int:
    """Return the id of today's budget of all runs, made or brought to `cap` when need be.

    A cap that was lowered below what is counted already stops at that.
    """
    today = tx.value(f"SELECT {TODAY}")
    row = tx.one("SELECT * FROM budget WHERE scope = 'day' AND subject = '' AND window = ?", today)
    if row is None:
        return open_budget(tx, "day", "", today, cap)
    wanted = max(int(cap), row["spent_micros"] + row["reserved_micros"])
    if wanted != row["cap_micros"]:
        tx.run("UPDATE budget SET cap_micros = ? WHERE id = ?", wanted, row["id"])
        journal(tx, "set_cap", budget_id=row["id"], cap=wanted - row["cap_micros"])
    return int(row["id"])


def take(tx: Tx, budget_ids: Sequence[int], amount: Micros) -> Row | None:
    """Move `amount` from remaining to reserved in all budgets, or change nothing.

    Returns None when all had room, else the first budget that had not (its row, with
    `remaining_micros`). The caller's savepoint undoes the others.
    """
    for budget_id in sorted(budget_ids):
        moved = tx.run(
            "UPDATE budget SET reserved_micros = reserved_micros + ?1 WHERE id = ?2"
            " AND spent_micros + reserved_micros + overrun_micros + ?1 <= cap_micros",
            amount,
            budget_id,
        )
        if not moved:
            return tx.one(f"SELECT *, {REMAINING} AS remaining_micros FROM budget WHERE id = ?",
                          budget_id)  # fmt: skip
    return None


def move(
    tx: Tx,
    kind: str,
    call: Row,
    *,
    spent: int = 0,
    reserved: int = 0,
    overrun: int = 0,
    **entry: Any,
) -> None:
    """Change the totals of all budgets of `call`, in micro-dollars, and journal it once."""
    if spent or reserved or overrun:
        tx.run(
            "UPDATE budget SET spent_micros = spent_micros + ?, reserved_micros = reserved_micros + ?,"
            " overrun_micros = overrun_micros + ?"
            " WHERE id IN (SELECT budget_id FROM call_budget WHERE call_id = ?)",
            spent,
            reserved,
            overrun,
            call["id"],
        )
    journal(tx, kind, run_id=call["run_id"], call_id=call["id"],
            spent=spent, reserved=reserved, overrun=overrun, **entry)  # fmt: skip


def in_doubt(tx: Tx, call: Row, note: str, status: int = 0) -> None:
    """Let a pending call go on counting, its outcome unknown until it is resolved."""
    tx.run(
        "UPDATE call SET state = 'in_doubt', unknown = 1, status = ?, message = ? WHERE id = ?",
        status,
        note,
        call["id"],
    )
    journal(tx, "doubt", run_id=call["run_id"], call_id=call["id"], note=note)
