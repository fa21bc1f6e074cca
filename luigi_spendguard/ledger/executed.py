"""What a vendor has answered with what it had kept under a key: an older state of its object.

Whose money that was only the books know. It is the call's own, unless another call of that key, or its
object, counts for it. Where none does, nobody has booked it: the ledger was restored, or an operator has said
that it was not sent, or the vendor has executed what it refused. What another call has merely reserved under
the key is no such count: that is let go where its sender, or an operator, says that nothing was sent. Where
it gets its own answer, it finds the object counted.

What other calls have said of the object since it was executed is newer: what an older state may not free says
`handover.at_least`. Nor is anything taken again that they have given back.
"""

from __future__ import annotations

from dataclasses import replace

from luigi_spendguard.ledger.budgets import cost_so_far
from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.objects import name_object, opened_by_others
from luigi_spendguard.protocol import EndRequest

#: For so long at least a vendor keeps what it has answered; a later call under the key may be executed anew.
_KEPT_MS = 24 * 3_600_000
_OTHERS = "vendor = ?1 AND account = ?2 AND wire_key = ?3 AND relayed = ?4 AND id <> ?5"
#: The vendor's own word has ended it under the same key: it acted on the object (?8), or opened it, at money;
#: or was declined, and left it open.
_BOOKED = (
    f"SELECT id FROM call WHERE (object_id = ?6 OR id = ?7) AND {_OTHERS}"
    " AND (status BETWEEN 200 AND 299 OR declined = 1)"
    " AND (?8 = 1 AND granted_at >= ?9 OR ?8 = 0 AND settled_micros + overrun_micros > 0) LIMIT 1"
)
#: They count for what was executed under the same key, and nobody has said of which object.
_WITHOUT_OBJECT = (
    f"SELECT * FROM call WHERE (key_id = ?6 OR base = ?7 AND ordinal = ?8) AND {_OTHERS}"
    " AND object_id IS NULL AND granted_at >= ?9"
    " AND settled_micros + corrected_micros + overrun_micros > 0"
)


def as_executed(
    tx: Tx, row: Row, message: EndRequest, object_id: str | None, known: Row | None, now: int
) -> tuple[EndRequest, int]:
    """Return an end as it is to be applied where the vendor may have kept it, and by how much more its object
    counts now: for what operators have said of calls of its key.

    `known` is the object. Where another call of that key counts for it, the reply says nothing.
    """
    if message.total_micros is None:
        return message, 0
    if others := opened_by_others(tx, row, message.opened):  # The vendor names them again, and says no more.
        return _without(message, others), 0
    acts, opener = row["object_id"] is not None, known["call_id"] if known else ""
    is_anothers = not acts and opener not in ("", row["id"]) and row["wire_key"]
    if not is_kept(message) and not is_anothers:
        return message, 0
    tx.check_alone("what was executed before may be another call's")
    if message.only_less:
        return (replace(message, total_micros=None) if message.executed_before else message), 0
    same = row["vendor"], row["account"], row["wire_key"], row["relayed"], row["id"]
    if object_id is not None:
        since = 0 if message.executed_before else now - _KEPT_MS
        booked = tx.value(_BOOKED, *same, object_id, opener, int(acts), since)
        if booked is not None:
            note = f"{message.note}: call {booked} counts for it".removeprefix(": ")
            return replace(message, total_micros=None, note=note), 0
    if not is_kept(message):
        return message, 0
    told = tx.all(_WITHOUT_OBJECT, *same, row["key_id"], row["base"], row["ordinal"], now - _KEPT_MS)
    counted = sum(map(cost_so_far, told))
    if object_id is None:
        return replace(message, total_micros=max(0, message.total_micros - counted)), 0
    for call in told:
        name_object(tx, call, object_id)
    return (replace(message, only_more=True) if message.executed_before else message), counted


def _without(message: EndRequest, others: set[str]) -> EndRequest:
    """Return an end without those parts that others have opened: they count for them."""
    assert message.total_micros is not None
    rest = {one: micros for one, micros in message.opened.items() if one not in others}
    again = sum(int(micros) for one, micros in message.opened.items() if one in others)
    return replace(message, opened=rest, total_micros=max(0, message.total_micros - again))


def is_kept(message: EndRequest) -> bool:
    """Return whether a reply is what its vendor had kept under the call's key."""
    return message.kept or message.executed_before
