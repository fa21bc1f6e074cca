"""`WorkFile`: what was read of a vendor's books, on disk, until it is compared.

An SQLite file of its own, readable by its owner alone. A page is kept together with what comes behind it, so
that a reading that was interrupted goes on there. A line that is listed twice is one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from luigi_spendguard import redaction
from luigi_spendguard.errors import BooksUnread
from luigi_spendguard.vendors.own_books import MOVEMENT, Entry, EntryPage, PageRequest, Period

#: Of the tables; a file of another version is made anew.
_VERSION = 5

_TABLES = (
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE list (name TEXT PRIMARY KEY, next TEXT, pages INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE asked (page TEXT PRIMARY KEY) WITHOUT ROWID",
    """
    CREATE TABLE entry (
        listed TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL, at_ms INTEGER NOT NULL,
        state TEXT NOT NULL, object TEXT NOT NULL, about TEXT NOT NULL, amount INTEGER,
        currency TEXT NOT NULL, micros INTEGER, open_micros INTEGER NOT NULL, tag TEXT NOT NULL,
        target TEXT NOT NULL, final INTEGER NOT NULL, counted INTEGER NOT NULL, rank INTEGER NOT NULL,
        inside INTEGER NOT NULL, whole INTEGER NOT NULL, estimated INTEGER NOT NULL, note TEXT NOT NULL,
        price_by INTEGER NOT NULL, asked_ms INTEGER NOT NULL, PRIMARY KEY (listed, id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX entry_tag ON entry (tag) WHERE tag <> ''",
    # Several ids may stand for one money: each but one leads to another one of them.
    "CREATE TABLE alias (id TEXT PRIMARY KEY, object TEXT NOT NULL) WITHOUT ROWID",
    # What requests that may have made an object are known by.
    """
    CREATE TABLE mark (
        mark TEXT NOT NULL, object TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (mark, object)
    ) WITHOUT ROWID
    """,
)

#: What is made of both sides; it is made anew each time.
COMPARED = (
    # `cost`: what it counts for by itself, in micro-dollars: settled, or reserved while that is open;
    # `over_ms`: when the last wait for its answer was over, at the latest.
    """
    CREATE TABLE call (
        id TEXT PRIMARY KEY, run_id TEXT NOT NULL, task_id TEXT NOT NULL, account TEXT NOT NULL,
        operation TEXT NOT NULL, object TEXT, target TEXT NOT NULL, state TEXT NOT NULL,
        currency TEXT NOT NULL, asked INTEGER NOT NULL, reserved INTEGER NOT NULL, cost INTEGER NOT NULL,
        at_ms INTEGER NOT NULL, fees INTEGER, tag TEXT NOT NULL, entry INTEGER NOT NULL,
        over_ms INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX call_object ON call (object)",
    "CREATE INDEX call_tag ON call (tag) WHERE tag <> ''",
    # What the ledger counts, once: by object, or by call where that has none.
    """
    CREATE TABLE item (
        name TEXT PRIMARY KEY, subject TEXT NOT NULL, call TEXT NOT NULL, micros INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX item_subject ON item (subject)",
    """
    CREATE TABLE stranger (
        object TEXT NOT NULL, account TEXT NOT NULL, call TEXT NOT NULL, PRIMARY KEY (object, account)
    ) WITHOUT ROWID
    """,
    # What a tag names, or is like, where that may be believed: whose call it is, the money, and by what.
    """
    CREATE TABLE tagged (
        call TEXT PRIMARY KEY, subject TEXT NOT NULL, by_what TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    # Calls without an object, by the marks of what they may have made: how many, and when.
    """
    CREATE TABLE wanted (
        mark TEXT NOT NULL, call TEXT NOT NULL, state TEXT NOT NULL, target TEXT NOT NULL,
        count INTEGER NOT NULL, since_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL,
        PRIMARY KEY (mark, call)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX wanted_call ON wanted (call)",
    """
    CREATE TABLE line (
        subject TEXT NOT NULL, listed TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL,
        at_ms INTEGER NOT NULL, state TEXT NOT NULL, about TEXT NOT NULL, amount INTEGER,
        currency TEXT NOT NULL, micros INTEGER, open_micros INTEGER NOT NULL, tag TEXT NOT NULL,
        target TEXT NOT NULL, final INTEGER NOT NULL, rank INTEGER NOT NULL, inside INTEGER NOT NULL,
        whole INTEGER NOT NULL, estimated INTEGER NOT NULL, note TEXT NOT NULL, price_by INTEGER NOT NULL,
        asked_ms INTEGER NOT NULL, PRIMARY KEY (subject, rank, listed, id)
    ) WITHOUT ROWID
    """,
    # Money of them has moved within the period, or has come back, whenever they were opened.
    "CREATE TABLE touched (subject TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE INDEX line_tag ON line (tag) WHERE tag <> ''",
    """
    CREATE TABLE difference (
        number INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, call TEXT NOT NULL,
        run_id TEXT NOT NULL, entry INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        vendor_micros INTEGER NOT NULL, ledger_micros INTEGER NOT NULL, amount INTEGER,
        currency TEXT NOT NULL, certain INTEGER NOT NULL,
        spent INTEGER, opened TEXT NOT NULL, reason TEXT NOT NULL, remedy TEXT NOT NULL,
        differs INTEGER NOT NULL
    )
    """,
)


@dataclass(frozen=True)
class Work:
    """What is read: of which vendor's account, for which period."""

    vendor: str
    account: str
    period: Period

    @property
    def name(self) -> str:
        """Its file's name."""
        said = json.dumps([self.vendor, self.account, self.period.since_ms, self.period.until_ms])
        return f"{self.vendor}-{hashlib.sha256(said.encode()).hexdigest()[:16]}.db"


class WorkFile:
    """The file of one piece of work; one process at a time has it."""

    def __init__(self, path: Path, work: Work) -> None:
        self.path, self.work = path, work
        self.db = _opened(path)
        try:
            self._prepare()
        except sqlite3.Error as error:
            self.db.close()
            locked = "locked" in str(error)
            why = "another one of this period is under way here" if locked else f"{path} cannot be used"
            raise BooksUnread(f"{why}: {'wait for it' if locked else 'remove it'}, and repeat it") from None
        except BaseException:
            self.db.close()
            raise

    def _prepare(self) -> None:
        self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.execute("PRAGMA cache_size = -8000")
        # What is sorted stands beside it, and not in memory.
        self.db.execute("PRAGMA temp_store = FILE")
        said = json.dumps(
            [_VERSION, self.work.vendor, self.work.account, vars(self.work.period)], sort_keys=True
        )
        with self.writing():
            if self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                if self.fact("work") == said:
                    return
                raise sqlite3.DatabaseError("it is of another period")
            for statement in _TABLES:
                self.db.execute(statement)
            self.set_fact("work", said)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write all of the block, or nothing. Raises BooksUnread where there is no room for it."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException as error:
            if self.db.in_transaction:  # A full disk has ended it.
                self.db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):  # Not to be taken for the ledger's.
                raise BooksUnread(f"{self.path} cannot be written ({error}): make room there") from None
            raise
        self.db.execute("COMMIT")

    def fact(self, name: str) -> str | None:
        """Return what is noted under a name."""
        row = self.db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        """Note something; inside `writing`."""
        self.db.execute("INSERT OR REPLACE INTO fact (name, value) VALUES (?, ?)", (name, value))

    def begin(self, first: PageRequest) -> PageRequest | None:
        """Return the page of a list that is to be read now: its `first`, or where an earlier reading has
        stopped; None: it was read to its end.
        """
        row = self.db.execute("SELECT next FROM list WHERE name = ?", (first.listed,)).fetchone()
        if row is None:
            with self.writing():
                self.db.execute(
                    "INSERT INTO list (name, next, pages) VALUES (?, ?, 0)", (first.listed, _text_of(first))
                )
            return first
        return None if row[0] is None else _request_of(row[0])

    def keep(self, asked: PageRequest, page: EntryPage, asked_ms: int) -> None:
        """Keep what a page has, asked for at `asked_ms` (milliseconds since the epoch), and what comes behind
        it. Raises BooksUnread where that was read before.
        """
        text = None if page.next is None else _text_of(page.next)
        if text is not None and (text == _text_of(asked) or self._was_asked(text)):
            raise BooksUnread(f"{asked.listed}: a page names one as the next that was read before")
        with self.writing():
            self.db.execute("INSERT OR IGNORE INTO asked (page) VALUES (?)", (_text_of(asked),))
            for entry in page.entries:
                self._keep_entry(entry, asked_ms)
            self.db.execute(
                "UPDATE list SET next = ?, pages = pages + 1 WHERE name = ?", (text, asked.listed)
            )

    def keep_named(self, page: EntryPage, asked_ms: int) -> None:
        """Keep what was read of what no list has, and when it was asked for."""
        with self.writing():
            for entry in page.entries:
                self._keep_entry(entry, asked_ms)

    def unlisted(self) -> list[str]:
        """Return the objects that calls of the period count for, or are in doubt about, and no list has; and
        those of other calls that have moved another amount within it than is counted.
        """
        rows = self.db.execute(
            "SELECT object FROM call WHERE state = 'in_doubt' AND object IS NOT NULL"
            " AND at_ms BETWEEN :since AND :until AND NOT EXISTS (SELECT 1 FROM line WHERE line.subject ="
            " coalesce((SELECT alias.object FROM alias WHERE alias.id = call.object), call.object))"
            # What has moved may be a part: how much it all is says the thing itself.
            " UNION SELECT item.name FROM item JOIN touched ON touched.subject = item.subject"
            " WHERE item.micros <> 0 AND item.name NOT LIKE 'call:%' AND NOT EXISTS"
            " (SELECT 1 FROM line WHERE line.subject = item.subject AND line.rank <> :movement)"
            " AND (SELECT sum(other.micros) FROM item AS other WHERE other.subject = item.subject)"
            " <> coalesce((SELECT sum(line.micros) FROM line WHERE line.subject = item.subject), 0)"
            " UNION SELECT item.name FROM item JOIN call ON call.id = item.call WHERE item.micros <> 0"
            " AND item.name NOT LIKE 'call:%' AND call.at_ms BETWEEN :since AND :until"
            " AND NOT EXISTS (SELECT 1 FROM line WHERE line.subject = item.subject) ORDER BY 1",
            {
                "since": self.work.period.since_ms,
                "until": self.work.period.until_ms,
                "movement": MOVEMENT,
            },
        )
        return [str(row[0]) for row in rows]

    def _was_asked(self, text: str) -> bool:
        return self.db.execute("SELECT 1 FROM asked WHERE page = ?", (text,)).fetchone() is not None

    def _keep_entry(self, entry: Entry, asked_ms: int) -> None:
        objects = [redaction.redact(one) for one in entry.objects] or [f"{entry.listed}:{entry.id}"]
        values = (
            entry.listed,
            redaction.redact(entry.id),
            entry.kind,
            entry.at_ms,
            redaction.redact(entry.state),
            objects[0],
            redaction.redact(" ".join(entry.about)),
            entry.amount,
            redaction.redact(entry.currency),
            entry.micros,
            entry.open_micros,
            redaction.redact(entry.tag),
            redaction.redact(entry.target),
            entry.final,
            entry.counted,
            entry.rank,
            self.work.period.has(entry.at_ms),
            entry.whole,
            entry.estimated,
            redaction.redact(entry.note),
            entry.price_by_ms or 0,
            asked_ms,
        )
        self.db.execute(f"INSERT OR REPLACE INTO entry VALUES ({','.join('?' * len(values))})", values)
        for other in objects[1:]:
            self.unite(objects[0], other)
        ordered = entry.at_ms if entry.ordered_ms is None else entry.ordered_ms
        for mark in entry.marks:
            self.db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?)", (mark, objects[0], ordered))

    def unite(self, one: str, other: str) -> None:
        """Let two ids stand for one money; inside `writing`."""
        first, second = self.root_of(one), self.root_of(other)
        if first != second:
            self.db.execute("INSERT OR REPLACE INTO alias (id, object) VALUES (?, ?)", (second, first))

    def root_of(self, object_id: str) -> str:
        """Return the id under which all that stands for one money is compared."""
        while row := self.db.execute("SELECT object FROM alias WHERE id = ?", (object_id,)).fetchone():
            object_id = str(row[0])
        return object_id

    def make_lines(self) -> None:
        """Put the vendor's lines that may count beside what they stand for."""
        flatter = (
            "UPDATE alias SET object = (SELECT more.object FROM alias AS more WHERE more.id = alias.object)"
            " WHERE object IN (SELECT id FROM alias)"
        )
        with self.writing():
            while self.db.execute(flatter).rowcount > 0:
                pass
            self.db.execute(
                "INSERT INTO line SELECT coalesce(alias.object, entry.object), listed, entry.id, kind, at_ms,"
                " state, about, amount, currency, micros, open_micros, tag, target, final, rank, inside,"
                " whole, estimated, note, price_by, asked_ms"
                " FROM entry LEFT JOIN alias ON alias.id = entry.object WHERE counted"
            )
            self.db.execute(
                "INSERT OR IGNORE INTO touched SELECT coalesce(alias.object, entry.object)"
                " FROM entry LEFT JOIN alias ON alias.id = entry.object WHERE inside AND rank = ?",
                (MOVEMENT,),
            )

    def clear_compared(self) -> None:
        """Make the tables of a comparison anew, empty."""
        with self.writing():
            for statement in COMPARED:
                if statement.split()[1] == "TABLE":
                    self.db.execute(f"DROP TABLE IF EXISTS {statement.split()[2]}")
            for statement in COMPARED:
                self.db.execute(statement)

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Return how many pages and lines of each list were read."""
        rows = self.db.execute(
            "SELECT name, pages, (SELECT count(*) FROM entry WHERE listed = name) FROM list ORDER BY name"
        )
        return {name: (pages, lines) for name, pages, lines in rows}

    def close(self) -> None:
        """Close it; what was read stays."""
        self.db.close()

    def remove(self) -> None:
        """Remove it: what it was for is done."""
        self.db.close()
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).unlink()


def _opened(path: Path) -> sqlite3.Connection:
    """Open a file that nobody else may read. Raises BooksUnread."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            if not stat.S_ISREG(os.fstat(made).st_mode):
                raise OSError("it is no file")
            os.fchmod(made, 0o600)
        finally:
            os.close(made)
        # The last connection of another thread: luigid's nightly one is made and used in one.
        return sqlite3.connect(path, timeout=0, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise BooksUnread(f"{path} cannot be used to keep what is read ({error})") from None


def _text_of(page: PageRequest) -> str:
    return json.dumps([page.listed, page.path, page.query])


def _request_of(text: str) -> PageRequest:
    listed, path, query = json.loads(text)
    return PageRequest(listed, path, tuple((name, value) for name, value in query))
