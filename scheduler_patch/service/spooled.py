"""What waits on this host's disk for the ledger of this process is booked."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from luigi_spendguard.errors import LedgerError, LedgerUnavailable, SpendDenied
from luigi_spendguard.http.spool import Kept
from luigi_spendguard.money import BadAmount
from luigi_spendguard.protocol.messages import BadMessage, Message
from luigi_spendguard.protocol.rpcs import CloseRunRequest, EndedRequest

if TYPE_CHECKING:
    from scheduler_patch.service import LedgerService

logger = logging.getLogger(__name__)


async def take_over(service: LedgerService) -> None:
    """Book what processes that are gone have left for this ledger: local workers, and gateways.

    No ledger is made for it, and nothing is raised: what cannot be booked now goes on waiting.
    """
    if service.spool.is_empty or not service.has_ledger:
        return
    left = service.spool.left()
    try:
        while (waiting := await asyncio.to_thread(next, left, None)) is not None:
            try:
                reply = await _booked(service, waiting.kept)
            except LedgerUnavailable as error:
                logger.warning("What waits in %s is not booked yet: %s", service.spool.folder, error)
                return
            except (LedgerError, SpendDenied, BadAmount, BadMessage) as error:
                await asyncio.to_thread(waiting.refused, str(error))
            except Exception:  # A mistake of ours; the next one may be booked.
                logger.exception("%s is not booked yet", waiting.kept.what)
            else:
                await asyncio.to_thread(waiting.heard, reply)
    finally:
        with suppress(ValueError):  # A thread is at it still: this process ends.
            left.close()


async def _booked(service: LedgerService, kept: Kept) -> Message:
    _, request = kept.read()
    if isinstance(request, EndedRequest):
        return await service.ended(request, relayed=kept.relayed)
    if isinstance(request, CloseRunRequest):
        return await service.close_run(request)
    return await service.finish(request)
