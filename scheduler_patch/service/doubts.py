"""Calls in doubt that are too old to be sent again are looked up by their tags, where luigid has the secret.

In a thread of its own, a call at a time; of several luigids one looks for a call. Only what is found ends it.
It fails open: what goes wrong is in the log, and nothing waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from luigi_spendguard import backoff
from luigi_spendguard.errors import SpendDenied, bare
from luigi_spendguard.guard.doubts import Unlike, ends_of
from luigi_spendguard.guard.effects import Call, Effect, NotSent
from luigi_spendguard.guard.lookups import LookUps, NotNow
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.http.transport import CONNECT_S
from luigi_spendguard.ledger import doubts
from luigi_spendguard.ledger.budgets import cost_so_far
from luigi_spendguard.ledger.database import Row
from luigi_spendguard.ledger.doubts import Due, Lent
from luigi_spendguard.money import Micros, format_usd
from luigi_spendguard.protocol import EndRequest
from luigi_spendguard.redaction import redact
from luigi_spendguard.vendors import Reply, Request
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.service import LedgerService, bookings
from scheduler_patch.service.threads import Do, in_this_loop

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds between two looks at what is due, and the longest time that a vendor may ask to be left alone.
EVERY_S, LONGEST_S = 60.0, 3600.0


class DoubtLookUps:
    """Looks up what is due, from time to time, in a thread."""

    def __init__(self, service: LedgerService, do: Do, wait: Callable[[float], object] = time.sleep) -> None:
        self._service, self._do, self._wait = service, do, wait
        self._transport = BlockingTransport()
        #: Until when a vendor is not asked, by the monotonic clock.
        self._not_before: dict[str, float] = {}

    def run(self) -> None:
        """Look, without end."""
        while True:
            try:
                self.look()
            except Exception as error:
                logger.warning("Calls in doubt cannot be looked up now: %s", redact(str(error)))
            self._wait(EVERY_S)

    def look(self) -> None:
        """Look up what is due now; of a vendor that does not answer no more until the next time."""
        if not any(map(self._may_ask, VENDORS)):
            return
        silent: set[str] = set()
        for one in self._do(self._service.browse(doubts.due)) or ():
            if one.vendor in silent or not self._may_ask(one.vendor, one.account):
                continue
            lent: Lent | None = self._do(self._service.record(doubts.lend, one))
            if lent is not None and not self._looked(one, lent):
                silent.add(one.vendor)

    def _may_ask(self, name: str, account: str = "") -> bool:
        """Return whether a vendor may be asked now, and the secret here is that account's; without an
        account, whether there is any secret.
        """
        vendor, own = VENDORS.get(name), self._service.settings.vendor(name)
        if vendor is None or vendor.books is None or own.secret is None:
            return False
        if time.monotonic() < self._not_before.get(name, 0.0):
            return False
        return not account or vendor.books.can_read(account, own, own.secret)

    def _looked(self, one: Due, lent: Lent) -> bool:
        """Look up one call, and end it by what is found; return whether its vendor has answered."""
        try:
            ends = self._found(one, lent)
        except (NotNow, NotSent) as error:
            logger.warning("Call %s cannot be looked up at %s now: %s", one.call_id, one.vendor, error)
            if isinstance(error, NotNow) and error.reply.status == 429:
                self._leave_alone(one, error.reply)
            return False
        except SpendDenied as denied:
            logger.warning("Call %s stays in doubt: %s", one.call_id, redact(denied.message))
            return True
        except Exception as error:
            why = redact(str(error)) if isinstance(error, Unlike) else type(error).__name__
            logger.warning("Call %s stays in doubt, it could not be looked up: %s", one.call_id, why)
            return True
        ended: Row | None = self._do(self._service.commit(bookings.end_found, one.call_id, ends))
        if ended is None:
            shown = redact(" ".join(ends))
            text = "Call %s stays as it is: %s is another call's, too, or it has ended meanwhile"
            logger.warning(text, one.call_id, shown)
        else:
            cost = format_usd(Micros(cost_so_far(ended)))
            text = "Call %s was in doubt, and by its tag it has made %s: it is %s at %s"
            logger.warning(text, one.call_id, ended["object_id"], ended["state"], cost)
        return True

    def _leave_alone(self, one: Due, reply: Reply) -> None:
        """Ask a vendor no more for as long as it says, and let the call keep its turn."""
        wait_s = backoff.asked_for(reply.headers.get("retry-after", ""), 0.0, LONGEST_S)
        self._not_before[one.vendor] = time.monotonic() + wait_s
        self._do(self._service.record(doubts.put_off, one))

    def _found(self, one: Due, lent: Lent) -> Mapping[str, EndRequest]:
        """Return how a call has ended by each object that has its tag. Raises as `ends_of`."""
        settings = self._service.settings
        vendor, own = VENDORS[one.vendor], settings.vendor(one.vendor)
        secret = own.secret
        assert secret is not None
        assert vendor.books is not None
        between_s = 1 / vendor.books.per_second

        def get(request: Request, _call: Call) -> Generator[Effect, Any, Reply]:
            self._wait(between_s)
            try:
                wire = vendor.wire(request, own, secret, "")
                return self._transport.send(wire, time.monotonic() + own.timeout_s, own.timeout_s, CONNECT_S)
            except Exception as error:
                raised = bare(error)  # Its frames have the secret.
            yield from ()
            raise raised

        # The operator's allowlist is about what tasks call.
        look_ups = LookUps(vendor, get, replace(own, allowed_endpoints=()), settings.fx)
        return _returned(ends_of(look_ups, secret, lent.row, lent.search))


def _returned(life: Generator[Effect, Any, T]) -> T:
    """Return what a generator returns that has no effect of its own."""
    try:
        next(life)
    except StopIteration as ended:
        result: T = ended.value
        return result
    raise AssertionError("a look-up has asked for more than to be sent")


def look_up_doubts(service: LedgerService) -> None:
    """Begin to look up what is due; called when the loop runs."""
    threading.Thread(
        target=DoubtLookUps(service, in_this_loop()).run, name="spendguard-doubts", daemon=True
    ).start()
