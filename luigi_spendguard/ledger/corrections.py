"""What becomes known of a call from elsewhere than its own reply: an operator's word, or a late price.

The first word ends the reservation; every later one appends the difference, and nothing is edited. Which
calls wait for a price is in the ledger, so that it survives restarts; whoever has the vendor's secret takes
it from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from luigi_spendguard.errors import Conflict, NotFound
from luigi_spendguard.ledger.budgets import (
    JournalEntry,
    budgets_of,
    cost_so_far,
    journal,
    move_money,
    take_money,
    was_made,
)
from luigi_spendguard.ledger.calls import uses_up
from luigi_spendguard.ledger.database import NOW, SKEW_MS, Row, Tx
from luigi_spendguard.ledger.handover import hand_over, held_by, take_back
from luigi_spendguard.ledger.objects import (
    counted_for,
    find_object,
    forget_objects,
    forget_worth,
    restate_object,
)
from luigi_spendguard.ledger.runs import freeze
from luigi_spendguard.money import Micros, format_usd, with_fees
from luigi_spendguard.vendors import FollowedUp

_MINUTE = 60_000
#: Milliseconds after which a price is asked for: again and again, then it is given up.
BACK_OFF_MS = (
    2_000,
    10_000,
    30_000,
    2 * _MINUTE,
    10 * _MINUTE,
    30 * _MINUTE,
    60 * _MINUTE,
    3 * 60 * _MINUTE,
    6 * 60 * _MINUTE,
    12 * 60 * _MINUTE,
    24 * 60 * _MINUTE,
    24 * 60 * _MINUTE,
)
#: The most characters of a run's remark: a denial, and the reply to who opens it, have room for it.
MAX_REMARK = 1000
#: Whoever was told to ask has so long to do it, in milliseconds.
LEASE_MS = 60_000

_LONGEST = " ".join(f"WHEN {tries} THEN {max(ms, LEASE_MS)}" for tries, ms in enumerate(BACK_OFF_MS))
#: A price is to be asked for: it is due, or was put off at a time that has not come yet.
_DUE = f"(due_at <= {NOW} OR due_at > {NOW} + {SKEW_MS} + CASE tries {_LONGEST} ELSE {BACK_OFF_MS[-1]} END)"


@dataclass(frozen=True)
class Resolution:
    """What an operator says became of a call.

    Attributes:
        spent: what it cost, in micro-dollars; None: it was not sent.
        object_id: the vendor's object that it opened, if the operator knows.
        overrun: it may have cost more than was reserved.
        correct: it may have been resolved otherwise before.
        by_books: the vendor's own books say it, of a call that the vendor's answer has ended.
        as_of: it is about the call as it was when this entry of the journal was the last one about it, or
            about what else acts on its object; None: whatever it is by now.

    """

    spent: Micros | None
    object_id: str | None = None
    overrun: bool = False
    correct: bool = False
    by_books: bool = False
    as_of: int | None = None

    def __str__(self) -> str:
        spent = "not sent" if self.spent is None else f"spent {format_usd(self.spent)}"
        spent += ", by the vendor's books" if self.by_books else ""
        return f"{spent}, object {self.object_id}" if self.object_id else spent


def last_resolution(tx: Tx, call_id: str) -> str | None:
    """Return an operator's last word about a call, None when the vendor's own, or nobody's, ended it."""
    answered = tx.value("SELECT status FROM exchange WHERE call_id = ?", call_id)
    note = tx.value(
        "SELECT note FROM journal WHERE call_id = ? AND kind = 'operator' ORDER BY id DESC", call_id
    )
    return None if answered or note is None else str(note)


