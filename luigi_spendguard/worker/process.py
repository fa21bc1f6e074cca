"""The patched task process: claims a vendor task, runs it under its key, says how it ended."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import multiprocessing.queues
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import luigi
from luigi.worker import ContextManagedTaskProcess

from luigi_spendguard import proxy, redaction
from luigi_spendguard.config import ConfigError, Settings
from luigi_spendguard.errors import (
    BudgetExceeded,
    KeyRevoked,
    LedgerUnavailable,
    PluginError,
    SpendguardError,
    blocks,
)
from luigi_spendguard.guard.denials import shown_by
from luigi_spendguard.http.gathering import LastWords
from luigi_spendguard.http.ledger_client import GIVE_UP_S, LedgerClient
from luigi_spendguard.http.outbox import FLUSH_S
from luigi_spendguard.money import BadAmount
from luigi_spendguard.protocol import for_display
from luigi_spendguard.protocol.rpcs import ClaimRequest, FinishRequest
from luigi_spendguard.proxy import attempts, interrupt
from luigi_spendguard.redaction import redacted
from luigi_spendguard.worker import preload
from luigi_spendguard.worker.results import LongResults, ShortResults
from luigi_spendguard.worker.runs import RootTask, amount_of, open_run, payment_keys_of

logger = logging.getLogger(__name__)

# Luigi events, for `@luigi.Task.event_handler(...)`; handlers get (task, message).
#: A vendor task may not run now. Triggered for the task: where it was denied, or else at the worker's end.
TASK_BLOCKED = "spendguard.task_blocked"
#: A run has no room for what is asked of it. Triggered for its root task, once for each worker.
CAP_REACHED = "spendguard.cap_reached"
#: The key in a task's `expl` by which a child tells its worker that the task is blocked.
BLOCKED = "spendguard_blocked"
#: What a task reports begins with that, where it was refused before run().
REFUSED = "Refused before run(): "
#: Seconds between two looks of a child, whose results are not all read, whether its worker is there.
LOOK_S = 0.5
#: Seconds for which a terminated child is waited for.
TERMINATE_S = 2.0


def _leave(results: Any) -> None:
    """Wait until a child's results are written, as it would at its end, but not for a worker that is gone."""
    parent = multiprocessing.parent_process()
    if parent is None or not isinstance(results, multiprocessing.queues.Queue):
        return
    results.close()
    writing = threading.Thread(target=results.join_thread, daemon=True)
    writing.start()
    while writing.is_alive() and os.getppid() == parent.pid:
        writing.join(LOOK_S)


