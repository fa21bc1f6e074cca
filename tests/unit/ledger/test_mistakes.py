"""A statement that the database cannot do is a mistake of ours: said so, logged, and no failure of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.errors import LedgerFailed, LedgerUnavailable
from luigi_spendguard.ledger.database import Tx
from tests.support.books import Books
from tests.unit.ledger.test_writer import Together

WRONG = [
    "SELECT no_function(1) FROM run",
    "SELECT no_column FROM run",
    "SELECT FROM WHERE",
    "SELECT abs(1, 2)",
    "SELECT run_id FROM run JOIN call ON call.run_id = run.run_id",
]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "spendguard.db")
    yield books
    books.ledger.close()


@pytest.mark.parametrize("wrong", WRONG)
def test_it_is_no_outage(books: Books, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    for look in (books.ledger.read, books.ledger.browse):
        with pytest.raises(LedgerFailed, match="a mistake of ours") as failed:
            look(lambda tx: tx.all(wrong)).result(10)
        assert (failed.value.status, failed.value.code) == (500, "internal")
        assert failed.value.__cause__ is not None
    assert books.figures() == (0, 0, 0), "others are answered"


def test_a_write_of_that_kind_fails_alone_and_is_logged(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(tx: Tx) -> None:
        good(tx, "undone")
        tx.run("UPDATE task SET no_column = 1")

    def good(tx: Tx, task_id: str) -> None:
        tx.run("INSERT INTO task (task_id, completions) VALUES (?, 1)", task_id)

    with Together(books):
        failing, other = books.ledger.write(wrong), books.ledger.write(good, "done")
    with pytest.raises(LedgerFailed):
        failing.result(10)
    other.result(10)
    assert books.read(lambda tx: tx.all("SELECT task_id FROM task")) == [{"task_id": "done"}]
    assert any("no_column" in (record.exc_text or str(record.exc_info)) for record in caplog.records)


def test_tables_that_were_taken_away_are_an_outage(books: Books) -> None:
    with pytest.raises(LedgerUnavailable) as failed:
        books.read(lambda tx: tx.all("SELECT * FROM taken_away"))
    assert not isinstance(failed.value, LedgerFailed)
