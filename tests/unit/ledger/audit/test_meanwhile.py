"""What is not sealed yet is no tampering, nor is what was pruned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luigi_spendguard.ledger import claims, pruning, runs
from luigi_spendguard.ledger.audit import checkpoints
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
from luigi_spendguard.ledger.audit.tampering import Tampered
from luigi_spendguard.ledger.audit.verifying import Verified, verify
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.money import Micros
from luigi_spendguard.protocol import EndRequest
from tests.support.books import Books

USD = 1_000_000
LATER = 4_000_000_000_000


def test_nothing_sealed_is_no_proof(tmp_path: Path) -> None:
    books = Books(tmp_path / "books.db", 100 * USD)
    found = books.read(lambda tx: verify(tx, {}))
    assert (found.chain.last, found.unsealed) == (None, 1)
    books.ledger.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Books, Sealer]]:
    books = Books(tmp_path / "books.db", 1000 * USD)
    yield books, Sealer(books.ledger, KeyFiles(tmp_path / "key"))
    books.ledger.close()


def paid(books: Books, run_id: str = "run", task: str = "Charge_1", **more: Any) -> str:
    key, ask = books.claim(task, run_id, **more), books.ask(USD)
    books.reserve(key, ask)
    books.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200, answer_body="{}"))
    return str(ask.call_id)


def look(books: Books, sealer: Sealer) -> Verified:
    def operation(tx: Tx) -> Verified:
        return verify(tx, sealer.files.trusted(), head=sealer.files.head())

    found: Verified = books.read(operation)
    return found


def test_what_is_not_sealed_yet_is_no_tampering(live: tuple[Books, Sealer]) -> None:
    books, sealer = live
    key, ask = books.claim("Charge_1"), books.ask(USD)
    books.reserve(key, ask)
    sealer.seal(60)
    books.end(key, EndRequest("settle", ask.call_id, total_micros=USD, status=200, answer_body="{}"))
    paid(books)
    read = books.ask(0, read=True, method="GET")
    assert books.reserve(books.claim("Charge_2"), read).verdict == "allowed"
    found = look(books, sealer)
    assert (found.unsealed, found.calls) == (3, 3)
    sealer.seal(60)
    assert look(books, sealer).unsealed == 0


def finished(books: Books, run_id: str) -> None:
    """Let a run and its last task complete, after three calls of its tasks."""
    books.write(runs.open_run, runs.RunRequest(run_id, True, "Root", run_id, Micros(50 * USD)))
    for number in range(3):
        paid(books, run_id, f"Charge_{run_id}_{number}", max_cost=Micros(2 * USD))
        books.write(claims.finish, books.last_claim, "completed")
    books.write(claims.close_run, run_id)


def test_what_was_pruned_is_accounted_for(live: tuple[Books, Sealer]) -> None:
    books, sealer = live
    books.write(runs.revoke, "run")  # It came first, and would keep all that came later.
    finished(books, "a")
    finished(books, "b")
    sealer.seal(60)
    finished(books, "c")
    done = books.write(pruning.prune, LATER)
    assert (done.calls, done.runs, done.stay) == (6, 2, {"unsealed": 3})
    assert look(books, sealer).calls == 3
    sealer.seal(60)
    assert look(books, sealer).calls == 3
    assert books.write(pruning.prune, LATER).calls == 3
    sealer.seal(60)
    assert look(books, sealer).calls == 0
    assert books.read(lambda tx: tx.value("SELECT count(*) FROM budget WHERE scope = 'task'")) == 0
    assert books.audit() == []


def test_more_than_was_pruned_is_found(live: tuple[Books, Sealer]) -> None:
    books, sealer = live
    books.write(runs.revoke, "run")
    finished(books, "a")
    finished(books, "b")
    sealer.seal(60)
    books.write(pruning.prune, LATER)
    sealer.seal(60)
    books.write(lambda tx: tx.run("UPDATE audit_pruned SET calls = calls - 1 WHERE calls > 0"))
    with pytest.raises(Tampered, match=r'pruned was \{"calls":3,.* and is \{"calls":2,'):
        look(books, sealer)


@pytest.fixture
def pruned(live: tuple[Books, Sealer]) -> tuple[Books, Sealer]:
    """Books of which the two oldest blocks of five were pruned, behind a checkpoint."""
    books, sealer = live
    for _ in range(3):
        paid(books)
        sealer.seal(60)
    second = books.read(lambda tx: tx.value("SELECT sealed_at FROM audit_block WHERE number = 3"))
    assert books.write(checkpoints.say, second, sealer.files.signer()) is not None
    sealer.seal(60)
    assert books.write(checkpoints.delete_some, sealer.files.trusted()).blocks == 2
    paid(books)
    sealer.seal(60)
    return books, sealer


def test_what_is_behind_a_checkpoint_is_verified(pruned: tuple[Books, Sealer]) -> None:
    found = look(*pruned)
    assert (found.chain.blocks, found.chain.is_whole, found.calls) == (3, False, 4)
    assert found.chain.first is not None
    assert found.chain.first.number == 3
    last = pruned[0].read(lambda tx: tx.value("SELECT max(sealed_at) FROM audit_block"))
    keys = pruned[1].files.trusted()
    assert pruned[0].read(lambda tx: verify(tx, keys, since=last)).chain.blocks >= 1


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM audit_block WHERE number = 3", "block 3 is gone: block 4"),
        ("DELETE FROM audit_block WHERE number = 4", "block 1 is gone: block 3"),
        (
            "UPDATE audit_row SET text = replace(text, 'hash', 'hush') WHERE block = 4",
            "block 1 is gone: block 3",
        ),
        ("UPDATE audit_row SET text = text || ' ' WHERE block = 3", "the audit's text of a row of block 3"),
        ("UPDATE call SET family = 'Other' WHERE family = 'Charge'", "family was"),
    ],
)
def test_what_was_tampered_with_behind_a_checkpoint_is_found(
    pruned: tuple[Books, Sealer], sql: str, said: str
) -> None:
    books, _ = pruned
    assert books.write(lambda tx: tx.run(sql)) > 0
    with pytest.raises(Tampered, match=said):
        look(*pruned)
