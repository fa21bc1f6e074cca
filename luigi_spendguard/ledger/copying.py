"""`copy_books`: the books move from one database to another, of any engine, as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peewee

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.audit import discrepancies
from luigi_spendguard.ledger.database import Place, Tx, insertion
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.ledger.migrations import FORMAT, format_of, migrate
from luigi_spendguard.ledger.schema import TABLES, MigrationTable

#: Tables whose rows are asked for in the order in which they were made, by a number that no model names.
_ORDERED = ("call", "claim")


@dataclass(frozen=True)
class _Part:
    """A table, its columns, and those that its rows are sorted by."""

    name: str
    columns: tuple[str, ...]
    key: str


def _part(model: type[peewee.Model]) -> _Part:
    meta: Any = model._meta
    columns = tuple(field.column_name for field in meta.sorted_fields)
    key = meta.primary_key
    names = key.field_names if isinstance(key, peewee.CompositeKey) else (key.column_name,)
    if meta.table_name in _ORDERED:
        return _Part(meta.table_name, ("rowid", *columns), "rowid")
    return _Part(meta.table_name, columns, ", ".join(names))


_PARTS = tuple(_part(model) for model in TABLES if model is not MigrationTable)


def copy_books(source: Place, target: Place) -> Mapping[str, int]:
    """Copy all books from one place to another; return how many rows each table has there.

    Nobody writes to either meanwhile. Raises LedgerUnavailable, and Conflict where the source is of another
    version, the target has something in it, or both are not the same in the end: then nothing was copied.
    """
    migrate(target)
    with opened(source) as one, opened(target) as other, one.writing() as old:
        if (found := format_of(old)) != FORMAT:
            raise Conflict(
                f"the books to be copied have format {found} and this version writes {FORMAT}: let luigid of "
                "this version open them once"
            )
        with other.writing() as new:
            if any(new.value(f"SELECT 1 FROM {part.name} LIMIT 1") for part in _PARTS):
                raise Conflict(
                    "the target has books already: name an empty database, or no file that is there"
                )
            copied = {part.name: _copy(old, new, part) for part in _PARTS}
            different = [part.name for part in _PARTS if _digest(old, part) != _digest(new, part)]
            if different or discrepancies(old) != discrepancies(new):
                raise Conflict(f"what was copied is not the same: {', '.join(different) or 'the totals'}")
            for part in _PARTS:
                new.number_on(part.name)
    return copied


def _rows(tx: Tx, part: _Part) -> list[Mapping[str, Any]]:
    return list(tx.all(f"SELECT {', '.join(part.columns)} FROM {part.name} ORDER BY {part.key}"))


def _copy(old: Tx, new: Tx, part: _Part) -> int:
    statement = insertion(part.name, *part.columns)
    rows = _rows(old, part)
    for row in rows:
        new.run(statement, *(row[name] for name in part.columns))
    return len(rows)


def _digest(tx: Tx, part: _Part) -> str:
    digest = hashlib.sha256()
    for row in _rows(tx, part):
        digest.update(json.dumps([row[name] for name in part.columns]).encode())
    return digest.hexdigest()
