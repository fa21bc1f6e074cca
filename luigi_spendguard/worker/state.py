"""What a guarded worker knows beside Luigi's own: a task's root and run, what it announces, why it stays.

A worker speaks only of what it has scheduled itself. What it runs for others (an assistant, a batch's
combined task) it says nothing of: luigid knows whose it is.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
import uuid
from typing import Any

import luigi.rpc
import luigi.scheduler

from luigi_spendguard import config
from luigi_spendguard.errors import LedgerUnavailable, PluginError, SpendDenied, SpendguardError
from luigi_spendguard.http.addresses import SchedulerAddress
from luigi_spendguard.http.gathering import LastWords
from luigi_spendguard.http.ledger_client import HttpLedgerClient, LedgerClient
from luigi_spendguard.http.spool import backlog, spool_folder
from luigi_spendguard.http.spool_file import files_in
from luigi_spendguard.late_prices import Corrector
from luigi_spendguard.money import BadAmount
from luigi_spendguard.protocol.rpcs import BlockedReply, BlockedRequest, BlockedTasks
from luigi_spendguard.proxy import environment
from luigi_spendguard.worker import preload
from luigi_spendguard.worker.process import GuardedTaskProcess
from luigi_spendguard.worker.results import LongResults
from luigi_spendguard.worker.runs import RootTask, amount_of, open_run, vendors_of

logger = logging.getLogger(__name__)

#: Seconds for the prices that are asked for when a worker with a ledger of its own has done its work.
END_S = 10.0
#: Seconds for which the scheduler is asked to wait until something is freed.
WAIT_S = 4
#: Seconds after which its answer counts as one that was waited for.
_WAITED_S = 1.0
#: Seconds for which its last answer holds while it cannot be reached: as long as Luigi's own retries.
KEPT_S = 90.0
#: Looks at the same tasks, ready but not handed out, after which they are left to other workers.
_LOOKS = 3


class GuardState:
    """What a guarded worker knows beside Luigi's own: roots, runs, and its ledger client."""

    def __init__(self, worker: Any) -> None:
        self.roots: dict[str, RootTask] = {}
        self.root_of_task: dict[str, RootTask] = {}
        self.run_ids: dict[str, str] = {}
        #: The roots that each dispatched task is (a batch: those among its members), each with its run.
        self.roots_in: dict[str, dict[str, str | None]] = {}
        self.refusals: dict[str, str] = {}
        self.adding: list[RootTask | None] = []
        self.handling_result = False
        self.vendor_seen = False
        #: Vendor tasks were announced by the `add` that is under way.
        self.announced = False
        #: The worker had scheduled tasks before it was guarded.
        self.guarded_late = False
        #: Roots whose run could not be opened when it was asked for.
        self.missed: dict[str, RootTask] = {}
        #: What the scheduler said at the end about blocked tasks.
        self.left: BlockedReply | None = None
        #: Why it has said nothing; and why tasks were refused before run(), each when it was tried last.
        self.unheard, self.refused = "", dict[str, str]()
        #: Tasks and runs whose events were triggered.
        self.triggered: set[str] = set()
        #: The result that is being handled was reported: what is added now was not yielded.
        self.reported = False
        self.staying = Staying()
        #: What was logged already: each refusal once, and what is waited for once for each change.
        self.logged: set[str] = set()
        self.waiting_for: list[str] = []
        self._worker, self._scheduler = worker, worker._scheduler
        self._client: LedgerClient | None = None
        self._settings: config.Settings | None = None
        self._prices: Corrector | None = None
        self._looked = False

    def refuse(self, task_id: str, why: str) -> None:
        """Refuse a task (or all tasks of a root) before its run(); each reason is logged once."""
        self.refusals[task_id] = why
        self.log_refusal(why)

    def log_refusal(self, why: str) -> None:
        """Say once why vendor tasks are refused."""
        if why not in self.logged:
            self.logged.add(why)
            logger.error("Vendor tasks are refused before run(): %s", why)

    def settings(self) -> config.Settings:
        """Return luigi.cfg's settings, read once. Raises ConfigError."""
        if self._settings is None:
            self._settings = config.load(environ=environment.environ())
            for text in self._settings.passed_over:
                logger.warning("%s", text)
        return self._settings

    def patterns(self) -> tuple[str, ...]:
        """Return the `vendor_tasks` patterns; a broken configuration matters to vendor tasks only."""
        try:
            return self.settings().vendor_tasks
        except config.ConfigError:
            return ()

    def client(self) -> LedgerClient:
        """Return the way to the ledger of this worker's scheduler. Raises PluginError, ConfigError."""
        if self._client is None:
            if isinstance(self._scheduler, luigi.rpc.RemoteScheduler):
                self._client = HttpLedgerClient(self._scheduler._url, self.settings().worker_token)
            elif isinstance(self._scheduler, luigi.scheduler.Scheduler):
                # --local-scheduler: the one place that reaches up, by name.
                local: Any = importlib.import_module("scheduler_patch.local")
                self._client = local.client(self._scheduler, self.settings())
            else:
                raise PluginError(
                    "vendor tasks need a scheduler that keeps budgets, not a "
                    f"{type(self._scheduler).__name__}: use luigid-spendguard or --local-scheduler. The task "
                    "was refused before run()"
                )
        return self._client

    def say_unreachable(self) -> None:
        """Say once, and at once, what keeps luigid from being reached by https: Luigi tries for a minute."""
        if self._looked or not str(getattr(self._scheduler, "_url", "")).startswith("https:"):
            return
        self._looked = True
        with contextlib.suppress(PluginError, config.ConfigError):
            client = self.client()
            problem = client.problem() if isinstance(client, HttpLedgerClient) else ""
            if problem:
                logger.error("%s", problem[0].upper() + problem[1:])

    def say_left(self) -> None:
        """Say what processes that are gone have left for this scheduler's ledger, whatever is to be run."""
        if not files_in(folder := spool_folder()) or folder is None:
            return
        with contextlib.suppress(OSError, PluginError, config.ConfigError, LedgerUnavailable):
            url = getattr(self._scheduler, "_url", None)
            to = self.settings().ledger_name if url is None else SchedulerAddress.of(url).url
            if to in backlog(folder).waiting:
                self.client().take_over()

    def close(self) -> None:
        """Let go of the way to the ledger; it is there again when it is needed again."""
        if self._client is not None:
            self._client.take_over(at_once=True)  # What its children could not say.
            self._client.close()

    def begin_prices(self) -> None:
        """Begin to ask for prices that a vendor names late, where its secret is this worker's."""
        if self._prices is not None:
            return
        with contextlib.suppress(PluginError, config.ConfigError, LedgerUnavailable):
            self._prices = Corrector(self.client(), self.settings, environment.secret_of)
            if self.client().url is not None:
                self._prices.start()

    def end_prices(self) -> None:
        """Ask no more; with a ledger in this process it is done now, as Luigi forks no child any more."""
        if self._prices is None:
            return
        self._prices.end()
        if self.client().url is None:
            with contextlib.suppress(SpendguardError):
                self._prices.look(END_S)
        self._prices = None

    def max_cost(self, task: Any) -> str | None:
        """Return what a task declares now; one that cannot be read fails the task before run()."""
        try:
            return amount_of(task, "max_cost_usd")
        except BadAmount as error:
            self.refuse(task.task_id, str(error))
        except Exception as error:  # A property that needs what other tasks have yet to make.
            logger.warning("max_cost_usd of %s is not known yet: %s", task, error)
        return None

    def vendors(self, task: Any) -> list[str]:
        """Return the vendors that a task says it calls now."""
        try:
            return vendors_of(task)
        except Exception as error:  # As for `max_cost`.
            logger.warning("vendors of %s are not known yet: %s", task, error)
        return []

    def open_run(self, root: RootTask) -> str | None:
        """Return the run_id of a root, opened when it has to be; None when that is not possible.

        What could not be reached is not tried again for each of its tasks: see `open_missed`.
        """
        known = (self.run_ids, self.refusals, self.missed)
        if not any(root.task_id in each for each in known):
            self._try_to_open(root)
        return self.run_ids.get(root.task_id)

    def open_missed(self) -> None:
        """Try once more to open the runs that could not be opened. (The attempts of their tasks do, too.)"""
        for root in list(self.missed.values()):
            del self.missed[root.task_id]
            self._try_to_open(root)

    def _try_to_open(self, root: RootTask) -> None:
        try:
            if root.problem:
                raise PluginError(root.problem)
            self.client().take_over(at_once=True)  # The run that it continues may have to be ended first.
            self.run_ids[root.task_id] = open_run(self.client(), root)
        except (PluginError, SpendDenied, config.ConfigError) as error:
            self.refuse(root.task_id, str(error))
        except LedgerUnavailable as error:
            self.missed[root.task_id] = root
            logger.error("The run of %s cannot be opened now: %s", root.task_id, error)

    def new_root(self, task: Any) -> RootTask | None:
        """Take a task as a root; what it says of its run is read when a vendor task needs it."""
        if not hasattr(task, "task_id"):
            return None  # Luigi's own error says what is wrong with it.
        root = self.roots[task.task_id] = RootTask(task)
        return root

    def root_for(self, task: Any) -> RootTask | None:
        """Return the root for which this worker itself has scheduled a task, None where others have."""
        root = self.root_of_task.get(task.task_id)
        if root is None and self.guarded_late and self._worker._first_task in self._worker._scheduled_tasks:
            # Scheduled before it was guarded, so nobody has seen for which root: the first stands for all.
            first = self._worker._scheduled_tasks[self._worker._first_task]
            root = self.roots.get(first.task_id) or self.new_root(first)
        return root

    def announcement(self, task: Any, last_result: str | None) -> dict[str, Any]:
        """Return what the scheduler is told of a vendor task, in `spendguard`.

        Its run (or the name of one that could not be opened), or who yielded it. When it is scheduled, that
        is `announcing`, and what it may cost and where is said, too; a status report announces nothing.
        """
        root = self.adding[-1] if self.adding else self.root_for(task)
        run_id = (self.open_run(root) or root.name) if root is not None else None
        announced: dict[str, Any] = {"run_id": run_id} if run_id is not None else {}
        if not self.adding:
            return announced
        announced["announcing"] = True
        if self.handling_result and not self.reported and task.task_id != last_result:
            announced["yielded_by"] = last_result
        vendors, cost = self.vendors(task), self.max_cost(task)
        return (
            announced | ({"vendors": vendors} if vendors else {}) | ({"max_cost_usd": cost} if cost else {})
        )

    def prepare(self, process: GuardedTaskProcess, members: list[Any]) -> None:
        """Give a vendor task's process what it needs to claim its task, or the reason why it is refused.

        Of a batch, all `members` have one run; of what others have scheduled, luigid knows it.
        """
        task = process.task
        process.vendor, process.claim_id = True, str(uuid.uuid4())
        process.members = tuple(members)
        self.begin_prices()
        root = process.root = next(filter(None, map(self.root_for, [task, *members])), None)
        process.refusal = self.refusals.get(task.task_id, "")
        try:
            if root is not None and not process.refusal:
                process.run_id = self.open_run(root)
                process.refusal = self.refusals.get(root.task_id, "")
            if not process.refusal:
                process.settings = self.settings()
                process.client = self.client()
                process.client.take_over()
                process.forked = process.use_multiprocessing and preload.prepare(task)
                if process.forked:
                    process.words = LastWords()
                    with contextlib.suppress(OSError):  # No place for files: it goes as under any Luigi.
                        process.long_results = LongResults(task.task_id)
        except (PluginError, config.ConfigError, LedgerUnavailable) as error:
            process.refusal = str(error)
        if process.refusal:
            self.log_refusal(process.refusal)