def resolve(tx: Tx, call_id: str, resolution: Resolution, request_id: str) -> Row:
    """End an in-doubt call by an operator's word, or correct an earlier word. Returns the call row.

    Raises NotFound; Conflict when that does not fit the call's state, or needs to be confirmed.
    """
    row = tx.one("SELECT * FROM call WHERE id = ?", call_id)
    if row is None:
        raise NotFound(f"there is no call {call_id}: `spendguard calls` lists them")
    entry = JournalEntry("operator", row["run_id"], call_id, request_id=request_id, note=str(resolution))
    if was_made(tx, entry):
        return row
    _check_unmoved(tx, row, resolution)
    if resolution.by_books and row["state"] == "settled":
        return _restated(tx, row, resolution, entry)
    _check(tx, row, resolution)
    total = resolution.spent or Micros(0)
    if total > row["reserved_micros"] and not resolution.overrun:
        other = held_by(tx, row)
        if other is not None and total <= (row["total_micros"] or 0):
            raise Conflict(
                f"call {call_id} has reserved {format_usd(row['reserved_micros'])}: what it may cost beyond "
                f"that call {other}, on {row['object_id']} as well, has reserved. Nothing was changed: end "
                "that one first, which hands over what it has not spent"
            )
        raise Conflict(
            f"{format_usd(total)} is more than the {format_usd(row['reserved_micros'])} that call {call_id} "
            "had reserved: nothing was changed. If the vendor's books really say so, repeat it with "
            '--overrun ({"overrun": true}): the rest is booked as overrun and freezes the run'
        )
    note = f"resolved: {resolution}"
    object_id = resolution.object_id or row["object_id"]
    if row["state"] != "in_doubt" and object_id == row["object_id"] and total > cost_so_far(row):
        take_back(tx, row, object_id, total - cost_so_far(row))
    restate(tx, row, total, note, forced=resolution.overrun)
    handed = []
    if object_id != row["object_id"] and row["object_id"] is not None:
        # It was named by mistake, and may be another call's.
        handed = _count(tx, row, row["object_id"], Micros(0), forced=resolution.overrun)
        forget_objects(tx, call_id)
        row["object_id"] = None
    handed += _count(tx, row, object_id, total, forced=resolution.overrun)
    tx.run(
        # Of what the vendor has answered only that its key is used up is of use any more.
        "UPDATE call SET state = ?, tries = tries + ?, status = 0, object_id = coalesce(?, object_id),"
        f" message = ?, ended_at = {NOW} WHERE id = ?",
        "voided" if resolution.spent is None else "settled",
        int(uses_up(row["status"])),
        resolution.object_id,
        "; ".join([note, *handed]),
        call_id,
    )
    journal(tx, entry)
    resolved = tx.one("SELECT * FROM call WHERE id = ?", call_id)
    assert resolved is not None
    return resolved


def _restated(tx: Tx, row: Row, resolution: Resolution, entry: JournalEntry) -> Row:
    """Let a settled call, or the one of several objects that it has opened, have cost what its vendor's own
    books say. Raises Conflict.

    It stays what the vendor has answered: only its amount is known better.
    """
    spent = resolution.spent
    part = _part_of(tx, row, resolution.object_id)
    if spent is None or (part is None and resolution.object_id not in (None, row["object_id"])):
        raise Conflict(
            f"call {row['id']} was settled by the vendor's answer: only its amount can be corrected"
        )
    object_id = row["object_id"] if part is None else resolution.object_id
    before = cost_so_far(row)
    total = spent if part is None else Micros(before - part + spent)
    if total > row["reserved_micros"] and not resolution.overrun:
        raise Conflict(
            f"{format_usd(total)} is more than the {format_usd(row['reserved_micros'])} that call "
            f"{row['id']} had reserved: repeat it with "
            '{"overrun": true}, which books the rest as overrun and freezes the run'
        )
    note = f"resolved: {resolution}"
    if object_id is not None and total > before:
        take_back(tx, row, object_id, total - before)
    restate(tx, row, total, note, forced=True)
    handed = _count(tx, row, object_id, spent, forced=True)
    _wait_no_more(tx, row["id"])
    tx.run("UPDATE call SET message = ? WHERE id = ?", "; ".join([note, *handed]), row["id"])
    journal(tx, entry)
    restated = tx.one("SELECT * FROM call WHERE id = ?", row["id"])
    assert restated is not None
    return restated


def _check_unmoved(tx: Tx, row: Row, resolution: Resolution) -> None:
    """Raise Conflict where more was said since of a call, or of what else acts on the same object, than was
    known to who says this: amounts are absolute, and the later word would be lost.
    """
    if resolution.as_of is None:
        return
    since = tx.one(
        "SELECT journal.call_id, journal.kind FROM journal JOIN call ON call.id = journal.call_id"
        " WHERE journal.id > ? AND (call.id = ? OR call.state IS NOT NULL AND call.vendor = ?"
        " AND call.account = ? AND call.object_id IN (?, ?)) ORDER BY journal.id DESC LIMIT 1",
        resolution.as_of,
        row["id"],
        row["vendor"],
        row["account"],
        row["object_id"],
        resolution.object_id,
    )
    if since is not None:
        other = "" if since["call_id"] == row["id"] else f" (call {since['call_id']}, on the same object)"
        raise Conflict(
            f"call {row['id']} has changed since it was compared{other}: the ledger has a later "
            f"{since['kind']!r} of it. Nothing was booked: compare again"
        )


def _part_of(tx: Tx, row: Row, object_id: str | None) -> int | None:
    """Return what one of several objects counts for that a call has opened, in micro-dollars; None: it is no
    such.
    """
    if row["object_id"] is not None or object_id is None:
        return None
    known = find_object(tx, row["vendor"], row["account"], object_id)
    return int(known["counted_micros"]) if known and known["call_id"] == row["id"] else None


