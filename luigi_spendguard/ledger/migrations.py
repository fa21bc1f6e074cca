"""Numbered migrations; they only go forward, and a file from a newer version is refused.

A new file is made from `schema`. An older one is brought to that by the statements that stand here for each
format, which are never edited: they are what they were when they were first run on somebody's ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger.database import LOCK_SECONDS, NOW, Place, Tx, again
from luigi_spendguard.ledger.database.engines import database_of
from luigi_spendguard.ledger.schema import create
from luigi_spendguard.settings.values import ledger_name

#: What makes a file of each format of one of the format before.
MIGRATIONS: Mapping[int, Sequence[str]] = {
    # Keep why a task is blocked; find a family's last run and the claims whose end was not heard.
    2: (
        "ALTER TABLE claim ADD COLUMN held_scope VARCHAR(255) NOT NULL DEFAULT ''",
        "ALTER TABLE claim ADD COLUMN held_part VARCHAR(255) NOT NULL DEFAULT ''",
        "ALTER TABLE claim ADD COLUMN held_micros BIGINT NOT NULL DEFAULT 0",
        "CREATE INDEX run_family ON run (root_family, id)",
        "CREATE INDEX claim_unheard ON claim (run_id) WHERE ended_at IS NULL",
    ),
    # Bind approvals to the tasks of unknown cost as well; what was approved before knew of none.
    3: ("ALTER TABLE approval ADD COLUMN unknown_tasks INTEGER NOT NULL DEFAULT 0",),
    # Make room for vault keys that are asked for over HTTP, and for what a gateway sends.
    4: (
        """
        CREATE TABLE key_terms (
            id VARCHAR(255) NOT NULL PRIMARY KEY,
            vendor VARCHAR(255) NOT NULL,
            label VARCHAR(255) NOT NULL,
            allowed_endpoints TEXT NOT NULL,
            allowed_customers TEXT NOT NULL,
            allowed_accounts TEXT NOT NULL,
            budget VARCHAR(255) NOT NULL,
            run_cap_micros INTEGER,
            daily_cap_micros INTEGER,
            expires_at INTEGER NOT NULL
        )
        """,
        "ALTER TABLE call ADD COLUMN relayed INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE vendor_object ADD COLUMN customer VARCHAR(255) NOT NULL DEFAULT ''",
    ),
    # Make room for calls whose price the vendor names later.
    5: (
        """
        CREATE TABLE price_due (
            call_id VARCHAR(255) NOT NULL PRIMARY KEY,
            vendor VARCHAR(255) NOT NULL,
            account VARCHAR(255) NOT NULL,
            object_id VARCHAR(255) NOT NULL,
            relayed INTEGER NOT NULL,
            fees_micros INTEGER NOT NULL,
            tries INTEGER NOT NULL,
            due_at INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX price_due_due_at ON price_due (due_at)",
    ),
    # Let pages of runs count calls, and find a run's vendors, without reading all of its calls.
    6: (
        "CREATE INDEX call_vendor ON call (run_id, vendor)",
        "CREATE INDEX call_denied ON call (run_id) WHERE verdict = 'denied'",
        "CREATE INDEX call_doubt ON call (run_id) WHERE state = 'in_doubt'",
        "CREATE INDEX call_lent ON call (run_id) WHERE verdict = 'allowed' AND reason = 'cap'",
    ),
    # Tell calls that count for what a decline left open from calls that were made.
    7: ("ALTER TABLE call ADD COLUMN declined INTEGER NOT NULL DEFAULT 0",),
    # Make room for whose turn it is at an object.
    8: (
        """
        CREATE TABLE turn (
            vendor VARCHAR(255) NOT NULL,
            account VARCHAR(255) NOT NULL,
            object_id VARCHAR(255) NOT NULL,
            call_id VARCHAR(255) NOT NULL,
            alone INTEGER NOT NULL,
            PRIMARY KEY (vendor, account, object_id, call_id)
        ) WITHOUT ROWID
        """,
    ),
    # Keep by which formula a call's identity was made, and how many keys were used up by declines. What was
    # voided before has used up a key of its own: what is derived from the identity is not.
    9: (
        "ALTER TABLE call ADD COLUMN formula INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE call ADD COLUMN tries INTEGER NOT NULL DEFAULT 0",
    ),
    # Make room for each target of a call for several.
    10: (
        """
        CREATE TABLE call_target (
            target VARCHAR(255) NOT NULL,
            call_id VARCHAR(255) NOT NULL,
            PRIMARY KEY (target, call_id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX call_target_call_id ON call_target (call_id)",
    ),
    # Let tasks say what a payment is for.
    11: (
        "ALTER TABLE claim ADD COLUMN payment TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE call ADD COLUMN payment TEXT NOT NULL DEFAULT ''",
        """
        CREATE TABLE batch_payment (
            payment TEXT NOT NULL,
            batch VARCHAR(255) NOT NULL,
            PRIMARY KEY (payment, batch)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX batch_payment_batch ON batch_payment (batch)",
        "CREATE INDEX claim_payment ON claim (task_id, payment) WHERE payment <> ''",
        "CREATE INDEX call_payment ON call (payment) WHERE payment <> ''",
    ),
    # Find who has charged a target, and keep what an operator let pass beside that.
    12: (
        """
        CREATE TABLE duplicate_approval (
            run_id VARCHAR(255) NOT NULL,
            task_id VARCHAR(255) NOT NULL,
            call_id VARCHAR(255) NOT NULL,
            amount_micros INTEGER NOT NULL,
            PRIMARY KEY (run_id, task_id, call_id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX call_charged ON call (family, target) WHERE base IS NOT NULL AND asked_micros > 0",
    ),
    # Keep by how much a run's budget was raised above what luigi.cfg says, and what a forecast that was
    # approved was made of.
    13: (
        "ALTER TABLE budget ADD COLUMN raised_micros BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE approval ADD COLUMN forecast TEXT NOT NULL DEFAULT ''",
    ),
    # Keep who asked for a change.
    14: ("ALTER TABLE journal ADD COLUMN actor TEXT NOT NULL DEFAULT ''",),
    # Index what there is of keys, objects and request ids, and no wire keys: nothing looks for those.
    15: (
        "DROP INDEX call_wire_key",
        "DROP INDEX call_key_id",
        "DROP INDEX call_object_id",
        "DROP INDEX journal_request_id",
        "CREATE INDEX call_keyed ON call (key_id) WHERE key_id IS NOT NULL",
        "CREATE INDEX call_object ON call (object_id) WHERE object_id IS NOT NULL",
        "CREATE UNIQUE INDEX journal_request ON journal (request_id) WHERE request_id IS NOT NULL",
    ),
    # Keep where a run begins: before it is opened, as its worker has looked then already what is complete.
    17: (
        "ALTER TABLE run ADD COLUMN begun BIGINT NOT NULL DEFAULT 0",
        "UPDATE run SET begun = coalesce((SELECT min(id) FROM journal WHERE journal.run_id = run.run_id), 0)",
    ),
    # Keep what a call has given up that it makes again, and which try of its process it is; and when tasks
    # completed: of those that have it is known that it was after their calls were made.
    16: (
        "ALTER TABLE call ADD COLUMN number BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE call ADD COLUMN given_up TEXT NOT NULL DEFAULT ''",
        """
        CREATE TABLE completion (
            task_id VARCHAR(255) NOT NULL,
            number INTEGER NOT NULL,
            entry BIGINT NOT NULL,
            PRIMARY KEY (task_id, number)
        ) WITHOUT ROWID
        """,
        """
        INSERT INTO completion (task_id, number, entry)
            SELECT paid.task_id, paid.epoch + 1, max(paid.entry) FROM (
                SELECT call.task_id, call.epoch, journal.id AS entry FROM call
                JOIN journal ON journal.call_id = call.id AND journal.kind = 'reserve'
                UNION ALL SELECT member.task_id, member.epoch, journal.id FROM member
                JOIN call ON call.claim_id = member.claim_id
                JOIN journal ON journal.call_id = call.id AND journal.kind = 'reserve'
            ) AS paid
            JOIN task ON task.task_id = paid.task_id AND task.completions > paid.epoch
            GROUP BY paid.task_id, paid.epoch
        """,
    ),
    # Keep what a call's object has to count for. Of earlier calls it is known by what they have asked alone.
    18: (
        "ALTER TABLE call ADD COLUMN total_micros BIGINT",
        "UPDATE call SET total_micros = asked_micros WHERE asked_micros > 0 AND wire_key <> ''"
        " AND state IN ('pending','settled','in_doubt')",
    ),
    19: (
        # Keep which fees the price of a call may lack, once that is not waited for any more.
        "ALTER TABLE call ADD COLUMN fees_micros BIGINT",
        # Keep by which id a vendor knows the request that it has answered last.
        "ALTER TABLE call ADD COLUMN vendor_request VARCHAR(255) NOT NULL DEFAULT ''",
        # Make room for the sealed audit; each call has an entry, as it is sealed with what the journal says.
        """
        CREATE TABLE audit_block (
            number INTEGER NOT NULL PRIMARY KEY,
            ledger VARCHAR(255) NOT NULL,
            first_seq BIGINT NOT NULL,
            last_seq BIGINT NOT NULL,
            entry BIGINT NOT NULL,
            root VARCHAR(255) NOT NULL,
            previous VARCHAR(255) NOT NULL,
            hash VARCHAR(255) NOT NULL,
            key_id VARCHAR(255) NOT NULL,
            signature VARCHAR(255) NOT NULL,
            sealed_at BIGINT NOT NULL
        )
        """,
        """
        CREATE TABLE audit_row (
            seq INTEGER NOT NULL PRIMARY KEY,
            block BIGINT NOT NULL,
            kind VARCHAR(255) NOT NULL CHECK (kind IN ('call','entry')),
            name VARCHAR(255) NOT NULL,
            run_id VARCHAR(255) NOT NULL,
            at BIGINT NOT NULL,
            text TEXT NOT NULL
        )
        """,
        "CREATE INDEX audit_row_run ON audit_row (run_id, seq)",
        "CREATE INDEX audit_row_call ON audit_row (name, seq) WHERE kind = 'call'",
        """
        CREATE TABLE audit_pruned (
            entry INTEGER NOT NULL PRIMARY KEY,
            calls BIGINT NOT NULL,
            entries BIGINT NOT NULL
        )
        """,
        "INSERT INTO journal (at, kind, run_id, call_id, cap_micros, spent_micros, reserved_micros,"
        " overrun_micros, note, actor) SELECT created_at, CASE verdict WHEN 'denied' THEN 'deny'"
        " WHEN 'replayed' THEN 'replay' ELSE 'read' END, run_id, id, 0, 0, 0, 0, 'made before format 19', ''"
        " FROM call WHERE NOT EXISTS (SELECT 1 FROM journal WHERE journal.call_id = call.id) ORDER BY rowid",
        # Keep what a run is counted under in reports; find what was spent in a period.
        "ALTER TABLE run ADD COLUMN tags TEXT NOT NULL DEFAULT '{}'",
        "CREATE INDEX journal_spent ON journal (at) WHERE spent_micros <> 0 OR overrun_micros <> 0",
        # Make room for top-ups that wait for a second operator.
        """
        CREATE TABLE top_up_request (
            id VARCHAR(255) NOT NULL PRIMARY KEY,
            request_id VARCHAR(255) NOT NULL,
            run_id VARCHAR(255) NOT NULL,
            scope VARCHAR(255) NOT NULL,
            part VARCHAR(255) NOT NULL,
            amount_micros INTEGER NOT NULL,
            asked_by VARCHAR(255) NOT NULL,
            asked_from TEXT NOT NULL,
            asked_at INTEGER NOT NULL,
            expires_at INTEGER NOT NULL,
            state VARCHAR(255) NOT NULL CHECK (state IN ('waiting','confirmed','withdrawn')),
            ended_at INTEGER,
            ended_from TEXT NOT NULL,
            confirm_id VARCHAR(255)
        ) WITHOUT ROWID
        """,
        "CREATE UNIQUE INDEX top_up_request_request_id ON top_up_request (request_id)",
        "CREATE INDEX top_up_request_run_id ON top_up_request (run_id)",
        # Keep which calls went out with a tag, and find what went out under a caller's own key.
        "ALTER TABLE call ADD COLUMN tagged INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX call_wired ON call (wire_key) WHERE base IS NULL AND key_id IS NOT NULL",
        # Make room for what nightly comparisons with the vendors' own books have found.
        """
        CREATE TABLE reconciliation (
            vendor VARCHAR(255) NOT NULL,
            account VARCHAR(255) NOT NULL,
            until_ms BIGINT NOT NULL,
            since_ms BIGINT NOT NULL,
            state VARCHAR(255) NOT NULL CHECK (state IN ('under_way','done','failed')),
            owner VARCHAR(255) NOT NULL,
            payments BIGINT NOT NULL,
            differences BIGINT NOT NULL,
            vendor_only_micros BIGINT NOT NULL,
            ledger_only_micros BIGINT NOT NULL,
            kinds TEXT NOT NULL,
            note TEXT NOT NULL,
            at BIGINT NOT NULL,
            PRIMARY KEY (vendor, account, until_ms)
        ) WITHOUT ROWID
        """,
    ),
    # Keep what was foreseen of a run first; of runs there are it is the last that is known.
    20: (
        "ALTER TABLE run ADD COLUMN first_forecast_micros BIGINT",
        "ALTER TABLE run ADD COLUMN first_estimated_micros BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE run ADD COLUMN first_unknown_tasks INTEGER NOT NULL DEFAULT 0",
        "UPDATE run SET first_forecast_micros = forecast_micros, first_estimated_micros = estimated_micros,"
        " first_unknown_tasks = unknown_tasks",
    ),
}
#: The format that this version reads and writes.
FORMAT = max(MIGRATIONS)


def format_of(tx: Tx) -> int:
    """Return the number of the books' last migration, 0 for new ones."""
    return int(tx.value("SELECT max(number) FROM migration") or 0) if tx.has_tables("migration") else 0


def _refuse_others(place: Place) -> None:
    """Refuse books that are another program's or a newer version's, before anything there is changed."""
    if isinstance(place, Path) and not place.stat().st_size:
        return
    db = database_of(place, read_only=True)
    with db.reading() as tx:
        try:
            done, others = format_of(tx), tx.has_tables()
        finally:
            db.disconnect()
    if others and not done:
        raise LedgerUnavailable(
            f"{ledger_name(place)} is a database of something else: set [spendguard] ledger_url to one of "
            "its own"
        )
    _refuse_newer(done, f"the ledger {ledger_name(place)}")


def _refuse_newer(done: int, what: str) -> None:
    if done > FORMAT:
        raise LedgerUnavailable(
            f"{what} was written by a newer version (format {done}, this version "
            f"knows {FORMAT}): install that version of luigi_spendguard again"
        )


def check_format(tx: Tx, place: Place, *, is_now: bool, what: str = "") -> None:
    """Look whether there are books that this version reads; `is_now`: of no earlier format.

    `what` it is called where it is not the ledger of a luigid's: a backup. Raises LedgerUnavailable, with
    advice.
    """
    done = format_of(tx)
    if not done and what:
        raise LedgerUnavailable(f"there are no books in {what}")
    if not done:
        raise LedgerUnavailable(
            f"there are no books in {ledger_name(place)}: luigid makes them when it starts, with that as "
            "[spendguard] ledger_url"
        )
    _refuse_newer(done, what or f"the ledger {ledger_name(place)}")
    if is_now and done < FORMAT:
        raise LedgerUnavailable(
            f"the ledger {ledger_name(place)} has format {done}, and this version copies {FORMAT}: start "
            "luigid of this version with it once, which brings it to that"
        )


def migrate(place: Place, busy_s: float = LOCK_SECONDS) -> None:
    """Bring the books there to this version. Raises LedgerUnavailable, with advice."""
    db = database_of(place, busy_s=busy_s)
    db.prepare()
    again(lambda: _refuse_others(place))
    again(lambda: _migrated(place, busy_s))


def _migrated(place: Place, busy_s: float) -> None:
    db = database_of(place, busy_s=busy_s)
    try:
        with db.writing() as tx:
            done = format_of(tx)
            if done < FORMAT:
                tx.take_time()
            if not done:
                create(tx)
            for number in range(done + 1, FORMAT + 1):
                for statement in MIGRATIONS.get(number, ()) if done else ():
                    tx.run(statement)
                tx.run(f"INSERT INTO migration (number, applied_at) VALUES (?, {NOW})", number)
    finally:
        db.disconnect()
