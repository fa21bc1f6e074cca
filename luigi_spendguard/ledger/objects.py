"""What calls have opened at vendors, and what of it is counted. Owns the table `vendor_object`.

An object counts once for all calls on it. Whose word counts: a gateway's about what it sends, a worker's
about what that worker sends. A worker that calls through a gateway has no vendor secret but a vault key, with
which it may still say what it likes about calls of its own. So neither a call nor an object is ever believed
across the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from luigi_spendguard.ledger.budgets import cost_so_far, event, journal
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.names import of_object
from luigi_spendguard.protocol import EndRequest, ReserveRequest

_ONE = "vendor = ? AND account = ? AND object_id = ?"
_OWNED = f"{_ONE} AND (SELECT relayed FROM call WHERE call.id = vendor_object.call_id) = ?"
_OBJECT = f"SELECT * FROM vendor_object WHERE {_ONE}"
_IS_OWNED = f"SELECT 1 FROM vendor_object WHERE {_OWNED}"
#: Of a call: the object that it opened or acted on is one of these customers' (JSON).
OF_CUSTOMER = (
    "EXISTS (SELECT 1 FROM vendor_object AS object JOIN json_each(?) AS one"
    " ON instr(' ' || object.customer || ' ', ' ' || one.value || ' ') > 0 WHERE object.vendor = call.vendor"
    " AND object.account = call.account AND object.object_id IN (call.object_id, call.target))"
)
#: Of a call: whose object it opened or acted on, else its target.
CUSTOMER = (
    "coalesce((SELECT nullif(min(object.customer), '') FROM vendor_object AS object WHERE object.vendor ="
    " call.vendor AND object.account = call.account AND object.object_id IN (call.object_id, call.target)),"
    " call.target, '')"
)


def objects_behind(tx: Tx, vendor: str, account: str, last: str, limit: int) -> list[Row]:
    """Return so many objects of an account behind one, by their ids; what they count for in micro-dollars."""
    return tx.all(
        "SELECT object_id, call_id, counted_micros FROM vendor_object"
        " WHERE vendor = ? AND account = ? AND object_id > ? ORDER BY object_id LIMIT ?",
        vendor,
        account,
        last,
        limit,
    )


def find_object(tx: Tx, vendor: str, account: str, object_id: str | None) -> Row | None:
    """Return what is known of an object, None for nothing."""
    if object_id is None:
        return None
    tx.check(of_object(vendor, account, object_id))
    return tx.one(_OBJECT, vendor, account, object_id)


def find_object_ahead(tx: Tx, vendor: str, account: str, object_id: str) -> None:
    """Let an object be looked for with the next query."""
    tx.ahead(_OBJECT, vendor, account, object_id)


def object_of(tx: Tx, ask: ReserveRequest) -> Row | None:
    """Return what is known of the object that a call acts on."""
    return None if ask.object_id is None else find_object(tx, ask.vendor, ask.account, ask.object_id)


def worth_of(tx: Tx, ask: ReserveRequest) -> int:
    """Return the most that the object of a call can be made to move, in micro-dollars; 0: it is not known."""
    known = object_of(tx, ask)
    return int(known["worth_micros"]) if known else 0


def counted_for(tx: Tx, vendor: str, account: str, object_ids: Iterable[str]) -> int:
    """Return what objects count for together, in micro-dollars."""
    known = (find_object(tx, vendor, account, object_id) for object_id in object_ids)
    return sum(row["counted_micros"] for row in known if row is not None)


def uncontested(tx: Tx, vendor: str, account: str, object_ids: Iterable[str], *, relayed: int) -> list[str]:
    """Return those of some objects on which no call is under way, or in doubt.

    What such a call has done is not known: its object goes on counting for itself, whatever covers it.
    """
    _check_held(tx, vendor, account, object_ids)
    return [
        object_id
        for object_id in sorted(set(object_ids))
        if not tx.value(
            f"SELECT 1 FROM call WHERE {_ONE} AND state IN ('pending','in_doubt') AND relayed = ? LIMIT 1",
            vendor,
            account,
            object_id,
            relayed,
        )
    ]


def is_gateways(tx: Tx, vendor: str, account: str, object_ids: Iterable[str | None]) -> bool:
    """Return whether a gateway has said what one of these objects counts for; None is none."""
    named = _check_held(tx, vendor, account, object_ids)
    return any(tx.value(_IS_OWNED, vendor, account, object_id, 1) for object_id in named)


def adopt(tx: Tx, vendor: str, account: str, object_ids: Iterable[str | None]) -> None:
    """Forget what workers have said of these objects: a gateway looks at them itself."""
    for object_id in _check_held(tx, vendor, account, object_ids):
        tx.run(f"DELETE FROM vendor_object WHERE {_OWNED}", vendor, account, object_id, 0)


def _check_held(tx: Tx, vendor: str, account: str, object_ids: Iterable[str | None]) -> set[str]:
    """Return those of some objects that are one; each is this transaction's own while it goes on."""
    named = {object_id for object_id in object_ids if object_id is not None}
    tx.check(*(of_object(vendor, account, object_id) for object_id in named))
    return named


def _keep(
    tx: Tx, call: Row, object_id: str, counted: int, worth: int, customer: str = "", *, known: str = "NOTHING"
) -> None:
    """Insert what call `call` says of an object; of one that is `known`, do that."""
    _check_held(tx, call["vendor"], call["account"], [object_id])
    tx.later(
        "INSERT INTO vendor_object (vendor, account, object_id, run_id, call_id, counted_micros,"
        " worth_micros, customer) VALUES (?1,?2,?3,?4,?5,?6,?7,?8)"
        f" ON CONFLICT (vendor, account, object_id) DO {known}",
        call["vendor"],
        call["account"],
        object_id,
        call["run_id"],
        call["id"],
        counted,
        worth,
        customer,
    )


