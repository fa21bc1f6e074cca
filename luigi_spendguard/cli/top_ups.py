"""`spendguard top-ups`, `confirm`, `withdraw`: what waits for a second operator."""

from __future__ import annotations

import click

from luigi_spendguard.cli.api_client import path_of
from luigi_spendguard.cli.changes import REQUEST_ID
from luigi_spendguard.cli.context import operator_of
from luigi_spendguard.cli.lists import TOP_UPS, Output, list_options, show_list
from luigi_spendguard.cli.run_names import RunName, on_run
from luigi_spendguard.cli.tables import freed_text, money_of, usd_of
from luigi_spendguard.protocol import TOP_UP_STATES


@click.command(name="top-ups", epilog="Example:  spendguard top-ups --state waiting")
@click.option("--run", metavar="RUN", type=RunName(), help="Of this run only.")
@click.option("--state", type=click.Choice(TOP_UP_STATES), help="Only those of which that has come.")
@list_options
def top_ups(run: str | None, state: str | None, output: Output) -> None:
    """List top-ups that wait, or have waited, for a second operator, newest first."""
    query = {"state": state}
    if run is not None:
        run, _ = on_run(run, lambda one: operator_of().get(path_of("runs", one)))
    show_list(TOP_UPS, {"run": run, **query}, output, "No top-up waits or has waited for a second operator.")


@click.command(epilog="Example:  spendguard confirm tu_3f6c2a9e0d1b --as bob")
@click.argument("name", metavar="ID")
@REQUEST_ID
def confirm(name: str, request_id: str) -> None:
    """Make a top-up that another operator has asked for."""
    run = operator_of().post(path_of("top_ups", name, "confirm"), {"request_id": request_id})
    done = run["confirmed"]
    again = f"Nothing was changed: {request_id} was done before. " if run["repeated"] else ""
    click.echo(
        f"{again}{name} is confirmed: {usd_of(done)} that {done['asker']} has asked for. {run['run_id']} "
        f"has a cap of {money_of('cap')(run)}; {money_of('remaining')(run)} remains."
    )
    if run["top_up"]["blocked"] or run["top_up"]["thaws"]:
        click.echo(freed_text(run["top_up"], done=True))


@click.command(epilog="Example:  spendguard withdraw tu_3f6c2a9e0d1b")
@click.argument("name", metavar="ID")
def withdraw(name: str) -> None:
    """Let a top-up wait no more: it raises nothing."""
    row = operator_of().delete(path_of("top_ups", name))
    click.echo(f"{name} is withdrawn: nothing of run {row['run_id']} was raised.")
