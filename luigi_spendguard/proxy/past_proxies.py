"""Lets the programs that a task starts reach this machine past the proxies of the environment."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from luigi_spendguard.blocks import Blocks

_NAMES = ("NO_PROXY", "no_proxy")
_HERE = ("127.0.0.1", "localhost")

_blocks = Blocks()
#: What stood there before, and what was put there.
_before: dict[str, tuple[str | None, str]] = {}


def past_proxies() -> AbstractContextManager[None]:
    """Name this machine in `NO_PROXY` and `no_proxy` while the block, or another one, runs."""
    return _blocks.block(_begin, _end)


def _begin(first: bool) -> None:
    if not first:
        return
    values = {name: os.environ.get(name) for name in _NAMES}
    for name, value in values.items():
        # Of the two a program reads one: each says what either said.
        said = value or next(filter(None, values.values()), "")
        added = [host for host in _HERE if host not in said.replace(" ", "").split(",")]
        text = said if said.strip() == "*" else ",".join(filter(None, (said, *added)))
        _before[name] = value, text
        os.environ[name] = text


def _end(last: bool) -> None:
    if not last:
        return
    for name, (value, text) in _before.items():
        if os.environ.get(name) != text:
            continue  # The task has put something else there.
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    _before.clear()
