"""What holds for every Luigi worker of this process, whatever its class: it marks what it starts, and runs a
vendor task only if it is guarded.

A subclass of Luigi's worker, or a copy, made before the plugin was imported knows nothing of the guarded
one. What they all pass is changed in place: the functions of Luigi's own classes that they inherit, and the
classes that they make (Luigi 3.8, `worker.py`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import luigi
import luigi.cmdline
import luigi.interface
import luigi.worker
from luigi.task_register import Register

from luigi_spendguard import config
from luigi_spendguard.errors import PluginError
from luigi_spendguard.proxy import attempts
from luigi_spendguard.worker.process import GuardedTaskProcess

#: The worker is the stock one here: its name in Luigi's module is another's when the plugin is installed.
_Worker: Any = luigi.worker.Worker
_KeepAlive: Any = luigi.worker.KeepAliveThread
_TaskProcess: Any = luigi.worker.TaskProcess

#: During these, this process is a pipeline's.
_SPANS = ((luigi.interface, "_run"), (_Worker, "add"), (_Worker, "run"), (_TaskProcess, "run"))
_originals: list[tuple[Any, str, Any]] = []
#: Threads that stand for a worker between its `__enter__` and its `__exit__`, and are counted.
_counted: set[threading.Thread] = set()


def is_vendor(task: Any, patterns: Iterable[str]) -> bool:
    """Return whether a task is a vendor task: by its class, or by its family."""
    if getattr(type(task), "__spendguard_vendor__", False):
        return True
    return any(fnmatchcase(task.task_family, pattern) for pattern in patterns)


def runs_code(task: Any) -> bool:
    """Return whether a task has a `run()` of its own: a wrapper's does nothing, and an external one has none.

    It can spend nothing then, however it is called.
    """
    run = getattr(task, "run", None)
    return callable(run) and getattr(run, "__func__", run) is not luigi.Task.run


def vendor_tasks_known() -> bool:
    """Return whether a vendor task class is known to Luigi in this process."""
    return any(getattr(cls, "__spendguard_vendor__", False) for cls in list(Register._reg))


def unguarded(task: Any) -> PluginError:
    """Return the refusal of a vendor task whose worker is not guarded."""
    return PluginError(
        f"{type(task).__name__} was refused before run(): this Luigi worker is not guarded, because its "
        "class was made, or imported by its name, before luigi_spendguard was. Import luigi_spendguard "
        "before what subclasses or imports luigi.worker.Worker, or pass "
        "luigi_spendguard.WorkerSchedulerFactory() as worker_scheduler_factory, or let your class derive "
        "from luigi_spendguard.worker.GuardedWorker"
    )


def install() -> None:
    """Change what all workers pass; once is enough."""
    if _originals:
        return
    if getattr(__import__("__main__"), "luigi_run", None) is luigi.cmdline.luigi_run:
        attempts.descend()  # Luigi's own command: this process is a pipeline's from first to last.
    for owner, name in _SPANS:
        _replace(owner, name, _within_a_pipeline)
    _replace(_TaskProcess, "_run_get_new_deps", _refused_unguarded)
    _replace(_KeepAlive, "start", _counting)
    _replace(_KeepAlive, "stop", _discounting)
    for thread in threading.enumerate():
        if isinstance(thread, _KeepAlive):
            _count(thread)


def uninstall() -> None:
    """Put Luigi's functions back."""
    for owner, name, original in _originals:
        if original is None:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
    _originals.clear()


def _replace(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    _originals.append((owner, name, vars(owner).get(name)))
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(made(original)))


def _within_a_pipeline(original: Any) -> Any:
    def within(*args: Any, **kwargs: Any) -> Any:
        with attempts.worker_running():
            return original(*args, **kwargs)

    return within


def _refused_unguarded(original: Any) -> Any:
    def run_get_new_deps(self: Any) -> Any:
        if isinstance(self, GuardedTaskProcess):
            return original(self)
        if is_vendor(self.task, _patterns()) and runs_code(self.task):
            raise unguarded(self.task)
        with attempts.outside():
            return original(self)

    return run_get_new_deps


def _patterns() -> tuple[str, ...]:
    try:
        return config.load().vendor_tasks
    except config.ConfigError:  # It matters to vendor tasks only.
        return ()


def _count(thread: threading.Thread) -> None:
    _counted.add(thread)
    attempts.enter_worker()


def _counting(original: Any) -> Any:
    def start(self: Any) -> None:
        _count(self)
        original(self)

    return start


def _discounting(original: Any) -> Any:
    def stop(self: Any) -> None:
        original(self)
        if self in _counted:
            _counted.discard(self)
            attempts.leave_worker()

    return stop
