"""What lists have in common: they are whole, page by page; a table says what it leaves out."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from luigi_spendguard.cli.api_client import OperatorError
from luigi_spendguard.cli.context import operator_of
from luigi_spendguard.cli.tables import (
    CALL_COLUMNS,
    CALL_FIELDS,
    CALL_FILTERS,
    KEY_COLUMNS,
    KEY_FIELDS,
    KEY_FILTERS,
    RUN_COLUMNS,
    RUN_FIELDS,
    RUN_FILTERS,
    TOP_UP_COLUMNS,
    TOP_UP_FIELDS,
    TOP_UP_FILTERS,
    Column,
    csv_cell,
    plain,
    table_lines,
    time_of,
)

Row = Mapping[str, Any]

#: Rows of a table, unless --limit or --all says otherwise.
SHOWN = 100
#: Rows that luigid is asked for at once.
PAGE = 1000


@dataclass(frozen=True)
class Listed:
    """What is listed, and how luigid is asked for it.

    Attributes:
        noun: what a row is, in the plural.
        cursor: the field by which the page behind a row is asked for.
        columns, fields: of a table, the most important first; of a CSV, as the API names them.
        about: the columns that each filter is about, and some of its values (`status=held`).
        counted: what the query says to hear how many there are; None: luigid does not say.

    """

    noun: str
    path: str
    cursor: str
    columns: Sequence[Column]
    fields: Sequence[str]
    about: Mapping[str, Sequence[str]]
    counted: Mapping[str, str] | None = field(default_factory=dict)

    def asked_for(self, query: Mapping[str, str | None], rows: Sequence[Row]) -> list[str]:
        """Return the headings of the columns that a query is about: they are dropped last."""
        (_, shown_id), *columns = self.columns
        said = {name: value for name, value in query.items() if value is not None}
        found = [one for name in said for one in self.about[name] if name != "search"]
        found += [one for name, value in said.items() for one in self.about.get(f"{name}={value}", ())]
        if (text := said.get("search", "").casefold()) and "search" in self.about:
            # Most are found by their id, which is there anyway.
            others = [row for row in rows if text not in shown_id(row).casefold()]
            found += [
                heading
                for heading, show in columns
                if heading in self.about["search"] and any(text in show(row).casefold() for row in others)
            ]
        return found


RUNS = Listed("runs", "/runs", "run_id", RUN_COLUMNS, RUN_FIELDS, RUN_FILTERS)
CALLS = Listed("calls", "/calls", "seq", CALL_COLUMNS, CALL_FIELDS, CALL_FILTERS, {"total": "true"})
TOP_UPS = Listed("top-ups", "/top_ups", "id", TOP_UP_COLUMNS, TOP_UP_FIELDS, TOP_UP_FILTERS, None)
KEYS = Listed("keys", "/vault/keys", "id", KEY_COLUMNS, KEY_FIELDS, KEY_FILTERS, None)


@dataclass(frozen=True)
class Output:
    """How a list is asked for. `most`: so many rows; None: all."""

    form: str
    most: int | None
    before: str | None
    wide: bool


_OPTIONS = (
    click.option(
        "--limit",
        type=click.IntRange(1, 10_000),
        help=f"So many, the newest.  [default: {SHOWN} in a table, else all]",
    ),
    click.option("--all", "everything", is_flag=True, help="All of them, in a table too."),
    click.option("--before", metavar="LAST", help="The page behind that row, as the page before names it."),
    click.option("--wide", is_flag=True, help="All columns, however narrow the terminal is."),
    click.option(
        "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
    ),
)


def list_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every list to a command, which is given them as `output`."""

    @functools.wraps(command)
    def listing(
        limit: int | None, everything: bool, before: str | None, wide: bool, form: str, **rest: Any
    ) -> None:
        if everything and limit is not None:
            raise click.UsageError("say either --limit or --all")
        most = SHOWN if limit is None and form == "table" and not everything else limit
        command(output=Output(form, most, before, wide), **rest)

    for option in reversed(_OPTIONS):
        listing = option(listing)
    return listing


