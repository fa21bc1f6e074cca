"""A receipt proves what was sealed of a run by itself, and whoever changes it is found out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luigi_spendguard.errors import LedgerError, NotFound
from luigi_spendguard.ledger import runs
from luigi_spendguard.ledger.audit.checking import NotProved, check
from luigi_spendguard.ledger.audit.checkpoints import delete_some, say
from luigi_spendguard.ledger.audit.merkle import leaf_hash
from luigi_spendguard.ledger.audit.receipts import receipt, sealed_of, statement_of
from luigi_spendguard.ledger.audit.signing import KeyFiles, public_keys
from luigi_spendguard.ledger.audit.verifying import verify
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.overview import run_named
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from tests.support.sealed import SealedBooks

USD = 1_000_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[SealedBooks]:
    books = SealedBooks(tmp_path / "spendguard.db")
    books.write(runs.open_run, runs.RunRequest("other", False, "Root", "Root_2", Micros(50 * USD)))
    for number in range(3):
        pay(books, f"Charge_{number}", number + 1)
        pay(books, f"Other_{number}", 1, "other")
        assert books.seal() == ""
    yield books
    books.ledger.close()


def pay(books: SealedBooks, task_id: str, usd: int, run_id: str = "run") -> None:
    key = books.claim(task_id, run_id)
    ask = books.ask(usd * USD, target=f"cus_{task_id}")
    assert books.reserve(key, ask).verdict == "allowed"
    end = EndRequest("settle", ask.call_id, total_micros=usd * USD, status=200, object_id=f"pi_{ask.call_id}")
    books.end(key, end)


def made(books: SealedBooks, run_id: str = "run") -> bytes:
    pem = books.files.trusted_file.read_text()

    def parts(tx: Tx) -> list[str]:
        chain = verify(tx, books.files.trusted()).chain
        return list(receipt(tx, run_id, chain, [pem], books.files.signer()))

    return "".join(books.read(parts)).encode()


def test_it_proves_the_rows_of_its_run_and_shows_no_other(books: SealedBooks) -> None:
    data = made(books)
    proved = check(data)
    assert (proved.run_id, proved.blocks, proved.lacks) == ("run", 3, "")
    assert (proved.first_block, proved.last_block, proved.unsealed) == (1, 3, 0)
    assert proved.is_from_the_beginning
    assert [row["settled_usd"] for row in proved.last_calls] == ["1.00", "2.00", "3.00"]
    assert proved.totals is not None
    assert proved.totals["run_spent_usd"] == "6.00"
    assert proved.keys == list(books.files.trusted())
    assert b"other" not in data
    assert b"Other_0" not in data
    assert check(data, books.files.trusted()).run_id == "run"


def test_it_is_small(books: SealedBooks) -> None:
    key = books.claim("Many")
    for _ in range(100):
        ask = books.ask(USD)
        books.reserve(key, ask)
        books.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200))
    books.seal()
    data = made(books)
    texts = sum(len(row["text"]) for block in json.loads(data)["blocks"] for row in block["rows"])
    assert len(data) < 1.5 * texts, "hashes that several proofs have in common stand there once"


def test_a_run_is_named_by_the_beginning_of_its_id(books: SealedBooks) -> None:
    assert books.read(run_named, "oth", "@last") == "other"
    assert books.read(run_named, "run", "@last") == "run"
    assert books.read(run_named, "@last", "@last") == "other"
    for name in ("nobody", ""):
        with pytest.raises(NotFound, match=f"there is no run {name}"):
            books.read(run_named, name, "@last")
    books.write(runs.open_run, runs.RunRequest("others", False, "Root", "Root_3", Micros(USD)))
    assert books.read(run_named, "other", "@last") == "other", "a whole id always wins"
    with pytest.raises(NotFound, match="several runs begin with oth: other, others"):
        books.read(run_named, "oth", "@last")


def test_what_is_not_sealed_yet_is_counted(books: SealedBooks) -> None:
    before = books.read(sealed_of, "run")
    pay(books, "Late", 1)
    assert books.read(sealed_of, "run") == (before.rows, 2)


Change = Callable[[dict[str, Any]], object]


def _row(receipt: dict[str, Any], block: int = 1, row: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = receipt["blocks"][block]["rows"][row]
    return found


def _text(receipt: dict[str, Any], old: str, new: str) -> None:
    row = next(row for block in receipt["blocks"] for row in block["rows"] if old in row["text"])
    row["text"] = row["text"].replace(old, new, 1)


TAMPERED: dict[str, tuple[Change, str]] = {
    "an amount": (
        lambda one: _text(one, '"settled_usd":"3.00"', '"settled_usd":"1.00"'),
        "not what was sealed",
    ),
    "a row of another": (lambda one: _row(one).update(text=_row(one, 2)["text"]), "not what was sealed"),
    "a proof of another row": (
        lambda one: _row(one).update(path=_row(one, 1, 1)["path"]),
        "not what was sealed",
    ),
    "a proof of another block": (
        lambda one: one["blocks"][1].update(hashes=one["blocks"][2]["hashes"]),
        "not what was sealed",
    ),
    "a proof that is cut": (lambda one: _row(one)["path"].pop(), "not what was sealed"),
    "a proof with no such hash": (lambda one: _row(one).update(path=[10_000]), "a hash which is not there"),
    "a proof with another kind of step": (
        lambda one: _row(one).update(path=["0"]),
        "a hash which is not there",
    ),
    "no hash": (lambda one: one["blocks"][0].update(hashes=["zz"]), "a hash of block 1 is none"),
    "a root": (lambda one: one["blocks"][0].update(root="0" * 64), "does not have the signature"),
    "when it was sealed": (lambda one: one["blocks"][0].update(sealed_at=1), "does not have the signature"),
    "the books": (lambda one: one.update(ledger="0" * 32), "does not have the signature"),
    "a signature": (lambda one: one["blocks"][0].update(signature="00"), "does not have the signature"),
    "no signature": (lambda one: one["blocks"][0].pop("signature"), "signature is missing"),
    "the run": (lambda one: one.update(run_id="other"), "of another run, run"),
    "a row twice": (lambda one: one["blocks"][0]["rows"].append(_row(one, 0)), "does not stand in its place"),
    "a row's number": (lambda one: _row(one).update(seq=_row(one)["seq"] + 1), "not what was sealed"),
    "a number that is none": (lambda one: _row(one).update(seq="7"), "seq is missing, or no whole number"),
    "blocks in another order": (lambda one: one["blocks"].reverse(), "does not come behind the one before"),
    "a block twice": (
        lambda one: one["blocks"].append(one["blocks"][2]),
        "does not come behind the one before",
    ),
    "no block": (lambda one: one.update(blocks=[]), "it has no block"),
    "blocks that are none": (lambda one: one.update(blocks=[7]), "one of its blocks is none"),
    "rows that are none": (lambda one: one["blocks"][0].update(rows=[7]), "a row of block 1 is none"),
    "no row": (lambda one: one["blocks"][0].update(rows=[]), "has no row"),
    "no key": (lambda one: one.update(public_keys=[]), "there is no public key"),
    "a key that is none": (
        lambda one: one.update(public_keys=["-----END PUBLIC KEY-----\n"]),
        "something else",
    ),
    "another format": (lambda one: one.update(format="receipt-2"), "no receipt that this version reads"),
    "how many rows there are": (lambda one: one.update(rows=one["rows"] - 1), "the receipt itself does not"),
    "up to when": (lambda one: one.update(last_block=9), "the receipt itself does not have the signature"),
    "what is not sealed yet": (lambda one: one.update(unsealed=9), "the receipt itself does not have"),
    "its own signature": (lambda one: one.update(signature="00"), "or the signature, was changed"),
    "no count of rows": (lambda one: one.pop("rows"), "rows is missing, or no whole number"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_somebody_has_changed_is_said(books: SealedBooks, what: str) -> None:
    change, said = TAMPERED[what]
    receipt = json.loads(made(books))
    change(receipt)
    with pytest.raises(LedgerError, match=said):
        check(json.dumps(receipt).encode())


@pytest.mark.parametrize("left", [0, 40, 2000, -3])
def test_a_file_that_was_cut_off_is_said(books: SealedBooks, left: int) -> None:
    with pytest.raises(NotProved, match="was cut off"):
        check(made(books)[:left])


Rows = list[dict[str, Any]]


def _without(receipt: dict[str, Any], is_gone: Callable[[int, dict[str, Any]], bool]) -> None:
    """Leave rows away from a receipt, by their block's number and what they say; and blocks without rows."""
    for block in receipt["blocks"]:
        rows: Rows = block["rows"]
        block["rows"] = [row for row in rows if not is_gone(block["number"], json.loads(row["text"]))]
    receipt["blocks"] = [block for block in receipt["blocks"] if block["rows"]]


