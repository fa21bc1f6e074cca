"""Ending running tasks of a revoked run: the worker signals the child, which ends by itself.

The child raises KeyRevoked in its main thread once no vendor call of it is in flight, and passes the signal
on to its own children (`proxy/interrupt.py`). A hard kill comes only after a grace that is longer than any
call, and never while the child writes to the result queue; it ends the whole tree, as Luigi's own does.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import queue
import signal
import threading
import time
from pathlib import Path
from typing import Any

from luigi_spendguard.http.ledger_client import LedgerClient
from luigi_spendguard.protocol.rpcs import AcknowledgeRequest
from luigi_spendguard.proxy import interrupt
from luigi_spendguard.worker.process import GuardedTaskProcess, quietly

logger = logging.getLogger(__name__)

#: Seconds beyond the vendor's longest time-out before a child that does not end is killed.
GRACE_S = 5.0
_LOOK_S = 0.2


class Stopper:
    """Ends a worker's forked children; made for each worker, its thread starts with the first mark."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._marks: queue.SimpleQueue[tuple[str, tuple[str, ...]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._asked: dict[str, float] = {}
        #: Claims of tasks that were killed: their end is no failure of theirs, that of a later attempt is.
        self._killed: set[str] = set()

    def has_killed(self, task_id: str) -> bool:
        """Return whether the process whose result is handled now was killed here."""
        process = self._worker._running_tasks.get(task_id)
        if not isinstance(process, GuardedTaskProcess):
            return False
        ended = process.claim_id in self._asked and process.exitcode == interrupt.ENDED
        return ended or process.claim_id in self._killed

    def mark(self, run_id: str, task_ids: list[str]) -> None:
        """Set a mark; called in the ping thread, which holds Luigi's fork lock and must not wait."""
        self._marks.put((run_id, tuple(task_ids)))
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="spendguard-stopper", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """End the thread, when the worker leaves."""
        if self._thread is not None:
            self._marks.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        waiting: dict[str, GuardedTaskProcess] = {}
        while True:
            try:
                marked = self._marks.get(timeout=_LOOK_S)
            except queue.Empty:
                pass
            else:
                if marked is None:
                    return
                run_id, task_ids = marked
                with quietly("The revoke was not acknowledged"):
                    client: LedgerClient = self._worker._guard.client()
                    client.acknowledge(AcknowledgeRequest(self._worker._id, run_id))
                for task_id in task_ids:
                    process = self._worker._running_tasks.get(task_id)
                    if isinstance(process, GuardedTaskProcess) and process.use_multiprocessing:
                        waiting[task_id] = process
            waiting = {task_id: p for task_id, p in waiting.items() if self._asked_to_end(task_id, p)}
            if not waiting and self._marks.empty():
                time.sleep(_LOOK_S)

    def _asked_to_end(self, task_id: str, process: GuardedTaskProcess) -> bool:
        """Ask a child to end, or kill it after its grace; return whether it is still to be looked at."""
        if not process.is_alive() or process.pid is None:
            return False
        since = self._asked.get(process.claim_id)
        if since is None:
            self._asked[process.claim_id] = time.monotonic()
            logger.warning("Task %s is asked to end: its run is revoked", task_id)
            if interrupt.SIGNAL is not None:
                os.kill(process.pid, interrupt.SIGNAL)
        elif time.monotonic() - since > self._grace():
            self._kill(task_id, process)
            return False
        return True

    def _grace(self) -> float:
        return GRACE_S + float(self._worker._guard.settings().longest_timeout_s)

    def _kill(self, task_id: str, process: GuardedTaskProcess) -> None:
        logger.error("Task %s did not end after its run was revoked: it is killed", task_id)
        self._killed.add(process.claim_id)
        below = [] if process.pid is None else _below(process.pid)
        # A child that dies while it holds this lock would hang every other child's result.
        lock = getattr(self._worker._task_result_queue, "_wlock", None)
        if lock is None or not lock.acquire(timeout=GRACE_S):
            process.kill()
        else:
            try:
                process.kill()
            finally:
                lock.release()
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """Return what a process has started, and that has, by psutil (as Luigi asks) or by /proc."""
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return _below_by_proc(pid)
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _below_by_proc(pid: int) -> list[int]:
    """Return what a process has started by Linux's /proc (proc_pid_stat(5)); elsewhere nothing is known."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(stat.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    descendants: list[int] = []
    left = [pid]
    while left:
        below = children.get(left.pop(), [])
        descendants += below
        left += below
    return descendants
