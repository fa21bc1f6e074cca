"""Books with something of everything, and what seals them."""

from __future__ import annotations

from pathlib import Path

from luigi_spendguard.ledger.audit.blocks import Block
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
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
