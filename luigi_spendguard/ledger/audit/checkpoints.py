"""Checkpoints: what lets the chain begin behind blocks that were pruned.

An entry of the journal says up to which block the audit is pruned, and that block's hash, signed with the
audit's key: who can write the journal alone has no such entry. It is sealed like any other, and only then are
the blocks deleted: so a later block vouches for the ones that are gone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger.audit.blocks import OF_AUDIT, Block, sealed_entry
from luigi_spendguard.ledger.audit.rows import canonical
from luigi_spendguard.ledger.audit.signing import PublicKeys, Signer, is_signed
from luigi_spendguard.ledger.budgets import JournalEntry, journal, last_entry
from luigi_spendguard.ledger.database import Row, Tx

#: What the journal calls it.
KIND = "audit_prune"
#: Blocks that are deleted in one transaction at the most: calls wait meanwhile.
MOST_BLOCKS = 20


@dataclass(frozen=True)
class Checkpoint:
    """The last block that is pruned: its number, hash and ledger, its last row and its last entry.

    `rows`: how many rows go with it. `key_id` and `signature`: whose word it is; "": nobody's, as an earlier
    version has said it.
    """

    block: int
    hash: str
    ledger: str
    last_seq: int
    entry: int
    rows: int
    key_id: str = ""
    signature: str = ""

    @property
    def _text(self) -> str:
        """What is signed: no block's head has a `kind`."""
        said = {name: value for name, value in asdict(self).items() if name != "signature"}
        return canonical({"kind": KIND, **said})

    def signed(self, signer: Signer) -> Checkpoint:
        """Return it with a signature."""
        named = replace(self, key_id=signer.key_id)
        return replace(named, signature=signer.sign(named._text))

    def is_believed(self, keys: PublicKeys) -> bool:
        """Return whether one of these keys has signed it."""
        key = keys.get(self.key_id)
        return key is not None and is_signed(self._text, self.signature, key)

    @classmethod
    def of(cls, note: str) -> Checkpoint:
        """Return what an entry's note says. Raises ValueError, TypeError."""
        return cls(**json.loads(note))

    @property
    def note(self) -> str:
        """What the journal says of it."""
        return canonical(asdict(self))

    @property
    def ends(self) -> Block:
        """The block that the next one follows, as far as that has to know it."""
        known: dict[str, Any] = dict.fromkeys(("root", "previous", "key_id", "signature"), "")
        known |= {"number": self.block, "hash": self.hash, "ledger": self.ledger}
        known |= {"last_seq": self.last_seq, "entry": self.entry, "first_seq": 0, "sealed_at": 0}
        return Block(**known)


class Gone(NamedTuple):
    """What was deleted: so many blocks and rows."""

    blocks: int
    rows: int


def due(tx: Tx, before: int) -> Checkpoint | None:
    """Return what can be pruned: the blocks that were sealed before then; None where there is nothing.

    The entry that says so is in a later one.
    """
    row = tx.one(
        "SELECT * FROM audit_block WHERE sealed_at < ?1 AND NOT EXISTS"
        " (SELECT 1 FROM audit_block AS other WHERE other.sealed_at >= ?1"
        " AND other.number < audit_block.number) ORDER BY number DESC LIMIT 1",
        before,
    )
    if row is None:
        return None
    block = Block.of(row)
    first = int(tx.value("SELECT min(first_seq) FROM audit_block"))
    return Checkpoint(
        block.number, block.hash, block.ledger, block.last_seq, block.entry, block.last_seq - first + 1
    )


def say(tx: Tx, before: int, signer: Signer) -> int | None:
    """Say in the journal what is to be pruned; return that entry, None where there is nothing to be."""
    checkpoint = due(tx, before)
    if checkpoint is None:
        return None
    journal(tx, JournalEntry(KIND, note=checkpoint.signed(signer).note))
    return last_entry(tx)


def unfinished(tx: Tx, keys: PublicKeys) -> Checkpoint | None:
    """Return a sealed checkpoint whose blocks are not all deleted, None where there is none."""
    found = vouched(tx, keys)
    first = tx.value("SELECT min(number) FROM audit_block")
    return found[0] if found is not None and first is not None and first <= found[0].block else None


def is_sealed(tx: Tx, entry: int) -> bool:
    """Return whether an entry of the journal is sealed by now."""
    return (sealed_entry(tx) or 0) >= entry


def vouched(tx: Tx, keys: PublicKeys | None) -> tuple[Checkpoint, Row] | None:
    """Return the last checkpoint that is sealed, with its row of the audit; None: there is none.

    `keys`: one of these has signed it; None: whether or not anybody has.

    Whether that row is as it was sealed, who walks the chain finds out.
    """
    for said in tx.all("SELECT id FROM journal WHERE kind = ? ORDER BY id DESC", KIND):
        row = tx.one(
            "SELECT audit_row.* FROM audit_row JOIN audit_block ON seq BETWEEN first_seq AND last_seq"
            " WHERE audit_block.number = (SELECT min(number) FROM audit_block WHERE entry >= ?1)"
            " AND kind = 'entry' AND name = CAST(?1 AS TEXT)",
            said["id"],
        )
        if row is None:
            continue
        try:
            sealed = json.loads(row["text"])
            if sealed["kind"] == KIND:
                found = Checkpoint.of(sealed["note"])
                if keys is None or found.is_believed(keys):
                    return found, row
        except (ValueError, TypeError, KeyError):
            continue
    return None


def delete_some(tx: Tx, keys: PublicKeys) -> Gone:
    """Delete blocks that a sealed checkpoint vouches for, the newest of them first. Raises Conflict.

    Whoever repeats this until nothing is gone has deleted all of them. What is left in between is a chain, a
    gap up to the checkpoint, and the chain behind that.
    """
    tx.check(OF_AUDIT)
    found = vouched(tx, keys)
    if found is None:
        raise Conflict("no sealed entry says that blocks of the audit are pruned: nothing was deleted")
    which = found[0]
    blocks = tx.all(
        "SELECT number, first_seq FROM audit_block WHERE number <= ?"
        f" ORDER BY number DESC LIMIT {MOST_BLOCKS}",
        which.block,
    )
    if not blocks:
        return Gone(0, 0)
    least = blocks[-1]
    rows = tx.run("DELETE FROM audit_row WHERE seq BETWEEN ? AND ?", least["first_seq"], which.last_seq)
    tx.run("DELETE FROM audit_block WHERE number BETWEEN ? AND ?", least["number"], which.block)
    return Gone(len(blocks), rows)
