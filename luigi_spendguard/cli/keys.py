"""`spendguard keys`, `issue-key`, `revoke-key`, `gateway`: the gateway alone, and vault keys for it."""

from __future__ import annotations

import importlib
from typing import Any

import click

from luigi_spendguard.cli.api_client import path_of
from luigi_spendguard.cli.context import Stop, Usd, operator_of, settings_of
from luigi_spendguard.cli.lists import KEYS, Output, list_options, show_list
from luigi_spendguard.cli.run_names import LAST, RunName, on_run
from luigi_spendguard.cli.tables import plain
from luigi_spendguard.config import ConfigError
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import LedgerError, LedgerUnreached
from luigi_spendguard.money import Micros, plain_usd


@click.command(epilog="Example:  spendguard keys --run nightly-42")
@click.option("--run", metavar="RUN", type=RunName(), help="Keys of this run only.")
@list_options
def keys(run: str | None, output: Output) -> None:
    """List vault keys: those that were asked for, and those of tasks that run now, newest first."""
    if run is None:
        show_list(KEYS, {}, output, "There is no vault key.")
    else:
        run_id, _ = on_run(run, lambda one: operator_of().get(path_of("runs", one)))
        show_list(KEYS, {"run": run_id}, output, f"Run {plain(run_id)} has no vault key.")


@click.command(
    name="issue-key", epilog="Example:  spendguard issue-key --run nightly-42 --run-cap 50 --expires-in 4h"
)
@click.option("--vendor", default="stripe", show_default=True, help="The vendor it is for.")
@click.option(
    "--run",
    "run_id",
    metavar="RUN",
    type=RunName(),
    help="The run that it spends for, by its whole id, opened if need be; else one of its own.",
)
@click.option("--run-cap", type=Usd(), help="What may be spent under it in all.")
@click.option("--daily-cap", type=Usd(), help="What may be spent under it on a UTC day.")
@click.option(
    "--allow", "allowed_endpoints", multiple=True, help="What may be called; may be given several times."
)
@click.option("--customer", "allowed_customers", multiple=True, help="For whom; may be given several times.")
@click.option(
    "--account", "allowed_accounts", multiple=True, help="Connected accounts; may be given several times."
)
@click.option("--expires-in", help="For how long, as 30s, 15m, 4h or 7d.  [default: 24h]")
def issue_key(run_id: str | None, run_cap: Micros | None, daily_cap: Micros | None, **terms: Any) -> None:
    """Issue a vault key for the gateway; the key is shown this once, on standard output."""
    if run_id == LAST:  # Any other name may be a new run's.
        run_id, _ = on_run(run_id, lambda one: operator_of().get(path_of("runs", one)))
    body = {
        "agent_run_label": f"luigi/{run_id}" if run_id else None,
        "run_usd_cap": None if run_cap is None else plain_usd(run_cap),
        "daily_usd_cap": None if daily_cap is None else plain_usd(daily_cap),
        **terms,  # Named as the API names them.
    }
    body = {name: value for name, value in body.items() if value not in (None, ())}
    key = operator_of().post("/vault/keys", body)
    click.echo(f"{key['id']} spends for run {key['run_id']} until {key['expires_at']}.", err=True)
    if note := key.get("note"):  # As that the run that was opened for it has a lower cap.
        click.echo(f"Note: {note}", err=True)
    click.echo(key["vault_key"])


@click.command(
    name="revoke-key", epilog="Example:  spendguard revoke-key key_3f6c2a9e0d1b4c5f8a7e6d5c4b3a2910"
)
@click.argument("key_id", metavar="ID")
def revoke_key(key_id: str) -> None:
    """End one vault key's spending for good; answers when no further call is sent under it."""
    key = operator_of().delete(path_of("vault", "keys", key_id))
    whose = f"{key['id']} of run {key['run_id']}"
    click.echo(f"{whose} is revoked: {counted(key['calls_under_way'], 'call was', 'calls were')} under way.")


@click.command(epilog="Example:  spendguard gateway --port 8083")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", type=click.IntRange(1, 65535), required=True)
def gateway(address: str, port: int) -> None:
    """Run the gateway alone, apart from luigid, in front of the same ledger."""
    # The one place here that reaches up, by name: what serves is no part of a worker.
    server: Any = importlib.import_module("scheduler_patch.server")
    try:
        server.serve_gateway(settings_of(), address, port)
    except (ConfigError, LedgerError) as error:
        raise Stop(str(error), 3 if isinstance(error, LedgerUnreached) else 2) from None
