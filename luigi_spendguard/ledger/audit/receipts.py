"""Receipts: what is sealed of one run, in a file that shows by itself that it belongs to the audit.

A receipt has the run's rows as they were hashed, for each the hashes that lead to its block's root (RFC
6962), the blocks' signed heads and the public keys. It is signed itself for exactly those rows, by who has
looked that they are all: so that none can be left away. Nothing of another run is in it but hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from luigi_spendguard.errors import NotFound
from luigi_spendguard.ledger.audit.blocks import Block, block_of, head_text
from luigi_spendguard.ledger.audit.chain import Chain
from luigi_spendguard.ledger.audit.merkle import leaf_hash, path
from luigi_spendguard.ledger.audit.rows import canonical
from luigi_spendguard.ledger.audit.signing import Signer
from luigi_spendguard.ledger.database import Tx

#: What a receipt is called by its first field.
FORMAT = "spendguard-receipt-2"
#: What of a block's head the others of the file do not say.
_HEAD = ("number", "first_seq", "last_seq", "entry", "root", "previous", "key_id", "sealed_at")
#: What is signed of the receipt itself: how many rows there are of the run and their hash, of the blocks from
#: which to which, and how many entries were not sealed yet.
_STATEMENT = (
    *("format", "run_id", "ledger", "made_at", "key_id", "rows", "hash", "first_block", "last_block"),
    *("sealed_at", "unsealed"),
)


class Sealed(NamedTuple):
    """What there is of a run: so many rows, and so many entries that are not sealed yet."""

    rows: int
    unsealed: int


def sealed_of(tx: Tx, run_id: str) -> Sealed:
    """Return how much of a run is sealed; what is about to be pruned counts."""
    rows = tx.value("SELECT count(*) FROM audit_row WHERE run_id = ?", run_id)
    unsealed = tx.value(
        "SELECT count(*) FROM journal WHERE run_id = ?"
        " AND id > (SELECT coalesce(max(entry), 0) FROM audit_block)",
        run_id,
    )
    return Sealed(int(rows), int(unsealed))


def receipt(tx: Tx, run_id: str, chain: Chain, keys: Iterable[str], signer: Signer) -> Iterator[str]:
    """Yield the parts of a run's receipt (JSON), signed by `signer`; `keys` are the public keys, as PEM.

    `chain` is what `verify` has found whole in this very transaction, so that no row of the run's is amiss.
    One block at a time is in memory. Raises NotFound where nothing of the run is in the chain.
    """
    first, last = chain.first, chain.last
    numbers = tx.all(
        "SELECT DISTINCT block FROM audit_row WHERE run_id = ? AND block >= ? ORDER BY block",
        run_id,
        0 if first is None else first.number,
    )
    if first is None or last is None or not numbers:
        raise NotFound(f"nothing of run {run_id} is sealed")
    about: dict[str, Any] = {"format": FORMAT, "run_id": run_id, "ledger": last.ledger, "made_at": tx.now()}
    about |= {"first_block": first.number, "last_block": last.number, "sealed_at": last.sealed_at}
    yield canonical({**about, "public_keys": sorted(keys)})[:-1] + ',"blocks":['
    between, rows, hashed = "\n", 0, sha256()
    for row in numbers:
        block = block_of(tx, row["block"])
        assert block is not None
        part = _part(tx, run_id, block)
        yield between + canonical(part)
        between, rows = ",\n", rows + len(part["rows"])
        hashed.update(b"".join(leaf_hash(one["text"]) for one in part["rows"]))
    end = {"key_id": signer.key_id, "rows": rows, "hash": hashed.hexdigest()}
    end |= {"unsealed": sealed_of(tx, run_id).unsealed}
    signature = signer.sign(statement_of(about | end))
    yield "\n]," + canonical({**end, "signature": signature})[1:] + "\n"


def _part(tx: Tx, run_id: str, block: Block) -> dict[str, Any]:
    """Return a block with a run's rows; hashes that several paths have in common stand there once."""
    rows = tx.all(
        "SELECT seq, run_id, text FROM audit_row WHERE seq BETWEEN ? AND ? ORDER BY seq",
        block.first_seq,
        block.last_seq,
    )
    leaves = [leaf_hash(row["text"]) for row in rows]
    hashes: dict[str, int] = {}
    proved = []
    for place, row in enumerate(rows):
        if row["run_id"] == run_id:
            steps = [hashes.setdefault(one.hex(), len(hashes)) for one in path(leaves, place)]
            proved.append({"seq": row["seq"], "text": row["text"], "path": steps})
    head = {name: getattr(block, name) for name in _HEAD}
    return {**head, "signature": block.signature, "hashes": list(hashes), "rows": proved}


def head_of(part: dict[str, Any], ledger: str) -> str:
    """Return what was signed of a receipt's block."""
    return head_text({name: part[name] for name in _HEAD} | {"ledger": ledger})


def statement_of(receipt: Mapping[str, Any]) -> str:
    """Return what was signed of a receipt itself."""
    return canonical({name: receipt[name] for name in _STATEMENT})
