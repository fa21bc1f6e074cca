"""A table is one test: every line of it is checked, and all that are wrong are named together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def each(lines: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a check of one line (a tuple's parts are its arguments) the test of all `lines`."""
    table = list(lines)

    def test_of(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            assert table
            wrong = [f"{line}: {said}" for line in table if (said := fault(check, line))]
            if wrong:
                pytest.fail(
                    "\n".join([f"{len(wrong)} of {len(table)} lines are wrong:", *wrong]), pytrace=False
                )

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return test_of


def fault(check: Callable[..., None], line: Any) -> str:
    """Return what is wrong with a line, "" when nothing is."""
    try:
        check(*line) if isinstance(line, tuple) else check(line)
    except (Exception, pytest.fail.Exception) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return ""
