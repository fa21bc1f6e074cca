"""`spendguard backup` and `restore`: the ledger is copied while it runs, and put back."""

from __future__ import annotations

import getpass
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from luigi_spendguard.cli.books import LedgerUrl, refusals
from luigi_spendguard.cli.context import Stop, answered, settings_of
from luigi_spendguard.cli.tables import plain, time_of
from luigi_spendguard.counted import counted
from luigi_spendguard.money import format_usd, plain_usd
from luigi_spendguard.protocol import command
from luigi_spendguard.settings.policy import moment
from luigi_spendguard.settings.values import ledger_name

if TYPE_CHECKING:
    from luigi_spendguard.ledger.restoring import HeldRun, Later, Restoration

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog="Example:  spendguard backup /var/backups/spendguard-monday.db")
@click.argument("file", type=_FILE)
@click.option("--ledger", "url", type=LedgerUrl(), help="The ledger, if not luigi.cfg's: sqlite:////PATH.")
def backup(file: Path, url: Path | str | None) -> None:
    """Copy the ledger to a new FILE, while luigid and all others go on, and prove that the copy is whole."""
    from luigi_spendguard.ledger.backup import back_up  # Late, as all that not each command needs.

    place = settings_of().ledger if url is None else url
    if not isinstance(place, Path):
        _say_what_a_server_has(place, "pg_dump --format=custom --file={file} {url}", file)
    if not place.exists():
        raise Stop(f"there is no ledger at {place}", 1)
    with refusals():
        found = back_up(place, file, _progress())
    last = time_of("at")({"at": found.last_at}) or "no moment"
    click.echo(
        f"{file} is a whole copy of {place}: {counted(found.runs, 'run')}, {counted(found.calls, 'call')}, "
        f"{counted(found.entries, 'entry', 'entries')} of the journal, the last one of {last}. Its totals "
        "were computed again from its journal, and agree."
    )
    click.echo(
        f"It has vendors' answers and customers' data: mode 0600. Not in it: luigi.cfg, its secrets, and "
        f"{settings_of().token_file.name}, where luigid has made that."
    )


def _say_what_a_server_has(url: str, text: str, file: Path) -> NoReturn:
    said = text.format(file=shlex.quote(str(file)), url=shlex.quote(ledger_name(url)))
    raise Stop(f"the ledger is at a PostgreSQL server, which has its own means: `{said}`", 2)


