"""Which of the vendor's lines a call has made that nobody knows an object of: by what its request says.

Where a vendor knows no idempotency, and no metadata, that is all there is. It is believed where it can be no
other's: a line has what the request says, was made while the call was sent, is no other call's, no other call
without an object says the same, and there are exactly as many as the request orders. Else nothing is known.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter

from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.reconcile.work_file import WorkFile
from luigi_spendguard.vendors.own_books import OwnBooks

#: Both clocks, and whole seconds.
SKEW_MS = 5_000
_AT_ONCE = 500

#: What could have opened something that nobody knows: not what the vendor has refused, or was never sent.
_WITHOUT_OBJECT = (
    "SELECT id FROM call WHERE object IS NULL AND id > ? AND operation IN (SELECT value FROM json_each(?))"
    " AND id NOT IN (SELECT call FROM item WHERE name NOT LIKE 'call:%') ORDER BY id LIMIT ?"
)
_SENT = (
    "SELECT call.id, call.operation, call.target, call.state, call.created_at, call.granted_at,"
    " call.timeout_ms, exchange.request_body FROM call LEFT JOIN exchange ON exchange.call_id = call.id"
    " WHERE call.id IN (SELECT value FROM json_each(?)) AND (call.state <> 'voided' OR call.unknown = 1"
    " AND call.status < 400)"
)
#: Lines of a mark that nobody is known to have made, within the time in which a call was sent.
_CANDIDATES = """
    SELECT object, at_ms FROM mark WHERE mark = ? AND at_ms BETWEEN ? AND ?
    AND NOT EXISTS (SELECT 1 FROM item WHERE item.subject = mark.object AND item.name = mark.object)
    AND NOT EXISTS (SELECT 1 FROM call WHERE call.object = mark.object)
    ORDER BY at_ms, object LIMIT ?
"""
_RIVALS = """
    SELECT 1 FROM wanted AS other WHERE other.call <> ? AND other.mark IN (?, '') AND
    (other.mark <> '' OR other.target = ?) AND ? BETWEEN other.since_ms AND other.until_ms LIMIT 1
"""


def believe(work: WorkFile, tx: Tx, books: OwnBooks) -> None:
    """Note in the work file, as tags do, which lines are calls' own. Raises LedgerUnavailable."""
    if not books.operations:
        return
    last = ""
    while True:
        rows = work.db.execute(
            _WITHOUT_OBJECT, (last, json.dumps(sorted(books.operations)), _AT_ONCE)
        ).fetchall()
        if not rows:
            break
        last = str(rows[-1][0])
        with work.writing():
            for call in tx.all(_SENT, json.dumps([row[0] for row in rows])):
                _want(work.db, call, books.marks_of(call["operation"], call["request_body"] or ""))
    with work.writing():
        for row in work.db.execute(
            "SELECT DISTINCT call FROM wanted WHERE state IN ('in_doubt','settled') AND mark <> ''"
            " AND call NOT IN (SELECT call FROM tagged) ORDER BY call"
        ).fetchall():
            _take(work.db, str(row[0]))


def _want(db: sqlite3.Connection, call: Row, marks: tuple[str, ...]) -> None:
    """Note what a call may have made; without marks (its body is gone, say) that may be anything."""
    since = call["created_at"] - SKEW_MS
    until = max(call["created_at"], call["granted_at"] or 0) + call["timeout_ms"] + SKEW_MS
    for mark, count in (Counter(marks) or Counter({"": 1})).items():
        db.execute(
            "INSERT INTO wanted VALUES (?, ?, ?, ?, ?, ?, ?)",
            (mark, call["id"], call["state"], call["target"] or "", count, since, until),
        )


def _take(db: sqlite3.Connection, call: str) -> None:
    """Let lines be a call's where they can be no other's."""
    own: list[str] = []
    wanted = db.execute("SELECT mark, target, count, since_ms, until_ms FROM wanted WHERE call = ?", (call,))
    for mark, target, count, since, until in wanted.fetchall():
        found = db.execute(_CANDIDATES, (mark, since, until, count + 1)).fetchall()
        if len(found) != count or any(
            db.execute(_RIVALS, (call, mark, target, at_ms)).fetchone() for _, at_ms in found
        ):
            return
        own += [str(name) for name, _ in found]
    # What one call has made is one money, as long as its parts are not known to the ledger.
    db.execute("INSERT INTO tagged VALUES (?, ?, 'what it says')", (call, own[0]))
    for other in own[1:]:
        db.execute("UPDATE line SET subject = ? WHERE subject = ?", (own[0], other))
