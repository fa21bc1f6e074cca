"""A round: a whole site at work for 16 workers while its processes, connections and database fail."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import urllib3

from tests.faults import books
from tests.faults.plans import CRASHED, FULL, KILLED, Fault, Plan
from tests.faults.points import WORKER
from tests.faults.site import FaultySite, Keeper
from tests.support import postgres
from tests.support.disks import SmallDisk, why_none
from tests.support.network import Unsteady
from tests.support.postgres import PostgresServer, through
from tests.support.processes import wait_until
from tests.support.site import FakeStripe

T = TypeVar("T")

PIPELINE = "tests.faults.pipeline"
#: Seconds for which a server is away, and for which the disks are full.
AWAY_S, FULL_S = 0.5, 2.0
#: The cap is so many dollars short of what the customers are to pay, until all else is over.
SHORT = 5
#: How often a pipeline is run until it must have ended.
TRIES = 12


class Round:
    """What one plan does to a site in a folder; `play` returns what is wrong then."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.wires: list[Unsteady] = []
        #: When a revoke had answered (`time.monotonic`).
        self.revoked_at = 0.0
        #: What the workers have said last, by pipeline.
        self.said: dict[str, str] = {}
        #: Faults that have not happened.
        self.unpassed: list[str] = []
        self.deaths: dict[str, int] = {}
        self.wrong: list[str] = []
        self.disks: list[SmallDisk] = []
        #: Why there are no small disks here, though some of them were to be full.
        self.lacking = ""

    def play(self) -> list[str]:
        """Do it all; return what is wrong, one line each."""
        with contextlib.ExitStack() as stack:
            acts: dict[str, Callable[[], None]] = {FULL: self._fill_disks}
            small = any(fault.action == FULL for fault in self.plan.faults)
            self.lacking = why_none() if small else ""
            small = small and not self.lacking
            if self.plan.engine == "postgres":
                folder = Path(tempfile.mkdtemp(prefix="spendguard-pg-")) if small else None
                if folder is not None:
                    self.disks.append(stack.enter_context(SmallDisk(folder, 250)))
                # What it has written is small enough for a small disk.
                server = PostgresServer(settings="max_wal_size = 32MB\nmin_wal_size = 32MB\n", folder=folder)
                self.server = stack.enter_context(server)
                stack.enter_context(_environ(postgres.SERVER, self.server.url))
                acts |= {
                    KILLED: lambda: self._restart(self.server.kill),
                    CRASHED: lambda: self._restart(lambda: self.server.end(signal.SIGQUIT)),
                }
            self.stripe = FakeStripe(self.folder / "vendor", "--latency", "0.05")
            stack.callback(self.stripe.process.end)
            self.site = site = self._site()
            if small:
                for folder in (
                    site.state_home,
                    *(() if self.plan.engine == "postgres" else (site.ledger.parent,)),
                ):
                    self.disks.append(stack.enter_context(SmallDisk(folder, 8)))
            stack.callback(site.end)
            self._put_wires(stack)
            site.start()
            if self.plan.gateway:
                site.start_gateway()
            keeper = stack.enter_context(Keeper(site, acts))
            try:
                self._work()
            finally:
                self.deaths = keeper.deaths
            return self._judge()

    def _site(self) -> FaultySite:
        return FaultySite(
            self.folder / "site",
            apart=self.plan.gateway,
            stripe=self.stripe,
            spendguard_stripe={"timeout_s": 3},
            spendguard={"default_cap_usd": 1000, "max_cap_usd": 1000},
            core={"rpc_retry_wait": 1, "rpc_retry_attempts": 20, "rpc_connect_timeout": 3},
            scheduler={"worker_disconnect_delay": 3, "prune_on_get_work": "true", "retry_delay": 1},
        )

    def _put_wires(self, stack: contextlib.ExitStack) -> None:
        """Let whatever one of us says to another pass through what may harm it."""
        if not self.plan.share:
            return
        site = self.site

        def wire(to: int | str) -> Unsteady:
            made = Unsteady(to, self.plan.seed + len(self.wires), share=self.plan.share)
            self.wires.append(stack.enter_context(made))
            return made

        site.configure(core={"default_scheduler_url": wire(site.port).url})
        site.configure(spendguard_stripe={"base_url": wire(int(self.stripe.url.rpartition(":")[2])).url})
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
        for disk in self.disks:
            disk.fill()
        time.sleep(FULL_S)
        for disk in self.disks:
            disk.free()
        if self.plan.engine == "postgres":
            self.server.start()

    # The work.

    def _work(self) -> None:
        site, customers = self.site, self.plan.customers
        alone = [fault for fault in self.plan.faults if fault.who == WORKER]
        for fault in self.plan.faults:
            if fault.who != WORKER and not (fault.action == FULL and self.lacking):
                site.arm(fault)
        failed: list[BaseException] = []

        def beside(act: Callable[[], None]) -> threading.Thread:
            def acted() -> None:
                try:
                    act()
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=acted)
            thread.start()
            return thread

        threads = [beside(self._revoked), beside(lambda: self._alone(alone))]
        for _ in range(TRIES):
            done = self._run("main", customers, 16, budget=customers - SHORT)
            if done or (not site.armed() and self._is_at_cap()):
                break
        assert not done, "the cap was no cap"
        for thread in threads:
            thread.join()
        self.wrong += self._asked(lambda: books.uncounted(site))
        self._top_up()
        self._until_done("main", customers, 16)
        self.unpassed = site.armed()
        site.disarm()
        for one in self.wires:
            one.calm = True
        # One more, so that a worker of this host says what others have left.
        self._until_done("alone", 2 * len(alone) + 1, 2)
        if failed:
            raise failed[0]

    def _is_at_cap(self) -> bool:
        paid = sum(name.startswith("main_") for name in books.paid(self.site))
        return paid >= self.plan.customers - SHORT

    def _run(self, name: str, n: int, workers: int, *, budget: int = 0, first: int = 0) -> bool:
        """Run a pipeline once; return whether it has completed."""
        run_id = "" if name == "alone" else name
        # One that is named by its task is closed when it has completed.
        args = ("PayAll", "--of", name, "--run-id", run_id, "--first", str(first), "--n", str(n))
        if budget:
            args += ("--budget-usd", str(budget))
        _, out = self.site.luigi(*args, "--workers", str(workers), module=PIPELINE, timeout=180)
        self.said[name] = out
        return all(self._is_complete(f"{name}_{number}") for number in range(first, first + n))

    def _is_complete(self, customer: str) -> bool:
        """Return whether a customer's task has its output: Luigi's own summary knows of tasks no more."""
        return any((self.site.folder / "out").glob(f"Pay_{customer}_*"))

    def _until_done(self, name: str, n: int, workers: int) -> None:
        for _ in range(TRIES):
            if self._run(name, n, workers):
                return
            time.sleep(1)  # What has failed is tried again after `retry_delay`.
        raise AssertionError(f"{name} is not done after {TRIES} tries:\n{self.said[name][-3000:]}")

    def _alone(self, faults: list[Fault]) -> None:
        """Let tasks that run in a worker's own process fail, one step after the other."""
        for number, fault in enumerate(faults):
            self.site.arm(fault)
            for _ in range(1 if fault.point.rare else TRIES):  # What else fails may keep it from there.
                self._run("alone", 2, 1, first=2 * number)
                if not any(name.startswith(f"{WORKER}.") for name in self.site.armed()):
                    break

    def _revoked(self) -> None:
        """Let a run of its own begin, and revoke it."""

        def work() -> None:
            while not self.revoked_at:  # luigid forgets it where it is killed.
                self._run("stop", 80, 4)

        working = threading.Thread(target=work)
        working.start()
        try:
            wait_until(
                lambda: len(list((self.site.folder / "out").glob("Pay_stop_*"))) > 2, 120, "calls to stop"
            )
            self._revoke("stop")
        finally:
            self.revoked_at = time.monotonic()
            working.join()

    def _revoke(self, run_id: str) -> None:
        """Revoke a run, and ask again until that is answered."""

        def revoked() -> bool:
            status, said = self.site.call("DELETE", f"/runs/{run_id}")
            return status == 200 and said["state"] == "revoked"

        wait_until(lambda: self._asked(revoked), 60, "a revoke")

    def _asked(self, ask: Callable[[], T]) -> T:
        """Ask luigid something until it answers: it may be killed meanwhile."""
        limit = time.monotonic() + 60
        while True:
            try:
                return ask()
            except (urllib3.exceptions.HTTPError, ValueError, AssertionError):
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)

    @staticmethod
    def _of_stop(request: dict[str, Any]) -> bool:
        return "customer=stop_" in request["body"]

    def _top_up(self) -> None:
        """Let the rest be paid, too; the same top-up counts once, however often it is asked for."""
        body = {"usd": str(SHORT), "request_id": f"top-up-{self.plan.seed}"}

        def topped_up() -> bool:
            return self.site.call("POST", "/runs/main/top_up", body)[0] == 200

        wait_until(lambda: self._asked(topped_up), 60, "a top-up")

    def _judge(self) -> list[str]:
        n, alone = self.plan.customers, sum(fault.who == WORKER for fault in self.plan.faults)
        done = [f"main_{number}" for number in range(n)] + [
            f"alone_{number}" for number in range(2 * alone + 1)
        ]
        wrong = books.judge(self.site, {"main": n * 100}, done)
        # What was delayed on its way had been sent before.
        late = self.revoked_at + (2.0 if self.wires else 0.0)
        after = [one for one in self.stripe.posts() if self._of_stop(one) and one["time"] > late]
        return self.wrong + wrong + [f"{one['body']} was sent after the revoke" for one in after]


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
