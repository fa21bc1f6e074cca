"""`spendguard runs`, `run`, `calls`: what people read."""

from __future__ import annotations

import json
import sys

import click

from luigi_spendguard.cli.api_client import path_of
from luigi_spendguard.cli.context import FORMAT, Since, operator_of
from luigi_spendguard.cli.tables import (
    CALL_COLUMNS,
    RUN_COLUMNS,
    csv_of_calls,
    money_of,
    plain,
    run_lines,
    show,
)
from luigi_spendguard.protocol import VERDICTS
from luigi_spendguard.vendors.registry import VENDORS


@click.command(epilog="Example:  spendguard runs --format json")
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


@click.command(epilog="Example:  spendguard run BillingPipeline_2026_11_24_c4a1a2ab4a")
@click.argument("run_id", metavar="RUN")
@FORMAT
def run(run_id: str, form: str) -> None:
    """Show one run: its budgets, what of it is blocked and why, what was approved."""
    shown = operator_of().get(path_of("runs", run_id))
    click.echo(json.dumps(shown, indent=2) if form == "json" else "\n".join(run_lines(shown)))


@click.command(epilog="Example:  spendguard calls --run nightly-42 --verdict denied:cap")
@click.option("--run", help="Calls of this run only.")
@click.option("--task", help="Calls of this Luigi task_id only.")
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
def calls(limit: int, form: str, **filters: str | None) -> None:
    """List vendor calls with their Luigi task, newest first.

    A task that was blocked before it ran has made no call: `spendguard run RUN` shows it.
    """
    rows = operator_of().get("/calls", limit=str(limit), **filters)
    if form == "csv":
        csv_of_calls(rows, sys.stdout)
        return
    empty = "No call matches."
    if filters["task"] is not None:
        empty += f" If task {plain(filters['task'])} exists, it has made none: is this its whole task_id?"
    elif (filters["verdict"] or "").startswith("denied"):
        empty += " Tasks that were blocked before they ran have made none: see `spendguard run RUN`."
    show(rows, CALL_COLUMNS, form, empty)
    if form == "table" and len(rows) == limit:
        click.echo(f"Only the newest {limit} are shown: --limit shows more.", err=True)