LEFT_AWAY: dict[str, Callable[[int, dict[str, Any]], bool]] = {
    "the last block": lambda block, row: block == 4,
    "the first block": lambda block, row: block == 1,
    "the opening": lambda block, row: row.get("kind") == "open",
    "an entry that moves money": lambda block, row: block == 2 and row.get("kind") == "settle",
    "all calls": lambda block, row: row["row"] == "call",
    "all entries": lambda block, row: row["row"] == "entry",
    "a denied call, with its entry": lambda block, row: row.get("kind") == "deny" or "denied" in str(row),
    "the last row": lambda block, row: block == 4 and row["row"] == "call",
}


@pytest.mark.parametrize("what", LEFT_AWAY)
def test_rows_that_were_left_away_are_missed(books: SealedBooks, what: str) -> None:
    key = books.claim("Dear", "run")
    assert books.reserve(key, books.ask(10_000 * USD)).verdict == "denied"
    books.seal()
    receipt = json.loads(made(books))
    before = sum(len(block["rows"]) for block in receipt["blocks"])
    _without(receipt, LEFT_AWAY[what])
    gone = before - sum(len(block["rows"]) for block in receipt["blocks"])
    assert gone
    assert check(json.dumps(receipt).encode()).lacks == f"{gone} of its {before} rows were left away"


