"""What a binding puts in the place of an SDK's functions, and how it is put back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from luigi_spendguard.errors import PluginError

Function = Callable[..., Any]


class Patches:
    """The functions that one binding has replaced.

    `works_with` says which versions of the SDK have all that it needs.
    """

    def __init__(self, works_with: str) -> None:
        self._works_with = works_with
        self._originals: dict[tuple[Any, str], Function] = {}

    def put(
        self, module: ModuleType, kind: str, name: str, made: Callable[[Function], Function], reads: str = ""
    ) -> None:
        """Replace function `name` of the module's class `kind` by what is `made` of it; once is enough.

        `reads` is a name that the function must itself look up for the replacement to hold. Raises
        PluginError for an SDK without it.
        """
        owner = getattr(module, kind, None)
        if (owner, name) in self._originals:
            return
        original = vars(owner).get(name) if isinstance(owner, type) else None
        named = f"{module.__name__}.{kind}.{name}"
        if not isinstance(owner, type) or not callable(original):
            raise PluginError(f"there is no {named}: {self._works_with}")
        code = getattr(inspect.unwrap(original), "__code__", None)
        if reads and (code is None or reads not in code.co_names):
            raise PluginError(f"{named} does not send by its {reads}: {self._works_with}")
        self._originals[owner, name] = original
        setattr(owner, name, functools.wraps(original)(made(original)))

    def undo(self) -> None:
        """Put all back."""
        for (owner, name), original in self._originals.items():
            setattr(owner, name, original)
        self._originals.clear()
