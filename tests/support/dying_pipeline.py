"""Tasks that make one call and are killed at a point of its life, once, where `die-POINT` is in OUT_DIR."""

from __future__ import annotations

import os
import signal
from typing import Any

import luigi
import stripe

from luigi_spendguard import VendorTask
from luigi_spendguard.http.ledger_client import HttpLedgerClient
from luigi_spendguard.proxy.gateway_client import Forwarder
from tests.support.pipelines import OUT, Output, charge

#: Where: what it is about to do (True), or has done.
POINTS: dict[str, tuple[type, str, bool]] = {
    "before_reserve": (HttpLedgerClient, "reserve", True),
    "before_send": (HttpLedgerClient, "reserve", False),
    "before_settle": (HttpLedgerClient, "end", True),
    "after_settle": (HttpLedgerClient, "end", False),
    "before_finish": (HttpLedgerClient, "finish", True),
    "answered": (Forwarder, "_sent", False),
}


def arm() -> None:
    """Let this process be killed where the test has said."""
    for point, (owner, name, ahead) in POINTS.items():
        if (OUT / f"die-{point}").exists():
            (OUT / f"die-{point}").unlink()
            setattr(owner, name, deadly(getattr(owner, name), ahead))


def deadly(act: Any, ahead: bool) -> Any:
    def acted(*args: Any, **named: Any) -> None:
        if not ahead:
            act(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    return acted


class Dying(VendorTask, Output):
    """Charges $1; what the SDK would do again the next attempt does."""

    run_id = luigi.Parameter(default="r", significant=False)

    def run(self) -> None:
        stripe.max_network_retries = 0
        arm()
        charge("cus_1")
        self.write()


class DyingText(VendorTask, Output):
    """Sends a text."""

    run_id = luigi.Parameter(default="r", significant=False)

    def run(self) -> None:
        from twilio.rest import Client

        made = Client(os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"])
        arm()
        made.messages.create(to="+14155550001", from_="+15005550006", body="Paid")
        self.write()