class Staying:
    """Whether a worker that was given no task stays: for what waits, or with `on_blocked = wait` is blocked.

    Attributes:
        waited: the scheduler was waited for, or has news: no need to sleep as well.
        is_waiting: it stays for what is blocked, and has been given no task since.
        why: why its tasks are blocked, as `LedgerClient.blocked` has answered last.

    """

    def __init__(self) -> None:
        self.waited = self.is_waiting = False
        self.why: tuple[BlockedTasks, ...] = ()
        self._counts: tuple[int, ...] = ()
        self._looks = 0
        self._stays: bool | None = None
        self._heard = 0.0

    def given_work(self) -> None:
        """Begin again: the worker was given a task."""
        self._counts, self._looks, self.is_waiting = (), 0, False

    def stays(self, ledger: LedgerClient, worker: str, waits: bool) -> bool:
        """Ask the scheduler whether to stay; `waits`: for what is blocked too. Raises SpendguardError."""
        begun, self.is_waiting = time.monotonic(), waits
        try:
            # The first look is at once: what is waited for is said before it is waited for.
            wait_s = WAIT_S if waits and self._counts else 0
            reply = ledger.blocked(BlockedRequest(worker, wait_s))
        except LedgerUnavailable as error:
            self.waited = False
            logger.debug("The scheduler does not say what is blocked: %s", error)
            if self._stays is None:
                self._stays, self._heard = waits, begun
            return self._stays and begun - self._heard < KEPT_S
        self._heard, self.why = time.monotonic(), reply.why
        counts = (reply.blocked, reply.ready, reply.waiting)
        news = counts != self._counts
        self._counts, self._looks = counts, 1 if news else self._looks + 1
        self.waited = waits and (news or self._heard - begun >= _WAITED_S)
        # What waits for another worker's tasks to end is not blocked, and never waits for ever. What is ready
        # became so after `get_work`, or Luigi itself holds it back: it is asked again, but not for ever.
        tries = reply.ready > 0 and self._looks < _LOOKS
        self._stays = bool(reply.waiting or tries or (waits and (reply.blocked or reply.ready)))
        self.is_waiting = waits and self._stays
        return self._stays
