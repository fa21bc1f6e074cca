"""Starts a process of the self-test: it reads the self-test's luigi.cfg alone and cannot leave loopback.

    python -m luigi_spendguard.selftest.sandbox CONFIG VENDOR_URL MODULE ARGS…

runs MODULE as `python -m MODULE ARGS…` does.
"""

from __future__ import annotations

import ctypes
import ipaddress
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from luigi_spendguard.process_state import at_fork

_PR_SET_PDEATHSIG = 1


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
    if path.parent not in settings.ledger_path.parents:
        raise LeftSandbox(f"{settings.ledger_path} is not the self-test's ledger")


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