def show_list(what: Listed, query: Mapping[str, str | None], output: Output, empty: str) -> None:
    """Print a list; `empty` is said in place of a table without rows.

    Nothing is printed before luigid's first answer. What is printed page by page is whole when the command
    ends with 0. Raises OperatorError.
    """
    if output.form == "table":
        _show_table(what, query, output, empty)
        return
    rows = _rows(what, query, output.before, output.most)
    first = list(itertools.islice(rows, 1))
    write = _write_csv if output.form == "csv" else _write_json
    write(what, itertools.chain(first, rows))


def _rows(
    what: Listed, query: Mapping[str, str | None], before: str | None, most: int | None
) -> Iterator[Row]:
    """Yield so many rows, or all, newest first; what is added meanwhile is newer than those to come."""
    while most is None or most > 0:
        size = PAGE if most is None else min(PAGE, most)
        page = operator_of().get(what.path, **query, before=before, limit=str(size))
        yield from page
        if len(page) < size:
            return
        before = str(page[-1][what.cursor])
        most = None if most is None else most - size


def _show_table(what: Listed, query: Mapping[str, str | None], output: Output, empty: str) -> None:
    # One more than is shown tells whether that is all.
    found = list(_rows(what, query, output.before, None if output.most is None else output.most + 1))
    rows = found[: output.most]
    if not rows:
        click.echo(empty)
        return
    # Read by a program, or by somebody who asks for it, a table has all that there is.
    narrow = sys.stdout.isatty() and not output.wide
    width = shutil.get_terminal_size().columns if narrow else None
    lines, dropped = table_lines(rows, what.columns, width, what.asked_for(query, rows))
    heading, *body = lines
    click.echo(click.style(heading, bold=True))
    click.echo("\n".join(body))
    if dropped:
        footer(f"Not shown for want of room: {', '.join(dropped)}; --wide for them.", err=True)
    if len(found) > len(rows):
        total = _total(what, query)
        shown = f"The newest {len(rows)}" if total is None else f"{len(rows)} of {total}"
        footer(
            f"{shown} {what.noun}; --all or --format csv for the rest, "
            f"--before {plain(str(rows[-1][what.cursor]))} for the next page.",
            err=True,
        )


def footer(text: str, *, err: bool = False) -> None:
    """Print what is said below a list: in a terminal in lines that fit it, with no word cut."""
    if (sys.stderr if err else sys.stdout).isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    click.echo(text, err=err)


def _total(what: Listed, query: Mapping[str, str | None]) -> int | None:
    """Return how many rows there are; None where luigid does not say so, or not now."""
    try:
        return None if what.counted is None else operator_of().total(what.path, **query, **what.counted)
    except OperatorError:  # The table stands: an earlier luigid does not count calls.
        return None


def _write_json(what: Listed, rows: Iterable[Row]) -> None:
    """Write an array of what the API answers, row by row."""
    mark = "["
    for row in rows:
        click.echo(f"{mark}\n{textwrap.indent(json.dumps(row, indent=2), '  ')}", nl=False)
        mark = ","
    click.echo("[]" if mark == "[" else "\n]")


def _write_csv(what: Listed, rows: Iterable[Row]) -> None:
    """Write a CSV (RFC 4180) with a heading, row by row; no cell begins as a spreadsheet's formula does."""
    writer = csv.writer(sys.stdout)
    writer.writerow(what.fields)
    for row in rows:
        writer.writerow([cell_of(row, name) for name in what.fields])


def cell_of(row: Row, name: str) -> str:
    """Return a field as text: times as in tables, lists and objects as JSON."""
    value = row.get(name)
    if isinstance(value, int) and name.endswith("_at"):
        value = time_of(name)(row)
    elif isinstance(value, (list, dict)):
        value = json.dumps(value, ensure_ascii=False)
    return "" if value is None else csv_cell(str(value))
