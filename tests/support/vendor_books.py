"""A vendor whose books are made by hand, and a transport that answers with them: without a socket."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Outcome, Quote, Reply, Request, Vendor
from luigi_spendguard.vendors.own_books import Entry, EntryPage, OwnBooks, PageRequest, Reading

#: What is in the account of `PaperVendor`, in one list.
SECRET = "sk_paper_very_secret"


class PaperBooks(OwnBooks):
    """One list, `things`, in pages of two."""

    lists: tuple[str, ...] = ("things",)
    paths = re.compile("/things")
    per_second = 1000.0

    def own_account(self, settings: VendorSettings, secret: str) -> str:
        return "paper:1"

    def first(self, listed: str, reading: Reading) -> PageRequest:
        return PageRequest(listed, f"/{listed}")

    def read(self, page: PageRequest, reply: Reply, reading: Reading) -> EntryPage:
        body = json.loads(reply.body)
        entries = tuple(
            Entry(
                **{
                    **one,
                    "listed": page.listed,
                    "objects": tuple(one.get("objects", (one["id"],))),
                    "about": tuple(one.get("about", ())),
                }
            )
            for one in body["things"]
        )
        after = body.get("next")
        path = body.get("path", page.path)
        return EntryPage(
            entries, None if after is None else PageRequest(page.listed, path, (("after", after),))
        )


class PaperVendor(Vendor):
    """Has books, and nothing to call."""

    name = "paper"
    home = "https://paper.example"
    books = PaperBooks()

    def quote(
        self, request: Request, settings: VendorSettings, secret: str, fx: Mapping[str, Decimal]
    ) -> Quote:
        raise NotImplementedError

    def outcome(self, quote: Quote, reply: Reply, *, resent: bool, fx: Mapping[str, Decimal]) -> Outcome:
        raise NotImplementedError


class PaperTransport:
    """Answers by `answer`, which is given the path, the query and how many were asked before."""

    def __init__(self, answer: Callable[[str, dict[str, str], int], Any]) -> None:
        self.answer = answer
        self.asked: list[Request] = []

    def send(self, request: Request, deadline: float, timeout_s: float, connect_s: float = 0) -> Reply:
        parts = urlsplit(request.url)
        self.asked.append(request)
        said = self.answer(parts.path, dict(parse_qsl(parts.query)), len(self.asked) - 1)
        if isinstance(said, BaseException):
            raise said
        return said if isinstance(said, Reply) else Reply(200, {}, json.dumps(said).encode())


def in_pages(things: list[dict[str, Any]], size: int = 2) -> Callable[[str, dict[str, str], int], Any]:
    """Return what answers with pages of a list."""

    def answer(path: str, query: dict[str, str], number: int) -> Any:
        ids = [one["id"] for one in things]
        begin = ids.index(query["after"]) + 1 if "after" in query else 0
        page = things[begin : begin + size]
        more = begin + size < len(things)
        return {"things": page, "next": page[-1]["id"] if more else None}

    return answer
