"""Makes a process of ours fail at a named step, as a folder of a test's says; nothing in the code knows.

`FAULTS` is that folder, `FAULTS_OF` whose process it is (a forked one is a worker's `child`). A file
`WHO.STEP.N.ACTION` there lets the N-th time that step is passed, by any of these processes, be followed by an
action, once:

    kill     SIGKILL
    still    the process stands still (SIGSTOP) until somebody lets it go on
    cut      all its connections are cut
    ask-…    somebody else is asked to do something (a file `asked.…`); the step waits until that is gone
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import inspect
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.faults.points import CHILD, LOCAL, POINTS, WORKER, Point

FOLDER, OF = "FAULTS", "FAULTS_OF"
#: Seconds for which somebody who is asked is waited for.
_ASKED_S = 20.0

#: The functions of the list that are being done, each with those that were done in it.
_doing: ContextVar[tuple[tuple[str, set[str]], ...]] = ContextVar("doing", default=())
_main = os.getpid()


def install() -> None:
    """Wrap the functions of the list as soon as their modules are imported."""
    if FOLDER in os.environ:
        sys.meta_path.insert(0, _Wrapping())


def who() -> str:
    """Return whose process this is."""
    said = os.environ.get(OF, "")
    return CHILD if said == WORKER and os.getpid() != _main else said


def passed(point: Point, *args: Any) -> None:
    """Do what is to be done at a step, if something is."""
    folder = os.environ.get(FOLDER, "")
    whose = who()
    if (whose not in point.who and whose != LOCAL) or not folder or _is_telling():
        return
    begin = f"{whose}.{slug(point.step)}."
    while armed := next((name for name in os.listdir(folder) if name.startswith(begin)), None):
        times, action = armed.removeprefix(begin).split(".", 1)
        last = times == "1"
        to = f"done.{armed}.{os.getpid()}" if last else f"{begin}{int(times) - 1}.{action}"
        try:
            os.rename(f"{folder}/{armed}", f"{folder}/{to}")
        except FileNotFoundError:  # Another process has passed meanwhile.
            continue
        if last:
            if point.half:
                _write_half(args[0])
            _act(Path(folder), action)
        return


def _is_telling() -> bool:
    """Return whether a child tells its worker its result: a worker that has read half of it waits for ever.

    That is so with Python's queue of processes, and with any Luigi.
    """
    return os.getpid() != _main and any(one.name == "QueueFeederThread" for one in threading.enumerate())


def slug(step: str) -> str:
    """Return a step's name as it stands in a file's."""
    return step.replace(" ", "-").replace("'", "")


def _act(folder: Path, action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "still":
        (folder / f"still.{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "cut":
        _cut_all()
    else:
        asked = folder / f"asked.{action}.{os.getpid()}"
        asked.touch()
        limit = time.monotonic() + _ASKED_S
        while asked.exists() and time.monotonic() < limit:
            time.sleep(0.01)


def _write_half(step: Any) -> None:
    with contextlib.suppress(OSError):
        step.socket.sendall(step.data[: len(step.data) // 2])


def _cut_all() -> None:
    """End every TCP connection of this process, and those to a server's socket, as a network does."""
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            if not stat.S_ISSOCK(os.fstat(int(number)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(number))) as found:
                peer = found.getpeername()  # One that listens has none.
                if found.family in (socket.AF_INET, socket.AF_INET6) or ".s.PGSQL" in str(peer):
                    found.shutdown(socket.SHUT_RDWR)


# Wrapping.

_of_module: dict[str, list[str]] = defaultdict(list)
for _where in dict.fromkeys(
    where for point in POINTS for where in (point.where, point.within, point.having) if where
):
    _module, _, _name = _where.partition(":")
    _of_module[_module].append(_name)


class _Wrapping(importlib.abc.MetaPathFinder):
    """Lets those modules be found as ever, and be wrapped when they are there."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _of_module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(  # type: ignore[method-assign]
                _executed, spec.loader.exec_module
            )
        return spec


def _executed(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    for name in _of_module[module.__name__]:
        wrap(module, name)


def owner_of(module: ModuleType, name: str) -> tuple[Any, str]:
    """Return what a function of a module is an attribute of, and its name there. Raises AttributeError."""
    *owners, last = name.split(".")
    owner: Any = module
    for one in owners:
        owner = getattr(owner, one)
    if not inspect.isfunction(inspect.getattr_static(owner, last)):
        raise AttributeError(f"{module.__name__} has no function {name}")
    return owner, last


def wrap(module: ModuleType, name: str) -> None:
    """Let the steps of a function be passed. Raises AttributeError where there is none."""
    owner, last = owner_of(module, name)
    where = f"{module.__name__}:{name}"
    setattr(owner, last, wrapped(getattr(owner, last), where))


def wrapped(act: Callable[..., Any], where: str) -> Callable[..., Any]:
    """Return a function whose steps are passed."""
    points = [point for point in POINTS if point.where == where]

    @contextlib.contextmanager
    def done(*args: Any) -> Iterator[Callable[[Any], None]]:
        doing, within = _doing.get(), set[str]()
        for _, inner in doing:
            inner.add(where)
        token = _doing.set((*doing, (where, within)))
        names = [name for name, _ in doing]

        def look(*seen: Any, before: bool) -> None:
            for point in points:
                if (
                    point.before == before
                    and (not point.within or point.within in names)
                    and (not point.having or point.having in within)
                    and (point.of is None or point.of(*seen))
                ):
                    passed(point, *seen)

        try:
            look(*args, before=True)
            yield lambda result: look(*args, result, before=False)
        finally:
            _doing.reset(token)

    if inspect.iscoroutinefunction(act):

        @functools.wraps(act)
        async def awaited(*args: Any, **named: Any) -> Any:
            with done(*args) as after:
                result = await act(*args, **named)
                after(result)
                return result

        return awaited

    @functools.wraps(act)
    def acted(*args: Any, **named: Any) -> Any:
        with done(*args) as after:
            result = act(*args, **named)
            after(result)
            return result

    return acted
