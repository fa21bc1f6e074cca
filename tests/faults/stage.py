"""What a round is played on: servers, disks, sites and the wires between them."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.faults import books
from tests.faults.plans import CRASHED, FULL, KILLED, TEXTS, TWO, Plan
from tests.faults.site import TOKEN, FaultySite
from tests.support import postgres
from tests.support.disks import SmallDisk, why_none
from tests.support.network import Unsteady
from tests.support.postgres import PostgresServer, through
from tests.support.vendors import FakeStripe, FakeTwilio, FakeVendor

#: Seconds for which a server is away, and for which the disks are full.
AWAY_S, FULL_S = 0.5, 2.0


class Stage:
    """All that a plan asks for, in a folder; `stack` ends it.

    Attributes:
        second: the site of another luigid on the same ledger.
        acts: what a step may ask for.
        lacking: why there are no small disks here, though some of them were to be full.

    """

    def __init__(self, plan: Plan, folder: Path, stack: contextlib.ExitStack) -> None:
        self.plan, self.folder, self._stack = plan, folder, stack
        self.wires: list[Unsteady] = []
        self.twilio: FakeTwilio | None = None
        self.second: FaultySite | None = None
        self.acts: dict[str, Callable[[], None]] = {FULL: self._fill_disks}
        self._disks: list[SmallDisk] = []
        small = any(fault.action == FULL for fault in plan.faults)
        self.lacking = why_none() if small else ""
        small = small and not self.lacking
        if plan.engine == "postgres":
            self._put_server(small)
        self.stripe = FakeStripe(folder / "vendor", "--latency", "0.05")
        stack.callback(self.stripe.process.end)
        if plan.kind == TEXTS:
            self.twilio = FakeTwilio(folder / "twilio", "--latency", "0.05")
            stack.callback(self.twilio.process.end)
            free = {"price_delay": 0, "send_delay": 0}
            self.twilio.control(options={"sms_price": {"1": f"{books.PRICE / 100}"}, **free})
        self.site = self._site("site")
        if small:
            places = [self.site.state_home] + [self.site.ledger.parent] * (plan.engine == "sqlite")
            self._disks += [stack.enter_context(SmallDisk(place, 8)) for place in places]
        if plan.kind == TWO:
            self.second = self._site("second", faults=self.site.faults)
            self.second.gateway_port = self.site.gateway_port
            same = ("ledger_url", "gateway_url")
            ours = self.site.settings["spendguard"]
            self.second.configure(spendguard={name: ours.get(name) for name in same})
        for one in self.sites:
            self._put_wires(one)

    @property
    def sites(self) -> list[FaultySite]:
        """The site, and the second where there is one."""
        return [self.site] + ([self.second] if self.second is not None else [])

    def start(self) -> None:
        """Start luigid, or both, and the gateway; until then no connection is harmed.

        Whose first look at a ledger is not answered waits for a minute: it may be brought to a new format.
        """
        for one in self.sites:
            self._stack.callback(one.end)
            one.start()
        if self.plan.gateway:
            self.site.start_gateway()
        for wire in self.wires:
            wire.calm = False

    def calm(self) -> None:
        """Harm no connection any more."""
        for one in self.wires:
            one.calm = True

    def paid(self) -> dict[str, int]:
        """Return what each customer has paid, in cents, by the vendors' books."""
        return books.paid(self.stripe, self.twilio)

    def _put_server(self, small: bool) -> None:
        folder = Path(tempfile.mkdtemp(prefix="spendguard-pg-")) if small else None
        if folder is not None:
            self._disks.append(self._stack.enter_context(SmallDisk(folder, 250)))
        # What it has written is small enough for a small disk.
        server = PostgresServer(settings="max_wal_size = 32MB\nmin_wal_size = 32MB\n", folder=folder)
        self.server = self._stack.enter_context(server)
        self._stack.enter_context(_environ(postgres.SERVER, self.server.url))
        self.acts |= {
            KILLED: lambda: self._restart(self.server.kill),
            CRASHED: lambda: self._restart(lambda: self.server.end(signal.SIGQUIT)),
        }

    def _site(self, name: str, **more: Any) -> FaultySite:
        if self.twilio is not None:
            prices = {"sms_prices": f"1: {books.PRICE / 100}", "sms_fees": "1: 0", "failed_price": 0}
            more |= {"twilio": self.twilio, "spendguard_twilio": {"timeout_s": 3, **prices}}
        return FaultySite(
            self.folder / name,
            apart=self.plan.gateway,
            stripe=self.stripe,
            spendguard_stripe={"timeout_s": 3},
            spendguard={"default_cap_usd": 1000, "max_cap_usd": 1000, "admin_token": TOKEN},
            core={"rpc_retry_wait": 1, "rpc_retry_attempts": 20, "rpc_connect_timeout": 3},
            scheduler={"worker_disconnect_delay": 3, "prune_on_get_work": "true", "retry_delay": 1},
            **more,
        )

    def _put_wires(self, site: FaultySite) -> None:
        """Let whatever one of us says to another pass through what may harm it."""
        if not self.plan.share:
            return

        def wire(to: int | str) -> Unsteady:
            made = Unsteady(to, self.plan.seed + len(self.wires), share=self.plan.share)
            self.wires.append(self._stack.enter_context(made))
            made.calm = True
            return made

        site.configure(core={"default_scheduler_url": wire(site.port).url})
        vendors: dict[str, FakeVendor | None] = {"stripe": self.stripe, "twilio": self.twilio}
        for name, vendor in vendors.items():
            if vendor is not None:
                port = int(vendor.url.rpartition(":")[2])
                site.configure(**{f"spendguard_{name}": {"base_url": wire(port).url}})
        if self.plan.gateway:
            site.configure(spendguard={"gateway_url": wire(site.gateway_port).url})
        if self.plan.engine == "postgres":
            url = site.settings["spendguard"]["ledger_url"]
            ledger = through(wire(self.server.socket).port, url)
            site.configure(spendguard={"ledger_url": ledger})

    def _restart(self, end: Callable[[], None]) -> None:
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):  # A full disk has ended it.
            end()
        time.sleep(AWAY_S)
        self.server.start()

    def _fill_disks(self) -> None:
        """Let nothing be written for a while, to the ledger and to what waits for it."""
        for disk in self._disks:
            disk.fill()
        time.sleep(FULL_S)
        for disk in self._disks:
            disk.free()
        if self.plan.engine == "postgres":
            self.server.start()


@contextlib.contextmanager
def _environ(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
