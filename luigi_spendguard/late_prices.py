"""`Corrector`: asks vendors for prices that they name late, and corrects what was settled at an estimate.

It runs wherever a vendor's secret is: in luigid and gateways, else in workers. What waits for a price is in
the ledger; whoever asks for it is lent it for a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from luigi_spendguard.config import Settings
from luigi_spendguard.errors import SpendguardError
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.http.transport import CONNECT_S
from luigi_spendguard.protocol import MAX_NOTE
from luigi_spendguard.protocol.rpcs import (
    CorrectReply,
    CorrectRequest,
    DuePrice,
    DuePricesReply,
    DuePricesRequest,
)
from luigi_spendguard.vendors import FollowedUp, Vendor
from luigi_spendguard.vendors.registry import VENDORS

logger = logging.getLogger(__name__)

#: Seconds between two looks at what is due, and for a look: what is due is lent for a minute.
EVERY_S, LOOK_S = 2.0, 45.0
#: Seconds that a look which is under way has to end with the worker; else its thread ends after it.
END_S = 1.0


class PriceLedger(Protocol):
    """The ledger's side of it."""

    def due_prices(self, request: DuePricesRequest) -> DuePricesReply:
        """Return calls of these vendors whose price is to be asked for now."""

    def correct(self, request: CorrectRequest) -> CorrectReply:
        """Say what a vendor says that a call has cost."""


class Corrector:
    """Looks for what is due, in a thread of its own, until it is ended. It never raises: it only helps.

    `secret_of` returns a vendor's secret where that may be used here, else None.
    """

    def __init__(
        self,
        ledger: PriceLedger,
        settings: Callable[[], Settings],
        secret_of: Callable[[Vendor, Settings], str | None],
    ) -> None:
        self._ledger, self._settings, self._secret_of = ledger, settings, secret_of
        self._transport = BlockingTransport()
        self._told: set[str] = set()  # Once is enough.
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spendguard-prices", daemon=True)

    def start(self) -> None:
        """Begin to look, from time to time."""
        self._thread.start()

    def end(self) -> None:
        """Look no more; what is being asked for goes on being waited for in the ledger."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                while self.look() and not self._ended.is_set():
                    pass
            except SpendguardError as error:
                logger.debug("Prices cannot be asked for now: %s", error)
            except Exception:
                logger.exception("Prices cannot be asked for now")

    def look(self, within_s: float = LOOK_S) -> int:
        """Ask for every price that is due now; return how many there were. Raises SpendguardError.

        What has not been asked for after `within_s` seconds is left for a later look, whosever.
        """
        until = time.monotonic() + within_s
        settings = self._settings()
        secrets = {
            name: secret
            for name, vendor in VENDORS.items()
            if vendor.prices_late and (secret := self._secret_of(vendor, settings)) is not None
        }
        due = self._ledger.due_prices(DuePricesRequest(tuple(sorted(secrets)))).due if secrets else ()
        for call in due:
            if time.monotonic() >= until:
                break
            price = self._ask(call, settings, secrets[call.vendor], until)
            if price is not None:
                if price.problem and price.problem not in self._told:
                    self._told.add(price.problem)
                    logger.warning("Call %s: %s", call.call_id, price.problem)
                note, problem = price.note[:MAX_NOTE], price.problem[:MAX_NOTE]
                self._ledger.correct(
                    CorrectRequest(call.call_id, price.final, price.total_micros, note, price.whole, problem)
                )
        return len(due)

    def _ask(self, call: DuePrice, settings: Settings, secret: str, until: float) -> FollowedUp | None:
        """Return what the vendor says; None where it is another account's, which is not ours to ask."""
        vendor, own = VENDORS[call.vendor], settings.vendor(call.vendor)
        request = vendor.follow_up(call.account, call.object_id, own)
        if request is None:
            return None
        try:
            wire = vendor.wire(request, own, secret, "")
            left = max(0.1, (until - time.monotonic()) / 2)
            reply = self._transport.send(wire, until, min(own.timeout_s, left), min(CONNECT_S, left))
            return vendor.followed(reply, own, settings.fx)
        except Exception as error:  # Asked again later.
            return FollowedUp(None, note=f"{vendor.name} does not say ({type(error).__name__})")
