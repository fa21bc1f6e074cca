"""What is done with somebody else's module whenever that is imported.

That is before this package, after it, or inside `run()`. What no pipeline imports is not imported here
either. What cannot be done fails the import, each time it is tried; and no lock of this module is held when a
worker forks.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Act = Callable[[ModuleType], None]

_wanted: dict[str, Act] = {}


class _Loader(Loader):
    """Executes a module by its own loader, then does what was wanted; to all others it is that loader."""

    def __init__(self, own: Loader, act: Act) -> None:
        self._own, self._act = own, act

    def __getattr__(self, name: str) -> Any:
        # Not yet there while it is copied; how the loader is copied is not how this is (Python 3.10 asks).
        if name == "_own" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        self._act(module)


class _Finder(MetaPathFinder):
    """Finds nothing itself: lets the others find what is wanted, and puts `_Loader` before its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        act = _wanted.get(fullname)
        if act is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, act)
                return spec
        return None


_finder = _Finder()


def when_imported(name: str, act: Act) -> None:
    """Call `act` with the module `name`: now if it is there, and whenever it is executed from now on.

    `act` is called again each time this is, so that nothing is missed that was imported in between; what
    it raises is raised here, or by the import.
    """
    _wanted[name] = act
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    if sys.modules.get(name) is not None:
        act(importlib.import_module(name))  # Waits for another thread's import to end.


def forget(*names: str) -> None:
    """Do nothing any more when the modules `names` are imported."""
    for name in names:
        _wanted.pop(name, None)
    if not _wanted and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
