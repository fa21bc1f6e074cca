"""Ends of a reservation: settle, void, doubt. Each ends it once; repeating is harmless."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from luigi_spendguard.errors import Conflict, NotFound
from luigi_spendguard.ledger.budgets import (
    DAYS_OF,
    JournalEntry,
    cost_so_far,
    event,
    journal,
    move_money,
    put_in_doubt,
)
from luigi_spendguard.ledger.calls import CALL, GRANT_MS, Scope, tombstone, uses_up
from luigi_spendguard.ledger.corrections import await_price, last_resolution, restate
from luigi_spendguard.ledger.database import NOW, Row, Tx, over
from luigi_spendguard.ledger.executed import as_executed, is_kept
from luigi_spendguard.ledger.handover import at_least, relying_on
from luigi_spendguard.ledger.keys import EXPIRED
from luigi_spendguard.ledger.names import of_payer, of_run
from luigi_spendguard.ledger.objects import (
    adopt,
    counted_for,
    cover_object,
    find_object,
    find_object_ahead,
    is_gateways,
    keep_part,
    release_object,
    settle_object,
    uncontested,
)
from luigi_spendguard.ledger.replays import unheard
from luigi_spendguard.ledger.runs import freeze
from luigi_spendguard.protocol import EndRequest


def end(tx: Tx, scope: Scope, message: EndRequest) -> Row | None:
    """Apply what a sender says became of its call. Returns the call row, None for a tombstone.

    Ends are accepted from the key of any attempt of the call's task, ended and revoked ones too: a
    late settle is knowledge, never dropped.
    """
    tx.check(of_run(scope.run["run_id"]))
    row = tx.one(CALL, message.call_id)
    if row is not None:
        payers = filter(None, (row["task_id"], row["payment"]))
        tx.check(of_run(row["run_id"]), *map(of_payer, payers))
    if row is None:
        if message.kind == "void":
            _let_go(tx, scope, message)
            tombstone(tx, scope, message)
            return None
        raise NotFound(f"there is no call {message.call_id} to {message.kind}")
    if not scope.owns(row):
        raise Conflict("the call is another task's")
    _check_sender(scope, row)
    if row["verdict"] == "replayed" and message.kind == "void" and message.ask >= row["ask"]:
        unheard(tx, row)
    if row["verdict"] != "allowed":
        return row
    if message.kind == "void" and row["state"] == "pending" and message.sender_id != row["sender"]:
        return row  # Another sender has taken the call over, and says itself how it ended.
    if message.kind == "void" and message.ask > row["ask"]:
        _let_go(tx, scope, message)
        # What asks for it may still come: it is refused then, as behind a tombstone.
        tx.run("UPDATE call SET ask = ? WHERE id = ?", message.ask, row["id"])
        row = tx.one("SELECT * FROM call WHERE id = ?", row["id"]) or row  # It may have been let go itself.
    _look_ahead(tx, row, message)
    row, message = _believed(tx, scope, row, message)
    if message.kind == "settle":
        if (settled := _settle(tx, row, message, scope.now)) is not None:
            return settled
    elif message.ask < row["ask"]:
        return row  # A later send of the same call is under way; it will say how it ended.
    elif message.kind == "void":
        _void(tx, row, message)
    elif row["state"] == "pending":
        put_in_doubt(tx, row, message.note, message.status, message.vendor_request)
    return tx.one("SELECT * FROM call WHERE id = ?", message.call_id)


def _check_sender(scope: Scope, row: Row) -> None:
    if row["relayed"] and not scope.relayed:
        raise Conflict("a gateway sends this call, and says itself how it ended")


def _let_go(tx: Tx, scope: Scope, message: EndRequest) -> None:
    """Put what a sender was let send again back in doubt: it has not heard so, and sends nothing.

    Pending, it would be a call that the task has under way: an equal one would be another. Said once of
    what a sender has asked by then: what it is let send after that, a void that comes again leaves to it.
    """
    for row in tx.all("SELECT * FROM call WHERE state = 'pending' AND sender = ?", message.sender_id):
        if scope.owns(row):
            _check_sender(scope, row)
            put_in_doubt(tx, row, message.note)


def _believed(tx: Tx, scope: Scope, row: Row, message: EndRequest) -> tuple[Row, EndRequest]:
    """Return what is to be applied: a worker's word about an object that a gateway knows is left out."""
    named = [message.object_id, *message.covers, *message.opened]
    if scope.relayed:
        adopt(tx, row["vendor"], row["account"], named)
    elif is_gateways(tx, row["vendor"], row["account"], [*named, row["object_id"]]):
        row = {**row, "object_id": None}
        message = replace(message, object_id=None, covers=(), only_less=False, opened={})
    return row, message


