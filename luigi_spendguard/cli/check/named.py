"""Which tasks a root's code names, read from its code alone: nothing of it is run."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from luigi.task_register import Register

#: Whose tasks are no pipeline's own.
_LIBRARIES = ("luigi", "luigi_spendguard")
_KEYED = "luigi_spendguard.vault_key_task"


def tasks_here() -> list[type]:
    """Return the classes of all tasks that were imported, but for Luigi's and ours."""
    return [cls for cls in Register._reg if _package(cls) not in _LIBRARIES and cls._visible_in_registry]


def named_by(root: type) -> list[type]:
    """Return the tasks that a task's code names, itself first, and those that they name.

    Names are followed through the functions and classes of packages that have tasks. What code makes a task
    of otherwise (of a text, say) is not found.
    """
    packages = {_package(cls) for cls in tasks_here()}
    found: dict[int, Any] = {}
    todo: list[Any] = [root]
    while todo:
        one = todo.pop(0)
        if id(one) not in found:
            found[id(one)] = one
            todo += _named(one, packages)
    return [one for one in found.values() if isinstance(one, Register)]


def guards(task: type, patterns: Iterable[str]) -> bool:
    """Return whether a task is a vendor task, or asks for a vault key."""
    of_ours = getattr(task, "__spendguard_vendor__", False) or task.__module__ == _KEYED
    return of_ours or any(fnmatchcase(family_of(task), pattern) for pattern in patterns)


def family_of(task: Any) -> str:
    """Return the family of a task's class."""
    return str(task.task_family)


def _package(one: Any) -> str:
    return str(getattr(one, "__module__", None) or "").partition(".")[0]


def _named(one: Any, packages: set[str]) -> Iterator[Any]:
    if isinstance(one, type):
        for owner in one.__mro__ if isinstance(one, Register) else (one,):
            if _package(owner) in packages:
                for value in vars(owner).values():
                    yield from _followed(value, packages)
    elif isinstance(one, types.FunctionType):
        for cell in one.__closure__ or ():
            try:
                yield from _followed(cell.cell_contents, packages)
            except ValueError:  # It is empty.
                continue
        if _package(one) in packages:
            names = set(_names(one.__code__))
            for name in names & one.__globals__.keys():
                value = one.__globals__[name]
                inside = vars(value) if isinstance(value, types.ModuleType) else {name: value}
                for other in names & inside.keys():
                    yield from _followed(inside[other], packages)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


def _followed(value: Any, packages: set[str]) -> Iterator[Any]:
    """Yield what of a value may name tasks."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    if isinstance(value, types.FunctionType):
        yield value
        if (inner := inspect.unwrap(value)) is not value:
            yield inner
    elif isinstance(value, Register) or (isinstance(value, type) and _package(value) in packages):
        yield value
    elif isinstance(value, (list, tuple, set, frozenset, Mapping)):
        held = value.values() if isinstance(value, Mapping) else value
        yield from (one for one in held if isinstance(one, (Register, types.FunctionType)))
    elif type(value).__module__ == "luigi.util":  # `@requires(Task)` and its like.
        for one in vars(value).values():
            yield from _followed(one, packages)