class GuardedTaskProcess(ContextManagedTaskProcess):
    """Luigi's task process; a vendor task's `run()` happens inside an attempt."""

    #: Set by `GuardedWorker._create_task_process`; None and empty for a plain task.
    vendor: bool = False
    client: LedgerClient | None = None
    refusal: str = ""
    root: RootTask | None = None
    #: The tasks of a batch; empty for a single task.
    members: tuple[Any, ...] = ()
    run_id: str | None = None
    settings: Settings | None = None
    #: It is a child that has all that its worker has loaded.
    forked: bool = False
    #: What that child leaves to its worker; None for one that is not forked.
    words: LastWords | None = None
    #: Where that child puts a result that is too long for Luigi's queue; None for one that is not forked.
    long_results: LongResults | None = None
    claim_id: str = ""
    death_told: bool = False
    refused: BaseException | None = None
    #: Its pipeline has vendor tasks: what a plain task prints is redacted, too.
    discreet: bool = False

    def start(self) -> None:
        """Start the child; a revoke that reaches it before it is ready for that waits."""
        with interrupt.held_back() if self.vendor else contextlib.nullcontext():
            super().start()

    def run(self) -> None:
        """Do the task as Luigi does; a child whose worker is gone ends though nobody reads what it says."""
        queue = self.result_queue  # type: ignore[has-type]  # Luigi's own
        if self.long_results is not None:
            self.result_queue = ShortResults(queue, self.long_results)
        try:
            super().run()
        finally:
            if self.forked:
                if self.client is not None:
                    self.client.hand_over()
                _leave(queue)

    def terminate(self) -> Any:
        """End this child as Luigi does (out of time, or its worker leaves), and say so when it is gone."""
        answer = super().terminate()
        if self.vendor and self._is_gone():
            self.tell_death()
        return answer

    def is_gone_by_itself(self) -> bool:
        """Return whether this is a child that has ended."""
        return self.use_multiprocessing and self.pid is not None and not self.is_alive()

    def _is_gone(self) -> bool:
        """Return whether the child has ended, after a moment. Raises ValueError when it was closed."""
        self.join(TERMINATE_S)
        if not self.is_alive() or self.pid is None:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True  # Luigi has waited for it by means of psutil, which Python does not hear of.
        return False

    def _run_get_new_deps(self) -> Any:
        if not self.vendor:
            with attempts.outside(), redaction.streams() if self.discreet else contextlib.nullcontext():
                return super()._run_get_new_deps()
        try:
            attempt = self._claim()
        except (SpendguardError, ConfigError, BadAmount) as error:
            self.refused = error
            raise
        modules = set(sys.modules)
        try:
            with attempt.client.gathering(self.words):
                return self._run_attempt(attempt)
        finally:
            # A forked child runs no exit handlers; what it leaves on disk its worker says. In the worker's
            # own process the rest goes out later.
            attempt.client.flush(FLUSH_S if self.use_multiprocessing else GIVE_UP_S, GIVE_UP_S)
            if self.forked and (loaded := preload.loaded_since(modules)):
                self.result_queue.put(loaded)

    def _run_attempt(self, attempt: attempts.Attempt) -> Any:
        outcome = "failed"
        try:
            with proxy.attempt_running(attempt), self._interruptible(attempt):
                new_deps = super()._run_get_new_deps()
            # Whether the task has completed is Luigi's verdict, and the worker's main process says it.
            outcome = "yielded" if new_deps else "returned"
            return new_deps
        except BaseException as error:
            outcome = "blocked" if blocking(error) is not None else "failed"
            raise
        finally:
            attempt.client.finish(FinishRequest(attempt.claim_id, outcome), attempt.key)

    @contextlib.contextmanager
    def _forward_attributes(self) -> Iterator[Any]:
        """Let the task report to the scheduler as ever, without secrets."""
        with super()._forward_attributes() as process:
            for name in ("set_status_message", "set_tracking_url") if self.vendor or self.discreet else ():
                setattr(self.task, name, _Discreet(getattr(self.task, name)))
            yield process

    def _interruptible(self, attempt: attempts.Attempt) -> contextlib.AbstractContextManager[None]:
        """Let the worker end a child of its own; in the worker's process the next call is denied."""
        return (
            interrupt.interruptible(attempt.run_id, self._writes_nothing)
            if self.use_multiprocessing
            else contextlib.nullcontext()
        )

    def _writes_nothing(self) -> bool:
        """Return whether this child holds no lock of the result queue: dead, it would hold it for ever."""
        lock = getattr(self.result_queue, "_wlock", None)
        if lock is None:
            return True
        if getattr(self.result_queue, "_buffer", None) or not lock.acquire(timeout=1):
            return False
        lock.release()
        return True

    def _claim(self) -> attempts.Attempt:
        """Claim the task for this attempt. Raises PluginError, SpendDenied, LedgerUnavailable."""
        if self.client is None or self.settings is None or self.refusal:
            raise PluginError(self.refusal or "this vendor task was refused before run(): it has no worker")
        proxy.bind()
        run_id = self.run_id
        if run_id is None and self.root is not None:
            run_id = open_run(self.client, self.root)
        # An assistant knows no root: luigid knows the run that the task was dispatched for.
        self.claim_id = self.claim_id or str(uuid.uuid4())
        request = ClaimRequest(
            claim_id=self.claim_id,
            task_id=self.task.task_id,
            family=self.task.task_family,
            worker=self.worker_id,
            run_id=run_id,
            params={
                for_display(name): for_display(value)
                for name, value in self.task.to_str_params(only_significant=False, only_public=True).items()
            },
            max_cost_usd=amount_of(self.task, "max_cost_usd"),
            payment_keys=payment_keys_of(self.members or (self.task,)),
        )
        claimed = self.client.claim(request)
        run_id = claimed.run_id
        logger.info("Vendor task %s runs in run %s (claim %s)", self.task.task_id, run_id, self.claim_id)
        return attempts.Attempt(
            claim_id=self.claim_id,
            run_id=run_id,
            task_id=self.task.task_id,
            family=self.task.task_family,
            key=claimed.vault_key,
            client=self.client,
            settings=self.settings,
            served=frozenset(claimed.gateway),
        )

    def _handle_run_exception(self, ex: BaseException) -> Any:
        denied = blocking(ex) if self.vendor else None
        if denied is None and ex is self.refused:
            # Nothing of it ran: a traceback of ours says less than the reason.
            why = "" if self.refusal else f": {ex}"  # Else the worker has said it once for all.
            logger.error("Vendor task %s was refused before run()%s", self.task.task_id, why)
            self.task.trigger_event(luigi.Event.FAILURE, self.task, ex)
            return redacted(f"{REFUSED}{ex}")
        if denied is None:
            return redacted(super()._handle_run_exception(ex))
        # Blocked, not failed: no failure event, no e-mail, no retry.
        logger.warning("Vendor task %s is blocked: %s", self.task.task_id, denied)
        self.task.trigger_event(TASK_BLOCKED, self.task, denied.message)
        return {BLOCKED: {**denied.facts, "reason": denied.reason, "message": redacted(denied.message)}}

    def tell_completion(self) -> None:
        """Say that Luigi's verdict on this attempt is DONE: now the task has completed."""
        self._tell("completed")

    def tell_death(self) -> None:
        """Say that this process is gone for certain; its pending calls are then in doubt at once."""
        if not self.death_told:
            self.death_told = True
            self._tell("died")

    def tell_left(self) -> None:
        """Say what this process has left to be said of its attempt, if that is so."""
        self._tell("")

    def _tell(self, outcome: str) -> None:
        """Say how the attempt has ended, "": as the child has left it; and what else is left."""
        if not self.vendor or self.client is None or not self.claim_id:
            return
        ends, left = self.words.read() if self.words is not None else ((), "")
        if outcome or left:
            self.client.finish(FinishRequest(self.claim_id, outcome or left, ends))
            if self.words is not None:
                self.words.write(())


