"""Saying why: Luigi's execution summary and exit code know of blocked tasks, and so do event handlers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import luigi
import luigi.execution_summary
import luigi.retcodes
from luigi.parameter import IntParameter

from luigi_spendguard.counted import counted
from luigi_spendguard.protocol import blocked_text, in_doubt_text
from luigi_spendguard.protocol.rpcs import BlockedReply, BlockedTasks, RunStanding
from luigi_spendguard.worker.process import CAP_REACHED, TASK_BLOCKED
from luigi_spendguard.worker.state import GuardState

logger = logging.getLogger(__name__)

#: The most tasks of which the scheduler is asked whether it knows them.
_ASKED = 500
#: Reasons for which a run, not a single task, has no room.
_OF_CAPS = ("cap", "frozen", "day", "family", "vendor")

_stock_summary_format = luigi.execution_summary._summary_format
_stock_summary_dict = luigi.execution_summary._summary_dict


def install() -> None:
    """Let summary and exit code say why; once is enough."""
    luigi.execution_summary._summary_format = _summary_format
    luigi.execution_summary._summary_dict = _summary_dict
    if not hasattr(luigi.retcodes.retcode, "spend_blocked"):
        parameter = IntParameter(
            default=0,
            description="For when vendor tasks are blocked: cap reached, revoked or held for approval.",
        )
        parameter.__set_name__(luigi.retcodes.retcode, "spend_blocked")
        luigi.retcodes.retcode.spend_blocked = parameter


def uninstall() -> None:
    """Put Luigi's summary and exit codes back."""
    luigi.execution_summary._summary_format = _stock_summary_format
    luigi.execution_summary._summary_dict = _stock_summary_dict
    if hasattr(luigi.retcodes.retcode, "spend_blocked"):
        del luigi.retcodes.retcode.spend_blocked


def lines(why: Iterable[BlockedTasks]) -> list[str]:
    """Return one line for each reason why tasks are blocked, of an answer of `LedgerClient.blocked`."""
    return [
        f"{one.tasks} {'task' if one.tasks == 1 else 'tasks'} blocked: {one.text} "
        f"(run {one.run_id}; {one.advice})"
        for one in why
    ]


def _summary_format(set_tasks: Any, worker: Any) -> str:
    """Return Luigi's summary, and why vendor tasks are blocked: "not granted" alone says nothing."""
    text = str(_stock_summary_format(set_tasks, worker))
    guard = _guard_of(worker)
    if guard is not None:
        text = "\n".join([text, *_refused(guard), *_unheard(guard)])
    reply = guard.left if guard is not None else None
    if reply is None:
        return text
    if reply.why:
        text = "\n".join([text, "", "Vendor tasks are blocked:", *(f"* {line}" for line in lines(reply.why))])
    if said := [line for run in reply.runs for line in _standing(run)]:
        text = "\n".join([text, "", *said])
    if why := _handed_out(reply, len(set_tasks["not_run"])):
        text = "\n".join([text, "", f"No more was handed out: {why}."])
    if reply.shadow:
        text = "\n".join([text, "", "Shadow mode, no cap was enforced:", *(f"* {s}" for s in reply.shadow)])
    return text


def _refused(guard: GuardState) -> list[str]:
    """Return why vendor tasks were refused before run(): Luigi's "failed" does not say it."""
    if not guard.refused:
        return []
    lines = [f"* {counted(n, 'task')}: {why}" for why, n in Counter(guard.refused.values()).items()]
    return ["", "Refused before run():", *lines]


def _unheard(guard: GuardState) -> list[str]:
    """Return what kept luigid from saying how runs stand, where it has not come back since."""
    if not guard.unheard:
        return []
    advice = "Submit the same root again when that is mended; what has been paid is not paid again"
    return ["", f"What is blocked, in doubt or denied could not be asked: {guard.unheard}. {advice}."]


def _standing(run: RunStanding) -> list[str]:
    """Return what is said of a run: how many of its tasks are blocked, what is in doubt, what denied."""
    said = []
    if blocked := blocked_text(run.due, run.behind):
        said.append(f"Run {run.run_id} is blocked: {blocked}.")
    if run.in_doubt_calls:
        said.append(in_doubt_text(run.run_id, run.in_doubt_calls, run.in_doubt_usd))
    said += [f"Run {run.run_id}: {line}." for line in run.denied]
    return said


