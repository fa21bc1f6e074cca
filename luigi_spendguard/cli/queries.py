"""`spendguard runs`, `run`, `calls`: what people read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import click

from luigi_spendguard.cli.api_client import OperatorError, path_of
from luigi_spendguard.cli.context import FORMAT, Since, operator_of
from luigi_spendguard.cli.lists import CALLS, RUNS, Output, footer, list_options, show_list
from luigi_spendguard.cli.run_names import RunName, on_run
from luigi_spendguard.cli.tables import day_text, plain, run_lines, usd_of
from luigi_spendguard.protocol import CALL_STATES, RUN_STATUSES, VERDICTS, command
from luigi_spendguard.vendors.registry import VENDORS

_MOMENT = "30m, 4h, 7d, 2026-11-26, or 2026-11-26T18:00:00Z"


@click.command(epilog="Example:  spendguard runs --format json")
@click.option("--search", help="Runs with this in their id, root family or label only.")
@click.option("--status", type=click.Choice(RUN_STATUSES), help="Runs of this status only.")
@click.option("--since", type=Since(), help=f"Runs opened since then only: {_MOMENT}.")
@click.option("--until", type=Since(), help="Runs opened before then only: as --since.")
@list_options
def runs(output: Output, **filters: str | None) -> None:
    """List runs with their budgets, newest first. `reserved` includes what is in doubt."""
    filtered = any(value is not None for value in filters.values())
    show_list(RUNS, filters, output, "No run matches." if filtered else "No run was opened yet.")
    day = operator_of().get("/day") if output.form == "table" and not filtered else {}
    if day.get("spent_usd") is not None:
        click.echo()
        footer(day_text(day))


@click.command(epilog="Example:  spendguard run BillingPipeline_2026_11_24_c4a1a2ab4a")
@click.argument("run_id", metavar="RUN", type=RunName())
@click.option(
    "--all", "everything", is_flag=True, help="All blocked tasks, not only the first of each reason."
)
@FORMAT
def run(run_id: str, everything: bool, form: str) -> None:
    """Show one run: its budgets, what of it is blocked and why, what was approved."""
    tasks = "all" if everything else None
    run_id, shown = on_run(run_id, lambda one: operator_of().get(path_of("runs", one), tasks=tasks))
    if form == "json":
        click.echo(json.dumps(shown, indent=2))
        return
    click.echo("\n".join((*run_lines(shown, whole=everything), *_waiting(run_id))))


def _waiting(run_id: str) -> Iterator[str]:
    """Yield a line for each top-up of a run that waits for a second operator."""
    waits: list[Mapping[str, Any]] = []
    with suppress(OperatorError):  # An earlier luigid has none.
        waits = operator_of().get("/top_ups", run=run_id, state="waiting")
    for one in waits:
        by = (
            f"asked for by {one['asked_by']}, waits for {' or '.join(one['confirmers']) or 'nobody there is'}"
        )
        yield plain(f"top-up     {usd_of(one)} {by}: {command('confirm', one['id'])}")


@click.command(epilog="Example:  spendguard calls --run nightly-42 --verdict denied:cap")
@click.option("--run", metavar="RUN", type=RunName(), help="Calls of this run only.")
@click.option("--task", help="Calls of this Luigi task_id only.")
@click.option(
    "--verdict",
    type=click.Choice(VERDICTS),
    metavar="VERDICT",
    help="allowed, replayed, denied, or denied:<reason> such as denied:cap.",
)
@click.option(
    "--state", type=click.Choice(CALL_STATES), help="Calls whose reservation is in this state only."
)
@click.option("--vendor", type=click.Choice(sorted(VENDORS)), help="Calls to this vendor only.")
@click.option("--customer", help="Calls that concerned them only: a customer's id, a number, an address.")
@click.option("--since", type=Since(), help=f"Calls since then only: {_MOMENT}.")
@click.option("--until", type=Since(), help="Calls before then only: as --since.")
@list_options
def calls(run: str | None, output: Output, **filters: str | None) -> None:
    """List vendor calls with their Luigi task, newest first.

    A task that was blocked before it ran has made no call: `spendguard run RUN` shows it.
    """
    empty = "No call matches."
    if filters["task"] is not None:
        empty += f" If task {plain(filters['task'])} exists, it has made none: is this its whole task_id?"
    elif (filters["verdict"] or "").startswith("denied"):
        empty += " Tasks that were blocked before they ran have made none: see `spendguard run RUN`."
    if run is None:
        show_list(CALLS, filters, output, empty)
    else:
        on_run(run, lambda run_id: show_list(CALLS, {**filters, "run": run_id}, output, empty))
