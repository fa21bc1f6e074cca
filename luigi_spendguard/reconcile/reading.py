"""Reads a vendor's lists into a work file: GETs alone, of the paths that its books name, at a modest rate.

What the vendor refuses for a while is asked for again as it says (Retry-After). A list that breaks off is an
error: what was read stays, and the same command goes on there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

from luigi_spendguard import backoff, strict_json
from luigi_spendguard.errors import BooksUnread, SpendguardError, bare
from luigi_spendguard.http.transport import CONNECT_S
from luigi_spendguard.reconcile.work_file import WorkFile
from luigi_spendguard.redaction import is_in, redact
from luigi_spendguard.vendors import Reply, Request, Vendor
from luigi_spendguard.vendors.bodies import MOST_JSON
from luigi_spendguard.vendors.own_books import EntryPage, OwnBooks, PageRequest, Reading

#: How often a page is asked for, and the longest wait in seconds that a vendor may ask for in between.
TRIES, LONGEST_S = 6, 120.0


class CanSend(Protocol):
    """Sends one request: `http.blocking.BlockingTransport`."""

    def send(self, request: Request, deadline: float, timeout_s: float, connect_s: float = ...) -> Reply:
        """Return the reply; raises OSError or NotSent without one."""


@dataclass(frozen=True)
class BooksReader:
    """Reads one account's books.

    Attributes:
        secret: the vendor's real credential: it goes to the vendor's own address alone.
        wait: waits so many seconds; it may raise to end the reading.

    """

    vendor: Vendor
    books: OwnBooks
    reading: Reading
    secret: str
    transport: CanSend
    wait: Callable[[float], object] = time.sleep

    def read_all(self, work: WorkFile) -> None:
        """Read all lists to their ends. Raises BooksUnread; what was read by then is kept."""
        for listed in self.books.lists:
            asked = work.begin(self.books.first(listed, self.reading))
            while asked is not None:
                reply, asked_ms = self._fetched(asked)
                page = self._read(asked, reply)
                work.keep(asked, page, asked_ms)
                asked = page.next

    def read_named(self, work: WorkFile, names: Iterable[str]) -> frozenset[str]:
        """Read one by one what no list has; return what of it can be read so, or is not there.

        Raises BooksUnread; what was read by then is kept.
        """
        looked = set()
        for name in names:
            asked = self.books.named(name, self.reading)
            if asked is None:
                continue
            reply, asked_ms = self._fetched(asked, (200, 404))
            if reply.status == 200:
                work.keep_named(self._read(asked, reply), asked_ms)
            looked.add(name)
        return frozenset(looked)

    def _read(self, asked: PageRequest, reply: Reply) -> EntryPage:
        where = f"{asked.listed} of {self.vendor.name}"
        if is_in(reply.body, self.secret):
            raise BooksUnread(f"{where}: the answer has the vendor's secret in it, and is not kept")
        try:
            if len(reply.body) > MOST_JSON:
                raise ValueError("it is too long")
            page = self.books.read(asked, reply, self.reading)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = f"{type(error).__name__}: {str(error)[:120]}" if str(error) else type(error).__name__
            raise BooksUnread(f"{where}: a page cannot be read ({why})") from None
        if page.next is not None and not page.entries:
            raise BooksUnread(f"{where}: a page has nothing and says that there is more")
        if page.next is not None and not self.books.paths.fullmatch(page.next.path):
            raise BooksUnread(
                f"{where}: a page leads to {page.next.path[:120]!r}, which is none of its lists"
            )
        return page

    def _fetched(self, asked: PageRequest, statuses: tuple[int, ...] = (200,)) -> tuple[Reply, int]:
        """Return a page's reply with one of these statuses, and when it was asked for, in milliseconds since
        the epoch. Raises BooksUnread.
        """
        where = f"{asked.listed} of {self.vendor.name}"
        if not self.books.paths.fullmatch(asked.path):
            raise BooksUnread(f"{where}: {asked.path[:120]!r} is none of the lists that are read")
        waits = backoff.growing(1.0, 30.0)
        why, refused = "", False
        for _ in range(TRIES):
            self.wait(1 / self.books.per_second)
            asked_ms = int(time.time() * 1000)
            try:
                reply = self._sent(asked)
            except (SpendguardError, OSError) as error:
                why, wait_s = (
                    f"it cannot be reached ({str(error)[:200] or type(error).__name__})",
                    next(waits),
                )
            else:
                if reply.status in statuses:
                    return reply, asked_ms
                why = f"HTTP {reply.status}{self._words(reply)}"
                wait_s = backoff.asked_for(reply.headers.get("retry-after", ""), next(waits), LONGEST_S)
                if reply.status in (401, 403):
                    why += ": the secret may not read this list"
                if refused := reply.status != 429 and reply.status < 500:
                    break
            self.wait(wait_s)
        raise BooksUnread(f"{where} cannot be read: {why}", refused=refused)

    def _words(self, reply: Reply) -> str:
        """Return what a vendor says of a request that it refuses, for a sentence; "" for nothing."""
        if is_in(reply.body, self.secret):
            return ""
        try:
            said = strict_json.read(reply.body)
            own = said.get("error", said)
            words = own if isinstance(own, str) else own.get("message", "")
        except (ValueError, AttributeError, RecursionError):
            return ""
        text = " ".join(str(words).split())
        return f" ({redact(text)[:200]})" if text.isprintable() and text else ""

    def _sent(self, asked: PageRequest) -> Reply:
        own = self.reading.settings
        url = self.vendor.url(asked.path) + (f"?{urlencode(asked.query)}" if asked.query else "")
        request = Request("GET", url, dict(self.books.headers(self.reading.account)))
        try:
            wire = self.vendor.wire(request, own, self.secret, "")
            return self.transport.send(wire, time.monotonic() + own.timeout_s, own.timeout_s, CONNECT_S)
        except Exception as error:
            raised = bare(error)  # Its frames have the secret.
        raise raised
