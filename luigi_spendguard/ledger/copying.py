"""`copy_books`: the books move from one database to another, of any engine, as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import peewee

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.audit.sums import discrepancies
from luigi_spendguard.ledger.database import Place, Tx, insertion
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.ledger.migrations import check_format, migrate
from luigi_spendguard.ledger.schema import TABLES, MigrationTable
from luigi_spendguard.settings.values import ledger_name

#: Tables whose rows are asked for in the order in which they were made, by a number that no model names.
_ORDERED = ("call", "claim")


@dataclass(frozen=True)
class _Part:
    """A table, its columns, and those that its rows are sorted by."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


def _part(model: type[peewee.Model]) -> _Part:
    meta: Any = model._meta
    columns = tuple(field.column_name for field in meta.sorted_fields)
    if meta.table_name in _ORDERED:
        return _Part(meta.table_name, ("rowid", *columns), ("rowid",))
    key = meta.primary_key
    fields = (
        (meta.fields[name] for name in key.field_names) if isinstance(key, peewee.CompositeKey) else (key,)
    )
    return _Part(meta.table_name, columns, tuple(field.column_name for field in fields))


_PARTS = tuple(_part(model) for model in TABLES if model is not MigrationTable)
#: Rows that are in memory at once; the greatest have a vendor's whole answer.
_AT_ONCE = 500


def copy_books(source: Place, target: Place) -> Mapping[str, int]:
    """Copy all books from one place to another; return how many rows each table has there.

    Nobody writes to either meanwhile; some rows at a time are in memory. Raises LedgerUnavailable, also where
    the source is of another version, and Conflict where somebody has either open, totals of the source are
    wrong, the target has something in it, or both are not the same in the end: then nothing was copied.
    """
    _look_at(source, target)
    migrate(target)
    with opened(source) as one, opened(target) as other, one.writing() as old:
        old.take_time()
        with other.writing() as new:
            new.take_time()
            if any(new.value(f"SELECT 1 FROM {part.name} LIMIT 1") for part in _PARTS):
                raise Conflict(
                    "the target has books already: name an empty database, or no file that is there"
                )
            copied = {part.name: _copy(old, new, part) for part in _PARTS}
            different = [part.name for part in _PARTS if not _are_same(old, new, part)]
            if different or discrepancies(new):
                raise Conflict(f"what was copied is not the same: {', '.join(different) or 'the totals'}")
            for part in _PARTS:
                new.number_on(part.name)
    return copied


def _look_at(source: Place, target: Place) -> None:
    """Look whether books may be copied, before anything is made. Raises LedgerUnavailable, Conflict."""
    if _are_one(source, target):
        raise Conflict("the target is the ledger to be copied itself: name an empty database, or a new file")
    for place in (source, target):
        with opened(place, read_only=True) as books:
            if books.is_used():
                raise Conflict(
                    f"{ledger_name(place)} is in use: end luigid, its gateways and workers with "
                    "--local-scheduler first, as what they write meanwhile would be lost"
                )
    if isinstance(target, Path) and not target.parent.is_dir():
        raise Conflict(f"there is no folder {target.parent}: make it, or mend the target")
    with opened(source, read_only=True) as books, books.reading() as tx:
        tx.take_time()
        check_format(tx, source, is_now=True)
        if wrong := discrepancies(tx):
            raise Conflict(
                f"the books to be copied do not add up (totals that are wrong: {len(wrong)}): `spendguard "
                "ledger check` names each; restore a backup, and copy that"
            )


def _are_one(source: Place, target: Place) -> bool:
    if isinstance(source, Path) and isinstance(target, Path):
        return source.resolve() == target.resolve() or (target.exists() and source.samefile(target))
    return ledger_name(source) == ledger_name(target)


def _rows(tx: Tx, part: _Part) -> Iterator[list[tuple[Any, ...]]]:
    """Yield a table's rows in order, some at a time."""
    columns, key = ", ".join(part.columns), ", ".join(part.key)
    marks = ", ".join("?" * len(part.key))
    where, last = "", tuple[Any, ...]()
    while rows := tx.all(f"SELECT {columns} FROM {part.name} {where} ORDER BY {key} LIMIT {_AT_ONCE}", *last):
        yield [tuple(row[name] for name in part.columns) for row in rows]
        where, last = f"WHERE ({key}) > ({marks})", tuple(rows[-1][name] for name in part.key)


def _copy(old: Tx, new: Tx, part: _Part) -> int:
    statement, count = insertion(part.name, *part.columns), 0
    for rows in _rows(old, part):
        new.insert_all(statement, rows)
        count += len(rows)
    return count


def _are_same(old: Tx, new: Tx, part: _Part) -> bool:
    """Return whether both have the same rows; no values of two engines are compared but as JSON."""
    return all(
        json.dumps(one) == json.dumps(other) for one, other in zip_longest(_rows(old, part), _rows(new, part))
    )
