"""`Sealing`: seals the audit by the clock, and once more at the end, where the ledger is open."""

from __future__ import annotations

import threading

from luigi_spendguard.ledger.audit.blocks import Block
from luigi_spendguard.ledger.audit.sealing import Sealer
from luigi_spendguard.ledger.audit.signing import KeyFiles
from scheduler_patch.service.anchors import Anchors
from scheduler_patch.service.ledger import Books

#: Seconds between two looks for what is not sealed yet, for one of them, and for the last.
EVERY_S, LOOK_S, LAST_S = 2.0, 30.0, 5.0
#: Seconds that a look which is under way has to end with luigid.
_END_S = 5.0


class Sealing:
    """Seals what one process's ledger has. Nothing of it stops a call: it only helps.

    Where its key is and whom it tells is what luigi.cfg says at that time.
    """

    def __init__(self, books: Books, *, guest: bool = False) -> None:
        """`guest`: another process may be there to seal; without its key here that is left to it."""
        self._books, self._guest = books, guest
        self._anchors = Anchors()
        self._sealer: Sealer | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to seal, from time to time, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="spendguard-seal", daemon=True)
        self._thread.start()

    def seal(self, within_s: float = LOOK_S, *, last: bool = False) -> bool:
        """Seal what there is, for so many seconds; return whether there is more. `last`: the program ends."""
        ledger = self._books.opened
        if ledger is None:
            return False
        files = KeyFiles(self._books.settings.audit_key)
        if self._sealer is None or self._sealer.files != files:
            self._sealer = Sealer(ledger, files, self._tell, guest=self._guest)
        more = self._sealer.seal(within_s, last=last, rest=self._ended.wait)
        self._books.audit_stopped = self._sealer.stopped
        return more

    def finish(self) -> None:
        """Seal what there is once more, before the ledger is closed."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_END_S)
            if self._thread.is_alive():
                return
        self.seal(LAST_S, last=True)
        self._anchors.close()

    def _tell(self, block: Block) -> None:
        self._anchors.tell(block, self._books.settings.audit_anchor)

    def _run(self) -> None:
        more = False
        while more or not self._ended.wait(EVERY_S):
            if self._ended.is_set():
                return
            more = self.seal()
