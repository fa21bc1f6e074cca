"""Books with something of everything, and what seals them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from luigi_spendguard.ledger.audit.blocks import Block, head_text
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import Head, KeyFiles
from luigi_spendguard.ledger.database import Tx
from tests.support.books import Books


class SealedBooks(Books):
    """The ledger at `path`, with one run, and the audit's files beside it."""

    def __init__(self, path: Path, cap: int = 1_000_000_000) -> None:
        super().__init__(path, cap)
        self.files = KeyFiles(path.with_name("audit-key"))
        self.told: list[Block] = []
        self.sealer = Sealer(self.ledger, self.files, self.told.append)

    def seal(self) -> str:
        """Seal all there is; return why nothing is sealed, "" where it is."""
        while self.sealer.seal(60):
            pass
        return self.sealer.stopped


def age(tx: Tx, files: KeyFiles, days: int) -> None:
    """Let all blocks have been sealed so many days earlier: signed anew, by their own key."""
    signer, previous = files.signer(), ""
    for row in tx.all("SELECT * FROM audit_block ORDER BY number"):
        row |= {"previous": previous, "sealed_at": row["sealed_at"] - days * 86_400_000}
        text = head_text(row)
        previous = sha256(text.encode()).hexdigest()
        tx.run(
            "UPDATE audit_block SET previous = ?, sealed_at = ?, hash = ?, signature = ? WHERE number = ?",
            row["previous"],
            row["sealed_at"],
            previous,
            signer.sign(text),
            row["number"],
        )
        last = Head(row["ledger"], row["number"], previous)
    files.keep_head(last, accepted=True)
