"""The patched worker: knows runs, lets vendor tasks run as attempts, reports blocked ones as blocked."""

from __future__ import annotations

import gc
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import luigi
import luigi.execution_summary
import luigi.interface
import luigi.worker
from luigi.task_status import DONE, FAILED, PENDING
from luigi.worker import rpc_message_callback

from luigi_spendguard import first_worker, proxy
from luigi_spendguard.errors import LedgerUnavailable
from luigi_spendguard.luigi_api import KEEP_ALIVE, SUMMARY, TASK_PROCESS, WORKER, check_luigi, combined
from luigi_spendguard.protocol.rpcs import BlockedReply, BlockedRequest, CloseRunRequest
from luigi_spendguard.proxy import attempts
from luigi_spendguard.redaction import redact, redacted, shows
from luigi_spendguard.worker import any_worker, blocked
from luigi_spendguard.worker.process import BLOCKED, GuardedTaskProcess, blocked_by, quietly, refused_for
from luigi_spendguard.worker.results import LongResults, Results
from luigi_spendguard.worker.revoke import Stopper
from luigi_spendguard.worker.runs import RootTask, announced_root
from luigi_spendguard.worker.state import GuardState

logger = logging.getLogger(__name__)


class GuardedWorker(luigi.worker.Worker):
    """Luigi's worker, with vendor tasks kept within their run's budget."""

    @property
    def _guard(self) -> GuardState:
        state = self.__dict__.get("_guard_state")
        if state is None:
            state = self.__dict__["_guard_state"] = GuardState(self)
        return state

    def __exit__(self, *args: Any) -> Any:
        try:
            return super().__exit__(*args)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """End what this worker has begun beside Luigi: threads, files, connections."""
        for process in self._running_tasks.values():
            if isinstance(process, GuardedTaskProcess) and process.is_gone_by_itself():
                process.tell_left()
        self._stopper.end()
        self._guard.close()

    def run(self) -> Any:
        """Run until there is no more work, then ask why vendor tasks were left."""
        self._guard.say_left()
        self._guard.open_missed()
        if within := attempts.within():  # They wait for this worker: it must not wait for their money.
            self._worker_info.append(("spendguard_within", list(within)))
        try:
            return super().run()
        except KeyboardInterrupt:
            if not self._guard.staying.is_waiting:
                raise
            logger.warning("Interrupted while waiting: submit the same root again when its tasks are freed")
            raise SystemExit(130) from None
        finally:
            self._guard.end_prices()
            if self._guard.vendor_seen:
                with quietly("The scheduler does not say what is blocked"):
                    left = blocked.left(self)
                    request = BlockedRequest(self._id, task_ids=tuple(left))
                    self._guard.left = self._ask_why(request)
                    blocked.tell(self, self._guard.left)
            if not hasattr(self, "_keep_alive_thread"):  # Else `__exit__` has the last word.
                self._let_go()

    def _ask_why(self, request: BlockedRequest) -> BlockedReply:
        """Ask why tasks were left; the summary says what keeps that from being answered."""
        try:
            return self._guard.client().blocked(request)
        except LedgerUnavailable as error:
            self._guard.unheard = str(error)
            raise

    # Which run a task belongs to.

    def add(self, task: Any, *args: Any, **kwargs: Any) -> Any:
        """Add a root task, or one that a running task has yielded."""
        guard = self._guard
        root = self._inherited_root() if guard.handling_result else guard.new_root(task)
        if any_worker.vendor_tasks_known():
            guard.say_unreachable()
        if guard.handling_result and root is not None and root.task_id not in guard.missed:
            root.begin()  # Where no vendor task was announced before.
        guard.adding.append(root)
        guard.announced = False
        try:
            with attempts.outside():
                succeeded = super().add(task, *args, **kwargs)
        finally:
            guard.adding.pop()
        self._has_announced()
        return succeeded

    def _has_announced(self) -> None:
        """Say that a task whose missing dependencies were added again is scheduled completely.

        `run` says it of the roots, and the report of a task that yielded of what it yielded.
        """
        guard = self._guard
        if guard.announced and guard.handling_result and guard.reported:
            self._scheduler.add_worker(self._id, self._worker_info)

    def _inherited_root(self) -> RootTask | None:
        """Return the root of the task whose result is being handled: it yielded what is added now."""
        return self._guard.root_of_task.get(self._last_result() or "")

    def _add_task(self, *args: Any, **kwargs: Any) -> Any:
        guard, task_id = self._guard, kwargs["task_id"]
        task = self._scheduled_tasks.get(task_id)
        if guard.adding and guard.adding[-1] is not None:
            guard.root_of_task.setdefault(task_id, guard.adding[-1])
        own = guard.roots.get(task_id)
        if (
            own is not None
            and kwargs["status"] != DONE
            and (guard.vendor_seen or any_worker.vendor_tasks_known())
        ):
            kwargs |= announced_root(own)
        if task is not None and self._is_vendor(task):
            guard.vendor_seen = True
            if not any_worker.runs_code(task):
                kwargs["spendguard"] = False
            elif kwargs["status"] != DONE:
                kwargs["spendguard"] = guard.announcement(task, self._last_result())
                guard.announced = guard.announced or bool(guard.adding)
        self._report_blocked(kwargs)
        if kwargs.get("expl"):
            kwargs["expl"] = redacted(kwargs["expl"])
        guard.reported = guard.reported or task_id == self._last_result()
        answer = super()._add_task(*args, **kwargs)
        if kwargs["status"] == DONE:
            self._has_completed(task_id)
            self._roots_are_complete(task_id, own)
        return answer

    def _has_completed(self, task_id: str) -> None:
        """Tell the ledger of an attempt that Luigi has just taken for DONE; of nothing that was only added.

        Not before: what Luigi has not heard of it runs again, and must not pay again.
        """
        process, guard = self._running_tasks.get(task_id), self._guard
        reports = guard.handling_result and not guard.adding and task_id == self._last_result()
        if reports and isinstance(process, GuardedTaskProcess):
            process.tell_completion()

    def _last_result(self) -> str | None:
        results = self._task_result_queue
        return results.last if isinstance(results, Results) else None

    def _is_vendor(self, task: Any) -> bool:
        return any_worker.is_vendor(task, self._guard.patterns())

    def _report_blocked(self, kwargs: dict[str, Any]) -> None:
        """Turn the failure of a blocked task into what BudgetScheduler understands."""
        report = blocked_by(kwargs.get("expl")) if kwargs["status"] == FAILED else None
        if kwargs["status"] == FAILED and (why := refused_for(kwargs.get("expl"))):
            self._guard.refused[kwargs["task_id"]] = why
        elif kwargs["status"] == DONE:
            self._guard.refused.pop(kwargs["task_id"], None)
        if kwargs["status"] == FAILED and self._stopper.has_killed(kwargs["task_id"]):
            report = {"reason": "revoked"}
        if report is None:
            return
        kwargs.update(status=PENDING, runnable=True, spendguard_blocked=report)
        self._guard.triggered.add(kwargs["task_id"])
        if report["reason"] == "cap" and "run_id" in report:
            blocked.cap_reached(self, report["run_id"], str(report.get("message", "")))

    def _roots_are_complete(self, task_id: str, own: RootTask | None) -> None:
        """End the runs of the roots that are complete with a task: it is one, or a batch of some.

        Whoever has submitted them: which they are is said where the task is handed out. What was only added,
        and not run here, is known by this worker alone.
        """
        guard = self._guard
        runs = guard.roots_in.pop(task_id, {})
        may_have_one = guard.vendor_seen or any_worker.vendor_tasks_known()
        if own is not None and may_have_one and own.by_task_id and not own.problem:
            runs.setdefault(own.name, None)
        for name, run_id in runs.items():
            known = guard.run_ids.pop(name, None)
            with quietly(f"The run of {name} was not closed"):
                closing = CloseRunRequest(name, run_id or known, str(uuid.uuid4()))
                guard.client().close_run(closing, is_plain=not guard.vendor_seen)

    # Running and reporting.

    def _get_work_task_id(self, get_work_response: Any) -> Any:
        task_id = super()._get_work_task_id(get_work_response)
        if task_id is not None:
            self._guard.roots_in[task_id] = dict(get_work_response.get("spendguard_roots") or {})
        return task_id

    def _create_task_process(self, task: Any) -> Any:
        process = super()._create_task_process(task)
        self._guard.staying.given_work()
        if type(process) is luigi.worker.ContextManagedTaskProcess:
            process.__class__ = GuardedTaskProcess
        elif not isinstance(process, GuardedTaskProcess):
            process.__class__ = combined(GuardedTaskProcess, type(process))
        guard = self._guard
        process.discreet = guard.vendor_seen
        if not self._is_vendor(task) or not any_worker.runs_code(task):
            return process
        members = list(self._batch_running_tasks.get(task.task_id, ()))
        if members:  # Luigi keeps an iterator.
            self._batch_running_tasks[task.task_id] = members
        guard.prepare(process, members)
        return process

    def _handle_next_task(self) -> Any:
        guard = self._guard
        queue: Any = self.__dict__["_task_result_queue"]
        if not isinstance(queue, Results):
            queue = self.__dict__["_task_result_queue"] = Results(queue)
        guard.handling_result, guard.reported = True, False
        queue.arrived, queue.kept_of = self._has_arrived, self._long_results_of
        try:
            return super()._handle_next_task()
        finally:
            guard.handling_result, queue.arrived, queue.kept_of = False, None, None

    def _long_results_of(self, task_id: str) -> LongResults | None:
        process = self._running_tasks.get(task_id)
        return process.long_results if isinstance(process, GuardedTaskProcess) else None

    def _has_arrived(self, task_id: str, status: str) -> None:
        """Say what an attempt has left before its result is handled; of one that is DONE once Luigi knows."""
        process = self._running_tasks.get(task_id)
        if status != DONE and isinstance(process, GuardedTaskProcess):
            process.tell_left()

    def _purge_children(self) -> Any:
        for process in self._running_tasks.values():
            forked = isinstance(process, GuardedTaskProcess) and process.use_multiprocessing
            if not forked or process.is_alive():
                continue
            if process.exitcode:
                process.tell_death()
            elif self._guard.vendor_seen and not process.death_told and self._task_result_queue.empty():
                self._ended_without_result(process)
        return super()._purge_children()

    def _ended_without_result(self, process: GuardedTaskProcess) -> None:
        """Fail a task whose process has ended by itself (`os._exit(0)`): Luigi would wait for it for ever.

        What a child has to say is in the queue before it is gone.
        """
        process.tell_death()
        process.death_told = True
        message = f"Task {process.task.task_id} ended its process without a result"
        process.task.trigger_event(luigi.Event.PROCESS_FAILURE, process.task, message)
        logger.error("%s", message)
        self._task_result_queue.put((process.task.task_id, FAILED, message, [], []))

    def _email_task_failure(self, task: Any, formatted_traceback: Any) -> Any:
        if isinstance(formatted_traceback, dict) and BLOCKED in formatted_traceback:
            return None
        if self._stopper.has_killed(task.task_id):
            return None
        return super()._email_task_failure(task, formatted_traceback)

    # What goes into e-mails and to the scheduler.

    def _email_error(self, task: Any, formatted_traceback: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._email_error(task, redacted(formatted_traceback), *args, **kwargs)

    def _announce_scheduling_failure(self, task: Any, expl: Any) -> Any:
        return super()._announce_scheduling_failure(task, redacted(expl))

    def _handle_task_load_error(self, exception: Any, task_ids: Any) -> Any:
        text = str(exception)
        return super()._handle_task_load_error(redact(text) if shows(text) else exception, task_ids)

    def _keep_alive(self, get_work_response: Any) -> Any:
        if super()._keep_alive(get_work_response):
            return True
        guard = self._guard
        if not guard.vendor_seen or self._stop_requesting_work:
            return False
        return self._waits_for_money()

    def _waits_for_money(self) -> bool:
        """Return whether to stay for blocked tasks; the scheduler answers when one was freed."""
        guard, stays = self._guard, False
        guard.open_missed()
        with quietly("The scheduler does not say what is blocked"):
            guard.client().take_over()
            waits = guard.settings().on_blocked == "wait"
            stays = guard.staying.stays(guard.client(), self._id, waits)
            lines = blocked.lines(guard.staying.why) if waits and stays else []
            if lines and guard.waiting_for != lines:
                guard.waiting_for = lines
                for line in lines:
                    logger.warning("Waiting: %s", line)
        return stays

    def _sleeper(self) -> Iterator[None]:
        stock = super()._sleeper()
        while True:
            if self._guard.staying.waited:
                self._guard.staying.waited = False
            else:
                next(stock)
            yield

    # Revoked runs.

    @rpc_message_callback  # type: ignore[untyped-decorator]  # Luigi's own
    def spendguard_revoke(self, run_id: str, task_ids: list[str]) -> None:
        """Take a message of luigid's: end these tasks. It only sets a mark (the ping thread must go on)."""
        self._stopper.mark(run_id, task_ids)

    @property
    def _stopper(self) -> Stopper:
        stopper: Stopper | None = self.__dict__.get("_spendguard_stopper")
        if stopper is None:
            stopper = self.__dict__["_spendguard_stopper"] = Stopper(self)
        return stopper


class WorkerSchedulerFactory(luigi.interface._WorkerSchedulerFactory):
    """For `luigi.build(…, worker_scheduler_factory=WorkerSchedulerFactory())`."""

    def create_worker(self, scheduler: Any, worker_processes: int, assistant: bool = False) -> Any:
        return GuardedWorker(scheduler=scheduler, worker_processes=worker_processes, assistant=assistant)


def install() -> None:
    """Install the patched worker and the in-process proxy; once is enough.

    Raises PluginError for a Luigi or vendor SDK that this version does not know.
    """
    with first_worker.installing():
        check_luigi(luigi.worker.Worker, WORKER)
        check_luigi(luigi.worker.ContextManagedTaskProcess, TASK_PROCESS)
        check_luigi(luigi.worker.KeepAliveThread, KEEP_ALIVE)
        check_luigi(luigi.execution_summary, SUMMARY)
        proxy.bind()
        if luigi.worker.Worker is not GuardedWorker:
            stock = luigi.worker.Worker
            luigi.worker.Worker = GuardedWorker
            blocked.install()
            # Our lines go where Luigi's own go, in their format.
            logging.getLogger("luigi_spendguard").parent = logging.getLogger("luigi-interface")
            _guard_in_place(stock)
        first_worker.leave()  # Not before: until then whoever begins to use a worker waits.
        any_worker.install()


def uninstall() -> None:
    """Put Luigi and the SDKs back as they were."""
    proxy.unbind()
    any_worker.uninstall()
    luigi.worker.Worker = GuardedWorker.__mro__[1]
    logging.getLogger("luigi_spendguard").parent = logging.getLogger()
    blocked.uninstall()


def _guard_in_place(stock: type) -> None:
    """Guard workers that exist already (VendorTask imported inside `requires()` or by load_task)."""
    for one in gc.get_referrers(stock):  # Not all objects: some may be in the making by another thread.
        if type(one) is stock:
            worker: Any = one
            worker.__class__ = GuardedWorker
            if "_assistant" in vars(worker):  # Else it is being made, and misses nothing.
                worker._guard.guarded_late = not worker._assistant
