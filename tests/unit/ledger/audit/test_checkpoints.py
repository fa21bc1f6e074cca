"""The audit's oldest blocks go when a sealed entry vouches for them, and no sooner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.audit import checkpoints
from luigi_spendguard.ledger.audit.checkpoints import Checkpoint
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
    assert books.write(checkpoints.say, 0) is None


def test_nothing_goes_before_it_is_vouched_for(books: SealedBooks) -> None:
    with pytest.raises(Conflict, match="no sealed entry says"):
        books.write(checkpoints.delete_some)
    entry = books.write(checkpoints.say, LATER)
    assert not books.read(checkpoints.is_sealed, entry)
    with pytest.raises(Conflict, match="no sealed entry says"):
        books.write(checkpoints.delete_some)
    assert numbers(books) == [1, 2, 3, 4, 5]
    books.seal()
    assert books.read(checkpoints.is_sealed, entry)
    found = books.read(checkpoints.unfinished)
    assert found is not None
    assert books.write(checkpoints.delete_some) == (5, found.rows)
    assert books.write(checkpoints.delete_some) == (0, 0)
    assert numbers(books) == [6]
    least = books.read(lambda tx: tx.value("SELECT min(seq) FROM audit_row"))
    assert least == found.last_seq + 1
    assert books.read(checkpoints.unfinished) is None


def test_it_goes_on_where_it_was_interrupted(books: SealedBooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MOST_BLOCKS", 3)
    books.write(checkpoints.say, LATER)
    books.seal()
    assert books.write(checkpoints.delete_some).blocks == 3
    assert numbers(books) == [1, 2, 6]
    found = books.read(checkpoints.unfinished)
    assert found is not None
    assert found.block == 5
    assert books.write(checkpoints.delete_some).blocks == 2
    pay(books, "Charge_after")
    books.seal()
    assert books.read(checkpoints.unfinished) is None
    again = books.read(checkpoints.due, LATER)
    assert again is not None
    assert again.block == 7
