"""`spendguard reconcile`: the ledger beside a vendor's own books, where its secret and the ledger are."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luigi_spendguard import config, redaction
from luigi_spendguard.cli.api_client import OperatorError, path_of
from luigi_spendguard.cli.context import Since, Stop, ends_of, operator_of, settings_of
from luigi_spendguard.cli.lists import cell_of
from luigi_spendguard.cli.run_names import RunName, run_in
from luigi_spendguard.cli.tables import plain
from luigi_spendguard.config import Settings
from luigi_spendguard.counted import counted
from luigi_spendguard.errors import BooksUnread, LedgerError, NotFound
from luigi_spendguard.money import format_usd, plain_usd
from luigi_spendguard.protocol import command
from luigi_spendguard.settings.policy import moment
from luigi_spendguard.vendors.registry import VENDORS

if TYPE_CHECKING:
    from luigi_spendguard.ledger.database import Database
    from luigi_spendguard.reconcile import Reconciled
    from luigi_spendguard.reconcile.differences import Difference
    from luigi_spendguard.vendors.own_books import Period

#: Vendors whose books can be read.
_READABLE = sorted(name for name, vendor in VENDORS.items() if vendor.books is not None)
#: The columns of a CSV.
FIELDS = (
    *("vendor", "account", "cause", "object", "call", "run_id", "at", "vendor_only_usd", "ledger_only_usd"),
    *("amount", "currency", "certain", "applied", "differs", "reason", "remedy"),
)
#: The same of `--last`.
LAST_FIELDS = (
    *("vendor", "account", "since", "until", "state", "payments", "differences", "vendor_only_usd"),
    *("ledger_only_usd", "kinds", "note", "at"),
)


@click.command(epilog="Example:  spendguard reconcile stripe --since 2026-11-29 --until 2026-11-30")
@click.argument("vendor", type=click.Choice(_READABLE))
@click.option("--since", type=Since(), default="1d", show_default=True, help="Begin there: as --until.")
@click.option(
    "--until", type=Since(), help="End before then: 4h, 2026-11-26, or a moment.  [default: 5 minutes ago]"
)
@click.option(
    "--run", "run_id", metavar="RUN", type=RunName(), help="What calls of this run have made, only."
)
@click.option("--account", help="This account only, as `spendguard calls --format json` names it.")
@click.option("--last", is_flag=True, help="Show what luigid has found at night, and compare nothing.")
@click.option("--apply", "applying", is_flag=True, help="Book through luigid what is certain, and only that.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
)
def reconcile(vendor: str, since: str, until: str | None, applying: bool, form: str, **which: Any) -> None:
    """Compare the ledger with a vendor's own books, where that vendor's secret and the ledger are.

    Prints every cent that is on one side only, with a reason and what to do. Exit codes: 0 nothing differs,
    1 something does that somebody must look at (what cannot be compared, or not yet, is none of it),
    2 bad usage, 3 vendor or ledger cannot be read now (repeated, it goes on).
    """
    from luigi_spendguard.ledger.database.engines import opened  # Late, as all that not each command needs.
    from luigi_spendguard.reconcile import LAG_MS
    from luigi_spendguard.vendors.own_books import Period

    if which.pop("last"):
        if applying or until is not None or any(which.values()):
            raise click.UsageError("--last compares nothing, and goes with --format alone")
        _show_last(vendor, form)
        return
    settings, which["run_id"] = settings_of(), which["run_id"] or ""
    since_ms, until_ms = ends_of(since, until or moment(int(time.time() * 1000) - LAG_MS), over=True)
    assert since_ms is not None
    assert until_ms is not None
    period = Period(since_ms, until_ms)
    secret = _secret_of(vendor, settings)
    place = settings.ledger
    if isinstance(place, Path) and not place.exists():
        raise Stop(f"there is no ledger at {place}: run this where luigid keeps it", 2)
    again = ["reconcile", vendor, "--since", str(moment(period.since_ms))]
    again += ["--until", str(moment(period.until_ms))]
    with _refusals(again), opened(place, read_only=True) as ledger:
        differ = _Shown(vendor, period, form, applying).show(settings, secret, ledger, **which)
    if differ:
        raise SystemExit(1)


def _show_last(vendor: str, form: str) -> None:
    """Print what luigid has found in the last night that it has compared, or is at."""
    rows = operator_of().get("/reconciliations", vendor=vendor, limit="100")
    rows = [row for row in rows if row["until"] == rows[0]["until"]]
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    if form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(LAST_FIELDS)
        for row in rows:
            writer.writerow([cell_of(row, name) for name in LAST_FIELDS])
        return
    if not rows:
        click.echo(f"luigid has not compared {vendor} yet: [spendguard] reconcile = 03:00 lets it.")
    for row in rows:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(row["kinds"].items()))
        said = row["note"] or (
            f"{counted(row['differences'], 'difference')} of {counted(row['payments'], 'payment')}"
            f"{f' ({kinds})' if kinds else ''}, ${row['vendor_only_usd']} at {vendor} only, "
            f"${row['ledger_only_usd']} in the ledger only"
        )
        name = row["account"] or vendor
        click.echo(plain(f"{name} from {row['since']} to {row['until']}, {row['state']}: {said}"))


def _secret_of(vendor: str, settings: Settings) -> str:
    """Return the vendor's secret. Raises Stop where it is not here."""
    from luigi_spendguard.redaction import Secret

    own = settings.vendor(vendor).secret
    named = (os.environ.get(name, "") for name in VENDORS[vendor].secret_variables)
    found = own or next((one for one in named if one and not redaction.shows(one)), "")
    if not found:
        variable = next(iter(VENDORS[vendor].secret_variables), "its variable")
        raise Stop(
            f"{vendor}'s secret is not here: run this where [spendguard_{vendor}] secret is set (on luigid's "
            f"machine, as its user), or with {variable} in the environment",
            2,
        )
    redaction.learn(found)
    return Secret(found)


