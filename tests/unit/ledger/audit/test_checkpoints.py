"""The audit's oldest blocks go when a sealed entry vouches for them, and no sooner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.audit import checkpoints
from luigi_spendguard.ledger.audit.checkpoints import KIND, Checkpoint
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.audit.tampering import Tampered
from luigi_spendguard.ledger.audit.verifying import Verified, verify
from luigi_spendguard.ledger.budgets import JournalEntry, journal
from luigi_spendguard.protocol import EndRequest
from tests.support.sealed import SealedBooks

USD = 1_000_000
#: In milliseconds: every block was sealed before then.
LATER = 2**52


@pytest.fixture
def books(tmp_path: Path) -> Iterator[SealedBooks]:
    books = SealedBooks(tmp_path / "spendguard.db")
    for number in range(5):
        pay(books, f"Charge_{number}")
        assert books.seal() == ""
    yield books
    assert books.audit() == []
    books.ledger.close()


def pay(books: SealedBooks, task_id: str) -> None:
    key = books.claim(task_id)
    ask = books.ask(USD)
    books.reserve(key, ask)
    books.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200))


def verified(books: SealedBooks) -> Verified:
    keys, head = books.files.trusted(), books.files.head()
    return books.read(lambda tx: verify(tx, keys, head=head))


def pruned(books: SealedBooks, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """Prune all that is sealed by now; with a monkeypatch, only two blocks of it."""
    if monkeypatch is not None:
        monkeypatch.setattr(checkpoints, "MOST_BLOCKS", 2)
    books.write(checkpoints.say, LATER, books.files.signer())
    books.seal()
    books.write(checkpoints.delete_some, books.files.trusted())


def numbers(books: SealedBooks) -> list[int]:
    rows = books.read(lambda tx: tx.all("SELECT number FROM audit_block ORDER BY number"))
    return [row["number"] for row in rows]


def test_blocks_that_were_sealed_before_then_can_go(books: SealedBooks) -> None:
    found = books.read(checkpoints.due, LATER)
    assert found is not None
    fifth = books.told[4]
    assert (found.block, found.hash, found.entry) == (5, fifth.hash, fifth.entry)
    assert found.rows == fifth.last_seq
    assert Checkpoint.of(found.note) == found
    assert (found.ends.number, found.ends.hash, found.ends.last_seq) == (5, fifth.hash, fifth.last_seq)
    assert books.read(checkpoints.due, books.told[0].sealed_at) is None
    assert books.write(checkpoints.say, 0, books.files.signer()) is None


def test_nothing_goes_before_it_is_vouched_for(books: SealedBooks) -> None:
    with pytest.raises(Conflict, match="no sealed entry says"):
        books.write(checkpoints.delete_some, books.files.trusted())
    entry = books.write(checkpoints.say, LATER, books.files.signer())
    assert not books.read(checkpoints.is_sealed, entry)
    with pytest.raises(Conflict, match="no sealed entry says"):
        books.write(checkpoints.delete_some, books.files.trusted())
    assert numbers(books) == [1, 2, 3, 4, 5]
    books.seal()
    assert books.read(checkpoints.is_sealed, entry)
    found = books.read(checkpoints.unfinished, books.files.trusted())
    assert found is not None
    assert books.write(checkpoints.delete_some, books.files.trusted()) == (5, found.rows)
    assert books.write(checkpoints.delete_some, books.files.trusted()) == (0, 0)
    assert numbers(books) == [6]
    least = books.read(lambda tx: tx.value("SELECT min(seq) FROM audit_row"))
    assert least == found.last_seq + 1
    assert books.read(checkpoints.unfinished, books.files.trusted()) is None


def test_it_goes_on_where_it_was_interrupted(books: SealedBooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MOST_BLOCKS", 3)
    books.write(checkpoints.say, LATER, books.files.signer())
    books.seal()
    assert books.write(checkpoints.delete_some, books.files.trusted()).blocks == 3
    assert numbers(books) == [1, 2, 6]
    found = books.read(checkpoints.unfinished, books.files.trusted())
    assert found is not None
    assert found.block == 5
    assert books.write(checkpoints.delete_some, books.files.trusted()).blocks == 2
    pay(books, "Charge_after")
    books.seal()
    assert books.read(checkpoints.unfinished, books.files.trusted()) is None
    again = books.read(checkpoints.due, LATER)
    assert again is not None
    assert again.block == 7


def test_what_is_left_is_verified_behind_the_checkpoint(books: SealedBooks) -> None:
    before = verified(books)
    assert before.chain.is_whole
    pruned(books)
    pay(books, "Charge_after")
    books.seal()
    after = verified(books)
    assert after.chain.first is not None
    assert (after.chain.first.number, after.chain.is_whole) == (6, False)
    assert after.chain.pruned_entry == books.told[4].entry
    pruned(books)
    assert verified(books).chain.pruned_entry == books.told[6].entry


def test_a_prune_that_was_interrupted_is_no_tampering(
    books: SealedBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.write(checkpoints.say, LATER, books.files.signer())
    books.seal()
    assert verified(books).chain.is_whole, "nothing is deleted yet"
    monkeypatch.setattr(checkpoints, "MOST_BLOCKS", 2)
    books.write(checkpoints.delete_some, books.files.trusted())
    assert numbers(books) == [1, 2, 3, 6]
    found = verified(books).chain.first
    assert found is not None
    assert found.number == 6
    while books.write(checkpoints.delete_some, books.files.trusted()).blocks:
        verified(books)


_FORGED = '{"block":3,"entry":7,"hash":"00","last_seq":9,"ledger":"x","rows":9}'
#: What somebody who has the database alone may try: statements, and what is said.
TRIED = {
    "no word of it": (
        ["DELETE FROM audit_row WHERE block <= 3", "DELETE FROM audit_block WHERE number <= 3"],
        1,
    ),
    "a word that is not sealed": (
        [
            "INSERT INTO journal (at, kind, run_id, cap_micros, spent_micros, reserved_micros,"
            f" overrun_micros, note, actor) VALUES (0, '{KIND}', '', 0, 0, 0, 0, '{_FORGED}', '')",
            "DELETE FROM audit_row WHERE block <= 3",
            "DELETE FROM audit_block WHERE number <= 3",
        ],
        1,
    ),
}


@pytest.mark.parametrize("what", TRIED)
def test_blocks_that_nobody_vouches_for_are_missed(books: SealedBooks, what: str) -> None:
    statements, gone = TRIED[what]
    for statement in statements:
        books.write(lambda tx, one=statement: tx.run(one))
    with pytest.raises(Tampered, match=f"block {gone} is gone"):
        verified(books)


@pytest.mark.parametrize("which", ["nobody", "another key", "another checkpoint"])
def test_a_word_that_the_audits_key_has_not_signed_vouches_for_nothing(
    books: SealedBooks, tmp_path: Path, which: str
) -> None:
    """Who can write the journal has it sealed by the one whose key it is."""
    found = books.read(checkpoints.due, books.told[3].sealed_at + 1)
    assert found is not None
    if which == "another key":
        found = found.signed(KeyFiles(tmp_path / "own").signer())
    elif which == "another checkpoint":
        found = replace(found.signed(books.files.signer()), block=found.block - 1)
    books.write(lambda tx: journal(tx, JournalEntry(KIND, note=found.note)))
    books.seal()
    keys = books.files.trusted()
    assert books.read(checkpoints.unfinished, keys) is None
    with pytest.raises(Conflict, match="no sealed entry says"):
        books.write(checkpoints.delete_some, keys)
    for statement in (
        f"DELETE FROM audit_row WHERE seq <= {found.last_seq}",
        f"DELETE FROM audit_block WHERE number <= {found.block}",
    ):
        books.write(lambda tx, one=statement: tx.run(one))
    said = "no key that is believed has signed that they were pruned|block 1 is gone"
    with pytest.raises(Tampered, match=said):
        verified(books)


def test_what_an_earlier_version_has_pruned_is_vouched_for_by_the_next_prune(books: SealedBooks) -> None:
    found = books.read(checkpoints.due, LATER)
    assert found is not None
    books.write(lambda tx: journal(tx, JournalEntry(KIND, note=found.note)))
    books.seal()
    books.write(lambda tx: tx.run("DELETE FROM audit_row WHERE seq <= ?", found.last_seq))
    books.write(lambda tx: tx.run("DELETE FROM audit_block WHERE number <= ?", found.block))
    with pytest.raises(Tampered, match=r"the blocks up to 5 are gone.* prune a later day: that is signed"):
        verified(books)
    pruned(books)
    assert verified(books).chain.pruned_entry > found.entry


def test_a_checkpoint_vouches_for_no_more_than_it_says(books: SealedBooks) -> None:
    pruned(books)
    pay(books, "Charge_after")
    books.seal()
    pay(books, "Charge_later")
    books.seal()
    books.write(lambda tx: tx.run("DELETE FROM audit_row WHERE block = 7"))
    books.write(lambda tx: tx.run("DELETE FROM audit_block WHERE number = 7"))
    with pytest.raises(Tampered, match="block 7 is gone"):
        verified(books)


def test_a_checkpoint_that_was_taken_out_is_missed(books: SealedBooks) -> None:
    pruned(books)
    pay(books, "Charge_after")
    books.seal()
    books.write(lambda tx: tx.run("DELETE FROM audit_row WHERE block = 6"))
    with pytest.raises(Tampered, match="block 1 is gone"):
        verified(books)


@pytest.mark.parametrize("new", ['\\"block\\":6', '\\"block\\":4', '\\"entry\\":1', "x"])
def test_its_text_cannot_be_changed(books: SealedBooks, new: str) -> None:
    pruned(books)
    old = '\\"block\\":5'
    assert books.write(
        lambda tx: tx.run("UPDATE audit_row SET text = replace(text, ?, ?) WHERE block = 6", old, new)
    )
    with pytest.raises(Tampered):
        verified(books)
