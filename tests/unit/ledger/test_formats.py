"""A ledger file of every format so far: it opens, keeps its figures, and is gone on with."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import keys, queries, runs, snapshot
from luigi_spendguard.ledger.migrations import FORMAT, migrate
from luigi_spendguard.money import plain_usd
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.settings.policy import Caps
from tests.support.books import Books
from tests.support.ledger_formats import USD, figures

pytestmark = pytest.mark.of_files

FORMATS = Path(__file__).parent / "formats"
#: The keys that were issued first, for the attempt that is open, and last, over HTTP.
OPEN_KEY, LAST_KEY = "vault_key_of-a-test-ledger-1", "vault_key_of-a-test-ledger-8"


@pytest.fixture(params=range(1, FORMAT + 1))
def number(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def books(number: int, tmp_path: Path) -> Iterator[Books]:
    """The file of that format, opened by today's code (which opens its run again, too)."""
    shutil.copy(FORMATS / f"format-{number}.db", tmp_path / "spendguard.db")
    books = Books(tmp_path / "spendguard.db", cap=1)
    yield books
    books.ledger.close()


def written(number: int) -> dict[str, list[list[Any]]]:
    return json.loads((FORMATS / f"format-{number}.json").read_text())


def test_there_is_a_file_of_every_format() -> None:
    """`tests.support.ledger_formats` makes one of the newest."""
    made = sorted(int(path.stem.partition("-")[2]) for path in FORMATS.glob("*.db"))
    assert made == list(range(1, FORMAT + 1))
    for number in made:
        db = sqlite3.connect(f"file:{FORMATS}/format-{number}.db?mode=ro", uri=True)
        assert db.execute("SELECT max(number) FROM migration").fetchone() == (number,)
        db.close()


def test_it_keeps_its_figures(books: Books, number: int) -> None:
    before = written(number)
    now = figures(books.path)
    if number < 19:  # Each call has an entry since.
        kept = [entry for entry in now["journal"] if entry[0] not in ("deny", "replay", "read")]
        assert len(kept) < len(now["journal"])
        now["journal"] = kept
    assert now == before
    assert books.audit() == []
    for run_id, state, cap, spent, reserved, overrun in before["runs"]:
        shown = books.read(queries.run, run_id)
        assert shown["state"] == state
        amounts = [shown[f"{name}_usd"] for name in ("cap", "spent", "reserved", "overrun")]
        assert amounts == [plain_usd(one) for one in (cap, spent, reserved, overrun)]
    assert {call["id"]: call["state"] for call in books.read(queries.calls)} == {
        call[0]: call[5] for call in before["calls"]
    }
    shown_keys = {key["id"]: (key["run_id"], key["state"]) for key in books.read(keys.keys)}
    assert {key_id: run for key_id, (run, _) in shown_keys.items()} == {
        one[0]: one[1] for one in before["claims"] if one[4] == "open"
    }
    start = books.write(snapshot.start, Caps())
    assert {one.run["run_id"] for one in start.runs} == {"run", "other", "frozen", "revoked"}
    assert {"Charge_open", "Charge_again"} <= set(start.paid)


def test_its_schema_is_that_of_a_new_file(books: Books, tmp_path: Path) -> None:
    migrate(tmp_path / "new.db")
    assert schema(books.path) == schema(tmp_path / "new.db")


def schema(path: Path) -> dict[str, list[str]]:
    """Return what a file is made of, by name: statements whose parts are in no order, without defaults.

    A column that was added later stands last, and has a default for the rows that were there.
    """
    db = sqlite3.connect(path)
    rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    db.close()
    return {name: parts(sql) for name, sql in rows}


def parts(sql: str) -> list[str]:
    sql = re.sub(r"\s+", " ", sql.replace('"', "").replace("BIGINT", "INTEGER"))
    sql = re.sub(r"\( ", "(", re.sub(r" \)", ")", sql))
    if not sql.startswith("CREATE TABLE"):
        return [sql]
    head, _, rest = sql.partition("(")
    inside, _, tail = rest.rpartition(")")
    sql = re.sub(r" DEFAULT ('[^']*'|\d+)", "", inside)
    return [head, *sorted(re.split(r", (?![^(]*\))", sql)), tail.strip()]


def test_an_attempt_that_is_open_goes_on_under_its_key(books: Books, number: int) -> None:
    before = books.figures()
    pending = next(call[0] for call in written(number)["calls"] if call[5] == "pending")
    settled = EndRequest("settle", pending, total_micros=2 * USD, status=200, answer_body="{}")
    books.end(OPEN_KEY, settled)
    assert books.figures() == (before[0] + 2 * USD, before[1] - 2 * USD, 0)
    ask = books.ask(3 * USD)
    assert books.reserve(OPEN_KEY, ask).verdict == "allowed"
    books.end(OPEN_KEY, EndRequest("settle", ask.call_id, total_micros=USD, status=200, answer_body="{}"))
    assert books.figures() == (before[0] + 3 * USD, before[1] - 2 * USD, 0)
    assert books.reserve(OPEN_KEY, books.ask(100 * USD)).reason == "cap"
    assert books.audit() == []


def test_what_was_paid_is_not_paid_again(books: Books) -> None:
    before = books.figures()
    again = books.reserve(books.claim("Charge_again"), books.ask(1 * USD, target="cus_again"))
    assert (again.verdict, again.answer_body) == ("replayed", '{"object": "payment_intent"}')
    freed = books.reserve(OPEN_KEY, books.ask(1 * USD, object_id="pi_settled", total_micros=7 * USD))
    assert freed.verdict == "allowed"  # It counts for that already.
    assert books.figures() == before


@pytest.mark.parametrize("payment", ["a", "b"])
def test_what_was_paid_for_under_a_name_is_not_paid_again(books: Books, number: int, payment: str) -> None:
    key = books.claim("Charge_other", payment_keys=(f"2026-11-{payment}",))
    answer = books.reserve(key, books.ask(1 * USD, target=f"cus_{payment}"))
    assert answer.verdict == ("replayed" if number >= 11 else "allowed")
    other = books.reserve(key, books.ask(1 * USD, target=f"cus_{payment}"))
    assert other.verdict == "allowed", "another one of the same attempt"


def test_a_run_that_was_revoked_stays_so(books: Books) -> None:
    with pytest.raises(Exception, match="revoked for good"):
        books.claim("Charge_revoked", "revoked")
    assert books.read(runs.run_row, "frozen")["state"] == "frozen"


def test_a_key_that_was_issued_keeps_its_terms(books: Books, number: int) -> None:
    if number < 4:  # There were none.
        assert books.read(lambda tx: tx.value("SELECT count(*) FROM key_terms")) == 0
        return
    spent = books.ask(USD, target="cus_key", customer=("cus_key",))
    assert books.reserve(LAST_KEY, spent).verdict == "allowed"
    for reason, refused in (
        ("scope", books.ask(USD, customer=("cus_other",))),
        ("endpoint", books.ask(USD, path="/v1/refunds", operation="refunds.create", customer=("cus_key",))),
        ("cap", books.ask(6 * USD, customer=("cus_key",))),  # Of 9 there are 3 spent, and 1 is reserved now.
    ):
        assert books.reserve(LAST_KEY, refused).reason == reason
