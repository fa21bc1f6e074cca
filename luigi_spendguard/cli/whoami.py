"""`spendguard whoami`: whom luigid sees, and whose name is kept with what they change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from luigi_spendguard.cli.api_client import Operator
from luigi_spendguard.cli.context import FORMAT, operator_of, settings_of
from luigi_spendguard.cli.tables import money_of, plain
from luigi_spendguard.config import Settings
from luigi_spendguard.settings.operators import OPERATORS

#: What each role may do that those before it may not.
_MAY = {
    "read": "look",
    "operate": "top up, approve, resolve, revoke",
    "admin": "issue vault keys, prune, forget",
}


@click.command(epilog="Example:  spendguard whoami --as alice")
@FORMAT
def whoami(form: str) -> None:
    """Say whom luigid sees, what that one may do, and whose name is kept with what they change."""
    operator = operator_of()
    told = operator.get("/whoami")
    if form == "json":
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{'luigid':10} {operator.url}")
    click.echo(f"{'you':10} {plain(told['shown'])}, of role {told['role']}, by {operator.token.source}")
    click.echo(f"{'may':10} {'; '.join(_MAY[role] for role in told['may'])}")
    if "operate" in told["may"]:
        for heading, text in (("top-ups", _top_ups(told)), ("kept as", _kept_as(told, settings_of()))):
            click.echo(f"{heading:10} {plain(text)}")


def _top_ups(told: Mapping[str, Any]) -> str:
    """Say by how much one may raise the budgets of one run."""
    said = []
    if told["top_up_usd"] is not None:
        said.append(f"{money_of('top_up')(told)} of one run in all ([spendguard] operator_top_up_usd)")
    if told["alone_usd"] is not None:
        then = "waits for a second operator" if told["name"] else "needs two operators who have names"
        said.append(f"what comes to more than {money_of('alone')(told)} of one run {then}")
    return "; ".join(said) or "without a limit"


def _kept_as(told: Mapping[str, Any], settings: Settings) -> str:
    if told["name"]:
        return f"{told['shown']}: what you change is kept with your name"
    return f"{told['shown']}: the admin token names nobody; {_names(settings)}"


def say_unnamed(operator: Operator, settings: Settings) -> None:
    """Say of what a command has changed that nobody's name is kept with it, where operators have names."""
    if operator.has_changed and operator.token.names_nobody:
        click.echo(f"This is kept as an operator's, without a name: {_names(settings)}.", err=True)


def _names(settings: Settings) -> str:
    """Return how one says who one is."""
    if not settings.operators:
        return f"[{OPERATORS}] of luigi.cfg gives names"
    return f"[{OPERATORS}] names {', '.join(settings.operators)}: say who you are with --as NAME"
