"""`spendguard audit accept` and `new-key`: what an operator says of the chain and its key."""

from __future__ import annotations

from pathlib import Path

import click

from luigi_spendguard.cli.books import LedgerUrl, refusals
from luigi_spendguard.cli.context import Stop, settings_of


@click.command("accept", epilog="Example:  spendguard audit accept")
@click.argument("url", required=False, type=LedgerUrl())
def accept(url: Path | str | None) -> None:
    """Take the chain as the ledger has it, after a restore: luigid goes on to seal behind its last block."""
    from luigi_spendguard.ledger.audit import sealing  # Late, as all that not each command needs.
    from luigi_spendguard.ledger.audit.signing import KeyFiles
    from luigi_spendguard.ledger.database.engines import opened
    from luigi_spendguard.ledger.migrations import check_format

    settings = settings_of()
    place = settings.ledger if url is None else url
    if isinstance(place, Path) and not place.exists():
        raise Stop(f"there is no ledger at {place}", 1)
    files = KeyFiles(settings.audit_key)
    with refusals(), opened(place, read_only=True) as books, books.reading() as tx:
        check_format(tx, place, is_now=True)
        last = sealing.accept(tx, files)
    if last is None:
        click.echo("Nothing of this ledger is sealed: the chain begins with the next block.")
    else:
        click.echo(f"luigid goes on behind block {last.number} ({last.hash}): {files.head_file} says so.")


@click.command("new-key", epilog="Example:  spendguard audit new-key")
def new_key() -> None:
    """Make another key for the audit; blocks of the one before go on being believed."""
    from luigi_spendguard.ledger.audit.signing import KeyFiles

    files = KeyFiles(settings_of().audit_key)
    with refusals():
        made = files.replace()
    click.echo(f"New blocks are signed with key {made} from now on: {files.key}. Its public part, and those")
    click.echo(f"of the keys before, are in {files.trusted_file}: give that to whoever is to check.")
