"""Of several luigids one compares a night with a vendor's books; what was missed is caught up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from luigi_spendguard.ledger import reconciliations as nightly
from luigi_spendguard.ledger.pruning import prune
from luigi_spendguard.ledger.reconciliations import AGAIN_MS, DAY_MS, LEASE_MS, MOST_DAYS, NightFinding
from tests.support.books import Books

UNTIL = 20_000 * DAY_MS


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db")
    yield books
    books.ledger.close()


def take(books: Books, owner: str = "one", until: int = UNTIL) -> int | None:
    since: int | None = books.write(nightly.take, "stripe", until, owner)
    return since


def age(books: Books, ms: int) -> None:
    books.write(lambda tx: tx.run("UPDATE reconciliation SET at = at - ?", ms + 1))


def end(books: Books, state: str, until: int = UNTIL) -> None:
    books.write(nightly.keep, "stripe", (until - DAY_MS, until), NightFinding(""), state)


def test_one_takes_a_night_and_no_other(books: Books) -> None:
    assert take(books) == UNTIL - DAY_MS
    assert take(books, "two") is None
    end(books, "done")
    assert (take(books), take(books, "two")) == (None, None)
    assert take(books, "two", UNTIL + DAY_MS) == UNTIL


def test_one_that_has_died_is_taken_over_and_hears_of_it(books: Books) -> None:
    take(books)
    assert books.write(nightly.go_on, "stripe", UNTIL, "one")
    age(books, LEASE_MS)
    assert take(books, "two") == UNTIL - DAY_MS
    assert not books.write(nightly.go_on, "stripe", UNTIL, "one")
    assert take(books, "one") is None


def test_one_that_has_failed_is_tried_again_later(books: Books) -> None:
    take(books)
    end(books, "failed")
    assert take(books, "two") is None
    age(books, AGAIN_MS)
    assert take(books, "two") == UNTIL - DAY_MS


def test_missed_nights_are_caught_up_within_bounds(books: Books) -> None:
    take(books)
    end(books, "done")
    assert take(books, until=UNTIL + 5 * DAY_MS) == UNTIL
    assert take(books, until=UNTIL + 90 * DAY_MS) == UNTIL + (90 - MOST_DAYS) * DAY_MS


def test_what_was_found_is_listed_with_what_has_failed(books: Books) -> None:
    take(books)
    finding = NightFinding("stripe:test", 3, 1, 5_000_000, 0, {"outside": 1})
    books.write(nightly.keep, "stripe", (UNTIL - DAY_MS, UNTIL), finding, "done")
    [account, night] = sorted(books.read(nightly.listed, "stripe", 10), key=lambda one: one["account"] or "~")
    assert (night["account"], night["state"]) == (None, "under_way")
    assert {name: account[name] for name in ("account", "differences", "vendor_only_usd", "kinds")} == {
        "account": "stripe:test",
        "differences": 1,
        "vendor_only_usd": "5.00",
        "kinds": {"outside": 1},
    }
    end(books, "done")
    assert [one["account"] for one in books.read(nightly.listed, None, 10)] == ["stripe:test"]
    assert books.read(nightly.listed, "twilio", 10) == []


def test_what_was_found_long_ago_is_pruned_but_the_newest_of_each_vendor(books: Books) -> None:
    for vendor, nights in (("stripe", (1, 2, 3)), ("twilio", (1,))):
        for night in nights:
            until = UNTIL + night * DAY_MS
            for finding, state in ((NightFinding("account"), "done"), (NightFinding(""), "done")):
                books.write(nightly.keep, vendor, (until - DAY_MS, until), finding, state)
    take(books, "dead", UNTIL + 3 * DAY_MS - 1)
    age(books, LEASE_MS)
    take(books, "at it", UNTIL + 3 * DAY_MS - 2)
    books.write(prune, UNTIL + 2 * DAY_MS)
    assert books.read(lambda tx: tx.value("SELECT count(*) FROM reconciliation WHERE vendor = 'stripe'")) == 6
    books.write(prune, UNTIL + 9 * DAY_MS)
    left = books.read(lambda tx: tx.all("SELECT vendor, until_ms, state FROM reconciliation ORDER BY 1, 2"))
    assert [(row["vendor"], (row["until_ms"] - UNTIL) // DAY_MS, row["state"]) for row in left] == [
        ("stripe", 2, "under_way"),
        ("stripe", 3, "done"),
        ("stripe", 3, "done"),
        ("twilio", 1, "done"),
        ("twilio", 1, "done"),
    ]
