"""A site whose processes fail where it is said, and who starts them again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.faults import hooks
from tests.faults.plans import Fault
from tests.faults.points import GATEWAY, LUIGID, WORKER
from tests.support.processes import REPOSITORY, Process, free_port, listening
from tests.support.site import Site

HOOK = REPOSITORY / "tests" / "faults" / "hook"
TOKEN = "admin-token-of-the-sites"
#: Seconds for which a process stands still.
STILL_S = 2.5


class FaultySite(Site):
    """A site whose processes fail where its folder `faults` says so."""

    def __init__(self, folder: Path, *, apart: bool = False, faults: Path | None = None, **more: Any) -> None:
        """`apart`: a gateway of its own has the secret; `faults`: the folder of another site."""
        self.faults = faults or folder / "faults"
        self.faults.mkdir(parents=True, exist_ok=True)
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

    def token(self) -> str:
        """Return the admin token that luigi.cfg has."""
        return TOKEN if "admin_token" in self.settings["spendguard"] else super().token()

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

    `sites`: all of which the first's folder `faults` speaks; `acts`: by what a step asks for.
    """

    def __init__(
        self, sites: Sequence[FaultySite], acts: dict[str, Callable[[], None]] | None = None
    ) -> None:
        self.sites, self.faults, self.acts = sites, sites[0].faults, acts or {}
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
        for name in os.listdir(self.faults):
            path = self.faults / name
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if name.startswith("still.") and time.time() - path.stat().st_mtime > STILL_S:
                    path.unlink()
                    os.kill(int(name.rpartition(".")[2]), signal.SIGCONT)
                elif name.startswith("asked."):
                    self.acts[name.split(".")[1]]()
                    path.unlink()
        # Last: while one that stands still has the ledger locked, luigid does not start.
        for site in self.sites:
            if site.luigid is not None and site.luigid.popen.poll() is not None:
                self.deaths[LUIGID] += 1
                site.start()
            if site.gateway_process is not None and site.gateway_process.popen.poll() is not None:
                self.deaths[GATEWAY] += 1
                site.start_gateway()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *args: object) -> None:
        self._ends.set()
        self._thread.join(60)
        for name in os.listdir(self.faults):
            if name.startswith("still."):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(name.rpartition(".")[2]), signal.SIGCONT)
