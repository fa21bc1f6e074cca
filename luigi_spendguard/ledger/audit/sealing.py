"""`Sealer`: seals what the journal has behind the last block, shortly after it was written.

It reads and hashes beside the writer; a block is one small transaction of its own. What is wrong with the
chain or its key stops it, and nothing else: calls go on, and it is said.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import TimeoutError as NoAnswer

from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.ledger import Ledger
from luigi_spendguard.ledger.audit.blocks import (
    OF_AUDIT,
    Block,
    Draft,
    RunFigures,
    append,
    block_of,
    draft,
    last_block,
    sealed_block,
)
from luigi_spendguard.ledger.audit.signing import AuditStopped, Head, KeyFiles, is_signed
from luigi_spendguard.ledger.database import Tx
from luigi_spendguard.ledger.foreseen import naming

logger = logging.getLogger(__name__)

#: Seconds for a block to be read, and to be written, where nobody waits for that.
_PATIENCE_S = 60.0
#: Seconds between two blocks that are written down apart, while there are many.
_HEAD_S = 1.0
_RESTORED = (
    "an older ledger was restored, or blocks were taken out of it: {}. Look with `spendguard audit verify`; "
    "`spendguard audit accept` takes the ledger as it is"
)


def check_chain(last: Block | None, at_head: Block | None, files: KeyFiles, head: Head | None) -> None:
    """Raise AuditStopped unless the newest block is this machine's, and none is missing behind it.

    `head` was read before the database was, `at_head` is the block of its number there.
    """
    if head is not None:
        known = f"block {head.number} of the audit was sealed"
        if last is None or last.number < head.number:
            has = "none" if last is None else f"{last.number} as its last"
            raise AuditStopped(_RESTORED.format(f"{known}, and it has {has}"))
        if last.ledger != head.ledger:
            raise AuditStopped(_RESTORED.format(f"{known} here, and the last one there is another ledger's"))
        if at_head is not None and at_head.hash != head.hash:
            raise AuditStopped(_RESTORED.format(f"{known} here, and it has another block {head.number}"))
        if last.hash == head.hash:
            return
    if last is None:
        return
    key = files.trusted().get(last.key_id)
    if key is None or not is_signed(last.head, last.signature, key):
        raise AuditStopped(
            f"block {last.number} of the audit is not signed by a key in {files.trusted_file} (its key is "
            f"{last.key_id[:16]}): set [spendguard] audit_key_file to that of the luigid that has sealed it. "
            "Where that is lost, `spendguard audit accept` takes the chain as it is"
        )


def accept(tx: Tx, files: KeyFiles) -> Block | None:
    """Take the chain as the ledger has it for the one to go on with; return its last block."""
    last = last_block(tx)
    if last is None:
        files.head_file.unlink(missing_ok=True)
    else:
        files.keep_head(Head(last.ledger, last.number, last.hash), accepted=True)
    return last


class Sealer:
    """Seals for one process; a thread at a time.

    Attributes:
        files: where its key is.
        stopped: why nothing is sealed; "": it is, as far as is known.

    """

    def __init__(
        self,
        ledger: Ledger,
        files: KeyFiles,
        told: Callable[[Block], object] = lambda block: None,
        *,
        guest: bool = False,
    ) -> None:
        """`told` is called with each block once it is durable; `guest`: without a key here others seal."""
        self._ledger, self.files, self._told, self._guest = ledger, files, told, guest
        self._figures = RunFigures()
        self._head: Head | None = None
        self._kept_at = time.monotonic()
        self.stopped = ""

    def seal(
        self,
        within_s: float,
        *,
        last: bool = False,
        rest: Callable[[float], object] = lambda seconds: None,
    ) -> bool:
        """Seal what there is, for so many seconds; return whether there is more. It never raises.

        `last`: the program ends, and nothing can be read beside the writer any more. `rest` is called between
        blocks with the seconds that the one before took: who has much to seal leaves room for calls.
        """
        begun = time.monotonic()
        until = begun + within_s
        try:
            while more := self._seal_next(last, until - begun if last else _PATIENCE_S):
                if (now := time.monotonic()) >= until:
                    break
                rest(now - begun)
                begun = time.monotonic()
            self._keep_head()
        except AuditStopped as error:
            if str(error) != self.stopped:
                logger.error("The audit is not sealed: %s", error)
            self.stopped = str(error)
            return False
        except (LedgerUnavailable, NoAnswer) as error:  # What is wrong the calls themselves are told.
            logger.debug("The audit cannot be sealed now: %s", error)
            return False
        except Exception:
            logger.exception("The audit cannot be sealed now")
            return False
        self.stopped = ""
        return more

    def _seal_next(self, is_end: bool, patience_s: float) -> bool:
        """Seal one block, if there is anything to seal; return whether there is more.

        `patience_s`: for how long an answer is waited for, twice at the most.
        """
        head = self.files.head()  # Before the database is looked at, which only goes on from there.
        look = self._ledger.write if is_end else self._ledger.browse
        last, at_head, drafted = look(_look, self._figures, head).result(patience_s)
        if self._guest and last is not None and not self.files.key.exists():
            return False
        check_chain(last, at_head, self.files, head)
        if drafted is None:
            return False
        signer = self.files.signer()
        ledger = uuid.uuid4().hex if last is None else last.ledger
        block = sealed_block(drafted, last, ledger, signer.key_id, signer.sign)
        if not self._ledger.write(_append, drafted, block).result(patience_s):
            return True  # Another process was first: its block is behind the last now.
        self._head = Head(block.ledger, block.number, block.hash)
        if time.monotonic() - self._kept_at >= _HEAD_S:
            self._keep_head()
        self._told(block)
        return drafted.unsealed

    def _keep_head(self) -> None:
        """Write down which block was the last, of which there is one a second at the most."""
        if self._head is not None:
            self.files.keep_head(self._head)
            self._head, self._kept_at = None, time.monotonic()


def _look(tx: Tx, figures: RunFigures, head: Head | None) -> tuple[Block | None, Block | None, Draft | None]:
    last = last_block(tx)
    at_head = None if head is None else block_of(tx, head.number)
    return last, at_head, draft(tx, figures, last)


@naming(lambda foreseen, drafted, block: frozenset({OF_AUDIT}))
def _append(tx: Tx, drafted: Draft, block: Block) -> bool:
    return append(tx, drafted, block)
