"""Guards a process that has imported this package, by whatever name, from its first Luigi worker on.

`import luigi_spendguard` alone loads next to nothing: commands, luigid and web applications import it, too.
It only waits until Luigi begins to run a pipeline, and the plugin is installed then. `VaultKeyTask` is for
workers without it: where that is imported by then, and `VendorTask` is not, they stay so.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from luigi_spendguard import importing
from luigi_spendguard.process_state import at_fork

_WITHOUT = "luigi_spendguard.vault_key_task"
_INTERFACE, _WORKER = "luigi.interface", "luigi.worker"

#: Held while the plugin is installed: whoever else begins a pipeline waits until that is done.
_installing = threading.RLock()
#: What was put in place: its owner, its name, itself, and what was there.
_put: list[tuple[Any, str, Any, Any]] = []


def _begin_anew() -> None:
    global _installing
    _installing = threading.RLock()


at_fork(_begin_anew)


@contextmanager
def installing() -> Iterator[None]:
    """Let one thread at a time install the plugin."""
    with _installing:
        yield


def watch() -> None:
    """Install the plugin when Luigi, imported before this or after it, begins to run a pipeline."""
    importing.when_imported(_INTERFACE, _wait_for_its_command)
    importing.when_imported(_WORKER, _wait_for_its_workers)


def leave() -> None:
    """Wait no more: the plugin is installed, or this process runs no pipeline."""
    importing.forget(_INTERFACE, _WORKER)
    while _put:
        owner, name, ours, original = _put.pop()
        if getattr(owner, name) is ours:  # Else somebody's own is over it, and it does nothing any more.
            setattr(owner, name, original)


def _wait_for_its_command(interface: ModuleType) -> None:
    """Be there before the root is made."""

    def begin(original: Any, *args: Any, **kwargs: Any) -> Any:
        return (interface._run if _install() else original)(*args, **kwargs)

    _replace(interface, "_run", begin)


def _wait_for_its_workers(module: ModuleType) -> None:
    def init(original: Any, *args: Any, **kwargs: Any) -> None:
        # The new worker, too, is a guarded one afterwards.
        if not _install() and _is_left():
            logging.getLogger("luigi-interface").info(
                "luigi_spendguard: VaultKeyTask is imported, VendorTask is not: this worker is not guarded"
            )
        original(*args, **kwargs)

    def create(original: Any, self: Any, task: Any) -> Any:
        """Be there, too, for the next task of a worker that has imported this package itself, with a task."""
        before = type(self)
        _install()
        if type(self) is not before:  # It is guarded now, by whichever thread.
            original = type(self)._create_task_process
        return original(self, task)

    stock = module.Worker
    _replace(stock, "__init__", init)
    _replace(stock, "_create_task_process", create)


def _replace(owner: Any, name: str, begin: Any) -> None:
    original = getattr(owner, name, None)  # A Luigi without it is refused when the plugin is installed.
    if original is not None and not hasattr(original, "__spendguard__"):

        @functools.wraps(original)
        def ours(*args: Any, **kwargs: Any) -> Any:
            return begin(original, *args, **kwargs)

        ours.__spendguard__ = True  # type: ignore[attr-defined]  # our own mark
        _put.append((owner, name, ours, original))
        setattr(owner, name, ours)


def _is_left() -> bool:
    """Return whether workers stay as they are, for now."""
    return bool(_put) and _WITHOUT in sys.modules


def _install() -> bool:
    """Install the plugin if it is waited for and wanted; return whether that was done, by whichever thread.

    Raises PluginError.
    """
    waited = bool(_put)
    with installing():
        if not _put:
            return waited
        if _is_left():
            return False
        import_module("luigi_spendguard.worker").install()
        return True
