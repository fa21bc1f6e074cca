"""The vendors' own books, compared with the ledger at night, where luigid has the secrets.

In a thread of its own; of several luigids one does it, and a night that was missed is caught up. It fails
open: what goes wrong is in the log, and nothing waits for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable

from luigi_spendguard import config
from luigi_spendguard.errors import SpendguardError
from luigi_spendguard.http.blocking import BlockingTransport
from luigi_spendguard.ledger.database.engines import opened
from luigi_spendguard.ledger.reconciliations import DAY_MS, NightFinding, go_on, keep, take
from luigi_spendguard.money import format_usd
from luigi_spendguard.protocol import command
from luigi_spendguard.reconcile import Reconciler, forget_old
from luigi_spendguard.redaction import redact
from luigi_spendguard.settings.policy import moment
from luigi_spendguard.vendors.own_books import Period
from luigi_spendguard.vendors.registry import VENDORS
from scheduler_patch.service import LedgerService
from scheduler_patch.service.threads import Do, in_this_loop

logger = logging.getLogger(__name__)

#: Seconds between two looks at the clock.
EVERY_S = 60.0
#: Seconds after which a comparison says again that it goes on.
_GOES_ON_S = 600.0


def due_until(now_ms: int, minute: int) -> int:
    """Return the midnight (UTC) until which all is to be compared by now; milliseconds since the epoch.

    `minute`: of the day, at which the day before is.
    """
    midnight = now_ms - now_ms % DAY_MS
    return midnight if now_ms - midnight >= minute * 60_000 else midnight - DAY_MS


class _Lost(SpendguardError):
    """Another luigid has taken it over."""


class Nightly:
    """Compares what is due, from time to time, in a thread."""

    def __init__(
        self,
        service: LedgerService,
        do: Do,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._service, self._do, self._wait = service, do, wait
        self._owner = uuid.uuid4().hex

    def run(self) -> None:
        """Look at the clock, without end."""
        while True:
            try:
                self.look(int(time.time() * 1000))
            except Exception as error:
                logger.warning("The vendors' books cannot be compared now: %s", redact(str(error)))
            self._wait(EVERY_S)

    def look(self, now_ms: int) -> None:
        """Compare what is due now."""
        settings = self._service.settings
        if settings.reconcile is None or not self._service.has_ledger:
            return
        until = due_until(now_ms, settings.reconcile)
        for name, vendor in VENDORS.items():
            if vendor.books is None or settings.vendor(name).secret is None:
                continue
            since = self._do(self._service.record(take, name, until, self._owner))
            if since is not None:
                self._compare(name, Period(since, until))

    def _compare(self, name: str, period: Period) -> None:
        """Compare one vendor's accounts, and keep what is found."""
        when = (period.since_ms, period.until_ms)
        state, note = "done", ""
        try:
            for finding in self._findings(name, period):
                self._do(self._service.record(keep, name, when, finding, "done"))
                self._say(name, period, finding)
        except _Lost:
            return
        except Exception as error:
            state, note = "failed", redact(f"{error or type(error).__name__}")[:500]
            logger.warning("The books of %s could not be compared, and are tried again: %s", name, note)
        self._do(self._service.record(keep, name, when, NightFinding("", note=note), state))

    def _findings(self, name: str, period: Period) -> list[NightFinding]:
        settings = self._service.settings
        secret = settings.vendor(name).secret
        assert secret is not None
        folder = config.state_folder(os.environ) / "reconcile"
        forget_old(folder)
        found = []
        with opened(settings.ledger, read_only=True) as ledger:
            one = Reconciler(
                name, settings, secret, ledger, BlockingTransport(), folder, self._going_on(name, period)
            )
            can, cannot = one.accounts(period)
            for account in can:
                done = one.reconcile(account, period)
                done.file.remove()
                sums = done.sums
                found.append(
                    NightFinding(
                        account,
                        sums.monies,
                        sums.differences,
                        sums.vendor_only,
                        sums.ledger_only,
                        dict(sums.kinds + sums.uncompared),
                    )
                )
        found += [NightFinding(account, note="not compared: its secret is not here") for account in cannot]
        return found

    def _going_on(self, name: str, period: Period) -> Callable[[float], object]:
        """Return what waits between two pages, and says from time to time that it goes on."""
        said = time.monotonic()

        def wait(seconds: float) -> None:
            nonlocal said
            self._wait(seconds)
            if time.monotonic() - said > _GOES_ON_S:
                said = time.monotonic()
                if not self._do(self._service.record(go_on, name, period.until_ms, self._owner)):
                    raise _Lost("another luigid has taken it over")

        return wait

    def _say(self, name: str, period: Period, finding: NightFinding) -> None:
        what = f"{finding.account} from {moment(period.since_ms)} to {moment(period.until_ms)}"
        if finding.note:
            logger.warning("%s is %s", what, finding.note)
        elif not finding.differences:
            logger.info("%s is the same in the books of %s: %d payments", what, name, finding.payments)
        else:
            named = ", ".join(f"{kind}: {count}" for kind, count in sorted(finding.kinds.items()))
            logger.warning(
                "%s differs from the books of %s (%s): %s there only, %s here only. See %s",
                what,
                name,
                named,
                format_usd(finding.vendor_only),
                format_usd(finding.ledger_only),
                command(
                    *("reconcile", name, "--since", str(moment(period.since_ms))),
                    *("--until", str(moment(period.until_ms))),
                ),
            )


def reconcile_nightly(service: LedgerService) -> None:
    """Begin to look at the clock; called when the loop runs."""
    threading.Thread(
        target=Nightly(service, in_this_loop()).run, name="spendguard-reconcile", daemon=True
    ).start()