def test_a_receipt_is_of_the_moment_it_was_made_at(books: SealedBooks) -> None:
    earlier, last = json.loads(made(books)), check(made(books)).last_block
    pay(books, "Late", 1)
    assert check(made(books)).unsealed == 2
    books.seal()
    later = json.loads(made(books))
    assert check(json.dumps(earlier).encode()).last_block == last
    later["blocks"] = [*earlier["blocks"][:2], later["blocks"][3]]
    assert check(json.dumps(later).encode()).lacks
    both = {**earlier, "blocks": json.loads(made(books))["blocks"]}
    with pytest.raises(NotProved, match="put together of several"):
        check(json.dumps(both).encode())


def test_who_signs_a_receipt_that_leaves_money_away_is_found_out_by_its_totals(books: SealedBooks) -> None:
    receipt = json.loads(made(books))
    _without(receipt, LEFT_AWAY["an entry that moves money"])
    texts = [row["text"] for block in receipt["blocks"] for row in block["rows"]]
    receipt["rows"] = len(texts)
    receipt["hash"] = sha256(b"".join(map(leaf_hash, texts))).hexdigest()
    receipt["signature"] = books.files.signer().sign(statement_of(receipt))
    assert "the run's totals change without an entry" in check(json.dumps(receipt).encode()).lacks


def test_what_was_pruned_is_not_said_to_be_there(books: SealedBooks) -> None:
    books.write(say, 2**52, books.files.signer())
    books.seal()
    books.write(delete_some, books.files.trusted())
    pay(books, "Late", 1)
    books.seal()
    proved = check(made(books))
    assert (proved.first_block, proved.is_from_the_beginning, proved.lacks) == (4, False, "")


def test_another_key_is_not_believed(books: SealedBooks, tmp_path: Path) -> None:
    stranger = KeyFiles(tmp_path / "strange-key")
    stranger.signer()
    with pytest.raises(NotProved, match=f"the public keys given are {next(iter(stranger.trusted()))}"):
        check(made(books), public_keys(stranger.trusted_file))
    forged = json.loads(made(books))
    forged["public_keys"] = [stranger.trusted_file.read_text()]
    with pytest.raises(NotProved, match="is signed by key"):
        check(json.dumps(forged).encode())


def test_top_ups_and_revokes_add_up(books: SealedBooks) -> None:
    books.write(runs.top_up, "run", Micros(5 * USD), "more")
    books.write(runs.revoke, "run")
    books.seal()
    proved = check(made(books))
    assert [row["kind"] for row in proved.entries[-2:]] == ["top_up", "revoke"]
    assert proved.lacks == ""
    assert proved.totals is not None
    assert proved.totals["run_cap_usd"] == "1005.00"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_byte_of_what_is_proved_can_be_changed(books: SealedBooks, data: st.DataObject) -> None:
    whole = made(books)
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(1, 255))
    changed = whole[:place] + bytes([whole[place] ^ other]) + whole[place + 1 :]
    before = check(whole)
    try:
        after = check(changed, books.files.trusted())
    except LedgerError:
        return
    # What says nothing of the run: when the receipt was made, keys that nobody goes by, blanks.
    assert (after.entries, after.calls, after.sealed) == (before.entries, before.calls, before.sealed)
