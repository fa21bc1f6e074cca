"""What a vendor has answered with what it had kept under a key: it was executed before it was sent now.

Whose money that was only the books know. It is the call's own, unless another call of that key, or its
object, counts for it. Where none does, nobody has booked it: the ledger was restored, or an operator has said
that it was not sent, or the vendor has executed what it refused. What another call has merely reserved under
the key is no such count: that is let go where its sender, or an operator, says that nothing was sent. Where
it gets its own answer, it finds the object counted.
"""

from __future__ import annotations

from dataclasses import replace

from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.objects import find_object
from luigi_spendguard.protocol import EndRequest

#: For so long at least a vendor keeps what it has answered; a later call under the key may be executed anew.
_KEPT_MS = 24 * 3_600_000
_OTHERS = "vendor = ?1 AND account = ?2 AND wire_key = ?3 AND relayed = ?4 AND id <> ?5"
#: The vendor's own word has ended it, at money, under the same key: it opened the object, or acted on it.
_BOOKED = (
    f"SELECT id FROM call WHERE (object_id = ?6 OR id = ?7) AND {_OTHERS}"
    " AND status BETWEEN 200 AND 299 AND settled_micros + overrun_micros > 0 LIMIT 1"
)
#: They count for what was executed under the same key, whatever object that was.
_WITHOUT_OBJECT = (
    "SELECT sum(settled_micros + corrected_micros + overrun_micros) FROM call"
    f" WHERE (key_id = ?6 OR base = ?7 AND ordinal = ?8) AND {_OTHERS}"
    " AND object_id IS NULL AND granted_at >= ?9"
)


def as_executed(
    tx: Tx, row: Row, message: EndRequest, object_id: str | None, now: int
) -> tuple[EndRequest, int]:
    """Return an end as it is to be applied, and what other calls count of it already, in micro-dollars.

    What the vendor had kept is an older state of the object: by that it counts for nothing less.
    """
    if not message.executed_before or message.total_micros is None:
        return message, 0
    tx.check_alone("what was executed before may be another call's")
    if message.only_less:
        return replace(message, total_micros=None), 0
    others = row["vendor"], row["account"], row["wire_key"], row["relayed"], row["id"]
    if object_id is not None:
        opened = find_object(tx, row["vendor"], row["account"], object_id)
        booked = tx.value(_BOOKED, *others, object_id, opened["call_id"] if opened else "")
        if booked is not None:
            note = f"{message.note}: call {booked} counts for it"
            return replace(message, total_micros=None, note=note), 0
    since = now - _KEPT_MS
    counted = tx.value(_WITHOUT_OBJECT, *others, row["key_id"], row["base"], row["ordinal"], since)
    return replace(message, only_more=True), int(counted or 0)