def reserve_object(tx: Tx, call: Row, ask: ReserveRequest, amount: int) -> None:
    """Let the object of a call count for what is reserved: an equal call of another thread reserves the rest.

    `amount` is in micro-dollars. What the object is worth the vendor has yet to say.
    """
    assert ask.object_id is not None
    _keep(
        tx,
        call,
        ask.object_id,
        amount,
        0,
        "" if ask.owner_unknown else " ".join(ask.customer),
        known="UPDATE SET counted_micros = vendor_object.counted_micros + ?6",
    )


def release_object(tx: Tx, call: Row) -> None:
    """Let the object of a call count no more for what the call has reserved."""
    if call["object_id"] is not None:
        _recount(tx, call, call["object_id"], call["reserved_micros"], 0)


def settle_object(tx: Tx, call: Row, object_id: str, message: EndRequest, counted: int) -> None:
    """Remember what an object counts for and is worth, in micro-dollars, and whom it concerns."""
    known = (
        "UPDATE SET counted_micros = ?6, customer = CASE WHEN ?8 = '' THEN vendor_object.customer ELSE ?8 END"
    )
    if message.total_micros is not None:
        known += ", worth_micros = ?7"
    worth = max(counted, message.worth_micros)
    _keep(tx, call, object_id, counted, worth, " ".join(message.customer), known=known)


def keep_part(tx: Tx, call: Row, object_id: str, micros: int) -> None:
    """Remember what of a call's cost is one of several objects' that it has opened."""
    _keep(tx, call, object_id, micros, micros)


def name_object(tx: Tx, call: Row, object_id: str) -> None:
    """Let what a call has cost, of which nobody has said what it opened, be an object's."""
    cost = cost_so_far(call)
    added = "UPDATE SET counted_micros = vendor_object.counted_micros + ?6"
    _keep(tx, call, object_id, cost, cost, known=added)
    tx.run("UPDATE call SET object_id = ? WHERE id = ?", object_id, call["id"])
    journal(tx, event("object", call, object_id))


def opened_by_others(tx: Tx, call: Row, object_ids: Iterable[str]) -> set[str]:
    """Return those of some objects that another call has opened."""
    if not (named := _check_held(tx, call["vendor"], call["account"], object_ids)):
        return set()
    among = "vendor = ? AND account = ? AND object_id IN (SELECT value FROM json_each(?)) AND call_id <> ?"
    rows = tx.all(
        f"SELECT object_id FROM vendor_object WHERE {among}",
        call["vendor"],
        call["account"],
        json.dumps(sorted(named)),
        call["id"],
    )
    return {row["object_id"] for row in rows}


def restate_object(tx: Tx, call: Row, object_id: str | None, total: int) -> None:
    """Let a call's object count for `total` micro-dollars instead of what was known of the call before."""
    if object_id is None:
        return
    before = cost_so_far(call)
    if call["state"] == "in_doubt":
        before = call["reserved_micros"] if call["object_id"] is not None else 0
    if not _recount(tx, call, object_id, before, total) and call["object_id"] is None:
        # What was asked for can still be confirmed, whatever of it was spent by now.
        _keep(tx, call, object_id, total, max(total, call["reserved_micros"]))


def forget_worth(tx: Tx, call: Row, object_id: str) -> None:
    """Take it that nobody knows what an object is worth: it is looked up before it is acted on."""
    _check_held(tx, call["vendor"], call["account"], [object_id])
    at = call["vendor"], call["account"], object_id
    tx.run(f"UPDATE vendor_object SET worth_micros = 0 WHERE {_ONE}", *at)


def _recount(tx: Tx, call: Row, object_id: str, less: int, more: int) -> int:
    """Let an object count for `less` micro-dollars less, and `more` more; return whether it is known."""
    _check_held(tx, call["vendor"], call["account"], [object_id])
    return tx.run(
        f"UPDATE vendor_object SET counted_micros = max(0, counted_micros - ?) + ? WHERE {_ONE}",
        less,
        more,
        call["vendor"],
        call["account"],
        object_id,
    )


def hand_over_object(tx: Tx, call: Row, to: Row, object_id: str, amount: int) -> None:
    """Let an object count for `amount` micro-dollars by call `to` that `call` has let go; below 0: back."""
    if amount < 0:
        _recount(tx, call, object_id, -amount, 0)
        return
    _keep(
        tx,
        to,
        object_id,
        amount,
        0,
        known="UPDATE SET counted_micros = vendor_object.counted_micros + ?6",
    )
    tx.run(
        f"UPDATE vendor_object SET run_id = ?, call_id = ? WHERE {_ONE} AND call_id = ?",
        to["run_id"],
        to["id"],
        to["vendor"],
        to["account"],
        object_id,
        call["id"],
    )


def cover_object(tx: Tx, call: Row, object_id: str) -> None:
    """Let an object count for nothing: the one that call `call` acts on counts for it from now on."""
    _check_held(tx, call["vendor"], call["account"], [object_id])
    tx.run(
        f"UPDATE vendor_object SET counted_micros = 0 WHERE {_ONE}",
        call["vendor"],
        call["account"],
        object_id,
    )


def forget_objects(tx: Tx, call_id: str) -> None:
    """Forget the objects that a call was said to have opened, and that count for nothing."""
    tx.run("DELETE FROM vendor_object WHERE call_id = ? AND counted_micros = 0", call_id)
