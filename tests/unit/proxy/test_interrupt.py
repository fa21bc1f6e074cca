"""A revoke reaches a forked child whenever it comes, and never kills one that is not ready for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from luigi_spendguard import KeyRevoked
from luigi_spendguard.proxy import interrupt

SCRIPT = """
import multiprocessing, os, signal, sys
from luigi_spendguard.worker.process import GuardedTaskProcess
from luigi_spendguard.errors import KeyRevoked
from luigi_spendguard.proxy.interrupt import interruptible

class Child(GuardedTaskProcess):
    vendor = True

    def __init__(self):
        multiprocessing.Process.__init__(self)
        self.begun, self.sent = multiprocessing.Event(), multiprocessing.Event()

    def run(self):
        self.begun.set()
        self.sent.wait()  # It has claimed its task: luigid names it to the worker from here on.
        try:
            with interruptible("r"):
                sys.exit(3)
        except KeyRevoked:
            pass
        os.kill(os.getpid(), signal.SIGUSR2)  # It hands over its result now.

child = Child()
child.start()
child.begun.wait()
os.kill(child.pid, signal.SIGUSR2)
child.sent.set()
child.join()
assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
sys.exit(child.exitcode)
"""


def test_a_signal_before_the_child_is_ready_arrives_when_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_an_event_loop_only_logs_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(interrupt, "AGAIN_S", 0.2)
    before = signal.getsignal(interrupt.SIGNAL)

    async def work() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), interrupt.SIGNAL)
        await asyncio.sleep(5)  # The signal ends it.

    try:
        with pytest.raises(KeyRevoked), interrupt.interruptible("r"):
            asyncio.run(work())
    finally:
        signal.signal(interrupt.SIGNAL, before)
    assert "Exception in callback" in caplog.text
