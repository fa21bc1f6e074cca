"""Prices that a vendor names late: which calls wait for one, and what becomes of them.

What waits is in the ledger, so that it survives restarts; whoever has the vendor's secret takes it from
there.
"""

from __future__ import annotations

import json

from luigi_spendguard.ledger.budgets import journal
from luigi_spendguard.ledger.engine import NOW, SKEW_MS, Row, Tx
from luigi_spendguard.ledger.resolving import keep_object, restate
from luigi_spendguard.messages import MAX_TEXT
from luigi_spendguard.money import Micros, format_usd, with_fees
from luigi_spendguard.vendors import FollowedUp

#: Milliseconds after which a price is asked for: again and again, then it is given up.
_MINUTE = 60_000
BACK_OFF_MS = (
    2_000, 10_000, 30_000, 2 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, 60 * _MINUTE, 3 * 60 * _MINUTE,
    6 * 60 * _MINUTE, 12 * 60 * _MINUTE, 24 * 60 * _MINUTE, 24 * 60 * _MINUTE,
)  # fmt: skip
#: Whoever was told to ask has so long to do it, in milliseconds.
LEASE_MS = 60_000


#: A price is to be asked for: it is due, or was put off at a time that has not come yet.
_LONGEST = " ".join(f"WHEN {tries} THEN {max(ms, LEASE_MS)}" for tries, ms in enumerate(BACK_OFF_MS))
_DUE = f"(due_at <= {NOW} OR due_at > {NOW} + {SKEW_MS} + CASE tries {_LONGEST} ELSE {BACK_OFF_MS[-1]} END)"


def await_price(tx: Tx, row: Row, object_id: str, fees: int) -> None:
    """Remember that the price of what a call opened is to be asked for; it may lack `fees` micro-dollars."""
    tx.run(
        "INSERT INTO price_due (call_id, vendor, account, object_id, relayed, fees_micros, tries, due_at)"
        f" VALUES (?,?,?,?,?,?,0,{NOW} + ?) ON CONFLICT (call_id) DO NOTHING",
        row["id"],
        row["vendor"],
        row["account"],
        object_id,
        row["relayed"],
        fees,
        BACK_OFF_MS[0],
    )


def waits(tx: Tx) -> bool:
    """Return whether a price is to be asked for now."""
    return tx.value(f"SELECT 1 FROM price_due WHERE {_DUE} LIMIT 1") is not None


def due(tx: Tx, vendors: list[str], *, relayed_too: bool, limit: int = 20) -> list[Row]:
    """Return calls of these vendors whose price is to be asked for now; others are told so later.

    `relayed_too`: a worker's word about what a gateway has sent is not believed, so it gets none of that.
    """
    rows = tx.all(
        "SELECT * FROM price_due WHERE vendor IN (SELECT value FROM json_each(?))"
        f" AND {_DUE} AND relayed <= ? ORDER BY due_at LIMIT ?",
        json.dumps(vendors),
        int(relayed_too),
        limit,
    )
    for row in rows:
        tx.run(f"UPDATE price_due SET due_at = {NOW} + ? WHERE call_id = ?", LEASE_MS, row["call_id"])
    return rows


def correct(tx: Tx, call_id: str, found: FollowedUp, *, relayed_too: bool = True) -> Row | None:
    """Take what the vendor says a call has cost; it may not say, yet or for good.

    Returns the call, None when no price of it was waited for any more.
    """
    waiting = tx.one("SELECT * FROM price_due WHERE call_id = ? AND relayed <= ?", call_id, int(relayed_too))
    row = tx.one("SELECT * FROM call WHERE id = ?", call_id)
    if waiting is None or row is None or row["state"] != "settled":
        return None
    tries = waiting["tries"] + 1
    given_up = found.final or tries >= len(BACK_OFF_MS)
    if found.total_micros is not None:
        _book(tx, row, waiting, found.total_micros, found)
    elif given_up:
        cost = format_usd(row["settled_micros"] + row["corrected_micros"] + row["overrun_micros"])
        journal(tx, "correct", run_id=row["run_id"], call_id=call_id,
                note=f"{found.note or 'the vendor has named no price'}: {cost} stays")  # fmt: skip
    elif found.problem:
        _say(tx, row, found.problem)
    if given_up:
        tx.run("DELETE FROM price_due WHERE call_id = ?", call_id)
    else:
        tx.run(f"UPDATE price_due SET tries = ?, due_at = {NOW} + ? WHERE call_id = ?",
               tries, BACK_OFF_MS[tries], call_id)  # fmt: skip
    return tx.one("SELECT * FROM call WHERE id = ?", call_id)


def _book(tx: Tx, row: Row, waiting: Row, price: int, found: FollowedUp) -> None:
    """Let a call have cost what its vendor says, with the fees that its price may lack."""
    total, note = price, found.note
    if not found.whole:
        total = with_fees(price, waiting["fees_micros"], row["asked_micros"])
    if total > price:
        note += f", and fees {format_usd(Micros(total - price))}"
    restate(tx, row, total, note, forced=True)
    keep_object(tx, row, waiting["object_id"], total)


def _say(tx: Tx, row: Row, problem: str) -> None:
    """Put on the call and on its run, once each, why a price cannot be booked."""
    run = tx.value("SELECT note FROM run WHERE run_id = ?", row["run_id"])
    if problem not in run and len(run) < MAX_TEXT:
        tx.run("UPDATE run SET note = ? WHERE run_id = ?", f"{run}; {problem}".strip("; "), row["run_id"])
    if not tx.value("SELECT 1 FROM journal WHERE call_id = ? AND note = ?", row["id"], problem):
        journal(tx, "correct", run_id=row["run_id"], call_id=row["id"], note=problem)


def of_calls(tx: Tx, call_ids: list[str]) -> dict[str, list[Row]]:
    """Return the corrections of each of some calls, oldest first."""
    found: dict[str, list[Row]] = {}
    for row in tx.all(
        "SELECT call_id, at, spent_micros + overrun_micros AS change_micros, note FROM journal"
        " WHERE kind IN ('correct','overrun') AND call_id IN (SELECT value FROM json_each(?)) ORDER BY id",
        json.dumps(call_ids),
    ):
        found.setdefault(row["call_id"], []).append(row)
    return found
