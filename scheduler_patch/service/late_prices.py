"""Late prices, asked for where the gateway is: the secret is here, and the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tornado.ioloop import IOLoop

from luigi_spendguard.late_prices import Corrector
from luigi_spendguard.protocol.rpcs import CorrectReply, CorrectRequest, DuePricesReply, DuePricesRequest
from scheduler_patch.service import LedgerService

T = TypeVar("T")

#: Seconds for the service to do what is asked of it.
_PATIENCE_S = 60.0


class ServicePrices:
    """What a `Corrector` needs of the ledger, from another thread than the service's."""

    def __init__(self, service: LedgerService, loop: asyncio.AbstractEventLoop) -> None:
        self._service, self._loop = service, loop

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_PATIENCE_S)

    def due_prices(self, request: DuePricesRequest) -> DuePricesReply:
        """Return calls whose price is to be asked for now, whoever has sent them."""
        return self._do(self._service.due_prices(request, relayed_too=True))

    def correct(self, request: CorrectRequest) -> CorrectReply:
        """Take what a vendor says that a call has cost."""
        return self._do(self._service.correct(request, relayed_too=True))


def correct_prices(service: LedgerService) -> None:
    """Begin to ask for late prices, with the secrets of luigi.cfg; called when the loop runs."""
    loop: asyncio.AbstractEventLoop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]  # tornado's own
    Corrector(
        ServicePrices(service, loop),
        lambda: service.settings,
        lambda vendor, settings: settings.vendor(vendor.name).secret,
    ).start()
