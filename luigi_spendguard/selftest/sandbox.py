"""The self-test's processes, each in a sandbox: it reads the self-test's luigi.cfg alone, stays on loopback.

    python -m luigi_spendguard.selftest.sandbox CONFIG VENDOR_URL MODULE ARGS…

runs MODULE as `python -m MODULE ARGS…` does. `Processes` starts them, and ends them by their own ids
whatever happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luigi_spendguard.process_state import at_fork
from luigi_spendguard.redaction import redact

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
_TAIL = 25


class SelfTestError(Exception):
    """The self-test cannot be made here; the message says why."""


class LeftSandbox(Exception):
    """Something of the self-test was about to leave this machine, or to use what is not its own."""


def stay_on_loopback(event: str, args: tuple[Any, ...]) -> None:
    """Refuse to look up or connect to anything but this machine: an audit hook, which nothing can remove."""
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # Else it is a path on this machine.
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if not _is_here(host):
        raise LeftSandbox(f"a self-test never leaves this machine: {event} to {host!r} was refused")


def _is_here(host: Any) -> bool:
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def end_with_parent() -> None:
    """Let Linux end this process, and what it forks, when the self-test is killed.

    Elsewhere only an orderly end does.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError, TypeError):
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    at_fork(lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM))


def read_alone(path: Path) -> None:
    """Let Luigi and us read the file at `path` and no other, such as those in /etc/luigi."""
    from luigi import setup_logging  # Importing Luigi reads the usual files: what they say is dropped.
    from luigi.configuration.core import PARSERS, get_config

    for parser in set(PARSERS.values()):
        parser._config_paths = [str(path)]
        parser._instance = None
    setup_logging.BaseLogging.config = get_config()  # It has kept the one that was read at its import.


def check_own(path: Path, vendor_url: str) -> None:
    """Refuse any other vendor and any other ledger than the self-test's. Raises LeftSandbox, ConfigError."""
    from luigi_spendguard import config
    from luigi_spendguard.vendors.registry import VENDORS

    settings = config.load()
    if list(settings.files) != [path]:
        raise LeftSandbox(f"the settings in force are not the self-test's: {settings.files}")
    for name in VENDORS:
        if settings.vendor(name).base_url != vendor_url:
            raise LeftSandbox(f"calls to {name} would not go to the fake vendor")
    if settings.ledger_server is not None or path.parent not in settings.ledger_path.parents:
        raise LeftSandbox(f"{settings.ledger_name} is not the self-test's ledger")


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


def main() -> None:
    """Run the module that is named."""
    end_with_parent()
    sys.addaudithook(stay_on_loopback)
    path, vendor_url, module = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    read_alone(path)
    check_own(path, vendor_url)
    sys.argv[:] = [module, *sys.argv[4:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