def _look_ahead(tx: Tx, row: Row, message: EndRequest) -> None:
    """Let what is asked before a reply is booked go with the first look at the call's objects."""
    object_id = message.object_id or row["object_id"]
    if message.kind == "settle" and object_id is not None:
        find_object_ahead(tx, row["vendor"], row["account"], object_id)
        tx.ahead(_HELD_BY_OTHERS, *_others_at(row, object_id))
    if tx.late is not None:
        tx.ahead(DAYS_OF, row["id"])


def _settle(tx: Tx, row: Row, message: EndRequest, now: int) -> Row | None:
    """Apply the vendor's reply; return the call as it is then, None where that has to be looked at."""
    object_id = message.object_id or row["object_id"]
    known = find_object(tx, row["vendor"], row["account"], object_id)
    late = row["state"] == "settled" and last_resolution(tx, row["id"]) is not None
    if late or row["state"] == "voided" or message.covers:
        tx.check_alone("what an operator has said, or other objects, are concerned")
    more = 0
    if late or row["state"] != "settled":
        message, more = as_executed(tx, row, message, object_id, known, now)
    before = cost_so_far(row)
    if object_id is not None:
        before = (known["counted_micros"] if known else 0) + more
    booked: Row | None = None
    if late or row["state"] in ("pending", "in_doubt"):
        # The object may count for other calls, too: `before` is without this one.
        own = cost_so_far(row) if late else row["reserved_micros"]
        at_object = before
        own = own if row["object_id"] or object_id is None else 0
        before = max(0, before - own)
        covers = message.covers if object_id is not None and message.total_micros is not None else ()
        covered = uncontested(tx, row["vendor"], row["account"], covers, relayed=row["relayed"])
        beside = counted_for(tx, row["vendor"], row["account"], covered)
        apart = 0 if late else _counted_then(row, beside)
        before += beside + apart
        open_micros = _held_by_others(tx, row, object_id)
        total = _total(message, before)
        if row["object_id"] is None and object_id is not None:
            total = max(total, at_object)  # Who acted on it has known it: that is newer than what opened it.
        elsewhere = apart + (beside if message.covers_stay else 0)
        if object_id is not None and total < before + own:
            least = at_least(tx, row, object_id, before - elsewhere, own, is_kept=is_kept(message))
            total = max(total, least + elsewhere)
        actual, given_back = max(0, total - before), before - open_micros - total
        says = _total(message, max(0, before - open_micros))
        if row["object_id"] is None:
            says = max(says, at_object - open_micros)
        total = max(total, min(total, before - open_micros) + open_micros)
        says, total = max(0, says - elsewhere), max(0, total - elsewhere)
        if late:  # An operator resolved it before this reply came.
            restate(tx, row, actual, "a reply came after it was resolved", forced=True)
        else:
            booked = _book(tx, row, actual, message.note)
        if object_id is not None and not message.covers_stay:
            _take_over(tx, row, object_id, covered)
        _give_back(tx, row, object_id, given_back)
    elif row["state"] == "voided":
        # An operator resolved it as not sent, and it was: nothing is reserved for it any more.
        says = total = max(before, _total(message, before))
        _overrun(tx, row, max(0, total - before), "a reply came after it was voided")
        tx.run("UPDATE call SET state = 'settled' WHERE id = ?", row["id"])
    else:
        return None  # The same settle again.
    answered = {
        "status": message.status,
        "object_id": object_id,
        "declined": int(message.status >= 400 and bool(row["wire_key"])),  # What only reads has no key.
        "tries": row["tries"] + uses_up(message.status),
        "ended_at": now if row["ended_at"] is None else row["ended_at"],
        "total_micros": None if message.total_micros is None else says,
        "vendor_request": message.vendor_request or row["vendor_request"],
    }
    if booked is None:
        tx.later(_ANSWERED, *answered.values(), row["id"])
    else:
        tx.later(_SETTLED, *answered.values(), *booked.values(), row["id"])
        booked = {**row, **answered, **booked, "state": "settled"}
    for one, micros in message.opened.items():
        keep_part(tx, row, one, int(micros))
    if message.price_due and object_id is not None:
        await_price(tx, row, object_id, message.fees_micros)
    counted = known["counted_micros"] if known else 0  # With what this call had reserved for it, too.
    if object_id is not None and (counted or before or total or message.worth_micros):
        settle_object(tx, row, object_id, message, total)
    if message.answer_body:  # Else too long to be kept, or withheld: a repetition is told the object's id.
        headers = json.dumps(message.answer_headers)
        tx.later(_KEEP_ANSWER, message.status, headers, message.answer_body, row["id"])
    return booked


