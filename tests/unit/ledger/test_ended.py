"""What an operator says of a run that has ended is taken, and its root's next submission is another run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import Conflict, KeyRevoked
from luigi_spendguard.ledger import claims, keys, queries, runs, snapshot
from luigi_spendguard.ledger.keys import Terms
from luigi_spendguard.money import Micros
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books

CAPS = Caps(default=Micros(1000))


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "spendguard.db", 100, "other")
    opened(made)
    made.write(claims.close_run, "Root_1")
    yield made
    assert made.audit() == []
    made.ledger.close()


def opened(books: Books) -> Any:
    """Submit the root; return its run."""
    return books.write(runs.open_run, runs.RunRequest("Root_1", True, "Root", "Root_1", Micros(100)))


def test_what_was_announced_before_is_paid_within_its_cap(books: Books) -> None:
    key = books.claim("A", "Root_1")
    assert books.reserve(key, books.ask(60)).verdict == "allowed"
    assert books.reserve(key, books.ask(60)).reason == "cap"
    books.write(runs.top_up, "Root_1", Micros(20), "once")
    assert books.reserve(key, books.ask(60)).verdict == "allowed"
    assert books.read(runs.run_row, "Root_1")["state"] == "ended"


@pytest.mark.parametrize("claimed", [False, True], ids=["not begun", "begun"])
def test_it_is_revoked_for_good(books: Books, claimed: bool) -> None:
    key = books.claim("A", "Root_1") if claimed else ""
    for _ in "12":
        assert books.write(runs.revoke, "Root_1")["state"] == "revoked"
    if claimed:
        assert books.reserve(key, books.ask(1)).reason == "revoked"
    with pytest.raises(KeyRevoked):
        books.claim("B", "Root_1")
    with pytest.raises(Conflict, match="cannot be topped up"):
        books.write(runs.top_up, "Root_1", Micros(20), "once")


@pytest.mark.parametrize("revoked", [False, True], ids=["ended", "revoked since"])
def test_the_roots_next_submission_is_another_run(books: Books, revoked: bool) -> None:
    if revoked:
        books.write(runs.revoke, "Root_1")
    assert books.read(queries.run, "Root_1")["later_run_id"] is None
    assert (opened(books)["run_id"], opened(books)["run_id"]) == ("Root_1~2", "Root_1~2")
    shown = books.read(queries.run, "Root_1")
    assert (shown["root_completed"], shown["later_run_id"]) == (True, "Root_1~2")
    issued = books.write(keys.issue, Terms("stripe", "luigi/Root_1"), CAPS)
    assert books.read(queries.run, "Root_1~2")["root_completed"] is False
    assert issued[0]["run_id"] == "Root_1~2"


def test_one_that_is_revoked_before_its_root_has_completed_stays_the_roots(books: Books) -> None:
    assert opened(books)["run_id"] == "Root_1~2"
    books.write(runs.revoke, "Root_1~2")
    books.write(claims.close_run, "Root_1")
    last = opened(books)
    assert (last["run_id"], last["state"]) == ("Root_1~2", "revoked")
    assert books.read(queries.run, "Root_1~2")["root_completed"] is False


def test_a_gate_is_told_of_those_that_it_knows(books: Books) -> None:
    started = books.write(snapshot.start, Caps(), ["Root_1", "unheard of"])
    assert {one.run["run_id"]: one.run["state"] for one in started.runs} == {
        "other": "active",
        "Root_1": "ended",
    }
    assert [one.run["run_id"] for one in books.write(snapshot.start, Caps()).runs] == ["other"]
    assert books.read(snapshot.of_known, "unheard of") is None
    assert books.read(snapshot.of_known, "Root_1").run["state"] == "ended"
