"""What an object has to count for, whoever lets go of money that it counts for.

A call on an object reserves and spends what exceeds that which the object counts for already, by whichever
call: it relies on that one's money. Where this turns out to be nobody's (the call was not sent, cost less, or
was about another object) it is handed over to who relies on it, in that one's own budgets. What a reply says
of an object frees nothing that is needed by who has acted on it since, or still may: that is the newer word.
"""

from __future__ import annotations

from dataclasses import dataclass

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.budgets import (
    JournalEntry,
    budgets_of,
    cost_so_far,
    journal,
    move_money,
    take_money,
)
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.objects import counted_for, hand_over_object
from luigi_spendguard.ledger.runs import freeze
from luigi_spendguard.money import Micros, format_usd
from luigi_spendguard.protocol import command
from luigi_spendguard.protocol.commands import USD, rounded, top_up

_OPEN = ("pending", "in_doubt")
#: A vendor's word that came after an operator's: nobody knows of when it is.
_UNDATED = 1 << 62
#: The calls on an object but ?5 that may have moved money there, or have freed it; those that read have no
#: key. Each with the entries of the journal by which it was asked for and ended, and what was handed over to
#: it.
_ACTED = (
    "SELECT call.*,"
    " coalesce((SELECT max(id) FROM journal WHERE call_id = call.id AND kind = 'reserve'), 0) AS asked_at,"
    " CASE WHEN status <> 0 AND EXISTS (SELECT 1 FROM journal WHERE call_id = call.id AND kind = 'operator')"
    f" THEN {_UNDATED} ELSE coalesce((SELECT max(id) FROM journal WHERE call_id = call.id"
    " AND kind IN ('settle','resolve','overrun')), 0) END AS ended_at,"
    " coalesce((SELECT sum(reserved_micros) FROM journal WHERE call_id = call.id AND kind = 'hand_over'), 0)"
    " AS handed_micros"
    " FROM call WHERE vendor = ?1 AND account = ?2 AND object_id = ?3 AND relayed = ?4 AND id <> ?5"
    " AND wire_key <> '' AND state IN ('pending','settled','in_doubt') ORDER BY created_at, id"
)


@dataclass(frozen=True)
class _Need:
    """What call `call`, as it was asked for or answered, needs its object to count for, in micro-dollars."""

    call: Row
    micros: int


def _needs(tx: Tx, call: Row, object_id: str) -> list[_Need]:
    """Return what calls on an object but `call` need it to count for; who has ended first.

    What has not ended may still do what it was asked for. Of the others' words the last one is the object's
    state, and those of calls that were under way with that one may be.
    """
    rows = tx.all(_ACTED, call["vendor"], call["account"], object_id, call["relayed"], call["id"])
    ended = [row for row in rows if row["state"] == "settled" and row["total_micros"] is not None]
    if ended:
        last = max(ended, key=lambda row: int(row["ended_at"]))
        ended = [row for row in ended if row["ended_at"] >= min(last["asked_at"], last["ended_at"])]
    needs = [_Need(row, _said(row)) for row in ended]
    needs += [_Need(row, int(row["total_micros"] or 0)) for row in rows if row["state"] in _OPEN]
    return needs


def _said(row: Row) -> int:
    """Return what the object of a call that has ended counts for, by the vendor's word or an operator's."""
    total = int(row["total_micros"])
    if row["status"]:
        return total
    return max(0, total - max(0, int(row["reserved_micros"]) - cost_so_far(row)))


def _counted(tx: Tx, call: Row, object_id: str) -> int:
    return counted_for(tx, call["vendor"], call["account"], [object_id])


#: Nobody has acted on the object since the call was granted last.
_TURN = "SELECT 1 FROM turn WHERE vendor = ? AND account = ? AND object_id = ? AND call_id = ?"
_LAST = "SELECT max(id) FROM journal WHERE call_id = ? AND kind = 'reserve'"
#: What was reserved first for call ?1, or for another on its object under its key.
_FIRST_OF_KEY = (
    "SELECT min(id) FROM journal WHERE kind = 'reserve' AND call_id IN (SELECT id FROM call WHERE"
    " vendor = ?2 AND account = ?3 AND relayed = ?5 AND (id = ?1 OR object_id = ?4 AND wire_key = ?6))"
)


def at_least(tx: Tx, call: Row, object_id: str, before: int, own: int, *, is_kept: bool) -> int:
    """Return what an object counts for, in micro-dollars, whatever the reply to `call` says of it.

    Where others have acted on it since, or still may, nothing is let go that they count (`before`), nor of
    what the call counts itself (`own`) what they rely on. `is_kept`: the reply may be as old as the first use
    of the call's key; else it is newer than all before its turn.
    """
    at = call["vendor"], call["account"], object_id
    if is_kept:
        since = tx.value(_FIRST_OF_KEY, call["id"], *at, call["relayed"], call["wire_key"])
    else:
        since = tx.value(_LAST, call["id"])
    needs = _needs(tx, call, object_id)
    newer = [need for need in needs if need.call["state"] in _OPEN or need.call["ended_at"] > (since or 0)]
    if not newer:
        return 0
    if not is_kept and tx.value(_TURN, *at, call["id"]):
        newer = [need for need in newer if need.call["state"] in _OPEN]
    return max(before, min(before + own, max((need.micros for need in newer), default=0)))


