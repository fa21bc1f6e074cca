"""What the journal says is sealed in signed blocks, a call whenever it says something of that."""

from __future__ import annotations

import concurrent.futures.thread
import json
import stat
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger.audit.blocks import (
    Block,
    RunFigures,
    append,
    draft,
    last_block,
    sealed_block,
)
from luigi_spendguard.ledger.audit.merkle import leaf_hash, root
from luigi_spendguard.ledger.audit.sealing import Sealer, accept
from luigi_spendguard.ledger.audit.signing import (
    AuditStopped,
    Head,
    KeyFiles,
    is_signed,
    public_keys,
    public_keys_of,
)
from luigi_spendguard.protocol import EndRequest
from tests.support.sealed import SealedBooks

USD = 1_000_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[SealedBooks]:
    books = SealedBooks(tmp_path / "spendguard.db")
    yield books
    assert books.audit() == []
    books.ledger.close()


def sealed(books: SealedBooks) -> list[dict[str, Any]]:
    """Return what is sealed, oldest first."""
    rows = books.read(lambda tx: tx.all("SELECT * FROM audit_row ORDER BY seq"))
    found = [json.loads(row["text"]) for row in rows]
    assert [(one["seq"], one["row"], str(one["id"]), one["run_id"]) for one in found] == [
        (row["seq"], row["kind"], row["name"], row["run_id"]) for row in rows
    ]
    return found


def blocks(books: SealedBooks) -> list[Block]:
    return [
        Block.of(row) for row in books.read(lambda tx: tx.all("SELECT * FROM audit_block ORDER BY number"))
    ]


def paid(books: SealedBooks, amount: int, task: str = "Charge_1") -> str:
    key = books.claim(task)
    ask = books.ask(amount)
    assert books.reserve(key, ask).verdict == "allowed"
    books.end(key, EndRequest("settle", ask.call_id, total_micros=amount, status=200, answer_body="{}"))
    return ask.call_id


def test_a_block_has_the_entries_and_each_call_that_they_are_about(books: SealedBooks) -> None:
    call_id = paid(books, 3 * USD)
    assert books.seal() == ""
    rows = sealed(books)
    assert [one["kind"] for one in rows if one["row"] == "entry"] == ["open", "reserve", "settle"]
    (call,) = (one for one in rows if one["row"] == "call")
    assert (call["id"], call["settled_usd"], call["state"]) == (call_id, "3.00", "settled")
    assert (call["family"], call["worker"], call["root_family"]) == ("Charge", "worker", "Root")
    usage = [(one["run_cap_usd"], one["run_spent_usd"], one["run_reserved_usd"]) for one in rows[:3]]
    assert usage == [("1000.00", "0.00", "0.00"), ("1000.00", "0.00", "3.00"), ("1000.00", "3.00", "0.00")]


def test_blocks_are_chained_and_signed_and_their_root_is_that_of_their_rows(books: SealedBooks) -> None:
    for number in range(3):
        paid(books, USD, f"Charge_{number}")
        assert books.seal() == ""
    assert books.seal() == ""  # Nothing more.
    chain, rows = (
        blocks(books),
        books.read(lambda tx: tx.all("SELECT block, text FROM audit_row ORDER BY seq")),
    )
    assert [block.number for block in chain] == [1, 2, 3]
    assert chain == books.told
    ((key_id, key),) = books.files.trusted().items()
    previous, seq = "", 1
    for block in chain:
        assert (block.previous, block.first_seq, block.key_id) == (previous, seq, key_id)
        assert is_signed(block.head, block.signature, key)
        assert not is_signed(block.head + " ", block.signature, key)
        assert (
            block.root == root([leaf_hash(row["text"]) for row in rows if row["block"] == block.number]).hex()
        )
        previous, seq = block.hash, block.last_seq + 1
    head = books.files.head()
    assert head is not None
    assert (head.number, head.hash, head.ledger) == (3, chain[-1].hash, chain[0].ledger)


def test_a_call_is_sealed_anew_whenever_the_journal_says_something_of_it(books: SealedBooks) -> None:
    key = books.claim("Charge_1")
    ask = books.ask(2 * USD)
    books.reserve(key, ask)
    books.seal()
    books.end(key, EndRequest("doubt", ask.call_id))
    books.seal()
    books.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200, answer_body="{}"))
    books.seal()
    assert [one["state"] for one in sealed(books) if one["row"] == "call"] == [
        "pending",
        "in_doubt",
        "settled",
    ]


