"""`spendguard audit verify`, `accept` and `new-key`: is the chain whole, and which one is gone on with?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luigi_spendguard.cli.books import LedgerUrl, refusals, refuse_damaged
from luigi_spendguard.cli.context import Since, Stop, ends_of, settings_of
from luigi_spendguard.counted import counted
from luigi_spendguard.settings.policy import moment

if TYPE_CHECKING:
    from luigi_spendguard.ledger.audit.blocks import Block
    from luigi_spendguard.ledger.audit.verifying import Verified

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("verify", epilog="Example:  spendguard audit verify --since 7d")
@click.argument("url", required=False, type=LedgerUrl())
@click.option("--since", type=Since(), help="Only what was sealed since: a UTC day, a moment, or 7d (ago).")
@click.option("--public-key", type=_FILE, help="Believe these keys (PEM), not those beside the ledger.")
@click.option("--anchor", type=_FILE, help="A file to which blocks were told (audit_anchor).")
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON.")
def verify(
    url: Path | str | None, since: str | None, public_key: Path | None, anchor: Path | None, as_json: bool
) -> None:
    """Look whether the ledger is as it was sealed, and name the first row that is not."""
    from luigi_spendguard.ledger.audit.signing import (
        KeyFiles,
        public_keys,
    )  # Late: not each command needs it.
    from luigi_spendguard.ledger.audit.tampering import Tampered
    from luigi_spendguard.ledger.audit.verifying import verify as verified
    from luigi_spendguard.ledger.database.engines import opened
    from luigi_spendguard.ledger.migrations import check_format

    settings = settings_of()
    place = settings.ledger if url is None else url
    if isinstance(place, Path) and not place.exists():
        raise Stop(f"there is no ledger at {place}", 1)
    files = KeyFiles(settings.audit_key)
    told = _told(anchor) if anchor is not None else iter(())
    since_ms, _ = ends_of(since)
    try:
        with refusals(Tampered):
            keys = files.trusted() if public_key is None else public_keys(public_key)
            head = files.head() if url is None else None  # Another ledger's says nothing of this one.
            with opened(place, read_only=True) as books, books.reading() as tx:
                tx.take_time()
                check_format(tx, place, is_now=True)
                found = verified(tx, keys, head=head, told=told, since=since_ms)
    except Tampered as error:
        if as_json:
            where = {"block": error.block, "row": error.row, "sealed_at": error.sealed_at}
            click.echo(json.dumps({"as_sealed": False, "problem": str(error), **where}))
            raise SystemExit(1) from None
        raise Stop(f"Not as it was sealed: {error}.", 1) from None
    _say(found, as_json=as_json)


def _told(path: Path) -> Iterator[Block]:
    """Yield the blocks in a file to which they were told."""
    from luigi_spendguard.ledger.audit.blocks import Block
    from luigi_spendguard.ledger.audit.rows import canonical

    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                block = Block.of(json.loads(line))
                canonical(vars(block))  # Else it is compared with what it cannot be.
                if not all(isinstance(getattr(block, name), int) for name in ("number", "sealed_at")):
                    raise ValueError
                yield block
            except (ValueError, TypeError, RecursionError):
                raise Stop(f"line {number} of {path} is no block of an audit", 1) from None


def _say(found: Verified, *, as_json: bool) -> None:
    chain, last = found.chain, found.chain.last
    if as_json:
        facts: dict[str, Any] = {"as_sealed": last is not None, "blocks": chain.blocks, "rows": chain.rows}
        facts |= {"calls": found.calls, "last_block": None if last is None else last.number}
        facts |= {"sealed_at": None if last is None else last.sealed_at, "unsealed_entries": found.unsealed}
        click.echo(json.dumps(facts))
    elif last is not None:
        click.echo(
            f"As it was sealed: {counted(chain.blocks, 'block')} with {counted(chain.rows, 'row')}, the last "
            f"of {moment(last.sealed_at)} (block {last.number}, {last.hash}); {counted(found.calls, 'call')} "
            "and all totals agree with that."
        )
    if found.unsealed and not as_json:
        what = counted(found.unsealed, "entry of the journal is", "entries of the journal are")
        click.echo(f"Not sealed yet: {what}, since {moment(found.since)}. luigid seals within seconds.")
    if last is None:
        raise Stop("nothing of this ledger is sealed: nothing is shown of it", 1)


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
        refuse_damaged(place)
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