@contextmanager
def _refusals(again: list[str]) -> Iterator[None]:
    """End the command with 3 where the vendor's books, or the ledger, cannot be read now."""
    try:
        yield
    except BooksUnread as error:
        said = redaction.redact(str(error))
        if error.refused:
            raise Stop(
                f"{said}. It will say so again: nothing of this list can be read as things are", 3
            ) from None
        raise Stop(f"{said}. What was read is kept: {command(*again)} goes on there", 3) from None
    except LedgerError as error:
        raise Stop(redaction.redact(str(error)), 3) from None


class _Shown:
    """Prints what was compared, account by account."""

    def __init__(self, vendor: str, period: Period, form: str, applying: bool) -> None:
        self.vendor, self.period, self.form, self.applying = vendor, period, form, applying
        self.first = True
        self.writer = csv.writer(sys.stdout)

    def show(
        self, settings: Settings, secret: str, ledger: Database, account: str | None, run_id: str
    ) -> bool:
        """Compare and print; return whether something differs that was not booked now."""
        from luigi_spendguard.http.blocking import BlockingTransport
        from luigi_spendguard.reconcile import Reconciler, forget_old

        folder = config.state_folder(os.environ) / "reconcile"
        one = Reconciler(self.vendor, settings, secret, ledger, BlockingTransport(), folder)
        forget_old(folder)
        if run_id:
            run_id = _run_in(ledger, run_id)
        can, cannot = one.accounts(self.period)
        if account is not None:
            if account not in can:
                raise Stop(f"{plain(account)} is none of the accounts that are read: {', '.join(can)}", 2)
            can, cannot = [account], []
        differ = False
        self._begin()
        for name in can:
            done = one.reconcile(name, self.period, run_id)
            try:
                differ = self._show(done) or differ
            finally:
                done.file.remove()
        for name in cannot:
            text = f"Not compared: {name}, in which calls of the period were made; its secret is not here."
            click.echo(text, err=True)
        self._end()
        return differ or bool(cannot)

    def _begin(self) -> None:
        if self.form == "csv":
            self.writer.writerow(FIELDS)
        elif self.form == "json":
            click.echo("[", nl=False)

    def _end(self) -> None:
        if self.form == "json":
            click.echo("\n]")

    def _show(self, done: Reconciled) -> bool:
        """Print one account; return whether something differs still."""
        rows = self._rows(done)
        if self.form == "csv":
            left = self._csv(done, rows)
        elif self.form == "json":
            left = self._json(done, rows)
        else:
            left = self._table(done, rows)
        return left > 0

    def _rows(self, done: Reconciled) -> Iterator[tuple[Difference, str]]:
        """Yield each difference, and what became of it: "" unless it was booked, or could not be."""
        from luigi_spendguard.reconcile.applying import Booking

        booking = Booking(lambda call, body: operator_of().post(path_of("calls", call, "resolve"), body))
        for difference in done.differences():
            said = ""
            if self.applying:
                try:
                    said = "booked" if booking.book(difference) else ""
                except OperatorError as error:
                    if error.exit_code != 1:
                        raise
                    said = f"not booked: {error}"
            yield difference, said

    def _csv(self, done: Reconciled, rows: Iterator[tuple[Difference, str]]) -> int:
        left = 0
        for difference, said in rows:
            left += _differs_still(difference, said)
            shown = _fields(done, difference, said)
            self.writer.writerow([cell_of(shown, name) for name in FIELDS])
        return left

    def _json(self, done: Reconciled, rows: Iterator[tuple[Difference, str]]) -> int:
        left, mark = 0, ""
        head = json.dumps(_head(done), indent=2)
        click.echo(("" if self.first else ",") + "\n" + head[: head.rindex("\n}")], nl=False)
        click.echo(',\n  "differences": [', nl=False)
        compared = True
        for difference, said in rows:
            left += _differs_still(difference, said)
            if compared and not difference.differs:
                click.echo('],\n  "not_compared": [', nl=False)
                compared, mark = False, ""
            click.echo(f"{mark}\n{json.dumps(_fields(done, difference, said))}", nl=False)
            mark = ","
        if compared:
            click.echo('],\n  "not_compared": [', nl=False)
        click.echo("]\n}", nl=False)
        self.first = False
        return left

    def _table(self, done: Reconciled, rows: Iterator[tuple[Difference, str]]) -> int:
        sums, left = done.sums, 0
        click.echo(
            click.style(
                f"{done.work.account} from {moment(self.period.since_ms)} to {moment(self.period.until_ms)}",
                bold=True,
            )
        )
        for difference, said in rows:
            left += _differs_still(difference, said)
            only = [
                f"{format_usd(micros)} {where} only"
                for micros, where in (
                    (difference.vendor_micros, f"at {self.vendor}"),
                    (difference.ledger_micros, "in the ledger"),
                )
                if micros
            ]
            kind = difference.kind.value if difference.differs else f"not compared: {difference.kind.value}"
            click.echo(f"{kind}: {', '.join(only) or '$0.00'}: {plain(difference.reason)}")
            click.echo(f"    {said or plain(difference.remedy)}")
        for what, (count, amount) in sums.apart.items():
            click.echo(f"apart: {what}: {count} lines, {amount} in its smallest unit")
        both = f"{format_usd(sums.matched)} in both"
        there = f"{self.vendor} {format_usd(sums.vendor)} = {both} + {format_usd(sums.vendor_only)}"
        there += _not_compared(sums.vendor_uncompared)
        fees = f" + {format_usd(sums.fees)} in fees" if sums.fees else ""
        here = f"ledger {format_usd(sums.ledger)} = {both}{fees} + {format_usd(sums.ledger_only)}"
        here += _not_compared(sums.ledger_uncompared)
        found = f"{counted(sums.differences, 'difference')} of {counted(sums.monies, 'payment')}"
        click.echo(f"{there}; {here}; {found}.")
        return left