def relying_on(tx: Tx, call: Row) -> str | None:
    """Return a call that relies on what an open one has reserved for its object, None for none."""
    if call["object_id"] is None or not call["reserved_micros"]:
        return None
    left = _counted(tx, call, call["object_id"]) - call["reserved_micros"]
    return next((need.call["id"] for need in _needs(tx, call, call["object_id"]) if need.micros > left), None)


def held_by(tx: Tx, call: Row) -> str | None:
    """Return an open call that has reserved what `call` relies on, too, None for none."""
    if call["object_id"] is None:
        return None
    rows = tx.all(_ACTED, call["vendor"], call["account"], call["object_id"], call["relayed"], call["id"])
    return next((row["id"] for row in rows if row["state"] in _OPEN and row["reserved_micros"]), None)


def hand_over(tx: Tx, call: Row, object_id: str, amount: int, *, forced: bool) -> list[str]:
    """Let who relies on what `call` has let go of an object (`amount`) count it; say who does, how much.

    Raises Conflict where the budgets of one have no room for it and it is not `forced` to be overrun there.
    """
    notes = []
    left = _counted(tx, call, object_id)
    for need in _needs(tx, call, object_id):
        part = min(amount, need.micros - left)
        if part <= 0:
            continue
        _give(tx, call, need.call, object_id, part, forced=forced)
        notes.append(
            f"call {need.call['id']} of run {need.call['run_id']} counts {format_usd(Micros(part))} of"
            f" {object_id} now"
        )
        left, amount = left + part, amount - part
    return notes


def _give(tx: Tx, call: Row, to: Row, object_id: str, amount: int, *, forced: bool) -> None:
    tx.check_alone("a call takes over what another has let go")
    usd = format_usd(Micros(amount))
    note = f"{usd} of {object_id} that call {call['id']} has let go"
    is_open = to["state"] in _OPEN
    full = take_money(tx, budgets_of(tx, to["id"]), Micros(amount))
    if full is not None and (is_open or not forced):
        raise Conflict(
            f"call {to['id']} (run {to['run_id']}) acts on {object_id}, too, and relies on {usd} of it that "
            f"call {call['id']} would let go: it has to count that itself, and its budgets have no room for "
            f"that. Nothing was changed: {_room(tx, to, full, amount)}"
        )
    if full is not None:
        move_money(tx, to, JournalEntry("correct", overrun=amount, note=note))
        tx.run("UPDATE call SET overrun_micros = overrun_micros + ? WHERE id = ?", amount, to["id"])
        freeze(tx, to["run_id"])
    else:
        journal(tx, JournalEntry("hand_over", to["run_id"], to["id"], reserved=amount, note=note))
        _spend(tx, to, amount, note)
    hand_over_object(tx, call, to, object_id, amount)


def _room(tx: Tx, to: Row, full: Row, amount: int) -> str:
    """Return what lets call `to` count `amount` more, for which a budget is too full."""
    ways = []
    if not tx.value("SELECT 1 FROM run WHERE run_id = ? AND state = 'revoked'", to["run_id"]):
        short = full["spent_micros"] + full["reserved_micros"] + full["overrun_micros"] + amount
        more = rounded(max(1, short - full["cap_micros"]))
        ways.append(f"{top_up(to['run_id'], more, full['scope'], full['part'])} first")
    if to["state"] not in _OPEN:
        ways.append('repeat it with --overrun ({"overrun": true})')
    if ways:
        return ", or ".join(ways)
    return (
        "its run is revoked, and is topped up no more. End that call first: "
        f"{command('resolve', to['id'], '--spent', USD, '--overrun')} if the vendor's books have it, "
        f"{command('resolve', to['id'], '--not-sent')} if they do not"
    )


def take_back(tx: Tx, call: Row, object_id: str, amount: int) -> None:
    """Let `call`, which is to count `amount` more of an object, take that from who has taken it over."""
    tx.check_alone("a call takes back what another has taken over")
    needs = _needs(tx, call, object_id)
    spare = _counted(tx, call, object_id) + amount - max((need.micros for need in needs), default=0)
    for need in needs:
        to = need.call
        has = to["reserved_micros"] if to["state"] in _OPEN else to["settled_micros"] + to["corrected_micros"]
        part = min(amount, spare, has, to["handed_micros"])
        if part <= 0:
            continue
        note = f"{format_usd(Micros(part))} of {object_id} is call {call['id']}'s after all"
        _spend(tx, to, -part, note)
        move_money(tx, to, JournalEntry("hand_over", reserved=-part, note=note))
        hand_over_object(tx, call, to, object_id, -part)
        amount, spare = amount - part, spare - part


def _spend(tx: Tx, to: Row, amount: int, note: str) -> None:
    """Let a call have reserved `amount` more (or less); where it has ended, spent it, too."""
    tx.run("UPDATE call SET reserved_micros = reserved_micros + ? WHERE id = ?", amount, to["id"])
    if to["state"] not in _OPEN:
        move_money(tx, to, JournalEntry("correct", spent=amount, reserved=-amount, note=note))
        tx.run("UPDATE call SET corrected_micros = corrected_micros + ? WHERE id = ?", amount, to["id"])
