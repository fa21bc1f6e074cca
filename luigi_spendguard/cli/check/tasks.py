"""Task families that settings name: whether any task has them."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Set
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from luigi.task_register import Register

from luigi_spendguard.cli.check import named
from luigi_spendguard.cli.check.finding import Doubt, Grade
from luigi_spendguard.cli.context import Stop

#: How alike a family has to be to be named as what was meant.
_ALIKE = 0.75
#: How many of the tasks that were looked at are named.
_SHOWN = 8


class Tasks(NamedTuple):
    """The task families that are known: those that luigid has seen, and those of the pipeline's modules.

    None: luigid was not asked, no module is named.
    """

    seen: frozenset[str] | None
    here: frozenset[str] | None

    def doubt(self, pattern: str, also: Iterable[str] = ()) -> Doubt | None:
        """Return what is to be said of a setting whose pattern is no known task's family.

        `also`: families that may have been meant, seen or not.
        """
        known = (self.seen or frozenset()) | (self.here or frozenset())
        unasked = self.seen is None and self.here is None
        if unasked or any(fnmatchcase(family, pattern) for family in known):
            return None
        near = _nearest(pattern, {*known, *also})
        there = f": did you mean {' or '.join(near)}?" if near else ""
        if self.here is not None:
            return Doubt(f"{pattern} is no task of these modules, nor seen before{there}", Grade.MISSING)
        if near:
            return Doubt(f"luigid has seen no task {pattern}{there}", Grade.LOOK)
        return Doubt(f"{pattern} not seen; give --module", Grade.UNKNOWN)

    def roots(self) -> list[str]:
        """Return the families of the modules' tasks that none of their others names: they may be roots."""
        if self.here is None:
            return []
        tasks = named.tasks_here()
        below = {id(one) for task in tasks for one in named.named_by(task) if one is not task}
        return sorted({named.family_of(task) for task in tasks if id(task) not in below})

    def unguarded(self, family: str, patterns: Iterable[str]) -> Doubt | None:
        """Return what is to be said of a root whose code names no vendor task; None where it is not here."""
        root = next((cls for cls in named.tasks_here() if named.family_of(cls) == family), None)
        if self.here is None or root is None:
            return None
        looked_at = named.named_by(root)
        return None if any(named.guards(one, patterns) for one in looked_at) else _unguarded(looked_at)


def none_guarded(modules: Iterable[str], patterns: Iterable[str]) -> Doubt | None:
    """Return what is to be said of modules that have tasks, and no vendor task among them."""
    tasks = named.tasks_here()
    if not modules or not tasks or any(named.guards(one, patterns) for one in tasks):
        return None
    return _unguarded(tasks)


def _unguarded(looked_at: list[type]) -> Doubt:
    families = [named.family_of(cls) for cls in looked_at]
    shown = ", ".join(families[:_SHOWN])
    more = f" and {len(families) - _SHOWN} more" if families[_SHOWN:] else ""
    return Doubt(
        f"no vendor task in it, as far as its code names tasks (looked at {shown}{more}): NOTHING OF IT IS "
        "GUARDED. Where luigi_spendguard is imported its calls are denied, elsewhere they pass every cap, "
        "unless they show a gateway's vault key",
        Grade.LOOK,
    )


def _nearest(pattern: str, names: Set[str]) -> list[str]:
    """Return names that may have been meant: alike, or of the same letters, as short ones hardly are."""
    swapped = [name for name in sorted(names) if sorted(name) == sorted(pattern)]
    alike = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=_ALIKE)
    return list(dict.fromkeys([*swapped, *alike]))[:3]


def families_of(modules: tuple[str, ...]) -> frozenset[str] | None:
    """Return the task families of a pipeline's modules; None where none is named. Raises Stop."""
    if not modules:
        return None
    sys.path.insert(0, str(Path.cwd()))  # As the installed command has it not, and `luigi --module` does.
    try:
        for module in modules:
            importlib.import_module(module)
    except Exception as error:
        raise Stop(f"--module {module} cannot be imported ({type(error).__name__}: {error})", 2) from None
    finally:
        sys.path.pop(0)
    return frozenset(Register.task_names())
