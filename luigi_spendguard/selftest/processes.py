"""The self-test's processes: started in its folder, ended by their own ids whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from luigi_spendguard.redaction import redact
from luigi_spendguard.selftest.site import SelfTestError

_GRACE_S = 5.0
_TAIL = 25


class ProcessFailed(SelfTestError):
    """A process did not do its part; `log_end` is what it wrote last."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log_end = tail(log)


class Processes:
    """All processes of a self-test, which has `timeout_s` seconds; leaving the context ends them."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self.folder, self._timeout_s = folder, timeout_s
        self._limit = time.monotonic() + timeout_s
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._all):
            _signal(process, signal.SIGTERM)
        limit = time.monotonic() + _GRACE_S
        for process in reversed(self._all):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, limit - time.monotonic()))
            # What it has forked, too, which may outlive it.
            _signal(process, signal.SIGKILL)
            process.wait()

    def log(self, name: str) -> Path:
        """Return the file of what a process says."""
        return self.folder / f"{name}.log"

    def start(self, name: str, args: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start `python ARGS…` in a session of its own."""
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # Python itself, with modules of ours
                [sys.executable, *args],
                env=dict(env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._all.append(process)
        return process

    def serve(self, name: str, args: list[str], env: Mapping[str, str], ready: Callable[[], bool]) -> None:
        """Start a server and wait until it is ready. Raises ProcessFailed."""
        process = self.start(name, args, env)
        while not ready():
            if process.poll() is not None:
                raise ProcessFailed(f"{name} did not start (exit code {process.returncode})", self.log(name))
            self._check_time(name)
            time.sleep(0.05)

    def run(self, name: str, args: list[str], env: Mapping[str, str]) -> int:
        """Run a process to its end; return its exit code. Raises ProcessFailed when there is no time left."""
        process = self.start(name, args, env)
        while process.poll() is None:
            self._check_time(name)
            time.sleep(0.05)
        return int(process.returncode)

    def _check_time(self, name: str) -> None:
        if time.monotonic() > self._limit:
            raise ProcessFailed(
                f"{name} was not done after {self._timeout_s:g} seconds (--timeout)", self.log(name)
            )


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def tail(log: Path) -> str:
    """Return the last lines of a log, without anybody's secret."""
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return redact("\n".join(lines[-_TAIL:]))


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    """Return whether something answers at a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
