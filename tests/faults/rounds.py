"""A round: a whole site at work for 16 workers while its processes, connections and database fail."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import urllib3

from tests.faults import books, hooks
from tests.faults.plans import CRASHED, FULL, KILLED, Fault, Plan
from tests.faults.points import GATEWAY, LUIGID, WORKER
from tests.support import postgres
from tests.support.disks import SmallDisk, why_none
from tests.support.network import Unsteady
from tests.support.postgres import PostgresServer, through
from tests.support.processes import REPOSITORY, Process, free_port, listening, wait_until
from tests.support.site import FakeStripe, Site

PIPELINE = "tests.faults.pipeline"
HOOK = REPOSITORY / "tests" / "faults" / "hook"
#: Seconds for which a process stands still, and a server is away.
STILL_S, AWAY_S = 2.5, 0.5
#: And for which the disks are full.
FULL_S = 2.0
#: The cap is so many dollars short of what the customers are to pay, until all else is over.
SHORT = 5
#: How often a pipeline is run until it must have ended.
TRIES = 12


class FaultySite(Site):
    """A site whose processes fail where its folder `faults` says so."""

    def __init__(self, folder: Path, *, apart: bool = False, **more: Any) -> None:
        """`apart`: a gateway of its own has the secret."""
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.gateway_process: Process | None = None
        self.gateway_port = free_port()
        super().__init__(folder, gateway=apart, start=False, **more)
        if apart:
            self.configure(spendguard={"gateway_url": f"http://127.0.0.1:{self.gateway_port}"})

    def _environment(self, **more: str) -> dict[str, str]:
        more.setdefault(hooks.OF, WORKER)
        env = super()._environment(**({hooks.FOLDER: str(self.faults)} | more))
        return env | {"PYTHONPATH": f"{HOOK}:{env['PYTHONPATH']}"}

    def start(self, module: str = "scheduler_patch", *args: str, **env: str) -> None:
        """Start luigid, which has no secret; then the gateway, where there is one."""
        secrets, self.secrets = self.secrets, {} if self.gateway else self.secrets
        try:
            super().start(module, *args, **{hooks.OF: LUIGID, **env})
        finally:
            self.secrets = secrets

    def start_gateway(self) -> None:
        """Start the gateway that stands apart."""
        self.gateway_process = Process(
            ("-m", "luigi_spendguard", "gateway", "--port", str(self.gateway_port)),
            self.folder / "gateway.log",
            self.folder,
            self._environment(**(self.secrets | {hooks.OF: GATEWAY})),
            lambda: listening(self.gateway_port),
        )

    def arm(self, fault: Fault) -> None:
        """Let something happen at a step."""
        (self.faults / f"{fault.who}.{hooks.slug(fault.point.step)}.{fault.times}.{fault.action}").touch()

    def armed(self) -> list[str]:
        """Return what has not happened yet."""
        return [
            name for name in os.listdir(self.faults) if not name.startswith(("done.", "still.", "asked."))
        ]

    def disarm(self) -> None:
        """Let nothing more happen."""
        for name in self.armed():
            (self.faults / name).unlink(missing_ok=True)

    def end(self) -> None:
        """End what was started."""
        if self.gateway_process is not None:
            self.gateway_process.end()
        super().end()


class Keeper:
    """Starts again what has died, lets go on what stands still, does what a step asks for; `with` ends it.

    `acts`: by what a step asks for.
    """

    def __init__(self, site: FaultySite, acts: dict[str, Callable[[], None]] | None = None) -> None:
        self.site, self.acts = site, acts or {}
        self.deaths = {LUIGID: 0, GATEWAY: 0}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._ends.wait(0.02):
            try:
                self._look()
            except Exception:  # It did not start: it was killed again meanwhile.
                traceback.print_exc()

    def _look(self) -> None:
        site = self.site
        if site.luigid is not None and site.luigid.popen.poll() is not None:
            self.deaths[LUIGID] += 1
            site.start()
        if site.gateway_process is not None and site.gateway_process.popen.poll() is not None:
            self.deaths[GATEWAY] += 1
            site.start_gateway()
        for name in os.listdir(site.faults):
            path = site.faults / name
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if name.startswith("still.") and time.time() - path.stat().st_mtime > STILL_S:
                    path.unlink()
                    os.kill(int(name.rpartition(".")[2]), signal.SIGCONT)
                elif name.startswith("asked."):
                    self.acts[name.split(".")[1]]()
                    path.unlink()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *args: object) -> None:
        self._ends.set()
        self._thread.join(60)
        for name in os.listdir(self.site.faults):
            if name.startswith("still."):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(name.rpartition(".")[2]), signal.SIGCONT)


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
        self._top_up()
        self._until_done("main", customers, 16)
        self.unpassed = site.armed()
        site.disarm()
        for one in self.wires:
            one.calm = True
        self._until_done("alone", 2 * len(alone) or 2, 2)
        self._until_done("main", customers, 2)  # Says what others have left.
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
                self._run("stop", 200, 4)

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
        limit = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib3.exceptions.HTTPError, ValueError):
                status, said = self.site.call("DELETE", f"/runs/{run_id}")
                if status == 200 and said["state"] == "revoked":
                    break
            assert time.monotonic() < limit, "no revoke was answered"
            time.sleep(0.1)

    @staticmethod
    def _of_stop(request: dict[str, Any]) -> bool:
        return "customer=stop_" in request["body"]

    def _top_up(self) -> None:
        """Let the rest be paid, too; the same top-up counts once, however often it is asked for."""
        limit = time.monotonic() + 60
        body = {"usd": str(SHORT), "request_id": f"top-up-{self.plan.seed}"}
        while True:
            with contextlib.suppress(urllib3.exceptions.HTTPError, ValueError):
                if self.site.call("POST", "/runs/main/top_up", body)[0] == 200:
                    return
            assert time.monotonic() < limit, "no top-up was answered"
            time.sleep(0.1)

    def _judge(self) -> list[str]:
        n, alone = self.plan.customers, sum(fault.who == WORKER for fault in self.plan.faults)
        done = [f"main_{number}" for number in range(n)] + [f"alone_{number}" for number in range(2 * alone)]
        wrong = books.judge(self.site, {"main": n * 100}, done)
        # What was delayed on its way had been sent before.
        late = self.revoked_at + (2.0 if self.wires else 0.0)
        after = [one for one in self.stripe.posts() if self._of_stop(one) and one["time"] > late]
        return wrong + [f"{one['body']} was sent after the revoke" for one in after]


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
