"""`spendguard audit export`: the sealed rows as a file for other programs, written while they are read."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import click

from luigi_spendguard.cli.books import refusals
from luigi_spendguard.cli.context import Since, Stop, ends_of, settings_of
from luigi_spendguard.cli.run_names import RunName
from luigi_spendguard.cli.tables import csv_cell
from luigi_spendguard.counted import counted
from luigi_spendguard.settings.policy import moment

#: Rows of a Parquet file's row group.
_GROUP = 4000
_Rows = Iterable[list[tuple[int, str]]]


@click.command(epilog="Example:  spendguard audit export --format csv --since 30d --out november.csv")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "parquet"]), required=True)
@click.option(
    "--since", type=Since(), help="Rows of calls and changes made since: 7d (ago), a day, a moment."
)
@click.option("--until", type=Since(), help="Rows of those made before.")
@click.option(
    "--run",
    "run_id",
    metavar="RUN",
    type=RunName(),
    help="Rows of this run alone: its id, or a beginning that no other has.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="A new file, if not standard output."
)
def export(form: str, since: str | None, until: str | None, run_id: str | None, out: Path | None) -> None:
    """Write all that is sealed, oldest first: each line, or row, is what a block's signature vouches for."""
    from luigi_spendguard.ledger.audit.exporting import Wanted, texts
    from luigi_spendguard.ledger.audit.receipts import run_named
    from luigi_spendguard.ledger.database import copies
    from luigi_spendguard.ledger.database.engines import opened
    from luigi_spendguard.ledger.migrations import check_format

    if form == "parquet":
        _parquet()
        if out is None:
            raise click.UsageError("--format parquet goes with --out FILE")
    ends = ends_of(since, until)
    place = settings_of().ledger
    with refusals(), opened(place, read_only=True) as books, books.reading(slow=True) as tx:
        check_format(tx, place, is_now=True)
        named = None if run_id is None else run_named(tx, run_id)
        rows = texts(tx, Wanted(*ends, named))
        if out is None:
            _WRITERS[form](rows, sys.stdout.buffer)
            return
        if out.exists():
            raise Stop(f"{out} is there already: name a file that is not", 1)
        with copies.new_file(out, out) as made:
            with made.open("wb") as file:
                count = _WRITERS[form](rows, file)
            copies.name_new(made, out)
    click.echo(f"{out}: {counted(count, 'row')} of {named or 'all runs'}, as they were sealed.", err=True)


def _parquet() -> tuple[Any, Any]:
    """Return pyarrow and its part that writes Parquet. Raises Stop where it is not installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise Stop("--format parquet needs pyarrow: pip install 'luigi-spendguard[parquet]'", 2) from None


def _write_jsonl(rows: _Rows, file: IO[bytes]) -> int:
    """Write the texts as they were hashed, a line each; return how many."""
    count = 0
    for some in rows:
        file.write("".join(f"{text}\n" for _, text in some).encode())
        count += len(some)
    return count


def _write_csv(rows: _Rows, file: IO[bytes]) -> int:
    """Write a CSV (RFC 4180) with a heading; return how many rows it has."""
    from luigi_spendguard.ledger.audit.exporting import COLUMNS, flat

    count, text = 0, io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    places = {name: place for place, name in enumerate(COLUMNS)}
    for some in rows:
        for block, sealed in some:
            cells = [""] * len(COLUMNS)
            for name, value in flat(block, sealed).items():
                if value is not None:
                    cells[places[name]] = _cell(name, value)
            writer.writerow(cells)
        file.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()
        count += len(some)
    file.write(text.getvalue().encode())
    return count


_TIMES = frozenset(["at", "created_at", "ended_at"])


def _cell(name: str, value: Any) -> str:
    if type(value) is int:
        return _moment(value) if name in _TIMES else str(value)
    return csv_cell(str(value))


def _moment(ms: int) -> str:
    """Return milliseconds since the epoch as `2026-11-26T18:00:00.123Z`."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=10_000)
def _second(seconds: int) -> str:
    return (moment(seconds * 1000) or "").removesuffix("Z")


def _write_parquet(rows: _Rows, file: IO[bytes]) -> int:
    """Write a Parquet file, a row group at a time; return how many rows it has."""
    from luigi_spendguard.ledger.audit.exporting import COLUMNS, flat

    pyarrow, parquet = _parquet()
    types = {name: _type_of(name, pyarrow) for name in COLUMNS}
    count = 0
    with parquet.ParquetWriter(file, pyarrow.schema(list(types.items()))) as writer:
        for some in _grouped(rows, _GROUP):
            columns: dict[str, list[Any]] = {name: [None] * len(some) for name in COLUMNS}
            for place, (block, text) in enumerate(some):
                for name, value in flat(block, text).items():
                    columns[name][place] = value
            arrays = [_array(columns.pop(name), name, types[name], pyarrow) for name in COLUMNS]
            writer.write_batch(pyarrow.record_batch(arrays, schema=writer.schema), row_group_size=_GROUP)
            count += len(some)
    return count


def _grouped(rows: _Rows, size: int) -> Iterator[list[tuple[int, str]]]:
    group: list[tuple[int, str]] = []
    for some in rows:
        group += some
        if len(group) >= size:
            yield group
            group = []
    if group:
        yield group


_WHOLE = frozenset(
    ["seq", "block", "ordinal", "epoch", "formula", "status", "budget_id", "pruned_calls", "pruned_entries"]
)
_TRUTHS = frozenset(["relayed", "declined", "tagged"])


def _type_of(name: str, pyarrow: Any) -> Any:
    if name in _WHOLE:
        return pyarrow.int64()
    if name in _TRUTHS:
        return pyarrow.bool_()
    if name in _TIMES:
        return pyarrow.timestamp("ms", "UTC")
    return pyarrow.decimal128(24, 6) if name.endswith("_usd") else pyarrow.string()


def _array(values: list[Any], name: str, kind: Any, pyarrow: Any) -> Any:
    """Return a column's values as what Parquet has them as; amounts, decimal texts, exactly."""
    if name in _TRUTHS:
        values = [None if value is None else bool(value) for value in values]
    elif name == "id":  # A call's is a text, an entry's a number.
        values = [None if value is None else str(value) for value in values]
    return pyarrow.array(values).cast(kind) if name.endswith("_usd") else pyarrow.array(values, kind)


_WRITERS: Mapping[str, Callable[[_Rows, IO[bytes]], int]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
