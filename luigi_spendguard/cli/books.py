"""`spendguard ledger`: the books themselves are checked, or moved to another database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from luigi_spendguard import redaction
from luigi_spendguard.cli.context import Stop, settings_of
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import LedgerError, LedgerUnavailable, LedgerUnreached
from luigi_spendguard.http.spool import backlog, spool_folder
from luigi_spendguard.settings.files import ConfigError, Raw
from luigi_spendguard.settings.values import ledger_name, ledger_url, passwords_of


class LedgerUrl(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5
    """Where books are kept, on the command line, as luigi.cfg says it."""

    name = "url"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path | str:
        """Return the place; bad usage when it is none."""
        try:
            redaction.learn(*passwords_of(value))
            return ledger_url(Raw(value, "", "", ""), value)
        except ConfigError as error:
            self.fail(str(error).removeprefix(": [] : "), param, ctx)


@contextmanager
def refusals(*others: type[LedgerError]) -> Iterator[None]:
    """End the command by what the ledger says: with another exit code where its server is not there.

    `others`: what the command says itself.
    """
    from luigi_spendguard.ledger.database import Interrupted

    try:
        yield
    except others:
        raise
    except LedgerError as error:
        away = isinstance(error, (LedgerUnreached, Interrupted))
        raise Stop(redaction.redact(str(error)), 3 if away else 1) from None


def refuse_damaged(place: Path | str) -> None:
    """Look whether a file of books can be read as a whole; a server looks after its own pages.

    Raises LedgerUnavailable.
    """
    from luigi_spendguard.ledger.database import copies

    if isinstance(place, Path) and (wrong := copies.damage(place)):
        raise LedgerUnavailable(f"the ledger {place} is damaged: {wrong}. Stop luigid, and restore a backup")


@click.group("ledger", epilog="Example:  spendguard ledger check")
def ledger() -> None:
    """Check the ledger itself, or move it; luigid need not run."""


@ledger.command("check", epilog="Example:  spendguard ledger check sqlite:////var/lib/luigi/spendguard.db")
@click.argument("url", required=False, type=LedgerUrl())
def check_ledger(url: Path | str | None) -> None:
    """Compute every total again from the journal; luigi.cfg's ledger where no URL is named."""
    from luigi_spendguard.ledger.audit.sums import discrepancies  # Late, as all that not each command needs.
    from luigi_spendguard.ledger.database.engines import opened
    from luigi_spendguard.ledger.migrations import check_format

    place = settings_of().ledger if url is None else url
    if isinstance(place, Path) and not place.exists():
        raise Stop(f"there is no ledger at {place}", 1)
    with refusals(), opened(place, read_only=True) as books, books.reading() as tx:
        tx.take_time()
        check_format(tx, place, is_now=False)
        refuse_damaged(place)
        budgets, entries = (
            tx.value("SELECT count(*) FROM budget"),
            tx.value("SELECT count(*) FROM journal"),
        )
        wrong = discrepancies(tx)
    for line in wrong:
        click.echo(line)
    if wrong:
        raise Stop(f"totals that are not the sums of their entries: {len(wrong)}; restore a backup", 1)
    click.echo(f"All totals agree with the journal (budgets: {budgets}, entries: {entries}).")


@ledger.command(epilog="Example:  spendguard ledger copy sqlite:////var/lib/x.db postgresql://luigi@db/books")
@click.argument("source", type=LedgerUrl())
@click.argument("target", type=LedgerUrl())
def copy(source: Path | str, target: Path | str) -> None:
    """Copy all books to an empty database, and prove that both are the same. End luigid first."""
    from luigi_spendguard.ledger.copying import copy_books

    if isinstance(source, Path) and not source.exists():
        raise Stop(f"there is no ledger at {source}", 1)
    with refusals():
        copied = copy_books(source, target)
    what = ", ".join(f"{name}: {copied[name]}" for name in ("run", "call", "journal"))
    click.echo(f"Copied, and the same on both sides (rows of {what}). Now set [spendguard] ledger_url to it.")
    if copied["audit_block"]:
        click.echo(
            "Its audit goes on with the same key: let [spendguard] audit_key_file name that (of this "
            f"luigi.cfg: {settings_of().audit_key}), or put it, and the two files beside it, to where the "
            "other one's is."
        )
    folder, name = spool_folder(), ledger_name(source)
    with suppress(OSError):  # `spendguard check` says so.
        if folder is not None and (left := backlog(folder).waiting.get(name)) is not None:
            there = json.dumps(ledger_name(target))
            click.echo(
                f"Not in it: {counted(left[0], 'message')} for {name} in {folder}. Before luigid runs, write "
                f"{there} as `to` in the first line of each file there that names the old place: else calls "
                "that have ended stay in doubt."
            )
