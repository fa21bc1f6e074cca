"""`spendguard deliver`: luigid is told what waits on this host's disk."""

from __future__ import annotations

import click

from luigi_spendguard.cli.check.spool import waiting
from luigi_spendguard.cli.context import Stop, operator_of, settings_of
from luigi_spendguard.counted import counted
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.http.spool import backlog, spool_folder


@click.command(epilog="Example:  spendguard deliver")
def deliver() -> None:
    """Tell luigid what workers of this user on this host could not, and say what waits still."""
    operator, folder = operator_of(), spool_folder()

    def left() -> int:
        return 0 if folder is None else backlog(folder).waiting.get(operator.url, (0, 0))[0]

    try:
        before = after = left()
        if before:
            operator.get("/status")  # Its error says what to do.
            client = HttpLedgerClient(operator.given, settings_of().worker_token)
            more = True
            while more:  # What cannot be said, or is refused, it logs.
                client.take_over(at_once=True)
                now = left()
                more, after = 0 < now < after, now
            click.echo(f"Told {operator.url}: {counted(before - after, 'message')}.")
    except OSError as error:
        raise Stop(f"{folder} cannot be read: {error}", 1) from None
    click.echo(f"Spool: {waiting().text}.")
    if after:
        why = "see above, or the worker whose they are still runs"
        raise Stop(f"{counted(after, 'message')} for {operator.url} could not be said: {why}", 1)
