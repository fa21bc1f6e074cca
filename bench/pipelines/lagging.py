"""luigid-spendguard with a probe in its loop: how late each of its ticks is goes to the file BENCH_LAG_FILE.

A tick is due every 5 ms; a line is when it was due (`time.monotonic`) and how many milliseconds it was late.
"""

from __future__ import annotations

import asyncio
import os
import runpy

from tornado.platform.asyncio import BaseAsyncIOLoop

TICK_S = 0.005

_start = BaseAsyncIOLoop.start


def _probed(loop: BaseAsyncIOLoop) -> None:
    # Line by line, so that nothing is missing of a luigid that is ended; its process writes it until then.
    file = open(os.environ["BENCH_LAG_FILE"], "w", buffering=1, encoding="ascii")  # noqa: SIM115
    ticking: asyncio.AbstractEventLoop = loop.asyncio_loop

    def tick(due: float) -> None:
        now = ticking.time()
        file.write(f"{due:.4f} {(now - due) * 1000:.3f}\n")
        ticking.call_at(now + TICK_S, tick, now + TICK_S)

    BaseAsyncIOLoop.start = _start
    ticking.call_soon(tick, ticking.time())
    _start(loop)


BaseAsyncIOLoop.start = _probed
runpy.run_module("scheduler_patch", run_name="__main__", alter_sys=True)
