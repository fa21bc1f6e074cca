"""`spendguard`: see what runs have spent, revoke them, top them up, resolve calls in doubt.

Exit codes: 0 done, 1 refused (or `check` found something missing), 2 bad usage or configuration,
3 luigid-spendguard cannot be reached, 4 not allowed.
"""

from __future__ import annotations

import io
import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from luigi_spendguard import __version__, config
from luigi_spendguard.checkup import findings
from luigi_spendguard.money import BadAmount, Micros, format_usd, parse_usd, plain_usd
from luigi_spendguard.operator import Operator, OperatorError, admin_token, path_of, scheduler_url

#: A line of a table: its heading, and what it shows of an object of the API.
Column = tuple[str, Callable[[Mapping[str, Any]], str]]


class _Usd(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    name = "usd"

    def convert(self, value: Any, param: Any, ctx: Any) -> Micros:
        try:
            return parse_usd(value)
        except BadAmount as error:
            self.fail(str(error), param, ctx)


_FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
_REQUEST_ID = click.option(
    "--request-id", default=None, help="Repeating a command with the same id changes nothing twice."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example:  spendguard runs")
@click.option("--url", envvar="SPENDGUARD_URL", help="luigid's address, if not luigi.cfg's.")
@click.version_option(__version__)
@click.pass_context
def cli(ctx: click.Context, url: str | None) -> None:
    """Budgets of Luigi runs: see them, revoke them, top them up."""
    try:
        settings = config.load()
        ctx.obj = (settings, Operator(url or scheduler_url(), admin_token(settings)))
    except config.ConfigError as error:
        raise _Stop(str(error), 2) from None
    except OperatorError as error:
        raise _Stop(str(error), error.exit_code) from None


class _Stop(click.ClickException):
    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def _operator() -> Operator:
    operator: Operator = click.get_current_context().obj[1]
    return operator


def _shown(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], form: str, empty: str) -> None:
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(empty)
        return
    table = Table(box=None, pad_edge=False)
    for heading, _ in columns:
        money = heading in _MONEY
        table.add_column(heading, justify="right" if money else "left", no_wrap=money, overflow="fold")
    for row in rows:
        # Names come from pipelines and vendors: no markup, no control characters.
        table.add_row(*(_plain(show(row)) for _, show in columns))
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=250)
    console.print(table)


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


_MONEY = ("cap", "spent", "reserved", "in doubt", "remaining", "overrun", "asked")