def _progress() -> Callable[[int, int], None]:
    """Return what shows in a terminal how far a copy is."""

    def show(done: int, of: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{100 * done // max(1, of)} %", nl=done >= of, err=True)

    return show


@click.command(epilog="Example:  spendguard restore /var/backups/spendguard-monday.db")
@click.argument("file", type=_FILE)
@click.option("--to", "url", type=LedgerUrl(), help="Where the ledger is to be, if not where luigi.cfg says.")
@click.option("--without-revokes", is_flag=True, help="Do not revoke again what was revoked since.")
@click.option("--replace-whole", is_flag=True, help="Replace a ledger that is whole, too, and knows more.")
@click.option(
    "--public-key", "key", type=_FILE, help="Believe these keys (PEM), not those beside the ledger."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(
    file: Path,
    url: Path | str | None,
    without_revokes: bool,
    replace_whole: bool,
    key: Path | None,
    yes: bool,
) -> None:
    """Put the backup FILE in the ledger's place, and keep that beside it. End luigid first.

    Says what came after the backup, as far as the old ledger can be read; what was revoked since is revoked
    again, and runs that may have spent since wait for a top-up.
    """
    from luigi_spendguard.ledger.audit.signing import KeyFiles, public_keys
    from luigi_spendguard.ledger.restoring import prepared

    place = settings_of().ledger if url is None else url
    if not isinstance(place, Path):
        _say_what_a_server_has(place, "pg_restore --clean --if-exists --dbname={url} {file}", file)
    with refusals(), ExitStack() as stack:
        keys = KeyFiles(settings_of().audit_key).trusted() if key is None else public_keys(key)
        found = stack.enter_context(prepared(file, place, keys, although_whole=replace_whole))
        for line in _said(found, with_revokes=not without_revokes):
            click.echo(plain(line))
        if not yes:
            if not sys.stdin.isatty():
                raise Stop("nothing was changed: --yes restores it without a question", 2)
            if not answered(lambda: click.confirm(f"Put it in the place of {place}?")):
                raise Stop("nothing was changed", 1)
        kept = found.put(with_revokes=not without_revokes, actor=f"{getpass.getuser()} on this machine")
    _go_on_sealing(place)
    old = f" The old ledger is kept as {kept}." if kept is not None else ""
    click.echo(f"Restored: {place}.{old} Now start luigid.")
    if found.held:
        click.echo(
            f"Nothing remains to {counted(len(found.held), 'run')} until you top {_them(found.held)} up by "
            "what the vendors' books leave; other runs go on."
        )


def _go_on_sealing(place: Path) -> None:
    """Let luigid seal behind the restored ledger's last block: it knows a later one, of the ledger before."""
    from luigi_spendguard.ledger.audit import sealing
    from luigi_spendguard.ledger.audit.signing import KeyFiles
    from luigi_spendguard.ledger.database.engines import opened

    settings = settings_of()
    if place != settings.ledger:
        click.echo("Where luigid has sealed this ledger here before: spendguard audit accept.")
        return
    with refusals(), opened(place, read_only=True) as books, books.reading() as tx:
        last = sealing.accept(tx, KeyFiles(settings.audit_key))
    if last is not None:
        click.echo(
            f"Its audit ends with block {last.number}, {last.hash}: luigid goes on there, and seals first "
            "that it was restored, by whom and from what."
        )


def _them(held: Sequence[HeldRun]) -> str:
    return "it" if len(held) == 1 else "them"


def _said(found: Restoration, *, with_revokes: bool) -> Iterator[str]:
    """Yield what is said before a backup is put in its place."""
    had, until = found.contents, time_of("at")({"at": found.contents.last_at}) or "no moment"
    yield (
        f"{found.source} is whole: {counted(had.runs, 'run')}, {counted(had.calls, 'call')}, "
        f"{counted(had.entries, 'entry', 'entries')}; it ends at {until}."
    )
    if found.sealed is None:
        yield "Nothing of it was sealed: that nobody has changed it is not shown."
    elif found.is_verified:
        yield f"Its audit is as it was sealed, up to block {found.sealed.number} ({found.sealed.hash})."
    else:
        yield (
            f"NOT VERIFIED: its audit, up to block {found.sealed.number}, as there is no public key here: "
            "--public-key FILE names one."
        )
    later = found.later
    if not later.is_there:
        yield "There is no ledger in its place that could say what came after that."
    elif not later.is_same:
        yield f"{found.place} has other books: nothing is taken from it."
    else:
        yield from _later(later, with_revokes=with_revokes)
    since = ", and later" if later.is_there and not later.knows else ""
    if not later.knows:
        yield (
            f"UNKNOWN: what was paid, topped up and revoked after {until}{since}. What tasks have paid since "
            "is paid again where they are made again, but for what Stripe and Resend still know by its key "
            "(24 hours). Revoke again what had been revoked, and look at the vendors' books: "
            f"{_reconciles(found)}."
        )
    elif any(one.spent for one in later.runs or ()):
        yield (
            "What was paid since is not in the restored books: their tasks pay again where they are made "
            "again (in a new run, too), but for what Stripe and Resend still know by its key (24 hours). "
            f"Look at the vendors' books first: {_reconciles(found)}."
        )
    for one in found.held:
        said = f"{format_usd(one.left)} was left in the backup"
        if one.left_there is not None:
            said += f", {format_usd(one.left_there)} in the ledger that is replaced"
            usd = plain_usd(one.left_there)
        else:
            usd = "USD"
        yield f"HELD: {one.run_id}: {said}; once you know what is left: {command('top-up', one.run_id, usd)}"


def _reconciles(found: Restoration) -> str:
    """Return the command that lists what a vendor has and the restored books do not."""
    return command("reconcile", "VENDOR", "--since", str(moment(found.contents.last_at)))


def _later(later: Later, *, with_revokes: bool) -> Iterator[str]:
    """Yield what the ledger that is replaced knows and the backup does not."""
    if later.wrong:
        yield f"NOT WHOLE: {later.wrong}. What can be read of it:"
    for what in later.unread:
        yield f"UNREADABLE: its {what}"
    does = "and again now" if with_revokes else "and NOT again"
    for run in later.runs or ():
        if run.is_revoked:
            yield f"REVOKED since, {does}: run {run.run_id}"
        if run.spent:
            opened = " (opened since)" if run.is_new else ""
            yield f"SPENT since: run {run.run_id}{opened}: {format_usd(run.spent)}"
    for key in later.keys:
        yield f"REVOKED since, {does}: vault key {key['id']} of run {key['run_id']}"
    for row in later.top_ups:
        amount, _, inside = str(row["note"]).partition(" ")
        yield (
            f"TOPPED UP since, and not again: run {row['run_id']}{f' ({inside})' if inside else ''}: "
            f"{format_usd(int(amount))}"
        )
    for call in later.calls:
        made = f"{call['vendor']} {call['operation']} {call['object_id'] or ''}".rstrip()
        yield (
            f"CALLED since: run {call['run_id']}, call {call['id']}: {format_usd(call['cost'])} "
            f"{call['state']}, {made}{f', task {task}' if (task := call['task_id']) else ''}"
        )
    if len(later.calls) >= 1000:
        yield "More calls are in the ledger that is kept."