#: What a reply says of a call; and of one that it ends, what the call has come to.
_OF_REPLY = (
    "status = ?, object_id = ?, declined = ?, tries = ?, ended_at = ?, total_micros = ?, vendor_request = ?"
)
_ANSWERED = f"UPDATE call SET {_OF_REPLY} WHERE id = ?"
_SETTLED = (
    f"UPDATE call SET {_OF_REPLY}, state = 'settled', settled_micros = ?, corrected_micros = ?,"
    " overrun_micros = ? WHERE id = ?"
)
_KEEP_ANSWER = "UPDATE exchange SET status = ?, answer_headers = ?, answer_body = ? WHERE call_id = ?"


def _total(message: EndRequest, before: int) -> int:
    """Return what an object counts for now; `before`: without what the call has reserved."""
    if message.total_micros is None:
        return before
    if message.only_more:
        return max(before, message.total_micros)
    return min(before, message.total_micros) if message.only_less else message.total_micros


def _counted_then(row: Row, beside: int) -> int:
    """Return what counted for a part of a call when it was first asked for, and is not named any more.

    An earlier send of it may have taken that along: then it is found on no list, and goes on counting.
    """
    if not row["unknown"] or row["object_id"] is not None:
        return 0
    return max(0, int(row["asked_micros"] - row["reserved_micros"]) - beside)


_ABOUT = (
    "SELECT id, run_id FROM call WHERE vendor = ? AND account = ? AND object_id = ? AND state = 'settled'"
    " AND relayed = ? ORDER BY rowid"
)


def _take_over(tx: Tx, row: Row, object_id: str, covers: list[str]) -> None:
    """Let `object_id` count what other objects counted, so that freeing it frees their calls' money."""
    for covered in set(covers) - {object_id}:
        for call in tx.all(_ABOUT, row["vendor"], row["account"], covered, row["relayed"]):
            tx.run("UPDATE call SET object_id = ? WHERE id = ?", object_id, call["id"])
            journal(tx, event("object", call, f"{object_id} instead of {covered}"))
        cover_object(tx, row, covered)


def _book(tx: Tx, row: Row, actual: int, note: str) -> Row:
    """End a reservation at `actual` micro-dollars; what exceeds it is overrun and freezes the run.

    Return what the call has come to.
    """
    spent = min(actual, row["reserved_micros"])
    overrun = actual - spent
    if spent or overrun or row["reserved_micros"] or row["wire_key"]:  # What only reads has none.
        reserved = -row["reserved_micros"]
        entry = JournalEntry("settle", spent=spent, reserved=reserved, overrun=overrun, note=note)
        move_money(tx, row, entry)
    else:
        journal(tx, event("read", row, note))
    if overrun:
        freeze(tx, row["run_id"])
    return {"settled_micros": spent, "corrected_micros": 0, "overrun_micros": overrun}


def _overrun(tx: Tx, row: Row, amount: int, note: str) -> None:
    move_money(tx, row, JournalEntry("overrun", overrun=amount, note=note))
    tx.run("UPDATE call SET overrun_micros = overrun_micros + ? WHERE id = ?", amount, row["id"])
    if amount:
        freeze(tx, row["run_id"])


