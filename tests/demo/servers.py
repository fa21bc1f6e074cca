"""The processes of the demo: started, watched, and ended by their own ids."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.demo.books import local_session
from tests.demo.site import Site

#: localstripe is a program of its own (GPL-3): run, never imported by our code. Its own command line
#: would listen on all interfaces and keep its data in /tmp.
LOCALSTRIPE = """
import sys
from aiohttp import web
from localstripe import resources
from localstripe.server import app
resources.store.dump_to_disk = lambda: None
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
"""
WORKERS = 16
START_S = 30.0
GRACE_S = 5.0


class DemoFailed(Exception):
    """Something is not as it should be; `log` is the file that may tell why."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


class Process:
    """One process in a session of its own, with its output in a file."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str], log: Path, cwd: Path) -> None:
        self.name, self.log = name, log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process's id, and that of its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the process and what it has forked; they may be gone."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL after a grace period."""
        self.signal(signal.SIGTERM)
        if not self.wait(GRACE_S):
            self.signal(signal.SIGKILL)
            self.wait(GRACE_S)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; return whether it has."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class Processes:
    """All processes of a demo; leaving the context ends them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._all: list[Process] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave processes behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.end()

    def start(self, name: str, argv: list[str], env: Mapping[str, str]) -> Process:
        """Start `python ARGV…`, its output in `NAME.log`."""
        log = self._site.logs / f"{name}.log"
        # Not in the user's folder: Luigi would read a luigi.cfg there.
        process = Process(name, [sys.executable, *argv], env, log, self._site.work)
        self._all.append(process)
        return process

    def serve(self, name: str, argv: Callable[[int], list[str]], path: str) -> int:
        """Start a server at a free port, wait until it answers `path`; return the port."""
        for _ in range(3):
            port = free_port()
            process = self.start(name, argv(port), self._site.env())
            if _answers(process, f"http://127.0.0.1:{port}{path}"):
                return port
            if process.running:
                break
        raise DemoFailed(f"{name} did not start", process.log)

    def localstripe(self, name: str) -> str:
        """Start a Stripe of our own and return its address."""
        port = self.serve(name, lambda port: ["-c", LOCALSTRIPE, str(port)], "/js.stripe.com/v3/")
        return f"http://127.0.0.1:{port}"

    def luigid(self, stripe_url: str) -> str:
        """Start luigid-spendguard, with its luigi.cfg, and return its address."""

        def argv(port: int) -> list[str]:
            self._site.write_config(f"http://127.0.0.1:{port}", stripe_url)
            return [
                "-m",
                "scheduler_patch",
                "--address",
                "127.0.0.1",
                "--port",
                str(port),
                "--state-path",
                str(self._site.folder / "luigi-state.pickle"),
            ]

        return f"http://127.0.0.1:{self.serve('luigid-spendguard', argv, '/runs')}"

    def luigi(self, name: str, argv: list[str], env: Mapping[str, str]) -> Process:
        """Start a worker: the stock `luigi` command line with 16 workers."""
        return self.start(name, ["-m", "luigi", *argv, "--workers", str(WORKERS)], env)

    def end(self) -> None:
        """End what still runs, the newest first: SIGTERM, then SIGKILL after a grace period."""
        for process in reversed(self._all):
            process.signal(signal.SIGTERM)
        limit = time.monotonic() + GRACE_S
        for process in reversed(self._all):
            if not process.wait(max(0.1, limit - time.monotonic())):
                process.signal(signal.SIGKILL)
                process.wait(GRACE_S)
        self._all.clear()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(process: Process, url: str) -> bool:
    limit = time.monotonic() + START_S
    with local_session() as session:
        while process.running and time.monotonic() < limit:
            try:
                if session.get(url, timeout=5).status_code == 200:
                    return process.running
            except OSError:
                time.sleep(0.05)
    return False
