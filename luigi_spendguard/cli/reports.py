"""`spendguard report`: what was spent, denied and foreseen, as a table, JSON or CSV."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from luigi_spendguard.cli import outputs
from luigi_spendguard.cli.api_client import Operator, path_of
from luigi_spendguard.cli.books import refusals
from luigi_spendguard.cli.context import Since, ends_of, operator_of
from luigi_spendguard.cli.lists import cell_of, footer
from luigi_spendguard.cli.run_names import RunName, on_run
from luigi_spendguard.cli.tables import Column, day_of, table_lines
from luigi_spendguard.counted import counted
from luigi_spendguard.money import format_usd, micros_of

if TYPE_CHECKING:
    from luigi_spendguard.ledger.reports.focus import FocusColumn

_MOMENT = "30m, 4h, 7d, 2026-11-26, or 2026-11-26T18:00:00Z"
_OPTIONS = (
    click.option("--since", type=Since(), help=f"What was booked since then only: {_MOMENT}."),
    click.option("--until", type=Since(), help="What was booked before then only: as --since."),
    click.option("--run", metavar="RUN", type=RunName(), help="This run's only."),
)
_FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
)
#: How long a report may take, in seconds: a million calls take some.
PATIENCE_S = 600.0
_Row = Mapping[str, Any]
Rows = Sequence[_Row]


@click.group(epilog="Example:  spendguard report cost --by vendor --since 7d --compare")
def report() -> None:
    """Report what was spent, denied and foreseen. Days are days in UTC.

    An amount counts when it was booked; a later correction counts when that was made: the report of a day
    that is over stays as it is.
    """


def _asked() -> Operator:
    """Return a client that waits until very many calls are summed."""
    return operator_of().patient(PATIENCE_S)


def _of_period(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every report to a command, which is given what asks for it."""

    @functools.wraps(command)
    def reporting(run: str | None, **asked: Any) -> None:
        ends_of(asked["since"], asked["until"])
        if run is None:
            command(**asked)
        else:
            on_run(run, lambda run_id: command(run=run_id, **asked))

    for option in reversed(_OPTIONS):
        reporting = option(reporting)
    return reporting


def _reports(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every report that is a table to a command."""
    return _of_period(_FORMAT(command))


def _money(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what shows an amount of a report, with its sign; nothing where it is unknown."""

    def shown(row: Mapping[str, Any]) -> str:
        usd = row.get(f"{name}_usd")
        return "" if usd is None else format_usd(micros_of(usd))

    return shown


def _percent(name: str) -> Callable[[Mapping[str, Any]], str]:
    def shown(row: Mapping[str, Any]) -> str:
        part = row.get(f"{name}_percent")
        return "" if part is None else f"{'' if part.startswith('-') else '+'}{part} %"

    return shown


_COST: Sequence[Column] = (
    ("spent", _money("spent")),
    ("calls", lambda row: str(row["calls"])),
    ("overrun", _money("overrun")),
    ("corrections", _money("corrections")),
    ("inflow", _money("inflow")),
    ("outflow", _money("outflow")),
)
_COMPARED: Sequence[Column] = (
    ("before", _money("before")),
    ("change", _money("change")),
    ("%", _percent("change")),
)
_COST_FIELDS = ("name", "calls", "spent_usd", "overrun_usd", "corrections_usd", "inflow_usd", "outflow_usd")
_COMPARED_FIELDS = ("before_usd", "change_usd", "change_percent")


@report.command(epilog="Example:  spendguard report cost --by tag:team --since 2026-11-01 --format csv")
@click.option(
    "--by",
    default="run",
    show_default=True,
    help="run, root, task, vendor, operation, customer, day, or tag:NAME.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="With what it came to before: in the period of the same length before, or the root's run before.",
)
@_reports
def cost(form: str, by: str, compare: bool, **asked: str | None) -> None:
    """Report what calls came to, grouped.

    `inflow` and `outflow` are parts of `spent`: money that was moved, not paid.
    """
    told = _asked().get(
        path_of("reports", "cost"), by=by, compare="true" if compare else None, limit="10000", **asked
    )
    columns = [
        (by, lambda row: row["name"] or "(none)"),
        *_COST[:2],
        *(_COMPARED if compare else ()),
        *_COST[2:],
    ]
    fields = [*_COST_FIELDS, *(_COMPARED_FIELDS if compare else ())]
    rows = [*told["rows"], *([{"name": "(others)", **told["others"]}] if told.get("others") else [])]
    _show(form, told, rows, columns, fields)
    if form == "table" and rows:
        footer(_total(told))


def _total(told: Mapping[str, Any]) -> str:
    total = told["total"]
    said = [f"{_money('spent')(total)} spent in {total['calls']} calls"]
    said += [
        f"{_money(name)(total)} {words}"
        for name, words in (
            ("inflow", "of it inflow"),
            ("outflow", "of it outflow"),
            ("overrun", "overrun"),
        )
        if total[f"{name}_usd"] != "0.00"
    ]
    pruned = told.get("pruned_usd", "0.00")
    more = f" What was pruned ({_money('pruned')(told)}) is in no row." if pruned != "0.00" else ""
    return f"Total: {', '.join(said)}.{more}"


@report.command(epilog="Example:  spendguard report denied --since 24h")
@_reports
def denied(form: str, **asked: str | None) -> None:
    """Report what was denied, by why and by which budget, and what it would have cost.

    A call counts once, however often it was tried. `made` of them were let pass later.
    """
    told = _asked().get(path_of("reports", "denied"), **asked)
    columns: Sequence[Column] = (
        ("reason", lambda row: row["reason"]),
        ("budget", lambda row: " ".join(filter(None, [row["budget"], row["part"]]))),
        ("calls", lambda row: str(row["calls"])),
        ("would have cost", _money("would_have_cost")),
        ("tries", lambda row: str(row["tries"])),
        ("made", lambda row: str(row["made"])),
        ("made at", _money("made")),
    )
    fields = ("reason", "budget", "part", "calls", "tries", "would_have_cost_usd", "made", "made_usd")
    _show(form, told, told["rows"], columns, fields, "Nothing was denied.")


@report.command(epilog="Example:  spendguard report forecast --since 30d --format csv")
@_reports
def forecast(form: str, **asked: str | None) -> None:
    """Report what runs that were opened in the period were expected to cost, and what they came to.

    `forecast` is the first one of a run, before any of its tasks had run.
    """
    told = _asked().get(path_of("reports", "forecast"), limit="10000", **asked)
    columns: Sequence[Column] = (
        ("run", lambda row: row["run_id"]),
        ("forecast", _money("forecast")),
        ("actual", _money("actual")),
        ("difference", _money("difference")),
        ("%", _percent("difference")),
        ("unknown tasks", lambda row: str(row["unknown_tasks"] or "")),
        ("state", lambda row: row["state"]),
        ("opened", lambda row: day_of(row["opened_at"])),
    )
    fields = (
        *("run_id", "root_family", "opened_at", "state", "forecast_usd", "actual_usd", "difference_usd"),
        *("difference_percent", "estimated_usd", "unknown_tasks", "reserved_usd", "last_forecast_usd"),
    )
    _show(form, told, told["rows"], columns, fields, "No run was opened then.")


@report.command(epilog="Example:  spendguard report focus --since 2026-11-01 --until 2026-12-01")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json", "parquet"]),
    default="csv",
    show_default=True,
    is_eager=True,
)
@outputs.OUT
@_of_period
def focus(form: str, out: Path | None, **asked: str | None) -> None:
    """Write what was booked as rows of FOCUS 1.2, the FinOps Foundation's format, for finance tools.

    A row for what each call came to, and for each later correction; page by page, however many there are.
    """
    outputs.check_form(form, out)
    rows = _focus_rows(asked)
    first = list(itertools.islice(rows, 1))  # Nothing is written before luigid's first answer.
    with refusals(), outputs.opened(out) as file:
        count = _FOCUS[form](itertools.chain(first, rows), file)
    if out is not None:
        click.echo(f"{out}: {counted(count, 'row')}.", err=True)


