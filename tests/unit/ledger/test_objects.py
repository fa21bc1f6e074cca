"""What an object counts for: taken once over calls, given back once, never freed by what is no news of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import corrections
from luigi_spendguard.ledger.corrections import Resolution
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest, ReserveRequest
from tests.support.books import Books
from tests.support.processes import REPOSITORY


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db", cap=1000)
    yield books
    assert books.audit() == []
    books.ledger.close()


def settle(books: Books, key: str, ask: ReserveRequest, total: int | None, **more: Any) -> None:
    end = EndRequest("settle", ask.call_id, 1, total_micros=total, status=200, answer_body="{}", **more)
    books.end(key, end)


def call(books: Books, key: str, total: int | None, settled: int | None, **more: Any) -> None:
    """Reserve and settle a call; `ends` are the end's own fields."""
    ends = more.pop("ends", {})
    ask = books.ask(0, **more)
    ask = ReserveRequest(**{**ask.__dict__, "total_micros": total})
    assert books.reserve(key, ask).verdict == "allowed"
    settle(books, key, ask, settled, **ends)


def opened(books: Books, key: str, object_id: str, total: int) -> None:
    call(books, key, total, total, ends={"object_id": object_id, "worth_micros": total})


def test_a_call_that_is_free_changes_nothing_of_what_its_object_counts_for(books: Books) -> None:
    key = books.claim("task")
    opened(books, key, "re_1", 300)
    call(books, key, 0, None, ends={"object_id": "re_1"})
    assert books.figures() == (300, 0, 0)
    call(books, key, 0, 0, object_id="re_1", ends={"only_less": True})
    assert books.figures() == (0, 0, 0)


def test_what_only_frees_never_takes(books: Books) -> None:
    key = books.claim("task")
    call(books, key, 0, 500, object_id="pi_foreign", ends={"only_less": True})
    assert books.figures() == (0, 0, 0)


def test_an_object_takes_over_what_others_counted_and_frees_it_with_its_own(books: Books) -> None:
    key = books.claim("task")
    opened(books, key, "ii_1", 400)
    opened(books, key, "ii_2", 600)
    # The cap is reached; the invoice costs nothing more.
    call(books, key, 1000, 1000, object_id="in_1", covers=("ii_1", "ii_2"), ends={"covers": ("ii_1", "ii_2")})
    assert books.figures() == (1000, 0, 0)
    call(books, key, 0, 0, object_id="ii_1", ends={"only_less": True})
    assert books.figures() == (1000, 0, 0)
    call(books, key, 0, 0, object_id="in_1", ends={"only_less": True})
    assert books.figures() == (0, 0, 0)


def test_an_object_on_which_a_call_is_in_doubt_is_covered_by_none(books: Books) -> None:
    key = books.claim("task")
    opened(books, key, "ii_1", 100)
    raised = books.ask(500, object_id="ii_1")
    assert books.reserve(key, raised).verdict == "allowed"
    books.end(key, EndRequest("doubt", raised.call_id, 1))
    call(books, key, 100, 100, object_id="in_1", covers=("ii_1",), ends={"covers": ("ii_1",)})
    assert books.figures() == (200, 400, 0)
    books.end(key, EndRequest("void", raised.call_id, 1, definite=True))
    assert books.figures() == (200, 0, 0)


def test_what_counted_for_a_call_that_is_sent_again_goes_on_counting(books: Books) -> None:
    """Its first send has taken that along, and the second finds it on no list."""
    key = books.claim("task")
    opened(books, key, "ii_1", 400)
    ask = books.ask(600, covers=("ii_1",))
    assert books.reserve(key, ask).verdict == "allowed"
    books.end(key, EndRequest("doubt", ask.call_id, 1))
    again = books.reserve(key, replace(ask, ask=2, total_micros=200, covers=()))
    assert (again.verdict, again.resend, again.asked_micros) == ("allowed", True, 600)
    settle_again = EndRequest(
        "settle",
        ask.call_id,
        2,
        total_micros=600,
        status=200,
        object_id="sub_1",
        worth_micros=600,
        answer_body="{}",
    )
    books.end(key, settle_again)
    assert books.figures() == (600, 0, 0)


def test_what_others_counted_stays_when_the_call_that_covers_it_is_voided(books: Books) -> None:
    key = books.claim("task")
    opened(books, key, "ii_1", 400)
    ask = books.ask(500, object_id="in_1", covers=("ii_1",))
    assert books.reserve(key, ask).verdict == "allowed"
    assert books.figures() == (400, 100, 0)
    books.end(key, EndRequest("void", ask.call_id, 1, note="declined"))
    assert books.figures() == (400, 0, 0)


