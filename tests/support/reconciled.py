"""Books what is certain of a comparison, as luigid's `resolve` does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from luigi_spendguard.ledger.corrections import Resolution, resolve
from luigi_spendguard.money import parse_usd
from luigi_spendguard.reconcile.applying import Booking
from luigi_spendguard.reconcile.differences import Difference
from tests.support.books import Books


def applied(books: Books, found: Iterable[Difference]) -> int:
    """Book what is certain; return how much that was. Raises Conflict."""

    def say(call_id: str, body: dict[str, Any]) -> dict[str, Any]:
        flags = (body.get("overrun", False), False, body.get("by_books", False), body["as_of"])
        word = Resolution(parse_usd(body["spent_usd"]), body.get("object_id"), *flags)
        books.write(resolve, call_id, word, body["request_id"])
        sql = "SELECT id FROM journal WHERE request_id = ?"
        return {"as_of": books.read(lambda tx: tx.value(sql, body["request_id"]))}

    booking = Booking(say)
    return sum([booking.book(difference) for difference in found])
