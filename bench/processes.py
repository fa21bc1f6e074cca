"""Programs under measurement: how long they took, and how much processor time they and others have used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Programs that are measured, each with modules of its own.
PIPELINES = Path(__file__).with_name("pipelines")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ended:
    """A program that has ended: its exit code, its seconds (children's processor time, too), its output."""

    code: int
    wall_s: float
    cpu_s: float
    output: str


class Running:
    """A program that runs, and whose output goes to a file."""

    def __init__(self, args: Sequence[str], folder: Path, name: str, env: Mapping[str, str]) -> None:
        self.log = folder / f"{name}.out"
        with self.log.open("wb") as out:
            self.begun = time.perf_counter()
            self.popen = subprocess.Popen(
                [sys.executable, *args],
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> Ended:
        """Wait for its end."""
        _, status, usage = os.wait4(self.popen.pid, 0)
        wall = time.perf_counter() - self.begun
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        output = self.log.read_text("utf-8", "replace")
        return Ended(self.popen.returncode, wall, usage.ru_utime + usage.ru_stime, output)

    def stop(self) -> None:
        """End it, if it has not ended, and what it has forked."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(10)
        with suppress(ProcessLookupError):
            while True:
                os.killpg(self.popen.pid, signal.SIGKILL)
                self.popen.poll()
                time.sleep(0.01)


def cpu_s(pid: int) -> float:
    """Return the processor seconds that a process has used so far, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int) -> float:
    """Return the memory that a process holds, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def machine_cpu_s() -> float:
    """Return the processor seconds that all processes of this machine have used so far."""
    user, nice, system, _, _, irq, softirq, *_ = (
        Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:]
    )
    return sum(map(int, (user, nice, system, irq, softirq))) / _TICKS
