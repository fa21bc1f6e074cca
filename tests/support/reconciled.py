"""Books what is certain of a comparison, as luigid's `resolve` does."""

from __future__ import annotations

from collections.abc import Iterable

from luigi_spendguard.ledger.corrections import Resolution, resolve
from luigi_spendguard.money import parse_usd
from luigi_spendguard.reconcile.applying import resolution_of
from luigi_spendguard.reconcile.differences import Difference
from tests.support.books import Books


def applied(books: Books, found: Iterable[Difference]) -> int:
    """Book what is certain; return how much that was."""
    count = 0
    for difference in found:
        body = resolution_of(difference)
        if body is not None:
            flags = (body.get("overrun", False), False, body.get("by_books", False))
            word = Resolution(parse_usd(body["spent_usd"]), body.get("object_id"), *flags)
            books.write(resolve, difference.call, word, body["request_id"])
            count += 1
    return count
