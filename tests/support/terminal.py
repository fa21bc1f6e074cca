"""A command in a terminal of a given width: a pseudo-terminal, and a process of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path

#: What a terminal does not show: colours and weights.
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def in_terminal(
    folder: Path,
    environment: Mapping[str, str],
    columns: int,
    *args: str,
    typed: str = "",
    timeout_s: float = 60,
) -> tuple[int, str]:
    """Run `spendguard ARGS` in a terminal so wide; return its exit code and what the terminal shows.

    `typed`: what somebody has typed ahead.
    """
    ours, its = pty.openpty()
    try:
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        variables = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        process = subprocess.Popen(
            [sys.executable, "-m", "luigi_spendguard", *args],
            cwd=folder,
            env={**variables, "TERM": "xterm-256color"},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        its = -1
        os.write(ours, typed.encode())
        shown = _read(ours, time.monotonic() + timeout_s)
        code = process.wait(timeout_s)
    finally:
        os.close(ours)
        if its >= 0:
            os.close(its)
    return code, _STYLE.sub("", shown).replace("\r\n", "\n")


def _read(terminal: int, until: float) -> str:
    """Return what is written until the last writer has closed the terminal. Raises TimeoutError."""
    said = b""
    while True:
        if not select.select([terminal], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError(said.decode(errors="replace"))
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # How Linux says that nobody writes any more.
            part = b""
        if not part:
            return said.decode()
        said += part
