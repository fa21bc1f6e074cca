"""What the ledger counts in a vendor's account, brought beside the vendor's lines in the work file.

The ledger is read only, some rows at a time. What counts is an object's `counted_micros`, and a call's own
cost where no object of it is known. Calls before and behind the period belong to it where their object does.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from luigi_spendguard.ledger.database import Row, Tx
from luigi_spendguard.ledger.objects import objects_behind
from luigi_spendguard.reconcile import likeness
from luigi_spendguard.reconcile.work_file import WorkFile
from luigi_spendguard.vendors.own_books import MARGIN_MS, OwnBooks, Period

DAY_MS = 24 * MARGIN_MS
#: Rows that are in memory at once.
AT_ONCE = 1000

#: What of a call is looked at. A replay has cost nothing; what was never reserved is no money.
_CALL = (
    "SELECT id, run_id, task_id, account, operation, object_id, target, state, currency, asked_micros,"
    " reserved_micros, settled_micros, corrected_micros, overrun_micros, created_at, wire_key, tagged,"
    " max(created_at, coalesce(granted_at, 0)) + timeout_ms AS over_ms,"
    " coalesce((SELECT due.fees_micros FROM price_due AS due WHERE due.call_id = call.id), fees_micros)"
    " AS fees_micros, (SELECT max(id) FROM journal WHERE journal.call_id = call.id) AS entry FROM call"
    " WHERE vendor = ? AND state IS NOT NULL AND"
)


class CanRead(Protocol):
    """The ledger's database, for reading."""

    def reading(self, *, slow: bool = False) -> AbstractContextManager[Tx]:
        """Return a transaction that changes nothing."""


def bring(work: WorkFile, ledger: CanRead, books: OwnBooks) -> None:
    """Bring all that the ledger knows of the account, the period and the vendor's lines into the file.

    Raises LedgerUnavailable.
    """
    with ledger.reading(slow=True) as tx:
        side = _LedgerSide(work, tx, books)
        side.bring_calls_of_period()
        side.bring_objects()
        side.bring_calls_of_lines()
        side.bring_openers()
        _make_items(work)
        _believe_tags(work)
        likeness.believe(work, tx, books)
    _move_items(work)


def accounts_of(ledger: CanRead, vendor: str, period: Period) -> set[str]:
    """Return the accounts in which calls of a period were made. Raises LedgerUnavailable."""
    with ledger.reading(slow=True) as tx:
        rows = tx.all(
            "SELECT DISTINCT account FROM call WHERE vendor = ? AND state IS NOT NULL"
            " AND created_at >= ? AND created_at < ?",
            vendor,
            period.since_ms,
            period.until_ms,
        )
    return {str(row["account"]) for row in rows}


