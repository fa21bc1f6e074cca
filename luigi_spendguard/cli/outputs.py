"""Files that commands write for other programs: a new one of `--out`, and Parquet, a row group at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click

from luigi_spendguard.cli.context import Stop

#: Rows of a Parquet file's row group: what is said of each of its columns stays in memory up to the end.
_GROUP = 16_000
#: Rows that are Python's objects at once; some whole number of these makes a group.
_AT_ONCE = 500

OUT = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="A new file, if not standard output."
)


def check_form(form: str, out: Path | None) -> None:
    """End a command that cannot write what is asked for, before it reads anything. Raises Stop."""
    if form == "parquet":
        _parquet()
        if out is None:
            raise click.UsageError("--format parquet goes with --out FILE")


@contextmanager
def opened(out: Path | None) -> Iterator[IO[bytes]]:
    """Yield a file that has the name `out` once it is whole, and that its owner alone may read; None:
    standard output. Raises Stop where the name is taken; LedgerError.
    """
    # Late, as all that not each command needs.
    from luigi_spendguard.ledger.database import copies

    if out is None:
        yield sys.stdout.buffer
        return
    if out.exists():
        raise Stop(f"{out} is there already: name a file that is not", 1)
    with copies.new_file(out, out) as made:
        with made.open("wb") as file:
            yield file
        copies.name_new(made, out)


def _parquet() -> tuple[Any, Any]:
    """Return pyarrow and its part that writes Parquet. Raises Stop where it is not installed."""
    # Its own allocator keeps what a row group has let go. It is chosen as it is loaded.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise Stop("--format parquet needs pyarrow: pip install 'luigi-spendguard[parquet]'", 2) from None


def write_parquet(rows: Iterable[Mapping[str, Any]], kinds: Mapping[str, str], file: IO[bytes]) -> int:
    """Write a Parquet file while rows are read, a row group at a time; return how many rows it has.

    `kinds`: for each column what its values are: `text`, `whole` (a number), `truth`, `usd` (a decimal text)
    or `time` (milliseconds since the epoch, or a moment as text).
    """
    pyarrow, parquet = _parquet()
    types = {
        "text": pyarrow.string(),
        "whole": pyarrow.int64(),
        "truth": pyarrow.bool_(),
        "usd": pyarrow.decimal128(24, 6),
        "time": pyarrow.timestamp("ms", "UTC"),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])

    def batches(some: Iterator[Mapping[str, Any]]) -> Iterator[Any]:
        while part := list(islice(some, _AT_ONCE)):
            arrays = [
                _array([row.get(name) for row in part], types[kind], pyarrow) for name, kind in kinds.items()
            ]
            yield pyarrow.record_batch(arrays, schema=schema)

    count, made = 0, batches(iter(rows))
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(made, _GROUP // _AT_ONCE)):
            table = pyarrow.Table.from_batches(group, schema)
            writer.write_table(table, row_group_size=_GROUP)
            count += table.num_rows
            del group, table  # Else two would be in memory.
    return count


def _array(values: list[Any], of_type: Any, pyarrow: Any) -> Any:
    """Return a column's values as what Parquet has them as; amounts and moments, which are texts, exactly."""
    if pyarrow.types.is_boolean(of_type):
        values = [None if value is None else bool(value) for value in values]
    is_text = pyarrow.types.is_decimal(of_type) or pyarrow.types.is_timestamp(of_type)
    return pyarrow.array(values).cast(of_type) if is_text else pyarrow.array(values, of_type)
