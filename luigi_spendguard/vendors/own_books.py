"""`OwnBooks`: what a vendor says of its own books: which lists have them, and how a page is read. No I/O.

`luigi_spendguard.reconcile` reads the pages and compares them with the ledger.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors.model import Reply

#: Milliseconds on both sides of a period that are read, too: what was sent before its edge may be opened
#: behind it.
MARGIN_MS = 3_600_000

#: The rank of a line that says when money moved, and not when what moves it was opened: that may be long ago.
MOVEMENT = 9

#: How the kind of a line ends that nobody here has ordered: others have.
CAME_IN = " that came in"


@dataclass(frozen=True)
class Period:
    """From when (inclusive) until when, in milliseconds since the epoch, UTC."""

    since_ms: int
    until_ms: int

    def has(self, at_ms: int) -> bool:
        """Return whether a moment is in it."""
        return self.since_ms <= at_ms < self.until_ms

    def wider(self, by_ms: int = MARGIN_MS) -> Period:
        """Return it with a margin on both sides."""
        return Period(max(0, self.since_ms - by_ms), self.until_ms + by_ms)


@dataclass(frozen=True)
class PageRequest:
    """One page of a vendor's list: a GET of `path`, as `Vendor.url` takes it, with `query`.

    `listed` is the list's name. Two equal ones ask for the same page.
    """

    listed: str
    path: str
    query: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One line of a vendor's books.

    Attributes:
        listed: the list that has it.
        id: the vendor's id of the line: one that is listed twice is one.
        kind: `charge`, `refund`, `dispute`, `payout`, `topup`, `transfer`, `fee`, `message`, `call`, `email`,
            `other`.
        at_ms: when it was made at the vendor, in milliseconds since the epoch.
        state: in the vendor's own words.
        objects: the ids by which the ledger may know this very money; the one that counts comes first.
        about: what it takes from or gives back: the charge that is refunded or disputed.
        amount: what it has moved, never below 0, in minor units; None where the vendor does not count so.
        currency: in lower case, "" where it has none.
        micros: the same in micro-dollars, as the guard counts it; None: it has no rate, or no price yet.
        open_micros: what it can still be made to move, in micro-dollars.
        tag: the tag of a call (`OwnBooks.tag_of`) in its metadata; anybody may have written it there.
        target: whom it concerns, as a call's `target` names it; "" where that is not known.
        final: the amount is the last word.
        counted: it counts by itself; else it tells what else is known of `objects` (which are one money),
            or of fees, and adds nothing.
        whole: the fees are in `micros` that the call was quoted with; else they may lack.
        estimated: the vendor names no price for it, or not a whole one: `micros` is what luigi.cfg's prices
            make of it now, and what a call was quoted with stands.
        note: what the amount is, for people.
        price_by_ms: until when the vendor may name a price, in milliseconds since the epoch; None: at once.
        marks: what requests that may have made it are known by (`OwnBooks.marks_of`).
        ordered_ms: when such a request was made, where that is not `at_ms`: as that is.
        rank: of the lines of one money (those that share one of their `objects`) the ones of the lowest rank
            count; the others say the same. `MOVEMENT`: see there.

    """

    listed: str
    id: str
    kind: str
    at_ms: int
    state: str = ""
    objects: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    amount: int | None = None
    currency: str = ""
    micros: int | None = None
    open_micros: int = 0
    tag: str = ""
    target: str = ""
    final: bool = True
    counted: bool = True
    whole: bool = True
    estimated: bool = False
    note: str = ""
    price_by_ms: int | None = None
    marks: tuple[str, ...] = ()
    ordered_ms: int | None = None
    rank: int = 0


@dataclass(frozen=True)
class EntryPage:
    """What a page has: its lines, and the request for the next one (None: it was the last)."""

    entries: tuple[Entry, ...]
    next: PageRequest | None = None


@dataclass(frozen=True)
class Reading:
    """For whom pages are read.

    Attributes:
        account: as calls name it (`Quote.account`).
        period: as asked for, with the margin.
        settings: the vendor's section.
        fx: USD for one unit of each currency.

    """

    account: str
    period: Period
    settings: VendorSettings
    fx: Mapping[str, Decimal] = field(default_factory=dict)


class OwnBooks(ABC):
    """A vendor's books.

    Attributes:
        lists: the names of its lists, in the order in which they are read.
        paths: the paths that may be read with the secret: no page leads elsewhere.
        per_second: how many pages are asked for in a second, at the most.
        operations: the operations' names of which `marks_of` may tell something.
        shown: how the ids of objects begin that its lists show; empty: all that calls name.

    """

    lists: tuple[str, ...]
    paths: re.Pattern[str]
    per_second: float = 4.0
    operations: frozenset[str] = frozenset()
    shown: tuple[str, ...] = ()

    @abstractmethod
    def own_account(self, settings: VendorSettings, secret: str) -> str:
        """Return the account of the secret itself, as calls name it. Raises BooksUnread where that is not
        known.
        """

    def can_read(self, account: str, settings: VendorSettings, secret: str) -> bool:
        """Return whether the secret may read the books of an account."""
        return account == self.own_account(settings, secret)

    @abstractmethod
    def first(self, listed: str, reading: Reading) -> PageRequest:
        """Return the request for a list's first page."""

    def headers(self, account: str) -> Mapping[str, str]:
        """Return what a request for an account's books says besides, names in lower case."""
        return {}

    @abstractmethod
    def read(self, page: PageRequest, reply: Reply, reading: Reading) -> EntryPage:
        """Read a reply with the status 200.

        Raises ValueError, KeyError, TypeError or AttributeError for what is no page of such a list.
        """

    def named(self, object_id: str, reading: Reading) -> PageRequest | None:
        """Return the request, of the list `named`, for what a call has opened and no list shows: not all that
        there is must be in one. None: what is in no list is not there.
        """
        return None

    def tag_of(self, wire_key: str) -> str:
        """Return the tag that what is sent under a key on the wire has, "" for none."""
        return ""

    def marks_of(self, operation: str, body: str) -> tuple[str, ...]:
        """Return what each thing is known by that a call with this body has opened, if it was executed.

        Nothing where the lists do not show enough to tell.
        """
        return ()
