"""`spendguard audit export`: the sealed rows as a file for other programs, written while they are read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import click

from luigi_spendguard.cli import outputs
from luigi_spendguard.cli.books import refusals
from luigi_spendguard.cli.context import Since, ends_of, settings_of
from luigi_spendguard.cli.run_names import RunName, run_in
from luigi_spendguard.cli.tables import csv_cell
from luigi_spendguard.counted import counted
from luigi_spendguard.settings.policy import moment

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
    help="Rows of this run alone.",
)
@outputs.OUT
def export(form: str, since: str | None, until: str | None, run_id: str | None, out: Path | None) -> None:
    """Write all that is sealed, oldest first: each line, or row, is what a block's signature vouches for."""
    from luigi_spendguard.ledger.audit.exporting import Wanted, texts
    from luigi_spendguard.ledger.database.engines import opened
    from luigi_spendguard.ledger.migrations import check_format

    outputs.check_form(form, out)
    ends = ends_of(since, until)
    place = settings_of().ledger
    with refusals(), opened(place, read_only=True) as books, books.reading(slow=True) as tx:
        check_format(tx, place, is_now=True)
        named = None if run_id is None else run_in(tx, run_id)
        rows = texts(tx, Wanted(*ends, named))
        with outputs.opened(out) as file:
            count = _WRITERS[form](rows, file)
    if out is not None:
        click.echo(f"{out}: {counted(count, 'row')} of {named or 'all runs'}, as they were sealed.", err=True)


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
    """Write a Parquet file; return how many rows it has."""
    from luigi_spendguard.ledger.audit.exporting import COLUMNS, flat

    flattened = (_with_text_id(flat(block, text)) for some in rows for block, text in some)
    return outputs.write_parquet(flattened, {name: _kind_of(name) for name in COLUMNS}, file)


def _with_text_id(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row whose `id` is a text: a call's is one, an entry's is a number."""
    return {**row, "id": None if row.get("id") is None else str(row["id"])}


_WHOLE = frozenset(
    ["seq", "block", "ordinal", "epoch", "formula", "status", "budget_id", "pruned_calls", "pruned_entries"]
)
_TRUTHS = frozenset(["relayed", "declined", "tagged"])


def _kind_of(name: str) -> str:
    if name in _WHOLE:
        return "whole"
    if name in _TRUTHS:
        return "truth"
    if name in _TIMES:
        return "time"
    return "usd" if name.endswith("_usd") else "text"


_WRITERS: Mapping[str, Callable[[_Rows, IO[bytes]], int]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