@pytest.mark.parametrize("kind", ["deny", "replay", "read"])
def test_a_call_that_moves_no_money_is_sealed(books: SealedBooks, kind: str) -> None:
    if kind == "read":
        key, ask = books.claim("Charge_1"), books.ask(0, read=True, method="GET")
        assert books.reserve(key, ask).verdict == "allowed"
        books.end(key, EndRequest("settle", ask.call_id, total_micros=0, status=200))
    elif kind == "deny":
        ask = books.ask(10_000 * USD)
        assert books.reserve(books.claim("Charge_1"), ask).reason == "cap"
    else:
        ask = books.ask(USD, target="cus_1")
        key = books.claim("Charge_1")
        books.reserve(key, ask)
        books.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200, answer_body="{}"))
        ask = books.ask(USD, target="cus_1")
        assert books.reserve(books.claim("Charge_1"), ask).verdict == "replayed"
    assert books.seal() == ""
    assert ask.call_id in [one["id"] for one in sealed(books) if one["row"] == "call"]
    assert kind in [
        one["kind"] for one in sealed(books) if one["row"] == "entry" and one["call_id"] == ask.call_id
    ]


def test_a_block_has_256_entries_and_figures_go_on_over_blocks(books: SealedBooks) -> None:
    key = books.claim("Charge_1")
    for _ in range(200):
        ask = books.ask(USD)
        books.reserve(key, ask)
        books.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200, answer_body="{}"))
    assert books.seal() == ""
    rows = sealed(books)
    assert [block.entry for block in blocks(books)] == [256, 401]
    entries = [one for one in rows if one["row"] == "entry"]
    assert entries[-1]["run_spent_usd"] == "200.00"
    assert entries[255]["run_spent_usd"] == f"{255 // 2}.00"
    assert [one["seq"] for one in rows] == list(range(1, len(rows) + 1))


def test_of_several_that_seal_one_adds_the_next_block(books: SealedBooks) -> None:
    other = Sealer(books.ledger, books.files)
    for number in range(4):
        paid(books, USD, f"Charge_{number}")
        assert not other.seal(60)
        paid(books, USD, f"Charge_{number}_again")
        assert books.seal() == ""
    rows = sealed(books)
    entries = [one for one in rows if one["row"] == "entry"]
    assert [one["id"] for one in entries] == list(range(1, len(entries) + 1))
    assert entries[-1]["run_spent_usd"] == "8.00"
    assert len(blocks(books)) == 8
    assert other.stopped == ""


def test_the_key_is_its_owners_alone_and_made_with_the_first_block(books: SealedBooks) -> None:
    assert not books.files.key.exists()
    books.seal()
    assert stat.S_IMODE(books.files.key.stat().st_mode) == 0o600
    books.files.key.chmod(0o644)
    paid(books, USD)
    assert "chmod 600" in books.seal()
    books.files.key.chmod(0o600)
    assert books.seal() == ""


def test_blocks_of_a_key_that_was_replaced_go_on_being_believed(books: SealedBooks) -> None:
    books.seal()
    before = blocks(books)[0].key_id
    made = books.files.replace()
    paid(books, USD)
    assert books.seal() == ""
    assert [block.key_id for block in blocks(books)] == [before, made]
    assert set(books.files.trusted()) == {before, made}


def test_it_goes_on_behind_no_block_of_a_key_that_nobody_trusts(books: SealedBooks, tmp_path: Path) -> None:
    books.seal()
    paid(books, USD)
    stranger = Sealer(books.ledger, KeyFiles(tmp_path / "other-key"))
    assert not stranger.seal(60)
    assert "not signed by a key in" in stranger.stopped
    assert len(blocks(books)) == 1
    books.read(accept, stranger.files)
    stranger.seal(60)
    assert (stranger.stopped, len(blocks(books))) == ("", 2)


@pytest.mark.parametrize("left", [0, 1])
def test_it_goes_on_behind_no_older_ledger(books: SealedBooks, left: int) -> None:
    books.seal()
    paid(books, USD)
    books.seal()
    paid(books, USD)
    books.write(lambda tx: tx.run("DELETE FROM audit_block WHERE number > ?", left))
    books.write(lambda tx: tx.run("DELETE FROM audit_row WHERE block > ?", left))
    assert "an older ledger was restored, or blocks were taken out of it" in books.seal()
    assert len(blocks(books)) == left
    books.read(accept, books.files)
    assert books.seal() == ""
    assert sealed(books)[-1]["row"] == "call"


def test_it_goes_on_behind_no_other_block_than_the_one_it_has_sealed(books: SealedBooks) -> None:
    books.seal()
    books.write(lambda tx: tx.run("UPDATE audit_block SET hash = ?", "0" * 64))
    paid(books, USD)
    assert "it has another block 1" in books.seal()


def test_it_goes_on_behind_no_other_ledger_of_its_key(books: SealedBooks) -> None:
    books.seal()
    known = books.files.head()
    assert known is not None
    books.files.keep_head(Head("another", 0, known.hash), accepted=True)  # Block 0 was pruned there.
    books.claim("Charge")
    assert "another ledger's" in books.seal()


