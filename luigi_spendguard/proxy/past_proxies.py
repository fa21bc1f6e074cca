"""Lets the programs that a task starts reach this machine past the proxies of the environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("NO_PROXY", "no_proxy")
_HERE = ("127.0.0.1", "localhost")

_lock = threading.Lock()
_users = 0
#: What stood there before, and what was put there.
_before: dict[str, tuple[str | None, str]] = {}


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def past_proxies() -> Iterator[None]:
    """Name this machine in `NO_PROXY` and `no_proxy` while the block, or another one, runs."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            values = {name: os.environ.get(name) for name in _NAMES}
            for name, value in values.items():
                # Of the two a program reads one: each says what either said.
                said = value or next(filter(None, values.values()), "")
                added = [host for host in _HERE if host not in said.replace(" ", "").split(",")]
                text = said if said.strip() == "*" else ",".join(filter(None, (said, *added)))
                _before[name] = value, text
                os.environ[name] = text
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for name, (value, text) in _before.items():
                    if os.environ.get(name) != text:
                        continue  # The task has put something else there.
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
                _before.clear()
