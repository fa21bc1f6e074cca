"""A vendor's lists are read to their ends, or it is said why not; nothing that was read is lost."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard import redaction
from luigi_spendguard.errors import BooksUnread
from luigi_spendguard.reconcile.reading import TRIES, BooksReader
from luigi_spendguard.reconcile.work_file import Work, WorkFile
from luigi_spendguard.settings import VendorSettings
from luigi_spendguard.vendors import Reply
from luigi_spendguard.vendors.own_books import Period, Reading
from tests.support.vendor_books import SECRET, PaperTransport, PaperVendor, in_pages

PERIOD = Period(1_000_000, 2_000_000)
VENDOR = PaperVendor()


def thing(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "kind": "charge", "at_ms": 1_500_000, "micros": 10_000, "amount": 1, **more}


@pytest.fixture
def work(tmp_path: Path) -> Iterator[WorkFile]:
    file = WorkFile(tmp_path / "work" / "one.db", Work("paper", "paper:1", PERIOD))
    yield file
    file.close()


def read(work: WorkFile, transport: PaperTransport) -> list[float]:
    waits: list[float] = []
    reading = Reading("paper:1", PERIOD.wider(), VendorSettings("paper"))
    BooksReader(VENDOR, VENDOR.books, reading, SECRET, transport, waits.append).read_all(work)
    return waits


def ids(work: WorkFile) -> list[str]:
    return [str(row[0]) for row in work.db.execute("SELECT id FROM entry ORDER BY id")]


def test_all_pages_are_read_once(work: WorkFile) -> None:
    transport = PaperTransport(in_pages([thing(f"t{n}") for n in range(5)]))
    read(work, transport)
    assert ids(work) == ["t0", "t1", "t2", "t3", "t4"]
    read(work, transport)
    assert len(transport.asked) == 3
    assert work.counts() == {"things": (3, 5)}


def test_the_secret_goes_to_the_vendor_alone_and_stands_nowhere(work: WorkFile) -> None:
    redaction.learn(SECRET)
    good = PaperTransport(in_pages([thing("t1")]))
    read(work, good)
    assert {one.url for one in good.asked} == {"https://paper.example/things"}
    assert SECRET not in repr(good.asked)
    other = WorkFile(work.path.with_name("other.db"), work.work)
    with pytest.raises(BooksUnread, match="secret in it, and is not kept"):
        read(other, PaperTransport(in_pages([thing("t0", tag=f"a{SECRET}b")])))
    other.close()
    assert SECRET.encode() not in b"".join(one.read_bytes() for one in work.path.parent.iterdir())


def test_a_line_that_is_listed_twice_is_one_and_the_last_word_counts(work: WorkFile) -> None:
    pages = [
        {"things": [thing("t0"), thing("t1")], "next": "t1"},
        {"things": [thing("t1", state="later"), thing("t0")], "next": None},
    ]
    read(work, PaperTransport(lambda path, query, number: pages[number]))
    assert ids(work) == ["t0", "t1"]
    assert work.db.execute("SELECT state FROM entry WHERE id = 't1'").fetchone() == ("later",)


BROKEN = {
    "empty": {"things": [], "next": "t1"},
    "garbled": Reply(200, {}, b'{"things": [{"id": "t'),
    "no list": [1, 2],
    "null": Reply(200, {}, b"null"),
    "endless": Reply(200, {}, b"[" * 100_000),
    "elsewhere": {"things": [thing("t2")], "next": "t2", "path": "/v1/accounts"},
    "again": {"things": [thing("t2")], "next": "t1"},
    "refused": Reply(403, {}, b"{}"),
    "moved": Reply(302, {"location": "https://elsewhere.example/things"}, b""),
    "away": ConnectionError("reset"),
    "failing": Reply(500, {}, b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_list_that_breaks_off_keeps_what_was_read_and_goes_on_there(work: WorkFile, name: str) -> None:
    things = [thing(f"t{n}") for n in range(4)]
    good = in_pages(things)

    def answer(path: str, query: dict[str, str], number: int) -> Any:
        return good(path, query, number) if not query else BROKEN[name]

    with pytest.raises(BooksUnread, match="things"):
        read(work, PaperTransport(answer))
    assert ids(work) == ["t0", "t1"]
    transport = PaperTransport(good)
    read(work, transport)
    assert ids(work) == ["t0", "t1", "t2", "t3"]
    assert "after" in transport.asked[0].url


def test_a_vendor_that_is_busy_is_asked_again_when_it_says(work: WorkFile) -> None:
    busy = Reply(429, {"retry-after": "7"}, b"{}")
    good = in_pages([thing("t0")])
    waits = read(
        work, PaperTransport(lambda path, query, number: busy if number < 2 else good(path, query, 0))
    )
    assert waits.count(7.0) == 2
    assert ids(work) == ["t0"]


@pytest.mark.parametrize("said", ["nan", "-5", "1e308", "tomorrow"])
def test_it_waits_within_bounds_whatever_a_vendor_says(work: WorkFile, said: str) -> None:
    busy = Reply(429, {"retry-after": said}, b"{}")
    transport = PaperTransport(lambda path, query, number: busy)
    with pytest.raises(BooksUnread, match="HTTP 429"):
        read(work, transport)
    assert len(transport.asked) == TRIES


def test_the_file_is_its_owners_alone_and_one_process_has_it(work: WorkFile) -> None:
    assert stat.S_IMODE(work.path.stat().st_mode) == 0o600
    with pytest.raises(BooksUnread, match="under way"):
        WorkFile(work.path, work.work)


def test_a_file_of_another_period_or_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.db"
    WorkFile(path, Work("paper", "paper:1", PERIOD)).close()
    with pytest.raises(BooksUnread, match="remove it"):
        WorkFile(path, Work("paper", "paper:2", PERIOD))
    other = tmp_path / "other.db"
    other.write_bytes(b"no database" * 100)
    with pytest.raises(BooksUnread, match="remove it"):
        WorkFile(other, Work("paper", "paper:1", PERIOD))
    link = tmp_path / "link.db"
    link.symlink_to(other)
    with pytest.raises(BooksUnread, match="cannot be used"):
        WorkFile(link, Work("paper", "paper:1", PERIOD))