def _wait_no_more(tx: Tx, call_id: str) -> None:
    """Ask no more for the price of a call; which fees a price may lack stays known."""
    tx.run(
        "UPDATE call SET fees_micros = (SELECT fees_micros FROM price_due WHERE call_id = ?1)"
        " WHERE id = ?1 AND EXISTS (SELECT 1 FROM price_due WHERE call_id = ?1)",
        call_id,
    )
    tx.run("DELETE FROM price_due WHERE call_id = ?", call_id)


def _count(tx: Tx, row: Row, object_id: str | None, total: Micros, *, forced: bool) -> list[str]:
    """Let an object count `total` micro-dollars for a call; return who counts now what that lets go."""
    if object_id is None:
        return []
    one = row["vendor"], row["account"], [object_id]
    before = counted_for(tx, *one)
    restate_object(tx, row, object_id, total)
    if row["object_id"] is not None:  # The word is about money: what a change has left only the vendor knows.
        forget_worth(tx, row, object_id)
    let_go = before - counted_for(tx, *one)
    return hand_over(tx, row, object_id, let_go, forced=forced) if let_go > 0 else []


def _check(tx: Tx, row: Row, resolution: Resolution) -> None:
    """Raise Conflict unless an operator may say this of a call in this state."""
    earlier = None if row["state"] == "in_doubt" else last_resolution(tx, row["id"])
    if row["state"] != "in_doubt" and earlier is None:
        state = row["state"] or row["verdict"]
        why = ", and no operator has said so: there is nothing to correct"
        if not resolution.correct:
            why = ", not in doubt: there is nothing to resolve"
        raise Conflict(f"call {row['id']} is {state}{why}")
    if earlier is not None and not resolution.correct:
        raise Conflict(
            f"call {row['id']} was resolved already ({earlier}): to correct that, repeat it with --correct "
            '({"correct": true})'
        )
    if resolution.object_id is None:
        return
    if row["object_id"] not in (None, resolution.object_id) and not _named_by_operator(tx, row):
        raise Conflict(f"call {row['id']} is about {row['object_id']}, not {resolution.object_id}")
    known = find_object(tx, row["vendor"], row["account"], resolution.object_id)
    other = known and known["call_id"]
    if other in (None, row["id"]) or row["object_id"] == resolution.object_id:
        return
    # Whoever acts on an object names it in its path: it did not open that.
    path = str(tx.value("SELECT path FROM call WHERE id = ?", other) or "")
    if resolution.object_id not in path.split("/"):
        raise Conflict(f"{resolution.object_id} is what call {other} has opened: look for this call's own")


def _named_by_operator(tx: Tx, row: Row) -> bool:
    """Return whether a call's object is known from an operator alone."""
    notes = tx.all("SELECT note FROM journal WHERE call_id = ? AND kind = 'operator'", row["id"])
    return any(entry["note"].endswith(f", object {row['object_id']}") for entry in notes)


def restate(tx: Tx, row: Row, total: int, note: str, *, forced: bool) -> None:
    """Let a call have cost `total` micro-dollars, whatever was counted for it before.

    What it takes beyond its reservation is overrun and freezes the run; overrun that goes away thaws it.
    Raises Conflict when a correction has no room in the budgets any more and is not `forced`.
    """
    first = row["state"] == "in_doubt"
    held = row["reserved_micros"] if first else 0
    spent = min(total, row["reserved_micros"]) - row["settled_micros"] - row["corrected_micros"]
    overrun = total - min(total, row["reserved_micros"]) - row["overrun_micros"]
    if overrun < 0:
        move_money(tx, row, JournalEntry("correct", overrun=overrun, note=note))
    more, taken = max(0, overrun), max(0, spent - held)
    if taken and not _take_again(tx, row, taken):
        if not forced:
            raise Conflict(
                f"call {row['id']} costs {format_usd(Micros(taken))} more than was said before, and its "
                "budgets have no room for that any more: top the run up first, or repeat it with --overrun "
                '({"overrun": true})'
            )
        spent, more, overrun, taken = spent - taken, more + taken, overrun + taken, 0
    kind = "resolve" if first else "correct"
    entry = JournalEntry(kind, spent=spent, reserved=-held - taken, overrun=more, note=note)
    move_money(tx, row, entry)
    column = "settled_micros" if first else "corrected_micros"
    tx.run(
        f"UPDATE call SET {column} = {column} + ?, overrun_micros = overrun_micros + ? WHERE id = ?",
        spent,
        overrun,
        row["id"],
    )
    if overrun > 0:
        freeze(tx, row["run_id"])
    elif overrun < 0:
        tx.run(
            "UPDATE run SET state = 'active' WHERE run_id = ?1 AND state = 'frozen' AND 0 = (SELECT"
            " overrun_micros FROM budget WHERE scope = 'run' AND subject = ?1 AND part = '')",
            row["run_id"],
        )


