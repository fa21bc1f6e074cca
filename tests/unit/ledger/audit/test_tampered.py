"""What is changed behind the ledger's back is found on each engine, whichever column it is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from luigi_spendguard.ledger import Ledger
from luigi_spendguard.ledger.audit import blocks
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.audit.tampering import Tampered
from luigi_spendguard.ledger.audit.verifying import verify
from luigi_spendguard.ledger.database import Place, Tx
from luigi_spendguard.ledger.database.engines import opened
from tests.support.ledger_formats import Maker
from tests.support.tamperings import LIVE, OWN_KEY, RIGHTS, TAMPERINGS

#: What a server takes from nobody: texts that are none, and less than its CHECKs let stand.
OF_FILES = ("a text that is no text", "a text of the last block that is no text", "what shadow mode has lent")
COMMON = {name: one for name, one in (TAMPERINGS | RIGHTS).items() if name not in OF_FILES}
COLUMNS = [(table, column) for table, columns in LIVE.items() for column in columns]


@dataclass(frozen=True)
class Sealed:
    """Sealed books with something of everything, and the files beside them."""

    place: Place
    files: KeyFiles

    @contextmanager
    def changing(self) -> Iterator[Tx]:
        """Yield a transaction in which nothing is held that the ledger holds; it is rolled back."""
        with opened(self.place) as books, suppress(_Undone), books.writing() as tx:
            if isinstance(self.place, str):
                tx.run("SET LOCAL session_replication_role = replica")
            else:
                tx.run("DROP TRIGGER journal_no_update")
                tx.run("DROP TRIGGER journal_no_delete")
            yield tx
            raise _Undone

    def look(self, tx: Tx) -> None:
        verify(tx, self.files.trusted(), head=self.files.head())


class _Undone(Exception):
    """The transaction is rolled back."""


@pytest.fixture(scope="module")
def sealed(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    folder = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MOST", 20)  # Entries of a block, so that there are several.
        maker = Maker(folder / "books.db")
        maker.write()
        ledger = Ledger(maker.books.path)
        sealer = Sealer(ledger, KeyFiles(folder / "key"))
        while sealer.seal(60):
            pass
        ledger.close()
    return Sealed(maker.books.path, sealer.files)


def test_what_was_not_changed_is_as_it_was_sealed(sealed: Sealed) -> None:
    with sealed.changing() as tx:
        sealed.look(tx)


@pytest.mark.parametrize("name", COMMON)
def test_it_is_found_and_named(sealed: Sealed, name: str) -> None:
    sql, said = COMMON[name]
    with sealed.changing() as tx:
        assert tx.run(sql) > 0
        with pytest.raises(Tampered, match=said):
            sealed.look(tx)


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda one: one)
def test_whichever_column_is_edited_it_is_found(sealed: Sealed, table: str, column: str) -> None:
    key = OWN_KEY[table]
    where = f"{key} = (SELECT {key} FROM {table} ORDER BY {column} IS NULL, {key} DESC LIMIT 1)"
    with sealed.changing() as tx:
        value = tx.value(f"SELECT {column} FROM {table} WHERE {where}")
        new = value + 1 if isinstance(value, int) else f"{value or ''}x"
        if (table, column) == ("audit_row", "kind"):  # Of two alone.
            new = "entry" if value == "call" else "call"
        assert tx.run(f"UPDATE {table} SET {column} = ? WHERE {where}", new) == 1
        with pytest.raises(Tampered):
            sealed.look(tx)
