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
from tests.support.tamperings import LIVE, OWN_KEY, RIGHTS, TAMPERINGS

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
