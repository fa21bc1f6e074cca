"""Numbered migrations; they only go forward, and a file from a newer version is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peewee

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger import forking
from luigi_spendguard.ledger.database import LOCK_SECONDS, NOW, LedgerFile, Tx, prepare_file, reading, writing
from luigi_spendguard.ledger.schema import TABLES, CallTarget, KeyTerms, PriceDue, Turn


def _first(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Make all tables; the journal refuses changes, and half-ended calls are indexed apart."""
    with db.bind_ctx(TABLES):
        db.create_tables(TABLES)
    for verb in ("UPDATE", "DELETE"):
        tx.run(
            f"CREATE TRIGGER journal_no_{verb.lower()} BEFORE {verb} ON journal "
            "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
        )
    tx.run("CREATE INDEX call_open ON call (state, run_id) WHERE state IN ('pending','in_doubt')")
    tx.run("CREATE INDEX claim_shared ON claim (run_id) WHERE also <> '[]'")


def _add_column(tx: Tx, table: str, column: str, kind: str) -> None:
    """Add a column to the table of an older file; a new file's has it already."""
    if not tx.value("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", table, column):
        tx.run(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")


def _restarts(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Keep why a task is blocked; find a family's last run and the claims whose end was not heard."""
    _add_column(tx, "claim", "held_scope", "VARCHAR(255) NOT NULL DEFAULT ''")
    _add_column(tx, "claim", "held_part", "VARCHAR(255) NOT NULL DEFAULT ''")
    _add_column(tx, "claim", "held_micros", "BIGINT NOT NULL DEFAULT 0")
    tx.run("CREATE INDEX IF NOT EXISTS run_family ON run (root_family, id)")
    tx.run("CREATE INDEX IF NOT EXISTS claim_unheard ON claim (run_id) WHERE ended_at IS NULL")


def _approved_unknown(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Bind approvals to the tasks of unknown cost as well; what was approved before knew of none."""
    _add_column(tx, "approval", "unknown_tasks", "INTEGER NOT NULL DEFAULT 0")


def _vault_keys(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Make room for vault keys that are asked for over HTTP, and for what a gateway sends."""
    with db.bind_ctx(TABLES):
        db.create_tables([KeyTerms])
    _add_column(tx, "call", "relayed", "INTEGER NOT NULL DEFAULT 0")
    _add_column(tx, "vendor_object", "customer", "VARCHAR(255) NOT NULL DEFAULT ''")


def _late_prices(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Make room for calls whose price the vendor names later."""
    with db.bind_ctx(TABLES):
        db.create_tables([PriceDue])


def _pages(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Let pages of runs count calls, and find a run's vendors, without reading all of its calls."""
    tx.run("CREATE INDEX IF NOT EXISTS call_vendor ON call (run_id, vendor)")
    tx.run("CREATE INDEX IF NOT EXISTS call_denied ON call (run_id) WHERE verdict = 'denied'")
    tx.run("CREATE INDEX IF NOT EXISTS call_doubt ON call (run_id) WHERE state = 'in_doubt'")
    tx.run(
        "CREATE INDEX IF NOT EXISTS call_lent ON call (run_id) WHERE verdict = 'allowed' AND reason = 'cap'"
    )


def _declines(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Tell calls that count for what a decline left open from calls that were made."""
    _add_column(tx, "call", "declined", "INTEGER NOT NULL DEFAULT 0")


def _turns(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Make room for whose turn it is at an object."""
    with db.bind_ctx(TABLES):
        db.create_tables([Turn])


def _formulas(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Keep by which formula a call's identity was made, and how many keys were used up by declines.

    What was voided before has used up a key of its own: what is derived from the identity is not.
    """
    _add_column(tx, "call", "formula", "INTEGER NOT NULL DEFAULT 0")
    _add_column(tx, "call", "tries", "INTEGER NOT NULL DEFAULT 0")


def _call_targets(db: peewee.SqliteDatabase, tx: Tx) -> None:
    """Make room for each target of a call for several."""
    with db.bind_ctx(TABLES):
        db.create_tables([CallTarget])


MIGRATIONS: tuple[Callable[[peewee.SqliteDatabase, Tx], None], ...] = (
    _first,
    _restarts,
    _approved_unknown,
    _vault_keys,
    _late_prices,
    _pages,
    _declines,
    _turns,
    _formulas,
    _call_targets,
)


def _format(tx: Tx) -> int:
    """Return the number of the file's last migration, 0 for a new file."""
    if not tx.value("SELECT 1 FROM sqlite_master WHERE name = 'migration'"):
        return 0
    return int(tx.value("SELECT max(number) FROM migration") or 0)


def _refuse_others(path: Path) -> None:
    """Refuse a file that is another program's or a newer version's, before anything in it is changed."""
    if not path.stat().st_size:
        return
    db = LedgerFile(path, read_only=True)
    with reading(db) as tx:
        try:
            done, objects = _format(tx), tx.value("SELECT count(*) FROM sqlite_master")
        finally:
            db.close()
    if objects and not done:
        raise LedgerUnavailable(
            f"{path} is a database of something else: set [spendguard] ledger_url to a file of its own"
        )
    if done > len(MIGRATIONS):
        raise LedgerUnavailable(
            f"the ledger {path} was written by a newer version (format {done}, this version knows "
            f"{len(MIGRATIONS)}): install that version of luigi_spendguard again"
        )


def migrate(path: Path, busy_s: float = LOCK_SECONDS) -> None:
    """Bring the file at `path` to this version. Raises LedgerUnavailable, with advice."""
    prepare_file(path)
    _refuse_others(path)
    db = LedgerFile(path, busy_s=busy_s)
    try:
        with writing(db) as tx:
            done = _format(tx)
            for number, migration in enumerate(MIGRATIONS[done:], start=done + 1):
                migration(db, tx)
                tx.run(f"INSERT INTO migration (number, applied_at) VALUES (?, {NOW})", number)
    finally:
        forking.close(db)