def _take_again(tx: Tx, row: Row, amount: int) -> bool:
    """Reserve `amount` once more in all budgets of a call, or change nothing."""
    if take_money(tx, budgets_of(tx, row["id"]), Micros(amount)) is not None:
        return False
    journal(tx, JournalEntry("take", run_id=row["run_id"], call_id=row["id"], reserved=amount))
    return True


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


def correct(
    tx: Tx, call_id: str, price: FollowedUp, *, relayed_too: bool = True, waited: bool = True
) -> Row | None:
    """Take what the vendor says a call has cost; it may not say, yet or for good.

    Returns the call, None when no price of it was waited for any more; not `waited`: it need not be.
    """
    waiting = tx.one("SELECT * FROM price_due WHERE call_id = ? AND relayed <= ?", call_id, int(relayed_too))
    row = tx.one("SELECT * FROM call WHERE id = ?", call_id)
    if row is None or row["state"] != "settled" or (waiting is None and waited):
        return None
    if waiting is None:
        if price.total_micros is not None:
            _book(tx, row, row, price.total_micros, price)
        return tx.one("SELECT * FROM call WHERE id = ?", call_id)
    tries = waiting["tries"] + 1
    given_up = price.final or tries >= len(BACK_OFF_MS)
    if price.total_micros is not None:
        _book(tx, row, waiting, price.total_micros, price)
    elif given_up:
        note = f"{price.note or 'the vendor has named no price'}: {format_usd(cost_so_far(row))} stays"
        journal(tx, JournalEntry("correct", run_id=row["run_id"], call_id=call_id, note=note))
    elif price.problem:
        _note_problem(tx, row, price.problem)
    if given_up:
        _wait_no_more(tx, call_id)
    else:
        tx.run(
            f"UPDATE price_due SET tries = ?, due_at = {NOW} + ? WHERE call_id = ?",
            tries,
            BACK_OFF_MS[tries],
            call_id,
        )
    return tx.one("SELECT * FROM call WHERE id = ?", call_id)


def cost_by_price(cost: int, asked: int, fees: int | None, price: FollowedUp) -> int:
    """Return what a call has cost in all by the price that its vendor names; all in micro-dollars.

    `cost` is what was counted so far. `fees` may lack in the price; of a call from before they were kept
    (None) less is not believed.
    """
    assert price.total_micros is not None, "a price is named"
    if price.whole:
        return price.total_micros
    total = with_fees(price.total_micros, fees or 0, asked)
    return cost if fees is None and 0 < total < cost else total


def _book(tx: Tx, row: Row, waiting: Row, named_micros: int, price: FollowedUp) -> None:
    """Let a call have cost what its vendor says, with the fees that its price may lack."""
    total = cost_by_price(cost_so_far(row), row["asked_micros"], waiting["fees_micros"], price)
    note = price.note
    if total > named_micros:
        note += f", and fees {format_usd(Micros(total - named_micros))}"
    restate(tx, row, total, note, forced=True)
    restate_object(tx, row, waiting["object_id"], total)


def _note_problem(tx: Tx, row: Row, problem: str) -> None:
    """Put on the call and on its run, once each, why a price cannot be booked."""
    run = tx.value("SELECT note FROM run WHERE run_id = ?", row["run_id"])
    more = f"{run}; {problem}".strip("; ")
    if problem not in run and len(more) <= MAX_REMARK:
        tx.run("UPDATE run SET note = ? WHERE run_id = ?", more, row["run_id"])
    if not tx.value("SELECT 1 FROM journal WHERE call_id = ? AND note = ?", row["id"], problem):
        journal(tx, JournalEntry("correct", run_id=row["run_id"], call_id=row["id"], note=problem))


def of_calls(tx: Tx, call_ids: list[str]) -> dict[str, list[Row]]:
    """Return the corrections of each of some calls, oldest first."""
    corrections: dict[str, list[Row]] = {}
    for row in tx.all(
        "SELECT call_id, at, spent_micros + overrun_micros AS change_micros, note FROM journal"
        " WHERE kind IN ('correct','overrun') AND call_id IN (SELECT value FROM json_each(?)) ORDER BY id",
        json.dumps(call_ids),
    ):
        corrections.setdefault(row["call_id"], []).append(row)
    return corrections