def left(worker: Any) -> list[str]:
    """Return which of a worker's tasks were left without a reason of Luigi's, as many as may be asked for."""
    return sorted(task.task_id for task in _stock_summary_dict(worker)["not_run"])[:_ASKED]


def _handed_out(reply: BlockedReply, tasks: int) -> str:
    """Return why tasks were left that are not blocked, and what to do; "" where nothing is known."""
    if tasks and reply.paused:
        return "luigid is paused. Unpause it on its page, then submit the same root again"
    if reply.unknown:
        count = f"{reply.unknown} of the tasks that were left"
        return (
            f"luigid does not know {count}: it was started without its state, or has heard nothing of this "
            "worker for too long. Submit the same root again; what has been paid is not paid again"
        )
    return ""


def _guard_of(worker: Any) -> GuardState | None:
    guard = getattr(worker, "__dict__", {}).get("_guard_state")
    return guard if isinstance(guard, GuardState) else None


def _summary_dict(worker: Any) -> Any:
    """Return Luigi's sets of tasks; beside that, let its exit code be `spend_blocked` where that is due.

    Luigi 3.8, `retcodes.run_with_retcodes`: it asks for this, then exits with the highest of the codes.
    Blocked tasks are "not run" to it, so that code stands for both; Luigi keeps one `retcode` object. Vendor
    tasks that were left since luigid hands out nothing, or has forgotten them, are not paid either.
    """
    set_tasks = _stock_summary_dict(worker)
    codes = luigi.retcodes.retcode()
    if "_stock_not_run" not in vars(codes):
        codes._stock_not_run = codes.not_run
    codes.not_run = codes._stock_not_run
    blocked = _left_behind(worker, set_tasks["not_run"])
    if blocked and codes.spend_blocked:
        others = any(not _waits_for(task, blocked, set_tasks["not_run"]) for task in set_tasks["not_run"])
        codes.not_run = max(codes.spend_blocked, codes._stock_not_run if others else 0)
    return set_tasks


def _left_behind(worker: Any, not_run: Any) -> set[str]:
    """Return the vendor tasks that are blocked, or were left for what the summary says in their place."""
    guard = _guard_of(worker)
    if guard is None or not guard.vendor_seen:
        return set()
    reply = guard.left
    blocked = {task_id for why in reply.why for task_id in why.task_ids} if reply is not None else set()
    if reply is None or reply.paused or reply.unknown:  # None: luigid has not said why.
        blocked |= {task.task_id for task in not_run if worker._is_vendor(task)}
    return blocked


def _waits_for(task: Any, blocked: set[str], not_run: Any) -> bool:
    """Return whether a task that was not run is blocked, or needs one that is."""
    stack, seen = [task], set()
    while stack:
        current = stack.pop()
        if current.task_id in blocked:
            return True
        seen.add(current.task_id)
        stack += [dep for dep in current._requires() if dep in not_run and dep.task_id not in seen]
    return False


def tell(worker: Any, reply: BlockedReply) -> None:
    """Trigger the events of tasks that were blocked without having run, and of runs without room."""
    guard: GuardState = worker._guard
    for why in reply.why:
        message = f"{why.text} (run {why.run_id})"
        if why.code in _OF_CAPS:
            cap_reached(worker, why.run_id, message)
        for task_id in why.task_ids:
            task = worker._scheduled_tasks.get(task_id)
            if task is not None and task_id not in guard.triggered:
                guard.triggered.add(task_id)
                task.trigger_event(TASK_BLOCKED, task, message)


def cap_reached(worker: Any, run_id: str, message: str) -> None:
    """Trigger `CAP_REACHED` for the root of a run, once."""
    guard: GuardState = worker._guard
    if run_id in guard.triggered:
        return
    guard.triggered.add(run_id)
    for task_id, root_run_id in guard.run_ids.items():
        root = worker._scheduled_tasks.get(task_id)
        if root_run_id == run_id and root is not None:
            root.trigger_event(CAP_REACHED, root, message)
