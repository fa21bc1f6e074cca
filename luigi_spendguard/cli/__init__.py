"""`spendguard`: the group of its commands, and what they end with.

Exit codes: 0 done, 1 refused (or `check` found something missing), 2 bad usage or configuration,
3 luigid-spendguard, or the ledger, cannot be reached or asked now, 4 not allowed, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import io
import sys
from typing import NoReturn

import click

from luigi_spendguard import __version__, config
from luigi_spendguard.cli import (
    audit,
    backups,
    books,
    changes,
    check,
    keys,
    proof,
    queries,
    reconciling,
    reports,
    spool,
    top_ups,
    upkeep,
    whoami,
)
from luigi_spendguard.cli.api_client import Operator, OperatorError, scheduler_url
from luigi_spendguard.cli.context import Stop
from luigi_spendguard.cli.tokens import token_for

COMMANDS: tuple[click.Command, ...] = (
    queries.runs,
    queries.run,
    queries.calls,
    reports.report,
    changes.revoke,
    changes.top_up,
    top_ups.top_ups,
    top_ups.confirm,
    top_ups.withdraw,
    changes.approve,
    changes.resolve,
    keys.keys,
    keys.issue_key,
    keys.revoke_key,
    keys.gateway,
    check.check,
    whoami.whoami,
    proof.self_test,
    spool.deliver,
    upkeep.prune,
    upkeep.forget,
    reconciling.reconcile,
    books.ledger,
    backups.backup,
    audit.audit,
    backups.restore,
)


#: Options of every command.
_COMMON = ("--url", "--as")


class _Group(click.Group):
    """Takes `--url` and `--as` behind the command as well as before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move `--url ADDRESS` and `--as NAME` to the front, wherever they stand before a `--`."""
        end = args.index("--") if "--" in args else len(args)
        front: list[str] = []
        rest: list[str] = []
        words = iter(args[:end])
        for word in words:
            if word in _COMMON:
                front += [word, *([value] if (value := next(words, None)) is not None else [])]
            else:
                (front if word.startswith(tuple(f"{one}=" for one in _COMMON)) else rest).append(word)
        return super().parse_args(ctx, front + rest + args[end:])


class _NoSettings:
    """Says why there are no settings once they are asked for: who checks a receipt needs none."""

    def __init__(self, why: Stop) -> None:
        self._why = why

    def __getitem__(self, place: int) -> NoReturn:
        raise self._why


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example:  spendguard runs"
)
@click.option("--url", envvar="SPENDGUARD_URL", help="luigid's address, if not luigi.cfg's.")
@click.option(
    "--as", "name", metavar="NAME", envvar="SPENDGUARD_AS", help="Which operator of luigi.cfg you are."
)
@click.version_option(__version__)
@click.pass_context
def cli(ctx: click.Context, url: str | None, name: str | None) -> None:
    """Budgets of Luigi runs: see them, revoke them, top them up."""
    if url and "://" not in url:
        wanted = "must begin with http:// or https://, such as http://HOST:8082"
        raise Stop(f"--url (or SPENDGUARD_URL) must be a whole address: it {wanted}", 2)
    try:
        settings = config.load()
        address = url or scheduler_url()
        operator = Operator(address, token_for(settings, address, name))
        ctx.obj = (settings, operator)
        ctx.call_on_close(lambda: whoami.say_unnamed(operator, settings))
    except (config.ConfigError, OperatorError) as error:
        stop = Stop(str(error), error.exit_code if isinstance(error, OperatorError) else 2)
        if ctx.invoked_subcommand != audit.audit.name:
            raise stop from None
        ctx.obj = _NoSettings(stop)


for _command in COMMANDS:
    cli.add_command(_command)


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
