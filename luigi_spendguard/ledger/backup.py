"""`back_up`: a copy of the books in a file, made while they are written to, and proved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from luigi_spendguard.errors import Conflict, LedgerUnavailable
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.database import Tx, copies
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.ledger.migrations import check_format


class Contents(NamedTuple):
    """What books have in them: so many rows, and the moment of the last entry, in ms since the epoch."""

    runs: int
    calls: int
    entries: int
    last_entry: int
    last_at: int


def contents(tx: Tx) -> Contents:
    """Return what is in the books."""
    counts = [int(tx.value(f"SELECT count(*) FROM {table}")) for table in ("run", "call", "journal")]
    last: Any = tx.values("SELECT id, at FROM journal ORDER BY id DESC LIMIT 1") or (0, 0)
    return Contents(counts[0], counts[1], counts[2], *last)


def back_up(source: Path, target: Path, progress: copies.Progress = lambda done, of: None) -> Contents:
    """Copy the books in a file to another one, which is there when it is whole and proved, and not before.

    Whoever uses the books goes on meanwhile. Raises LedgerUnavailable, and Conflict where the target is there
    already or the totals of the copy are not the sums of its journal.
    """
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} is there already: name a file that is not")
    with opened(source, read_only=True) as books, books.reading() as tx:
        check_format(tx, source, is_now=False)
    with copies.new_file(target, target) as made:
        found = copied(source, made, f"the ledger {source}", progress)
        copies.name_new(made, target)
    return found


def copied(
    source: Path, made: Path, what: str, progress: copies.Progress = lambda done, of: None
) -> Contents:
    """Copy a file of books, called `what`, to another one, and return what is in that. Raises as `proved`."""
    try:
        copies.copy_file(source, made, progress)
    except LedgerUnavailable:
        if wrong := copies.damage(source):
            raise LedgerUnavailable(f"{what} is damaged, or none at all: {wrong}") from None
        raise
    return proved(made, what)


def proved(path: Path, what: str) -> Contents:
    """Return what is in a file of books, all of which was read; messages call it `what`.

    Raises LedgerUnavailable where it is damaged or of another version, and Conflict where it does not add up.
    """
    if wrong := copies.damage(path):
        raise LedgerUnavailable(f"{what} is damaged: {wrong}")
    with opened(path, read_only=True) as books, books.reading() as tx:
        check_format(tx, path, is_now=False, what=what)
        if unequal := discrepancies(tx):
            raise Conflict(
                f"the books in {what} do not add up (totals that are not the sums of their entries: "
                f"{len(unequal)}; the first one: {unequal[0]}): `spendguard ledger check` names each"
            )
        return contents(tx)
