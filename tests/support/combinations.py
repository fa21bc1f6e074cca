"""Cases of which each is proved in the default run, and their other combinations only by `make figures`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest


def further(value: Any) -> Any:
    """Return a value of a parameter for `--combinations` alone."""
    return pytest.param(value, marks=pytest.mark.combinations)


def combined(
    names: str,
    *values: Iterable[Any],
    chosen: Sequence[tuple[Any, ...]],
    indirect: Sequence[str] = (),
) -> pytest.MarkDecorator:
    """Parametrize by all combinations; those that are not `chosen` run with `--combinations` alone.

    Every value must be in one that is chosen.
    """
    lists = [list(some) for some in values]
    found = list(product(*lists))
    assert set(chosen) <= set(found), "no combination of these values"
    for place, some in enumerate(lists):
        assert {one[place] for one in chosen} == set(some), f"not every value of {names} is proved"
    rest = pytest.mark.combinations
    params = [pytest.param(*one, marks=() if one in chosen else rest) for one in found]
    return pytest.mark.parametrize(names.split(), params, indirect=list(indirect))
