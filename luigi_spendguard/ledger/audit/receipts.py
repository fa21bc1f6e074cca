"""Receipts: what is sealed of one run, in a file that shows by itself that it belongs to the audit.

A receipt has the run's rows as they were hashed, for each the hashes that lead to its block's root (RFC
6962), the blocks' signed heads and the public keys. Nothing of another run is in it but hashes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from luigi_spendguard.errors import NotFound
from luigi_spendguard.ledger.audit.blocks import Block, block_of, head_text
from luigi_spendguard.ledger.audit.merkle import leaf_hash, path
from luigi_spendguard.ledger.audit.rows import canonical
from luigi_spendguard.ledger.database import Tx

#: What a receipt is called by its first field.
FORMAT = "spendguard-receipt-1"
#: What of a block's head the others of the file do not say.
_HEAD = ("number", "first_seq", "last_seq", "entry", "root", "previous", "key_id", "sealed_at")


class Sealed(NamedTuple):
    """What there is of a run: so many rows, and so many entries that are not sealed yet."""

    rows: int
    unsealed: int


def run_named(tx: Tx, name: str) -> str:
    """Return the run of that id, or the only one whose id begins so. Raises NotFound."""
    if tx.value(
        "SELECT 1 FROM run WHERE run_id = ? UNION SELECT 1 FROM audit_row WHERE run_id = ?", name, name
    ):
        return name
    found = tx.all(
        "SELECT run_id FROM run WHERE substr(run_id, 1, length(?1)) = ?1 ORDER BY run_id LIMIT 4", name
    )
    if len(found) == 1 and name:
        return str(found[0]["run_id"])
    listed = ": " + ", ".join(row["run_id"] for row in found) if found and name else ""
    raise NotFound(
        f"{'several runs begin' if listed else 'no run begins'} with {name[:200]}{listed}; `spendguard runs` "
        "lists them"
    )


def sealed_of(tx: Tx, run_id: str) -> Sealed:
    """Return how much of a run is sealed."""
    rows = tx.value("SELECT count(*) FROM audit_row WHERE run_id = ?", run_id)
    unsealed = tx.value(
        "SELECT count(*) FROM journal WHERE run_id = ?"
        " AND id > (SELECT coalesce(max(entry), 0) FROM audit_block)",
        run_id,
    )
    return Sealed(int(rows), int(unsealed))


def receipt(tx: Tx, run_id: str, keys: Collection[str]) -> Iterator[str]:
    """Yield the parts of a run's receipt (JSON); `keys` are the public keys, as PEM.

    One block at a time is in memory.
    """
    numbers = [
        int(row["block"])
        for row in tx.all("SELECT DISTINCT block FROM audit_row WHERE run_id = ? ORDER BY block", run_id)
    ]
    first = None if not numbers else block_of(tx, numbers[0])
    ledger = "" if first is None else first.ledger
    about = {"format": FORMAT, "run_id": run_id, "ledger": ledger, "made_at": tx.now()}
    yield canonical({**about, "public_keys": sorted(keys)})[:-1] + ',"blocks":['
    between = "\n"
    for number in numbers:
        block = block_of(tx, number)
        assert block is not None
        yield between + canonical(_part(tx, run_id, block))
        between = ",\n"
    yield "\n]}\n"


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