def _money(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: format_usd(parse_usd(row[f"{name}_usd"]))


def _time(name: str) -> Callable[[Mapping[str, Any]], str]:
    def show(row: Mapping[str, Any]) -> str:
        if not row.get(name):
            return ""
        return datetime.fromtimestamp(row[name] / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")

    return show


_RUN_COLUMNS: Sequence[Column] = (
    ("run", lambda run: run["run_id"]),
    ("root", lambda run: run["root_family"]),
    ("state", lambda run: run["state"]),
    ("cap", _money("cap")),
    ("spent", _money("spent")),
    ("reserved", _money("reserved")),
    ("in doubt", _money("in_doubt")),
    ("remaining", _money("remaining")),
    ("overrun", _money("overrun")),
    ("denied", lambda run: str(run["denied_calls"])),
    ("opened", _time("opened_at")),
)

_CALL_COLUMNS: Sequence[Column] = (
    ("call", lambda call: call["id"]),
    ("time", _time("created_at")),
    ("task", lambda call: call["task_id"] or ""),
    ("operation", lambda call: call["operation"]),
    ("target", lambda call: call["target"] or ""),
    ("verdict", lambda call: call["verdict"]),
    ("state", lambda call: call["state"] or ""),
    ("asked", _money("asked")),
    ("spent", _money("spent")),
    ("object", lambda call: call["object_id"] or ""),
)


@cli.command(epilog="Example:  spendguard runs --format json")
@_FORMAT
def runs(form: str) -> None:
    """List runs with their budgets, newest first. `reserved` includes what is in doubt."""
    _shown(_operator().get("/runs"), _RUN_COLUMNS, form, "No run was opened yet.")


@cli.command(epilog="Example:  spendguard run BillingPipeline_2026_11_24_c4a1a2ab4a")
@click.argument("run_id", metavar="RUN")
@_FORMAT
def run(run_id: str, form: str) -> None:
    """Show one run."""
    found = _operator().get(path_of("runs", run_id))
    if form == "json":
        click.echo(json.dumps(found, indent=2))
        return
    for heading, show in _RUN_COLUMNS:
        click.echo(f"{heading:10} {''.join(c for c in show(found) if c.isprintable())}")
    if found["note"]:
        click.echo(f"{'note':10} {found['note']}")


@cli.command(epilog="Example:  spendguard calls --run nightly-42 --verdict denied:cap")
@click.option("--run", "run_id", help="Calls of this run only.")
@click.option("--task", "task_id", help="Calls of this Luigi task_id only.")
@click.option("--verdict", help="allowed, replayed, denied, or denied:<reason> such as denied:cap.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@_FORMAT
def calls(run_id: str | None, task_id: str | None, verdict: str | None, limit: int, form: str) -> None:
    """List vendor calls with their Luigi task, newest first."""
    found = _operator().get("/calls", run=run_id, task=task_id, verdict=verdict, limit=str(limit))
    _shown(found, _CALL_COLUMNS, form, "No call matches.")
    if form == "table" and len(found) == limit:
        click.echo(f"Only the newest {limit} are shown: --limit shows more.", err=True)


@cli.command(epilog="Example:  spendguard revoke BillingPipeline_2026_11_24_c4a1a2ab4a")
@click.argument("run_id", metavar="RUN")
def revoke(run_id: str) -> None:
    """End a run's spending for good; answers when no further call of it is sent."""
    found = _operator().delete(path_of("runs", run_id))
    click.echo(
        f"{run_id} is revoked: no further call is sent. {found['calls_under_way']} calls were under way; "
        f"{_money('spent')(found)} is spent, {_money('reserved')(found)} reserved."
    )


# So that `-1` is no unknown option but a bad amount.
@cli.command(
    name="top-up",
    context_settings={"ignore_unknown_options": True},
    epilog="Example:  spendguard top-up BillingPipeline_2026_11_24_c4a1a2ab4a 50",
)
@click.argument("run_id", metavar="RUN")
@click.argument("usd", type=_Usd())
@_REQUEST_ID
def top_up(run_id: str, usd: Micros, request_id: str | None) -> None:
    """Raise a run's cap by USD; its blocked tasks may run again."""
    body = {"usd": plain_usd(usd), "request_id": request_id or str(uuid.uuid4())}
    found = _operator().post(path_of("runs", run_id, "top_up"), body)
    click.echo(f"{run_id} has a cap of {_money('cap')(found)}; {_money('remaining')(found)} remains.")


@cli.command(epilog="Example:  spendguard resolve 5a8e6f0e-6f0e-4a8e-9a8e-5a8e6f0e6f0e --spent 1.00")
@click.argument("call_id", metavar="CALL")
@click.option("--spent", "spent", type=_Usd(), help="What the vendor's books say it cost.")
@click.option("--not-sent", is_flag=True, help="The vendor's books do not have it.")
@_REQUEST_ID
def resolve(call_id: str, spent: Micros | None, not_sent: bool, request_id: str | None) -> None:
    """End a call that is in doubt, by what the vendor's own books say."""
    if (spent is None) == (not not_sent):
        raise click.UsageError("say either --spent USD or --not-sent")
    body: dict[str, Any] = {"request_id": request_id or str(uuid.uuid4())}
    body |= {"not_sent": True} if spent is None else {"spent_usd": plain_usd(spent)}
    found = _operator().post(path_of("calls", call_id, "resolve"), body)
    click.echo(f"{call_id} is {found['state']}: {_money('spent')(found)} spent.")


@cli.command(epilog="Example:  spendguard check")
def check() -> None:
    """Read luigi.cfg and say what will happen to each root and vendor, and what is missing."""
    settings, operator = click.get_current_context().obj
    missing = 0
    for finding in findings(settings, operator):
        missing += finding.missing
        click.echo(f"{'MISSING ' if finding.missing else 'ok      '}{finding.subject}: {finding.text}")
    if missing:
        raise _Stop(f"{missing} of these must be mended before vendor tasks can run", 1)


def main() -> None:
    """Run the command line; OperatorError ends it with its own exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # A terminal that lacks a character still gets an answer.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        raise SystemExit(130) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except OperatorError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
