"""The ledger beside the vendors' own books: what is on one side only, why, and what to do about it.

`Reconciler` reads a vendor's lists into a work file (`reading`, `work_file`), brings what the ledger counts
beside them (`ledger_side`), and compares money by money (`comparing`). Nothing is changed: what is certain
is booked through luigid, by who asks for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import BooksUnread
from luigi_spendguard.reconcile.comparing import Comparison, Sums, all_differences
from luigi_spendguard.reconcile.differences import Difference
from luigi_spendguard.reconcile.ledger_side import CanRead, accounts_of, bring
from luigi_spendguard.reconcile.reading import BooksReader, CanSend
from luigi_spendguard.reconcile.work_file import Work, WorkFile
from luigi_spendguard.vendors import Vendor
from luigi_spendguard.vendors.own_books import MARGIN_MS, OwnBooks, Period, Reading
from luigi_spendguard.vendors.registry import VENDORS

#: A period ends so many milliseconds ago at the latest, unless its end is said: calls under way end first.
LAG_MS = 5 * 60_000
#: The most objects that are asked for one by one because no list has them.
MOST_NAMED = 1000


@dataclass
class Reconciled:
    """One account, compared; `close` it, or `remove` what was read of it."""

    work: Work
    sums: Sums
    file: WorkFile
    notes: tuple[str, ...] = ()

    def differences(self) -> Iterator[Difference]:
        """Yield what differs."""
        return all_differences(self.file)


@dataclass(frozen=True)
class Reconciler:
    """Compares one vendor's accounts with a ledger.

    Attributes:
        ledger: for reading.
        folder: where work files are kept.
        wait: waits so many seconds; it may raise to end it all.

    """

    vendor: str
    settings: Settings
    secret: str = field(repr=False)
    ledger: CanRead
    transport: CanSend
    folder: Path
    wait: Callable[[float], object] = time.sleep

    @property
    def books(self) -> OwnBooks:
        """How the vendor's books are read. Raises BooksUnread."""
        books = VENDORS[self.vendor].books
        if books is None:
            raise BooksUnread(f"{self.vendor} shows no books of its own that could be read")
        return books

    def accounts(self, period: Period) -> tuple[list[str], list[str]]:
        """Return the accounts to be read: the secret's own, and those that calls of the period were made in;
        and those of them that this secret cannot read. Raises BooksUnread, LedgerUnavailable.
        """
        own = self.settings.vendor(self.vendor)
        found = {self.books.own_account(own, self.secret), *accounts_of(self.ledger, self.vendor, period)}
        can = {one for one in found if self.books.can_read(one, own, self.secret)}
        return sorted(can), sorted(found - can)

    def reconcile(self, account: str, period: Period, run_id: str = "") -> Reconciled:
        """Compare one account; what was read by an earlier one that broke off is not read again.

        Raises BooksUnread, LedgerUnavailable.
        """
        work = Work(self.vendor, account, period)
        file = WorkFile(self.folder / work.name, work)
        try:
            own = self.settings.vendor(self.vendor)
            reading = Reading(account, period.wider(), own, self.settings.fx)
            vendor: Vendor = VENDORS[self.vendor]
            reader = BooksReader(vendor, self.books, reading, self.secret, self.transport, self.wait)
            reader.read_all(file)
            self._bring(file)
            unlisted = file.unlisted()
            looked = reader.read_named(file, unlisted[:MOST_NAMED])
            if looked:
                self._bring(file)
            unlooked = frozenset(unlisted[MOST_NAMED:]) if looked else frozenset()
            sums = Comparison(file, run_id, self.books.shown, self.books.lists, unlooked).compare()
        except sqlite3.Error as error:
            file.close()
            raise BooksUnread(f"{file.path} cannot be written or read ({error}): make room there") from None
        except BaseException:
            file.close()
            raise
        return Reconciled(work, sums, file)

    def _bring(self, file: WorkFile) -> None:
        """Bring both sides together. Raises LedgerUnavailable."""
        file.clear_compared()
        file.make_lines()
        bring(file, self.ledger, self.books)


def forget_old(folder: Path, older_than_s: float = 30 * 86400) -> None:
    """Remove work files that nobody has gone on with."""
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - older_than_s:
                    path.unlink()


__all__ = ["LAG_MS", "MARGIN_MS", "Reconciled", "Reconciler", "forget_old"]
