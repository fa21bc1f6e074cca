"""`spendguard keys`, `issue-key`, `revoke-key`: vault keys for the gateway."""

from __future__ import annotations

import click

from luigi_spendguard.cli import FORMAT, Usd, cli, operator_of
from luigi_spendguard.cli.api_client import path_of
from luigi_spendguard.cli.tables import KEY_COLUMNS, show
from luigi_spendguard.money import Micros, plain_usd


@cli.command(epilog="Example:  spendguard keys --run nightly-42")
@click.option("--run", "run_id", help="Keys of this run only.")
@FORMAT
def keys(run_id: str | None, form: str) -> None:
    """List vault keys: those that were asked for, and those of tasks that run now."""
    show(operator_of().get("/vault/keys", run=run_id), KEY_COLUMNS, form, "There is no vault key.")


@cli.command(
    name="issue-key",
    epilog="Example:  spendguard issue-key --run nightly-42 --run-cap 50 --expires-in 4h",
)
@click.option("--vendor", default="stripe", show_default=True, help="The vendor it is for.")
@click.option("--run", "run_id", help="The run that it spends for, opened if need be; else one of its own.")
@click.option("--run-cap", type=Usd(), help="What may be spent under it in all.")
@click.option("--daily-cap", type=Usd(), help="What may be spent under it on a UTC day.")
@click.option("--allow", "allowed", multiple=True, help="What may be called; may be given several times.")
@click.option("--customer", "customers", multiple=True, help="For whom; may be given several times.")
@click.option("--account", "accounts", multiple=True, help="Connected accounts; may be given several times.")
@click.option("--expires-in", help="For how long, as 30s, 15m, 4h or 7d.  [default: 24h]")
def issue_key(
    vendor: str,
    run_id: str | None,
    run_cap: Micros | None,
    daily_cap: Micros | None,
    allowed: tuple[str, ...],
    customers: tuple[str, ...],
    accounts: tuple[str, ...],
    expires_in: str | None,
) -> None:
    """Issue a vault key for the gateway; the key is shown this once, on standard output."""
    body = {
        "vendor": vendor,
        "agent_run_label": f"luigi/{run_id}" if run_id else None,
        "run_usd_cap": None if run_cap is None else plain_usd(run_cap),
        "daily_usd_cap": None if daily_cap is None else plain_usd(daily_cap),
        "allowed_endpoints": list(allowed) or None,
        "allowed_customers": list(customers) or None,
        "allowed_accounts": list(accounts) or None,
        "expires_in": expires_in,
    }
    found = operator_of().post(
        "/vault/keys", {name: value for name, value in body.items() if value is not None}
    )
    click.echo(f"{found['id']} spends for run {found['run_id']} until {found['expires_at']}.", err=True)
    if note := operator_of().get(path_of("runs", found["run_id"]))["note"]:  # As that its cap is lower.
        click.echo(f"Note: {note}", err=True)
    click.echo(found["vault_key"])


@cli.command(name="revoke-key", epilog="Example:  spendguard revoke-key key_3f6c2a9e0d1b4c5f8a7e6d5c4b3a2910")
@click.argument("key_id", metavar="ID")
def revoke_key(key_id: str) -> None:
    """End one vault key's spending for good; answers when no further call is sent under it."""
    found = operator_of().delete(path_of("vault", "keys", key_id))
    click.echo(f"{found['id']} is revoked: {found['calls_under_way']} calls were under way.")