def test_two_calls_at_once_on_an_unknown_object_reserve_it_once(books: Books) -> None:
    one, two = books.claim("task"), books.claim("other")
    first, second = (books.ask(400, object_id="pi_1") for _ in range(2))
    books.reserve(one, first)
    books.reserve(two, second)
    assert books.figures() == (0, 400, 0)
    settle(books, one, first, 400, object_id="pi_1", worth_micros=400)
    settle(books, two, second, 400, object_id="pi_1", worth_micros=400)
    assert books.figures() == (400, 0, 0)


def test_a_settle_never_frees_what_another_call_holds_reserved(books: Books) -> None:
    one, two = books.claim("task"), books.claim("other")
    opened(books, one, "pi_1", 100)
    raised = books.ask(300, object_id="pi_1")
    books.reserve(one, raised)
    assert books.figures() == (100, 200, 0)
    # The other call's reply was written before the raise: it says 100.
    call(books, two, 100, 100, object_id="pi_1", ends={"worth_micros": 100})
    assert books.figures() == (100, 200, 0)
    settle(books, one, raised, 300, worth_micros=300)
    assert books.figures() == (300, 0, 0)


def test_a_call_voided_by_the_vendor_leaves_its_object_as_it_was(books: Books) -> None:
    key = books.claim("task")
    opened(books, key, "pi_1", 100)
    raised = books.ask(300, object_id="pi_1")
    books.reserve(key, raised)
    books.end(key, EndRequest("void", raised.call_id, 1, definite=True, note="declined"))
    assert books.figures() == (100, 0, 0)
    call(books, key, 300, 300, object_id="pi_1", ends={"worth_micros": 300})
    assert books.figures() == (300, 0, 0)


class TestWorth:
    """What a call without an amount reserves is what the vendor has said that its object can move."""

    def confirm(self, books: Books, total: int | None = None) -> ReserveRequest:
        ask = books.ask(0, object_id="pi_1", acts_on=("pi_1",), target="confirm")
        return replace(ask, total_micros=total)

    @pytest.mark.parametrize("end", ["void", "doubt"])
    def test_it_is_not_what_a_call_has_asked_for(self, books: Books, end: str) -> None:
        key = books.claim("task")
        books.reserve(key, change := books.ask(40, object_id="pi_1", target="change"))
        books.end(key, EndRequest(end, change.call_id))
        ask = self.confirm(books)
        assert books.reserve(key, ask).verdict == "look_up"
        assert books.reserve(key, replace(ask, ask=2, total_micros=100)).verdict == "allowed"
        assert books.figures() == (0, 100, 0)

    def test_it_is_not_what_an_operator_has_said_neither_for_a_call_that_is_tried_again(
        self, books: Books
    ) -> None:
        key = books.claim("task")
        opened(books, key, "pi_1", 100)
        ask = self.confirm(books)
        assert books.reserve(key, ask).verdict == "allowed"
        books.end(key, EndRequest("void", ask.call_id))
        books.reserve(key, change := books.ask(300, object_id="pi_1", target="change"))
        books.end(key, EndRequest("doubt", change.call_id))
        assert books.reserve(key, replace(ask, ask=2)).verdict == "allowed", "the change counts for itself"
        books.end(key, EndRequest("void", ask.call_id, 2))
        books.write(corrections.resolve, change.call_id, Resolution(Micros(0)), "said")
        assert books.reserve(key, replace(ask, ask=3)).verdict == "look_up"
        assert books.reserve(key, replace(ask, ask=4, total_micros=300)).verdict == "allowed"
        assert books.figures() == (100, 200, 0)


def test_one_module_alone_reads_and_writes_what_is_known_of_objects() -> None:
    """Beside what makes the table: so that all of what an object counts for can be seen at one place."""
    naming = set()
    for path in [*REPOSITORY.glob("luigi_spendguard/**/*.py"), *REPOSITORY.glob("scheduler_patch/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
            if (
                re.search(r"\b(FROM|INTO|UPDATE|JOIN|TABLE) vendor_object\b", text)
                or name == "VendorObjectTable"
            ):
                naming.add(path.relative_to(REPOSITORY).as_posix())
    assert naming == {f"luigi_spendguard/ledger/{name}.py" for name in ("objects", "migrations", "schema")}
