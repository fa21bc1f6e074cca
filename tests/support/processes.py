"""Real processes for tests: started on free loopback ports, ended by their own process id."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from random import SystemRandom
from typing import Any

from tests.support import forked

REPOSITORY = Path(__file__).resolve().parents[2]


#: Below those that Linux gives to connections that go out: none of them takes the port meanwhile.
PORTS = range(10_000, 32_768)


def free_port() -> int:
    """Return a loopback port that nobody listens on now, and that other test processes hardly choose, too."""
    while True:
        port = SystemRandom().choice(PORTS)  # Not `random`: Hypothesis gives that the same seed everywhere.
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def environment(**more: str) -> dict[str, str]:
    """Return a clean environment for a child: no proxies, no secrets of the caller's."""
    names = ("PATH", "LANG", "TMPDIR", "XDG_STATE_HOME")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {
        **kept,
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": f"{REPOSITORY / 'tests' / 'support' / 'absent'}:{REPOSITORY}",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONFAULTHANDLER": "1",  # SIGABRT lets it say where each of its threads is.
        **more,
    }


def python(*args: str, env: Mapping[str, str], **more: Any) -> subprocess.Popen[Any]:
    """Start `python ARGS`, in a session of its own; `more`: as `subprocess.Popen` takes it."""
    return forked.started(args, env, environment(), **more)


class Process:
    """A child process with its log; `with` ends it."""

    def __init__(
        self,
        args: Sequence[str],
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
        ready: Callable[[], bool],
        program: str = sys.executable,
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            if program == sys.executable:
                self.popen = python(*args, env=env, cwd=cwd, **files)
            else:
                command = [program, *args]
                self.popen = subprocess.Popen(command, env=env, cwd=cwd, start_new_session=True, **files)
        deadline = time.monotonic() + 60  # Other tests are at work, too.
        while not ready():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"{args[1]} did not start:\n{self.text()[-3000:]}")
            time.sleep(0.02)

    def text(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """End it as power loss would: no handler of it runs."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def end(self) -> None:
        """Ask it to end, then make it."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


def listening(port: int) -> bool:
    """Return whether something answers on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], seconds: float = 60, what: str = "it") -> None:
    """Wait for a condition; fail after `seconds`: other tests may have the machine busy."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.02)


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read what a process says until it has said these words; what else was read with them is lost."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return
    raise AssertionError(f"it has ended without {words!r}:\n{''.join(said)[-3000:]}")


@contextmanager
def spawned_process(act: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """As `other_process`, by spawning one; `act` can be pickled."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_act_when_told, args=(there, act))
    process.start()
    here.recv()

    def tell() -> None:
        here.send(None)
        process.join()
        assert process.exitcode == 0

    try:
        yield tell
    finally:
        process.kill()
        process.join()


def _act_when_told(there: Connection, act: Callable[[], object]) -> None:
    there.send(None)
    there.recv()
    act()


@contextmanager
def other_process(act: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Fork a process that does something when it is told to; what is told waits for that."""
    here, there = multiprocessing.Pipe()
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            there.recv()
            act()
            os._exit(0)
        os._exit(1)

    def tell() -> None:
        here.send(None)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    yield tell
