"""The audit's oldest blocks are deleted, once a sealed entry vouches for them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from luigi_spendguard.errors import Conflict
from luigi_spendguard.ledger import pruning
from luigi_spendguard.ledger.audit import checkpoints
from luigi_spendguard.ledger.audit.checkpoints import Checkpoint
from luigi_spendguard.ledger.audit.signing import AuditStopped, KeyFiles
from luigi_spendguard.protocol.operators import AuditPruneRequest
from scheduler_patch.service import LedgerService

#: Seconds for which the entry is waited for to be sealed, and between two looks.
SEALED_S, LOOK_S = 30.0, 0.1
#: Transactions of one request at the most: whoever asks repeats it.
MOST = 10


async def prune_audit(service: LedgerService, request: AuditPruneRequest) -> dict[str, Any]:
    """Delete some of the blocks that were sealed before then, or say what would be.

    Raises Conflict where that is too young, or the audit is not sealed now.
    """
    if not service.has_ledger:
        return _answer(None)
    if not await service.read(pruning.check_age, request.before):
        raise Conflict("what is younger than two days is not pruned: name a day before that")
    if request.dry_run:
        return _answer(await service.browse(checkpoints.due, request.before))
    try:
        files = KeyFiles(service.settings.audit_key)
        signer, keys = files.signer(), files.trusted()
    except AuditStopped as error:
        raise Conflict(f"nothing was deleted, as the audit is not sealed now: {error}") from None
    which = resumed = await service.browse(checkpoints.unfinished, keys)
    if which is None:
        entry = await service.record(checkpoints.say, request.before, signer)
        if entry is None:
            return _answer(None)
        await _sealed(service, entry)
        which = await service.browse(checkpoints.unfinished, keys)
    blocks = rows = 0
    for _ in range(MOST):
        gone = await service.record(checkpoints.delete_some, keys)
        blocks, rows = blocks + gone.blocks, rows + gone.rows
        if not gone.blocks:
            break
    # What was said earlier may have been less than what is asked for now.
    more = bool(gone.blocks or resumed)
    return _answer(which) | {"blocks": blocks, "rows": rows, "more": more}


async def _sealed(service: LedgerService, entry: int) -> None:
    """Wait until the entry is sealed that vouches for what is deleted. Raises Conflict."""
    limit = time.monotonic() + SEALED_S
    while not await service.browse(checkpoints.is_sealed, entry):
        if service.audit_stopped or time.monotonic() >= limit:
            why = service.audit_stopped or f"its last entry was not within {SEALED_S:g} s"
            raise Conflict(f"nothing was deleted, as the audit is not sealed now: {why}")
        await asyncio.sleep(LOOK_S)


def _answer(which: Checkpoint | None) -> dict[str, Any]:
    """Return up to which block, its hash and how many rows that are; null where there is nothing."""
    block, hashed = (None, None) if which is None else (which.block, which.hash)
    return {
        "block": block,
        "hash": hashed,
        "blocks": 0,
        "rows": 0 if which is None else which.rows,
        "more": False,
    }
