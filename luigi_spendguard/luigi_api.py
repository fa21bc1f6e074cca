"""What is patched or overridden in Luigi: checked before anything is, so that an unknown Luigi is refused."""

from __future__ import annotations

from typing import Any

import luigi

from luigi_spendguard.errors import PluginError

#: The Luigi that this was written against: its worker and scheduler have no other seams.
KNOWN_LUIGI = "3.8"

#: `luigi.worker.Worker`, overridden by `GuardedWorker`.
WORKER = (
    "__exit__",
    "_add_task",
    "_announce_scheduling_failure",
    "_create_task_process",
    "_email_error",
    "_email_task_failure",
    "_get_work_task_id",
    "_handle_next_task",
    "_handle_task_load_error",
    "_keep_alive",
    "_purge_children",
    "_sleeper",
    "add",
    "run",
)
#: `luigi.worker.ContextManagedTaskProcess`, overridden by `GuardedTaskProcess`.
TASK_PROCESS = (
    "_forward_attributes",
    "_handle_run_exception",
    "_run_get_new_deps",
    "run",
    "start",
    "terminate",
)
#: `luigi.worker.KeepAliveThread`, and further what is changed in place for workers of whatever class.
KEEP_ALIVE = ("run", "start", "stop")
#: `luigi.execution_summary`, extended.
SUMMARY = ("_summary_dict", "_summary_format")
#: `luigi.scheduler.Scheduler`, overridden by `BudgetScheduler`.
SCHEDULER = (
    "_prune_tasks",
    "_schedulable",
    "_serialize_task",
    "_update_priority",
    "_upstream_status",
    "add_scheduler_message_response",
    "add_task",
    "add_worker",
    "announce_scheduling_failure",
    "count_pending",
    "dump",
    "fetch_error",
    "get_work",
    "load",
    "ping",
    "prune",
    "set_task_status_message",
)
#: `luigi.scheduler.SimpleTaskState`, overridden by `WatchedTasks`.
STATE = (
    "_remove_workers_from_tasks",
    "get_active_tasks_by_status",
    "get_batcher",
    "get_worker",
    "inactivate_tasks",
    "inactivate_workers",
    "set_state",
    "set_status",
)
#: `luigi.scheduler.Worker`, overridden by `AskingWorker`.
SCHEDULED_WORKER = ("get_tasks", "is_trivial_worker")


def check_luigi(owner: Any, names: tuple[str, ...]) -> None:
    """Refuse a Luigi that this version does not know. Raises PluginError."""
    version = str(luigi.__version__)
    if not version.startswith(f"{KNOWN_LUIGI}."):
        raise PluginError(
            f"luigi {version} is not known to luigi_spendguard, which patches its worker and scheduler: "
            f"install luigi {KNOWN_LUIGI}.x"
        )
    missing = [name for name in names if not callable(getattr(owner, name, None))]
    if missing:
        raise PluginError(
            f"luigi {version} has no {owner.__name__}.{missing[0]}: install luigi {KNOWN_LUIGI}.x"
        )


_combined: dict[tuple[type, type], type] = {}


def combined(ours: type, theirs: type) -> type:
    """Return `ours` over a subclass of Luigi's own that somebody else has made; it pickles as that does."""
    if (ours, theirs) not in _combined:
        made = type(ours.__name__, (ours, theirs), {"__reduce_ex__": _reduced})
        _combined[ours, theirs] = made
    return _combined[ours, theirs]


def _reduced(self: Any, protocol: int) -> Any:
    ours, theirs = type(self).__bases__
    state = self.__getstate__() if hasattr(self, "__getstate__") else vars(self)
    return _unpickled, (ours, theirs), state


def _unpickled(ours: type, theirs: type) -> Any:
    kind: Any = combined(ours, theirs)
    return kind.__new__(kind)