def test_it_goes_on_behind_no_block_that_names_its_key_and_is_not_signed_by_it(books: SealedBooks) -> None:
    books.seal()
    head = books.files.head()
    paid(books, USD)
    books.seal()
    assert head is not None
    books.files.keep_head(head, accepted=True)  # As where another luigid has sealed the newest block.
    books.write(lambda tx: tx.run("UPDATE audit_block SET signature = '00' WHERE number = 2"))
    assert "block 2 of the audit is not signed by a key" in books.seal()
    books.write(lambda tx: tx.run("DELETE FROM audit_row WHERE block = 2"))
    books.write(lambda tx: tx.run("DELETE FROM audit_block WHERE number = 2"))
    assert books.seal() == ""


def test_of_two_that_make_the_key_and_tell_the_head_none_goes_back(books: SealedBooks) -> None:
    books.seal()
    key, head = books.files.key.read_bytes(), books.files.head()
    with suppress(FileExistsError):
        books.files._make()
    assert books.files.key.read_bytes() == key
    assert head is not None
    books.files.keep_head(replace(head, number=head.number - 1))
    assert books.files.head() == head


def test_a_head_that_cannot_be_read_is_said(books: SealedBooks) -> None:
    books.seal()
    books.files.head_file.write_text("{}")
    assert "does not say which block" in books.seal()


def test_what_was_pruned_while_a_block_was_made_is_not_sealed(books: SealedBooks) -> None:
    paid(books, USD)
    write = books.ledger.write

    def pruned(operation: Any, *args: Any) -> Any:
        books.ledger.write = write  # type: ignore[method-assign]

        def prune(tx: Any) -> None:
            with tx.deleting_entries():
                tx.run("DELETE FROM journal WHERE kind = 'open'")

        write(prune).result(20)
        return write(operation, *args)

    books.ledger.write = pruned  # type: ignore[method-assign]
    assert books.seal() == ""
    assert [one["kind"] for one in sealed(books) if one["row"] == "entry"] == ["reserve", "settle"]
    books.write(lambda tx: tx.run("UPDATE budget SET cap_micros = 1000000000"))  # As the entry said.
    books.audit = lambda: []  # type: ignore[method-assign]


def test_nothing_is_sealed_where_nothing_was_entered(tmp_path: Path, books: SealedBooks) -> None:
    books.seal()
    assert books.seal() == ""
    assert len(blocks(books)) == 1
    assert books.read(last_block) == blocks(books)[0]


def test_a_block_that_comes_too_late_is_not_added(books: SealedBooks) -> None:
    drafted = books.read(draft, RunFigures(), None)
    signer = books.files.signer()
    block = sealed_block(drafted, None, "ledger", signer.key_id, signer.sign)
    assert books.seal() == ""
    assert not books.write(append, drafted, block)
    assert books.read(last_block).hash != block.hash


def test_who_has_much_to_seal_rests_between_blocks(books: SealedBooks) -> None:
    key = books.claim("Charge_1")
    for _ in range(200):
        books.reserve(key, books.ask(USD))
        books.reserve(key, books.ask(10_000 * USD))
    rests: list[float] = []
    assert not books.sealer.seal(60, rest=rests.append)
    assert len(rests) == 1
    head = books.files.head()
    assert head is not None
    assert head.number == 2


class Silent:
    """A ledger that does not answer, and with whose patience it was asked."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def write(self, *_: object) -> Future[None]:
        waited = self.waited

        class Asked(Future[None]):
            def result(self, timeout: float | None = None) -> None:
                waited.append(float("inf") if timeout is None else timeout)
                raise concurrent.futures.TimeoutError  # Another one than Python's own in Python 3.10.

        return Asked()

    browse = write


def test_the_last_look_waits_no_longer_than_it_may(
    books: SealedBooks, caplog: pytest.LogCaptureFixture
) -> None:
    silent: Any = Silent()
    assert not Sealer(silent, books.files).seal(5.0, last=True)
    assert all(0 <= waited <= 5.0 for waited in silent.waited)
    assert len(silent.waited) == 1
    assert caplog.text == ""


def test_what_is_looked_for_while_a_program_ends_is_told_so(
    books: SealedBooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before anything that is ours hears that Python ends, its pools take nothing any more."""
    with monkeypatch.context() as patch:
        patch.setattr(concurrent.futures.thread, "_shutdown", True)
        for look in (books.ledger.read, books.ledger.browse):
            with pytest.raises(LedgerUnavailable, match="the ledger is closed"):
                look(last_block).result(20)
        assert not books.sealer.seal(5.0)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text", ["", "x", "é", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_a_file_without_public_keys_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(AuditStopped, match=r"public key"):
        public_keys(tmp_path / "keys")


def test_a_key_of_a_kind_that_nobody_knows_is_said(books: SealedBooks) -> None:
    books.seal()
    text = books.files.trusted_file.read_text()
    assert "MCowBQYDK2Vw" in text  # Its kind: 1.3.101.112.
    with pytest.raises(AuditStopped, match="has something else in it"):
        public_keys_of(text.replace("MCowBQYDK2Vw", "MCowBQYDJ2Vw"), "a receipt")