def _correct(tx: Tx, row: Row, change: int, note: str) -> None:
    """Append a later knowledge of a settled amount; what it takes beyond the cap is overrun."""
    if change <= 0:
        change = max(change, -(row["settled_micros"] + row["corrected_micros"]))
        move_money(tx, row, JournalEntry("correct", spent=change, note=note))
        tx.run("UPDATE call SET corrected_micros = corrected_micros + ? WHERE id = ?", change, row["id"])
    else:
        _overrun(tx, row, change, note)


def _held_by_others(tx: Tx, row: Row, object_id: str | None) -> int:
    """Return what other calls hold reserved on an object: it is counted, and not this call's to free."""
    if object_id is None:
        return 0
    return int(tx.value(_HELD_BY_OTHERS, *_others_at(row, object_id)) or 0)


_HELD_BY_OTHERS = (
    "SELECT sum(reserved_micros) FROM call WHERE vendor = ? AND account = ? AND object_id = ?"
    " AND state IN ('pending','in_doubt') AND id <> ? AND relayed = ?"
)


def _others_at(row: Row, object_id: str) -> tuple[Any, ...]:
    return row["vendor"], row["account"], object_id, row["id"], row["relayed"]


def _give_back(tx: Tx, row: Row, object_id: str | None, amount: int) -> None:
    """Correct the calls that an object was counted by, newest first: it counts for less now."""
    if amount <= 0 or object_id is None:
        return
    opened = find_object(tx, row["vendor"], row["account"], object_id)
    for call in tx.all(
        "SELECT * FROM call WHERE vendor = ?1 AND account = ?2"
        " AND (object_id = ?3 OR object_id IS NULL AND id = ?6)"
        " AND state = 'settled' AND settled_micros + corrected_micros > 0 AND id <> ?4 AND relayed = ?5"
        " ORDER BY created_at DESC, rowid DESC",
        row["vendor"],
        row["account"],
        object_id,
        row["id"],
        row["relayed"],
        opened and opened["call_id"],
    ):
        part = min(amount, call["settled_micros"] + call["corrected_micros"])
        _correct(tx, call, -part, f"by call {row['id']} ({row['operation']})")
        amount -= part
        if not amount:
            return


def _void(tx: Tx, row: Row, message: EndRequest) -> None:
    if row["state"] not in ("pending", "in_doubt"):
        return
    if row["unknown"] and (not message.definite or relying_on(tx, row)):
        # An earlier send may have been executed: only the vendor's own word ends this call.
        if row["state"] == "pending":
            put_in_doubt(tx, row, message.note, message.status, message.vendor_request)
        return
    move_money(tx, row, JournalEntry("void", reserved=-row["reserved_micros"], note=message.note))
    release_object(tx, row)
    tx.run(
        f"UPDATE call SET state = 'voided', status = ?, message = ?, vendor_request = ?, ended_at = {NOW}"
        " WHERE id = ?",
        message.status,
        message.note,
        message.vendor_request or row["vendor_request"],
        row["id"],
    )
    if message.definite or uses_up(message.status):
        tx.run("UPDATE call SET tries = tries + 1 WHERE id = ?", row["id"])


def sweep(tx: Tx) -> list[str]:
    """Put in doubt every pending call whose sender must be gone, and end expired keys.

    Returns the runs whose calls are concerned.
    """
    overdue = f"state = 'pending' AND {over('granted_at', f'timeout_ms + {GRANT_MS}')}"
    rows = tx.all(f"SELECT id, run_id FROM call WHERE {overdue}")
    for row in rows:
        put_in_doubt(tx, row, "its sender is gone")
    # For good: an expired key stays so, whatever the clock says later.
    tx.run(
        f"UPDATE claim SET state = 'ended', ended_at = {NOW} WHERE state = 'open' AND task_id = ''"
        f" AND EXISTS (SELECT 1 FROM key_terms WHERE key_terms.id = claim.id AND ({EXPIRED}))"
    )
    return sorted({row["run_id"] for row in rows})