class _Discreet:
    """A report of Luigi's, without secrets; it can be pickled, too: a task takes it along to a pool."""

    def __init__(self, report: Callable[[Any], Any]) -> None:
        self._report = report

    def __call__(self, report: Any) -> Any:
        return self._report(redacted(report))


def blocked_by(expl: Any) -> dict[str, Any] | None:
    """Return what a child has reported of the denial that ended it, None when it ended otherwise."""
    if not isinstance(expl, str) or f'"{BLOCKED}"' not in expl:
        return None
    try:
        report = json.loads(expl)[BLOCKED]
    except (ValueError, TypeError, KeyError):
        return None
    return report if isinstance(report, dict) and "reason" in report else None


def blocking(error: BaseException) -> BudgetExceeded | KeyRevoked | None:
    """Return the denial that ended a task and blocks it (`errors.blocks`), also where the task raised its
    own error from it, or an HTTP client's error about the reply that told it.

    What was raised while another error was handled (`__context__`) is about something else: the task may
    have gone on without the call that was denied.
    """
    seen = 0
    current: BaseException | None = error
    while current is not None and seen < 10:
        for denied in (current, shown_by(current)):
            if isinstance(denied, (BudgetExceeded, KeyRevoked)) and blocks(denied):
                return denied
        current, seen = current.__cause__, seen + 1
    return None


def refused_for(expl: Any) -> str:
    """Return why a task was refused before run(), of what its process has reported; "" where it ran."""
    with contextlib.suppress(ValueError):
        expl = json.loads(expl) if isinstance(expl, str) and expl.startswith('"') else expl
    return expl.removeprefix(REFUSED) if isinstance(expl, str) and expl.startswith(REFUSED) else ""


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Do something that only helps later: an unreachable scheduler or a refusal is said elsewhere."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, (PluginError, LedgerUnavailable, ConfigError))
        level = logging.DEBUG if known else logging.WARNING
        logger.log(level, "%s: %s", what, error)