class _LedgerSide:
    def __init__(self, work: WorkFile, tx: Tx, books: OwnBooks) -> None:
        self.work, self.tx, self.books, self.db = work, tx, books, work.db
        self.vendor, self.account = work.work.vendor, work.work.account

    def bring_calls_of_period(self) -> None:
        """Bring the calls that were made in the period or near its edges; and those of the day before
        of which nobody knows what they have opened, as that may be later.
        """
        period = self.work.work.period.wider()
        self._bring_calls(period, "")
        before = Period(max(0, period.since_ms - DAY_MS), period.since_ms)
        self._bring_calls(before, " AND object_id IS NULL")

    def _bring_calls(self, period: Period, which: str) -> None:
        last = ""
        while True:
            rows = self.tx.all(
                f"{_CALL} account = ? AND created_at >= ? AND created_at < ? AND id > ?{which}"
                " ORDER BY id LIMIT ?",
                self.vendor,
                self.account,
                period.since_ms,
                period.until_ms,
                last,
                AT_ONCE,
            )
            if not rows:
                return
            self._keep_calls(rows)
            last = str(rows[-1]["id"])

    def bring_objects(self) -> None:
        """Bring what is counted for the objects of these calls, and for those of the vendor's lines."""
        last = ""
        while True:
            rows = objects_behind(self.tx, self.vendor, self.account, last, AT_ONCE)
            if not rows:
                return
            with self.work.writing():
                for row in rows:
                    name = str(row["object_id"])
                    if self._concerns(name, str(row["call_id"])):
                        self.db.execute(
                            "INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?)",
                            (name, self.work.root_of(name), str(row["call_id"]), row["counted_micros"]),
                        )
            last = str(rows[-1]["object_id"])

    def _concerns(self, name: str, call_id: str) -> bool:
        asked = (
            ("SELECT 1 FROM call WHERE id = ?", call_id),
            ("SELECT 1 FROM call WHERE object = ? LIMIT 1", name),
            ("SELECT 1 FROM line WHERE subject = ? LIMIT 1", self.work.root_of(name)),
            ("SELECT 1 FROM touched WHERE subject = ?", self.work.root_of(name)),
        )
        return any(self.db.execute(sql, (value,)).fetchone() for sql, value in asked)

    def bring_calls_of_lines(self) -> None:
        """Bring the calls that act on the objects of the vendor's lines, whenever they were made.

        An object that is another account's is noted.
        """
        query = "SELECT id FROM alias UNION SELECT object FROM entry WHERE counted"
        query += " UNION SELECT subject FROM touched"
        for ids in _some(self.db, query):
            found = self.tx.all(f"{_CALL} object_id IN (SELECT value FROM json_each(?))", self.vendor, ids)
            self._keep_calls([row for row in found if row["account"] == self.account])
            with self.work.writing():
                for row in found:
                    if row["account"] != self.account:
                        self.db.execute(
                            "INSERT OR IGNORE INTO stranger VALUES (?, ?, ?)",
                            (self.work.root_of(str(row["object_id"])), row["account"], row["id"]),
                        )

    def bring_openers(self) -> None:
        """Bring the calls that have opened what is counted, whenever that was."""
        query = "SELECT DISTINCT call FROM item WHERE call NOT IN (SELECT id FROM call)"
        for ids in _some(self.db, query):
            self._keep_calls(self.tx.all(f"{_CALL} id IN (SELECT value FROM json_each(?))", self.vendor, ids))

    def _keep_calls(self, rows: Sequence[Row]) -> None:
        with self.work.writing():
            for row in rows:
                is_open = row["state"] in ("pending", "in_doubt")
                cost = row["settled_micros"] + row["corrected_micros"] + row["overrun_micros"]
                values = (
                    row["id"],
                    row["run_id"],
                    row["task_id"],
                    row["account"],
                    row["operation"],
                    row["object_id"],
                    row["target"] or "",
                    row["state"],
                    row["currency"],
                    row["asked_micros"],
                    row["reserved_micros"],
                    row["reserved_micros"] if is_open else cost,
                    row["created_at"],
                    row["fees_micros"],
                    self.books.tag_of(row["wire_key"]) if row["tagged"] and row["wire_key"] else "",
                    row["entry"] or 0,
                    row["over_ms"],
                )
                self.db.execute(f"INSERT OR REPLACE INTO call VALUES ({','.join('?' * len(values))})", values)


def _some(db: sqlite3.Connection, query: str) -> Iterator[str]:
    """Yield the texts of a query as JSON lists, some at a time."""
    cursor = db.cursor()
    cursor.execute(query)
    while rows := cursor.fetchmany(AT_ONCE):
        yield json.dumps([row[0] for row in rows])


def _make_items(work: WorkFile) -> None:
    """Let calls count by themselves where no object of them does."""
    with work.writing():
        work.db.execute(
            "INSERT OR IGNORE INTO item SELECT 'call:' || id, coalesce(object, 'call:' || id), id, cost"
            " FROM call WHERE cost <> 0"
            " AND (object IS NULL OR object NOT IN (SELECT name FROM item))"
            " AND id NOT IN (SELECT call FROM item WHERE name NOT LIKE 'call:%')"
        )


def _believe_tags(work: WorkFile) -> None:
    """Note which money a tag makes a call's: one's whose object nobody knows, and that alone.

    Anybody who may write metadata can copy a tag: two objects that have the same one are nobody's, nor is
    what another call has opened, or what was made before the call or a day behind it; nor is anything by a
    tag that two calls have.
    """
    with work.writing():
        work.db.execute(
            """
            INSERT OR IGNORE INTO tagged
            SELECT min(call.id), min(subject), 'its tag' FROM line JOIN call ON call.tag = line.tag
            WHERE line.tag <> '' AND call.tag <> '' AND call.object IS NULL
                AND line.at_ms >= call.at_ms - 300000 AND line.at_ms < call.at_ms + ?
                AND NOT EXISTS (SELECT 1 FROM item WHERE item.subject = line.subject)
            GROUP BY line.tag HAVING count(DISTINCT subject) = 1
                AND (SELECT count(DISTINCT other.subject) FROM line AS other
                    WHERE other.tag = line.tag AND other.tag <> '') = 1
                AND (SELECT count(*) FROM call AS other
                    WHERE other.tag = line.tag AND other.tag <> '') = 1
            """,
            (DAY_MS + MARGIN_MS,),
        )


def _move_items(work: WorkFile) -> None:
    """Let what calls count for by themselves stand beside what they are known to have made."""
    with work.writing():
        work.db.execute(
            "UPDATE item SET subject = (SELECT subject FROM tagged WHERE tagged.call = item.call)"
            " WHERE name = 'call:' || call AND call IN (SELECT call FROM tagged)"
        )