def _write_focus_csv(rows: Iterator[_Row], file: IO[bytes]) -> int:
    """Write a CSV with a heading; return how many rows it has."""
    names = [column.name for column in _columns()]
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(names)
    count = 0
    for row in rows:
        writer.writerow([cell_of(row, name) for name in names])
        count += 1
    text.detach()
    return count


def _write_focus_json(rows: Iterator[_Row], file: IO[bytes]) -> int:
    """Write an array of objects; return how many there are."""
    decimals = {column.name for column in _columns() if column.type == "Decimal"}
    count = 0
    for count, row in enumerate(rows, 1):
        file.write(f"{',' if count > 1 else '['}\n  {_focus_json(row, decimals)}".encode())
    file.write(b"\n]\n" if count else b"[]\n")
    return count


#: What a column's values are in Parquet, by its type.
_KINDS = {"Decimal": "usd", "Date/Time": "time"}


def _write_focus_parquet(rows: Iterator[_Row], file: IO[bytes]) -> int:
    """Write a Parquet file; return how many rows it has."""
    kinds = {column.name: _KINDS.get(column.type, "text") for column in _columns()}
    tagged = ({**row, "Tags": json.dumps(row["Tags"], ensure_ascii=False)} for row in rows)
    return outputs.write_parquet(tagged, kinds, file)


_FOCUS: Mapping[str, Callable[[Iterator[_Row], IO[bytes]], int]] = {
    "csv": _write_focus_csv,
    "json": _write_focus_json,
    "parquet": _write_focus_parquet,
}


def _columns() -> Sequence[FocusColumn]:
    # Late: no other command needs what knows the books.
    from luigi_spendguard.ledger.reports.focus import COLUMNS

    return COLUMNS


def _focus_rows(asked: Mapping[str, str | None]) -> Iterator[Mapping[str, Any]]:
    after: str | None = None
    while True:
        told = _asked().get(path_of("reports", "focus"), after=after, **asked)
        yield from told["rows"]
        if told["next"] is None:
            return
        after = str(told["next"])


def _focus_json(row: Mapping[str, Any], decimals: Set[str]) -> str:
    """Return a row as JSON, its amounts as numbers with all their digits."""
    values = (
        f"{json.dumps(name)}: "
        + (value if name in decimals and value is not None else json.dumps(value, ensure_ascii=False))
        for name, value in row.items()
    )
    return f"{{{', '.join(values)}}}"


def _show(
    form: str,
    told: Mapping[str, Any],
    rows: Rows,
    columns: Sequence[Column],
    fields: Sequence[str],
    empty: str = "Nothing was booked then.",
) -> None:
    """Print a report: its rows, in JSON all that luigid says of it."""
    if form == "json":
        click.echo(json.dumps(told, indent=2))
    elif form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(fields)
        writer.writerows([cell_of(row, name) for name in fields] for row in rows)
    elif not rows:
        click.echo(empty)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        (heading, *body), dropped = table_lines(rows, columns, width)
        click.echo(click.style(heading, bold=True))
        click.echo("\n".join(body))
        if dropped:
            footer(f"Not shown for want of room: {', '.join(dropped)}; --format csv has them.", err=True)
