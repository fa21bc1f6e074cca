"""Whatever is changed behind the ledger's back is found, and the first row that is not as it was is named."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luigi_spendguard.ledger import Ledger
from luigi_spendguard.ledger.audit import blocks as audit_blocks
from luigi_spendguard.ledger.audit.blocks import Block, head_text
from luigi_spendguard.ledger.audit.merkle import leaf_hash, root
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import Head, KeyFiles, Signer
from luigi_spendguard.ledger.audit.tampering import Tampered
from luigi_spendguard.ledger.audit.verifying import Verified, verify
from luigi_spendguard.ledger.database.engines import opened
from tests.support.ledger_formats import Maker

pytestmark = pytest.mark.of_files

USD = 1_000_000
LATER = 4_000_000_000_000
#: Entries of a block here, so that there are several.
BLOCK = 20


@dataclass(frozen=True)
class Sealed:
    """Sealed books with something of everything, as bytes; and what is beside them."""

    content: bytes
    files: KeyFiles
    head: Head
    blocks: int


#: Another hexadecimal text than a column has.
OTHER = "CASE substr({0}, 1, 1) WHEN '0' THEN '1' ELSE '0' END || substr({0}, 2)"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    folder = tmp_path_factory.mktemp("sealed")
    path = folder / "books.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_blocks, "MOST", BLOCK)
        Maker(path).write()
        ledger = Ledger(path)
        sealer = Sealer(ledger, KeyFiles(folder / "key"))
        while sealer.seal(60):
            pass
        ledger.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = delete")
        for name in ("journal_no_update", "journal_no_delete"):
            db.execute(f"DROP TRIGGER {name}")
        db.commit()
    head = sealer.files.head()
    assert head is not None
    return Sealed(path.read_bytes(), sealer.files, head, head.number)


@dataclass(frozen=True)
class Copy:
    """A copy of sealed books, for a test to change."""

    path: Path
    sealed: Sealed

    def change(self, sql: str, *values: Any) -> int:
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("PRAGMA ignore_check_constraints = 1")
            count = db.execute(sql, values).rowcount
            db.commit()
        return count

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(sql).fetchall()

    def look(self, told: Sequence[Block] = (), since: int | None = None, **more: Any) -> Verified:
        beside = {"head": self.sealed.head, **more}
        keys = beside.pop("keys", self.sealed.files.trusted())
        with opened(self.path, read_only=True) as books, books.reading() as tx:
            return verify(tx, keys, told=told, since=since, **beside)

    def found(self, **more: Any) -> str:
        """Return what is said to be not as it was sealed."""
        with pytest.raises(Tampered) as caught:
            self.look(**more)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def copy(sealed: Sealed, tmp_path: Path) -> Copy:
    path = tmp_path / "books.db"
    path.write_bytes(sealed.content)
    return Copy(path, sealed)


def test_what_was_not_changed_is_as_it_was_sealed(copy: Copy, sealed: Sealed) -> None:
    found = copy.look()
    assert found.chain.blocks == sealed.blocks > 3
    assert found.chain.rows == copy.rows("SELECT count(*) FROM audit_row")[0][0] > 90
    assert found.calls == copy.rows("SELECT count(*) FROM call")[0][0]
    assert (found.unsealed, found.since) == (0, None)


#: What is done to the books, and what is said of it.
TAMPERINGS: dict[str, tuple[str, str]] = {
    "a call's amount": (
        "UPDATE call SET settled_micros = settled_micros - 1000000,"
        " corrected_micros = corrected_micros + 1000000 WHERE object_id = 'pi_settled'",
        r"call \S+ \(stripe payment_intents.create, run run, row \d+ of block \d+ \(sealed \S+\)\) was"
        r' changed since: settled_usd was "7.00" and is "6.00"',
    ),
    "whose a call is": (
        "UPDATE call SET task_id = 'Nobody' WHERE object_id = 'pi_settled'",
        'was changed since: task_id was "Charge_open" and is "Nobody"',
    ),
    "a denial": (
        "UPDATE call SET verdict = 'allowed' WHERE verdict = 'denied'",
        'was changed since: verdict was "denied" and is "allowed"',
    ),
    "an attempt": ('UPDATE claim SET params = \'{"a": "b"}\'', r"params was \{\} and is \{\"a\":\"b\"\}"),
    "a run's family": ("UPDATE run SET root_family = 'Other'", 'root_family was "Root" and is "Other"'),
    "what is no JSON": ("UPDATE claim SET members = 'no JSON'", "it has a value that none can have"),
    "a call is deleted": (
        "DELETE FROM call WHERE object_id = 'pi_settled'",
        r"call \S+ \(.*row \d+ of block \d+ .*was deleted, and entries about it were not: it was not pruned",
    ),
    "an entry's amount": (
        "UPDATE journal SET spent_micros = 9000000 WHERE spent_micros = 7000000",
        r"entry \d+ \(settle of call \S+, row \d+ of block \d+ \(sealed \S+\)\) was changed since: spent_usd"
        ' was "7.00" and is "9.00"',
    ),
    "who did it": ("UPDATE journal SET actor = 'bob' WHERE kind = 'top_up'", 'actor was "" and is "bob"'),
    "an entry is deleted": (
        "DELETE FROM journal WHERE spent_micros = 7000000",
        r"entry \d+ \(settle of call \S+, row \d+ of block \d+ .*\) was deleted from the journal$",
    ),
    "an entry of no call is deleted": (
        "DELETE FROM journal WHERE kind = 'revoke'",
        r"was deleted from the journal: of its run 1 entries are gone and 0 were pruned",
    ),
    "what an operator did is deleted": (
        "DELETE FROM journal WHERE kind = 'operator'",
        r"entry \d+ \(operator of call .*was deleted from the journal$",
    ),
    "an entry is moved": (
        "UPDATE journal SET id = 0 WHERE id = 1",
        r"entry 0 \(open, run run\) was put into the journal after block 1 ",
    ),
    "a row's text": (
        'UPDATE audit_row SET text = replace(text, \'"spent_usd":"7.00"\', \'"spent_usd":"5.00"\')',
        r"the audit's text of entry \d+ \(settle.*row \d+ of block \d+ .*\) was changed: spent_usd was"
        ' "7.00" and is "5.00"',
    ),
    "the text of a call's last row": (
        'UPDATE audit_row SET text = replace(text, \'"settled_usd":"7.00"\', \'"settled_usd":"5.00"\')'
        " WHERE kind = 'call'",
        r"the audit's text of (a row|call \S+)",
    ),
    "the figures of a run after an entry": (
        'UPDATE audit_row SET text = replace(text, \'"run_spent_usd":"7.00"\', \'"run_spent_usd":"5.00"\')',
        r"the audit's text of a row of block \d+ .* was changed \(rows \d+ to \d+\)",
    ),
    "a text that is no row": (
        "UPDATE audit_row SET text = 'x' WHERE seq = 7",
        "row 7 of block 1 .* no sealed row",
    ),
    "a text that is no text": (
        "UPDATE audit_row SET text = CAST(x'7bff7d' AS TEXT) WHERE seq = 7",
        "a row of block 1 .* no UTF-8",
    ),
    "a text of the last block that is no text": (
        "UPDATE audit_block SET ledger = CAST(x'ff' AS TEXT) WHERE number ="
        " (SELECT max(number) FROM audit_block)",
        "the ledger was changed: there is a text that is no UTF-8",
    ),
    "what stands beside a text": (
        "UPDATE audit_row SET run_id = 'other' WHERE seq = 1",
        "row 1 of block 1 .* was changed: its run_id was run and is other",
    ),
    "a row is taken out": ("DELETE FROM audit_row WHERE seq = 7", "row 7 of block 1 .* was taken out"),
    "the last row of a block is taken out": (
        "DELETE FROM audit_row WHERE seq = (SELECT last_seq FROM audit_block WHERE number = 2)",
        "row .* of block 2 .* was taken out",
    ),
    "a row is put in": (
        "INSERT INTO audit_row SELECT 9999, block, kind, name, run_id, at, text FROM audit_row WHERE seq = 1",
        "row 9999 of the audit was put in: no block has it",
    ),
    "a row is put in before all": (
        "INSERT INTO audit_row SELECT 0, block, kind, name, run_id, at, text FROM audit_row WHERE seq = 1",
        "row 0 of the audit was put in: no block has it",
    ),
    "a root": (
        f"UPDATE audit_block SET root = {OTHER.format('root')} WHERE number = 2",
        "block 2 .* was changed: its head has another hash than it says",
    ),
    "a hash": (
        f"UPDATE audit_block SET hash = {OTHER.format('hash')} WHERE number = 2",
        "block 2 .* was changed: its head has another hash than it says",
    ),
    "a signature": (
        f"UPDATE audit_block SET signature = {OTHER.format('signature')} WHERE number = 2",
        "block 2 .* was made anew, or changed: its signature is not that of its key",
    ),
    "how a signature is written": (
        "UPDATE audit_block SET signature = upper(signature) WHERE number = 2",
        "block 2 .* was made anew, or changed: its signature is not that of its key",
    ),
    "when it was sealed": (
        "UPDATE audit_block SET sealed_at = 99999999999999999 WHERE number = 2",
        r"block 2 \(sealed at no time that there is\) was changed",
    ),
    "a block is taken out": ("DELETE FROM audit_block WHERE number = 2", "block 2 is gone: block 3 "),
    "the first block is taken out": ("DELETE FROM audit_block WHERE number = 1", "block 1 is gone: block 2 "),
    "the last block is taken out": (
        "DELETE FROM audit_block WHERE number = (SELECT max(number) FROM audit_block)",
        r"block \d+ was sealed here, and the ledger has block \d+ as its last: an older ledger was restored",
    ),
    "all blocks are taken out": ("DELETE FROM audit_block", "and the ledger has no block at all: an older"),
    "what was pruned": (
        "INSERT INTO audit_pruned SELECT max(id), 1, 1 FROM journal",
        "was changed since: pruned was null and is",
    ),
    "a total": (
        "UPDATE budget SET spent_micros = 24000000 WHERE id = 1",
        "a total was changed: budget run run",
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_it_is_found_and_named(copy: Copy, name: str) -> None:
    sql, said = TAMPERINGS[name]
    assert copy.change(sql) > 0
    assert re.search(said, copy.found())


SETTLED = "(SELECT id FROM call WHERE object_id = 'pi_settled')"


def test_a_call_that_its_budgets_count_no_more_is_found(copy: Copy) -> None:
    among = f"(SELECT budget_id FROM call_budget WHERE call_id = {SETTLED})"
    copy.change(f"UPDATE budget SET spent_micros = spent_micros - 7000000 WHERE id IN {among}")
    copy.change(f"DELETE FROM call_budget WHERE call_id = {SETTLED}")
    assert re.search(r"call \S+ \(.*was changed since: budgets was \[[\d,]+\] and is \[\]", copy.found())


#: What is done to a call together with an entry that says nothing, so that it is sealed anew.
BEHIND_AN_ENTRY: dict[str, tuple[str, str]] = {
    "whom it paid": ("target = 'cus_me'", 'was changed since: target was "cus_.*" and is "cus_me"'),
    "whose it is": ("task_id = 'Nobody'", 'was changed since: task_id was "Charge_open" and is "Nobody"'),
    "in which run": ("run_id = 'other'", 'was changed since: run_id was "run" and is "other"'),
    "what it has cost": (
        "settled_micros = 1000000",
        r"the amounts of call \S+ .* were changed: spent, reserved and overrun are \$1.00, \$0.00, \$0.00,"
        r" and its entries come to \$7.00, \$0.00, \$0.00",
    ),
    "what is held of it": (
        "state = 'in_doubt'",
        r"are \$7.00, \$10.00, \$0.00, and its entries come to \$7.00, \$0.00, \$0.00",
    ),
}


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("name", BEHIND_AN_ENTRY)
def test_a_call_that_was_changed_behind_an_entry_about_it_is_found(
    copy: Copy, name: str, is_sealed: bool
) -> None:
    change, said = BEHIND_AN_ENTRY[name]
    assert copy.change(f"UPDATE call SET {change} WHERE object_id = 'pi_settled'") == 1
    copy.change(
        "INSERT INTO journal (at, kind, run_id, call_id, cap_micros, spent_micros, reserved_micros,"
        " overrun_micros, note, actor) SELECT at, 'read', run_id, call_id, 0, 0, 0, 0, '', '' FROM journal"
        f" WHERE kind = 'settle' AND call_id = {SETTLED}"
    )
    if is_sealed:
        seal_on(copy)
    assert re.search(said, copy.found())


def seal_on(copy: Copy) -> None:
    """Seal what has come since, with the key of the books, as their luigid does."""
    own = KeyFiles(copy.path.with_name("key"))
    own.key.write_bytes(copy.sealed.files.key.read_bytes())
    own.key.chmod(0o600)
    own.signer()
    ledger = Ledger(copy.path)
    sealer = Sealer(ledger, own)
    while sealer.seal(60):
        pass
    ledger.close()
    assert sealer.stopped == ""


#: What is in force beside the calls, and is changed without an entry that says so.
RIGHTS: dict[str, tuple[str, str]] = {
    "a run is not revoked any more": (
        "UPDATE run SET state = 'active' WHERE run_id = 'revoked'",
        "run revoked was revoked, and is not any more",
    ),
    "a run is not frozen any more": (
        "UPDATE run SET state = 'active' WHERE run_id = 'frozen'",
        "run frozen was frozen by what a vendor billed above a reservation, and is active without a top-up",
    ),
    "a key of a revoked run": (
        "UPDATE claim SET state = 'open' WHERE run_id = 'revoked'",
        r"vault key \S+ was revoked, or its run, and is in force",
    ),
    "what a key may call": (
        "UPDATE key_terms SET allowed_endpoints = '[]'",
        r"the terms of vault key key_\w+ are not those that it was issued on",
    ),
    "which key it is": (
        "UPDATE claim SET key_hash = 'abc' WHERE id IN (SELECT id FROM key_terms)",
        r"the terms of vault key key_\w+ are not those that it was issued on",
    ),
    "a key that nobody has issued": (
        "INSERT INTO key_terms SELECT 'key_1', vendor, label, allowed_endpoints, allowed_customers,"
        " allowed_accounts, budget, run_cap_micros, daily_cap_micros, expires_at FROM key_terms",
        "vault key key_1 was issued by nobody: no entry says so",
    ),
    "an approved forecast": (
        "UPDATE approval SET amount_micros = 99000000 WHERE task_id = ''",
        "what was approved of run run is not what an operator has approved",
    ),
    "an approved task": (
        "UPDATE approval SET run_id = 'other' WHERE task_id <> ''",
        "what was approved of run other, task Charge_dear is not what an operator has approved",
    ),
    "an approved duplicate": (
        "UPDATE duplicate_approval SET amount_micros = 99000000",
        r"what was approved of task Charge_26 beside call \S+ is not what an operator has approved",
    ),
    "a top-up that nobody has asked for": (
        "INSERT INTO top_up_request (id, request_id, run_id, scope, part, amount_micros, asked_by,"
        " asked_from, asked_at, expires_at, state, ended_from) VALUES"
        " ('tu_1', 'a', 'run', 'run', '', 9000000, 'alice',"
        " 'alice at 127.0.0.1', 1, 9999999999999, 'waiting', '')",
        "top-up tu_1 is not what was asked for, or not by whom",
    ),
    "what a cap of luigi.cfg is raised by": (
        "UPDATE budget SET raised_micros = 9000000 WHERE scope = 'family'",
        r"budget family run Charge is raised by \$7.00 more than its top-ups come to",
    ),
    "what shadow mode has lent": (
        "UPDATE budget SET shadow_micros = -1 WHERE scope = 'run' AND subject = 'run'",
        "budget run run lends what it has not got",
    ),
}


@pytest.mark.parametrize("name", RIGHTS)
def test_what_is_in_force_is_what_the_journal_says(copy: Copy, name: str) -> None:
    sql, said = RIGHTS[name]
    assert copy.change(sql) > 0
    assert re.search(f"^what is in force was changed: {said}", copy.found())


def test_a_call_that_was_put_in_is_found(copy: Copy) -> None:
    ((names,),) = copy.rows("SELECT group_concat(name, ',') FROM pragma_table_info('call')")
    others = ",".join(one for one in names.split(",") if one != "id")
    chosen = f"SELECT 'put-in', {others} FROM call WHERE object_id = 'pi_settled'"
    copy.change(f"INSERT INTO call (id, {others}) {chosen}")
    assert "call put-in (stripe payment_intents.create, run run, made " in copy.found()
    assert "is in the ledger, and in no block: it was put in" in copy.found()


def test_an_entry_that_was_put_in_is_found(copy: Copy) -> None:
    ((names,),) = copy.rows("SELECT group_concat(name, ',') FROM pragma_table_info('journal')")
    others = ",".join(one for one in names.split(",") if one not in ("id", "request_id"))
    copy.change(f"INSERT INTO journal (id, {others}) SELECT -7, {others} FROM journal WHERE kind = 'revoke'")
    assert "entry -7 (revoke, run revoked) was put into the journal after block 1 " in copy.found()


def test_a_block_that_was_signed_anew_with_the_key_breaks_the_chain(copy: Copy) -> None:
    resealed(copy, 2, copy.sealed.files.signer().sign, only=2, sealed_at=1)
    copy.change("UPDATE audit_block SET sealed_at = 1 WHERE number = 2")
    assert "does not follow block 2: blocks were taken out, put in" in copy.found(head=None)


def resealed(
    copy: Copy, number: int, sign: Callable[[str], str], only: int | None = None, **changes: Any
) -> None:
    """Make blocks anew from a number on (or `only` one), as they would be over the rows that are there."""
    blocks = [Block(*row) for row in copy.rows(f"SELECT * FROM audit_block WHERE number >= {number}")]
    previous = blocks[0].previous
    for block in sorted(blocks, key=lambda one: one.number)[: None if only is None else 1]:
        texts = copy.rows(f"SELECT text FROM audit_row WHERE block = {block.number} ORDER BY seq")
        made = root([leaf_hash(text) for (text,) in texts]).hex()
        again = replace(block, root=made, previous=previous, **changes)
        text = head_text(again)
        previous = audit_blocks.sha256(text.encode()).hexdigest()
        copy.change(
            "UPDATE audit_block SET root = ?, previous = ?, hash = ?, signature = ?, key_id = ?"
            " WHERE number = ?",
            *(made, again.previous, previous, sign(text), again.key_id, block.number),
        )


FORGED = 'UPDATE audit_row SET text = replace(text, \'"spent_usd":"7.00"\', \'"spent_usd":"5.00"\')'


def test_blocks_that_were_hashed_again_without_the_key_are_found(copy: Copy) -> None:
    copy.change(FORGED)
    resealed(copy, 1, lambda text: "00" * 64)
    assert "was made anew, or changed: its signature is not that of its key" in copy.found(head=None)


def test_blocks_that_were_signed_with_another_key_are_found(copy: Copy, tmp_path: Path) -> None:
    copy.change(FORGED)
    forger: Signer = KeyFiles(tmp_path / "own").signer()
    resealed(copy, 1, forger.sign, key_id=forger.key_id)
    assert f"is signed with key {forger.key_id}, which is not believed here" in copy.found(head=None)


def test_a_history_that_was_written_anew_with_the_key_is_shown_by_what_was_told_elsewhere(copy: Copy) -> None:
    told = [Block(*row) for row in copy.rows("SELECT * FROM audit_block ORDER BY number")]
    assert copy.look(told=told).chain.blocks == len(told)
    copy.change(FORGED)
    copy.change("UPDATE journal SET spent_micros = 5000000 WHERE spent_micros = 7000000")
    resealed(copy, 1, copy.sealed.files.signer().sign)
    assert "is another one than was sealed here" in copy.found()
    assert "was told elsewhere" in copy.found(told=told, head=None)
    assert "the ledger has another block of that number" in copy.found(told=told, head=None)


def test_what_was_told_elsewhere_must_be_signed(copy: Copy) -> None:
    (told,) = (Block(*row) for row in copy.rows("SELECT * FROM audit_block WHERE number = 1"))
    assert "is not signed by a key that is believed" in copy.found(told=[replace(told, root="00")])


def test_an_older_ledger_is_shown_by_what_was_told_elsewhere(copy: Copy, sealed: Sealed) -> None:
    told = [Block(*row) for row in copy.rows("SELECT * FROM audit_block ORDER BY number")]
    copy.change("DELETE FROM audit_row WHERE block = ?", sealed.blocks)
    copy.change("DELETE FROM audit_block WHERE number = ?", sealed.blocks)
    assert "an older ledger was restored, or blocks were taken out" in copy.found(told=told, head=None)


def test_rows_that_changed_places_are_found(copy: Copy) -> None:
    (one, other) = (
        row[0] for row in copy.rows("SELECT text FROM audit_row WHERE seq IN (3, 5) ORDER BY seq")
    )
    copy.change("UPDATE audit_row SET text = ? WHERE seq = 3", other)
    copy.change("UPDATE audit_row SET text = ? WHERE seq = 5", one)
    assert "row 3 of block 1" in copy.found()
    assert "it has the text of row 5, so rows were put in another order" in copy.found()


def test_blocks_of_another_ledger_are_found(copy: Copy) -> None:
    sign = copy.sealed.files.signer().sign
    resealed(copy, 2, sign, ledger="other")
    copy.change("UPDATE audit_block SET ledger = 'other' WHERE number > 1")
    assert "block 2 (sealed " in copy.found(head=None)
    assert "blocks were taken out, put in, or are another ledger's" in copy.found(head=None)


def test_another_ledger_of_the_same_key_is_found_though_it_is_longer_and_pruned(copy: Copy) -> None:
    """The number of the block that was sealed here last says nothing of another chain that has pruned it."""
    head = replace(copy.sealed.head, ledger="another", number=0)
    assert "another ledger" in copy.found(head=head)


def test_since_a_time_only_later_blocks_are_looked_at(copy: Copy, sealed: Sealed) -> None:
    copy.change(FORGED)
    assert "the audit's text" in copy.found()
    last = copy.rows("SELECT max(sealed_at) FROM audit_block")[0][0]
    found = copy.look(since=last + 1)
    assert (found.chain.blocks, found.chain.first) == (1, found.chain.last)
    copy.change("UPDATE audit_block SET root = '00' WHERE number = ?", sealed.blocks - 1)
    assert f"block {sealed.blocks - 1} " in copy.found(since=last + 1)


# Chosen at random.

#: What of the books' own tables is sealed.
LIVE = {
    "journal": (
        *(
            "at",
            "kind",
            "run_id",
            "call_id",
            "cap_micros",
            "spent_micros",
            "reserved_micros",
            "overrun_micros",
        ),
        *("note", "actor", "request_id", "budget_id"),
    ),
    "call": (
        *("run_id", "claim_id", "task_id", "family", "vendor", "account", "operation", "method", "path"),
        *(
            "target",
            "base",
            "ordinal",
            "key_id",
            "fingerprint",
            "wire_key",
            "currency",
            "object_id",
            "verdict",
        ),
        *(
            "reason",
            "message",
            "replay_of",
            "asked_micros",
            "total_micros",
            "reserved_micros",
            "settled_micros",
        ),
        *("corrected_micros", "overrun_micros", "status", "created_at", "ended_at", "vendor_request"),
    ),
    "audit_row": ("seq", "block", "kind", "name", "run_id", "at", "text"),
    "audit_block": (
        *("number", "ledger", "first_seq", "last_seq", "entry", "root", "previous", "hash", "key_id"),
        *("signature", "sealed_at"),
    ),
    "budget": ("cap_micros", "spent_micros", "reserved_micros", "overrun_micros"),
}
OWN_KEY = {"journal": "id", "call": "rowid", "audit_row": "seq", "audit_block": "number", "budget": "id"}


@dataclass(frozen=True)
class Tampering:
    """What is done to one row: `what` is `edit`, `flip` (one byte), `delete`, `swap` or `double`."""

    what: str
    table: str
    row: int
    column: int
    byte: int


TAMPERING = st.builds(
    Tampering,
    st.sampled_from(["edit", "flip", "flip", "delete", "swap", "double"]),
    st.sampled_from(sorted(LIVE)),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.integers(0, 10_000_000),
)


def flipped(value: Any, byte: int) -> Any:
    """Return a value with one bit of it turned over."""
    if value is None:
        return "x"
    if isinstance(value, int):
        return value ^ (1 << byte % 40)
    data = bytearray(value.encode() or b"\0")
    data[byte % len(data)] ^= 1 << (byte // len(data)) % 8
    return bytes(data)


def tamper(db: sqlite3.Connection, one: Tampering) -> bool:
    """Do it; return whether anything is otherwise now."""
    db.execute("PRAGMA ignore_check_constraints = 1")
    key, columns = OWN_KEY[one.table], LIVE[one.table]
    ids = [row[0] for row in db.execute(f"SELECT {key} FROM {one.table} ORDER BY {key}")]
    place, other = ids[one.row % len(ids)], ids[(one.row + 1 + one.byte) % len(ids)]
    column = columns[one.column % len(columns)]
    before = "\n".join(db.iterdump())
    if one.what == "delete":
        if one.table == "budget":  # Nothing is counted in it any more: entries are left that say so.
            return False
        db.execute(f"DELETE FROM {one.table} WHERE {key} = ?", (place,))
    elif one.what == "double":
        names = [row[1] for row in db.execute(f"PRAGMA table_info({one.table})")]
        new = {"call": {"id": "'put-in'"}}.get(one.table, {key: str(max(ids) + 1)})
        chosen = ",".join(new.get(name, name) for name in names)
        try:
            db.execute(f"INSERT INTO {one.table} SELECT {chosen} FROM {one.table} WHERE {key} = ?", (place,))
        except sqlite3.IntegrityError:
            return False
        if one.table == "journal":  # It has come after the last block: it will be sealed, as what it is.
            return False
    else:
        (value,) = db.execute(f"SELECT {column} FROM {one.table} WHERE {key} = ?", (place,)).fetchone()
        if one.what == "swap":
            (new_value,) = db.execute(
                f"SELECT {column} FROM {one.table} WHERE {key} = ?", (other,)
            ).fetchone()
        elif one.what == "edit":
            new_value = value + 1 + one.byte if isinstance(value, int) else f"{value or ''}{one.byte}"
        else:
            new_value = flipped(value, one.byte)
        if isinstance(new_value, bytes):
            new_text = new_value
            try:
                db.execute(
                    f"UPDATE {one.table} SET {column} = CAST(? AS TEXT) WHERE {key} = ?", (new_text, place)
                )
            except sqlite3.IntegrityError:
                return False
        else:
            try:
                db.execute(f"UPDATE {one.table} SET {column} = ? WHERE {key} = ?", (new_value, place))
            except sqlite3.IntegrityError:
                return False
    db.text_factory = lambda data: data.decode(errors="backslashreplace")
    return "\n".join(db.iterdump()) != before


def test_whatever_is_tampered_with_is_found(sealed: Sealed, tmp_path: Path, tamperings: int) -> None:
    done = 0

    @settings(max_examples=tamperings, suppress_health_check=list(HealthCheck), deadline=None, database=None)
    @given(TAMPERING)
    def found(one: Tampering) -> None:
        nonlocal done
        path = tmp_path / f"{uuid.uuid4()}.db"
        path.write_bytes(sealed.content)
        with closing(sqlite3.connect(path)) as db:
            is_other = tamper(db, one)
            db.commit()
        if is_other:
            done += 1
            assert Copy(path, sealed).found()
        path.unlink()

    found()
    assert done > tamperings // 2
