"""Late prices, asked for where the gateway is: the secret is here, and the ledger."""

from __future__ import annotations

from luigi_spendguard.late_prices import Corrector
from luigi_spendguard.protocol.rpcs import CorrectReply, CorrectRequest, DuePricesReply, DuePricesRequest
from scheduler_patch.service import LedgerService
from scheduler_patch.service.threads import Do, in_this_loop


class ServicePrices:
    """What a `Corrector` needs of the ledger, from another thread than the service's."""

    def __init__(self, service: LedgerService, do: Do) -> None:
        self._service, self._do = service, do

    def due_prices(self, request: DuePricesRequest) -> DuePricesReply:
        """Return calls whose price is to be asked for now, whoever has sent them."""
        reply: DuePricesReply = self._do(self._service.due_prices(request, relayed_too=True))
        return reply

    def correct(self, request: CorrectRequest) -> CorrectReply:
        """Take what a vendor says that a call has cost."""
        reply: CorrectReply = self._do(self._service.correct(request, relayed_too=True))
        return reply


def correct_prices(service: LedgerService) -> None:
    """Begin to ask for late prices, with the secrets of luigi.cfg; called when the loop runs."""
    Corrector(
        ServicePrices(service, in_this_loop()),
        lambda: service.settings,
        lambda vendor, settings: settings.vendor(vendor.name).secret,
    ).start()