def _run_in(ledger: Database, name: str) -> str:
    try:
        with ledger.reading() as tx:
            return run_in(tx, name)
    except NotFound as error:
        raise Stop(redaction.redact(str(error)), 2) from None


def _differs_still(difference: Difference, said: str) -> bool:
    """Return whether somebody must look at a difference."""
    return difference.differs and said != "booked"


def _not_compared(micros: int) -> str:
    """Return how much cannot be compared, for a sum; "" for nothing."""
    return f" + {format_usd(micros)} not compared" if micros else ""


def _head(done: Reconciled) -> dict[str, Any]:
    sums = done.sums
    return {
        "vendor": done.work.vendor,
        "account": done.work.account,
        "since": str(moment(done.work.period.since_ms)),
        "until": str(moment(done.work.period.until_ms)),
        "vendor_usd": plain_usd(sums.vendor),
        "ledger_usd": plain_usd(sums.ledger),
        "matched_usd": plain_usd(sums.matched),
        "fees_usd": plain_usd(sums.fees),
        "vendor_only_usd": plain_usd(sums.vendor_only),
        "ledger_only_usd": plain_usd(sums.ledger_only),
        "vendor_not_compared_usd": plain_usd(sums.vendor_uncompared),
        "ledger_not_compared_usd": plain_usd(sums.ledger_uncompared),
        "payments": sums.monies,
        "equal": sums.equal,
        "causes": dict(sums.kinds),
        "without_rate": dict(sums.unpriced),
        "apart": {name: {"lines": count, "amount": amount} for name, (count, amount) in sums.apart.items()},
    }


def _fields(done: Reconciled, difference: Difference, said: str) -> dict[str, Any]:
    return {
        "vendor": done.work.vendor,
        "account": done.work.account,
        "cause": difference.kind.value,
        "object": difference.subject,
        "call": difference.call,
        "run_id": difference.run_id,
        "at": str(moment(difference.at_ms)),
        "vendor_only_usd": plain_usd(difference.vendor_micros),
        "ledger_only_usd": plain_usd(difference.ledger_micros),
        "amount": difference.amount,
        "currency": difference.currency,
        "certain": difference.certain,
        "applied": said,
        "differs": difference.differs,
        "reason": difference.reason,
        "remedy": difference.remedy,
    }
