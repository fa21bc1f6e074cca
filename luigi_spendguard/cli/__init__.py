"""`spendguard`: see what runs have spent; what changes them is in `change_commands`.

Exit codes: 0 done, 1 refused (or `check` found something missing), 2 bad usage or configuration,
3 luigid-spendguard cannot be reached, 4 not allowed.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
import time
from typing import Any

import click

from luigi_spendguard import __version__, config
from luigi_spendguard.cli.api_client import Operator, OperatorError, admin_token, path_of, scheduler_url
from luigi_spendguard.cli.check import findings
from luigi_spendguard.cli.tables import (
    CALL_COLUMNS,
    RUN_COLUMNS,
    csv_of_calls,
    money_of,
    plain,
    run_lines,
    show,
)
from luigi_spendguard.errors import LedgerError
from luigi_spendguard.money import BadAmount, Micros, parse_usd
from luigi_spendguard.protocol import VERDICTS
from luigi_spendguard.settings.policy import expiry_ms, moment, ttl_ms
from luigi_spendguard.vendors.registry import VENDORS


class Usd(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """An amount of USD on the command line."""

    name = "usd"

    def convert(self, value: Any, param: Any, ctx: Any) -> Micros:
        """Return the amount in micro-dollars; bad usage when it is none."""
        try:
            return parse_usd(value)
        except BadAmount as error:
            self.fail(str(error), param, ctx)


class Since(click.ParamType):  # type: ignore[type-arg]  # as above
    """A moment on the command line, or how long ago it was."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the moment with its zone, in seconds; bad usage when it is none."""
        try:
            if re.fullmatch(r"[0-9]+[smhd]", value):
                return str(moment(int(time.time() * 1000) - ttl_ms(value)))
            day = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value)
            return str(moment(expiry_ms(f"{value}T00:00:00Z" if day else value)))
        except ValueError:
            self.fail(
                "must be a time such as 30m, 4h or 7d, a UTC day such as 2026-11-26, or a moment such as "
                "2026-11-26T18:00:00Z"
            )


FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)


class _Group(click.Group):
    """Takes `--url` behind the command as well as before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move `--url ADDRESS` to the front, wherever it stands before a `--`."""
        end = args.index("--") if "--" in args else len(args)
        front: list[str] = []
        rest: list[str] = []
        words = iter(args[:end])
        for word in words:
            if word == "--url":
                front += [word, *([value] if (value := next(words, None)) is not None else [])]
            else:
                (front if word.startswith("--url=") else rest).append(word)
        return super().parse_args(ctx, front + rest + args[end:])


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example:  spendguard runs"
)
@click.option("--url", envvar="SPENDGUARD_URL", help="luigid's address, if not luigi.cfg's.")
@click.version_option(__version__)
@click.pass_context
def cli(ctx: click.Context, url: str | None) -> None:
    """Budgets of Luigi runs: see them, revoke them, top them up."""
    try:
        settings = config.load()
        ctx.obj = (settings, Operator(url or scheduler_url(), admin_token(settings)))
    except config.ConfigError as error:
        raise Stop(str(error), 2) from None
    except OperatorError as error:
        raise Stop(str(error), error.exit_code) from None


class Stop(click.ClickException):
    """Ends a command with a message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def operator_of() -> Operator:
    """Return the client of the command that is run."""
    operator: Operator = click.get_current_context().obj[1]
    return operator


@cli.command(epilog="Example:  spendguard runs --format json")
@FORMAT
def runs(form: str) -> None:
    """List runs with their budgets, newest first. `reserved` includes what is in doubt."""
    show(operator_of().get("/runs"), RUN_COLUMNS, form, "No run was opened yet.")
    day = operator_of().get("/day") if form == "table" else {}
    if day.get("spent_usd") is not None:
        click.echo(
            f"\nAll runs together today ({day['day']}, UTC): {money_of('spent')(day)} spent, "
            f"{money_of('reserved')(day)} reserved, {money_of('remaining')(day)} remaining of "
            f"{money_of('cap')(day)} (daily_cap_usd)."
        )


@cli.command(epilog="Example:  spendguard run BillingPipeline_2026_11_24_c4a1a2ab4a")
@click.argument("run_id", metavar="RUN")
@FORMAT
def run(run_id: str, form: str) -> None:
    """Show one run: its budgets, what of it is blocked and why, what was approved."""
    found = operator_of().get(path_of("runs", run_id))
    click.echo(json.dumps(found, indent=2) if form == "json" else "\n".join(run_lines(found)))


@cli.command(epilog="Example:  spendguard calls --run nightly-42 --verdict denied:cap")
@click.option("--run", "run_id", help="Calls of this run only.")
@click.option("--task", "task_id", help="Calls of this Luigi task_id only.")
@click.option(
    "--verdict",
    type=click.Choice(VERDICTS),
    metavar="VERDICT",
    help="allowed, replayed, denied, or denied:<reason> such as denied:cap.",
)
@click.option("--vendor", type=click.Choice(sorted(VENDORS)), help="Calls to this vendor only.")
@click.option(
    "--since", type=Since(), help="Calls since then only: 30m, 4h, 7d, 2026-11-26, or 2026-11-26T18:00:00Z."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
)
def calls(
    run_id: str | None,
    task_id: str | None,
    verdict: str | None,
    vendor: str | None,
    since: str | None,
    limit: int,
    form: str,
) -> None:
    """List vendor calls with their Luigi task, newest first.

    A task that was blocked before it ran has made no call: `spendguard run RUN` shows it.
    """
    found = operator_of().get(
        "/calls", run=run_id, task=task_id, verdict=verdict, vendor=vendor, since=since, limit=str(limit)
    )
    if form == "csv":
        csv_of_calls(found, sys.stdout)
        return
    empty = "No call matches."
    if task_id is not None:
        empty += f" If task {plain(task_id)} exists, it has made none: is this its whole task_id?"
    elif (verdict or "").startswith("denied"):
        empty += " Tasks that were blocked before they ran have made none: see `spendguard run RUN`."
    show(found, CALL_COLUMNS, form, empty)
    if form == "table" and len(found) == limit:
        click.echo(f"Only the newest {limit} are shown: --limit shows more.", err=True)


@cli.command(epilog="Example:  spendguard gateway --port 8083")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", type=click.IntRange(1, 65535), required=True)
def gateway(address: str, port: int) -> None:
    """Run the gateway alone, apart from luigid, in front of the same ledger."""
    # The one place here that reaches up, by name: what serves is no part of a worker.
    standalone: Any = importlib.import_module("scheduler_patch.standalone")
    try:
        standalone.run(click.get_current_context().obj[0], address, port)
    except (config.ConfigError, LedgerError) as error:
        raise Stop(str(error), 2) from None


@cli.command("check", epilog="Example:  spendguard check")
def check_setup() -> None:
    """Read luigi.cfg and say what will happen to each root and vendor, and what is missing."""
    settings, operator = click.get_current_context().obj
    missing = 0
    for finding in findings(settings, operator):
        missing += finding.missing
        click.echo(f"{'MISSING ' if finding.missing else 'ok      '}{finding.subject}: {finding.text}")
    if missing:
        raise Stop(f"{missing} of these must be mended before vendor tasks can run", 1)


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
