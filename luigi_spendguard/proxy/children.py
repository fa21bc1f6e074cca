"""Children that `multiprocessing` does not fork have the guard of the process that starts them.

A forked child inherits it. One that is spawned, or made by a forkserver (which may be older than the
pipeline), begins with what it is sent: first of all, what `spawn.get_preparation_data` returns (Python 3.10
to 3.13). In a pipeline the guard comes along: the child binds the SDKs before it loads what it is to run,
which need not import this package, and it belongs to the attempt that has started it.
"""

from __future__ import annotations

import multiprocessing.util
import pickle
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import spawn
from typing import Any

from luigi_spendguard.errors import SpendDenied
from luigi_spendguard.http.outbox import FLUSH_S
from luigi_spendguard.proxy import attempts, environment, interrupt, programs

_stock: Callable[..., dict[str, Any]] | None = None
#: The block of the attempt that this child belongs to: as long as it lives.
_block = ExitStack()

#: What a child does first: it finds this package where its parent has found it.
_ENTER = """
import sys
sys.path[:] = path
from luigi_spendguard.proxy import children
children.enter(sent)
"""


@dataclass(frozen=True)
class _Guard:
    """What a child is sent: its attempt, and the secrets that are hidden from its environment."""

    attempt: attempts.Attempt | None
    hidden: environment.Hidden = field(repr=False)


class _Passage:
    """Becomes the guard of a child when it is unpickled there."""

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard

    def __reduce__(self) -> Any:
        # The child's path is not its parent's yet: nothing of this package can be unpickled before that.
        return exec, (_ENTER, {"path": list(sys.path), "sent": pickle.dumps(self._guard)})


def follow() -> None:
    """Send the guard along with every child from now on; once is enough."""
    global _stock
    if _stock is None:
        _stock = spawn.get_preparation_data
        spawn.get_preparation_data = _data


def unfollow() -> None:
    """Send what Python sends."""
    global _stock
    if _stock is not None:
        spawn.get_preparation_data = _stock
        _stock = None


def _data(name: str) -> dict[str, Any]:
    assert _stock is not None
    data = _stock(name)
    if attempts.in_pipeline():
        data["spendguard"] = _Passage(_guard())
    return data


def _guard() -> _Guard:
    try:
        attempt = attempts.current()
    except SpendDenied:  # It cannot be told whose child it is: its calls are denied.
        attempt = None
    if attempt is not None:
        attempt = replace(attempt, client=attempt.client.for_child())
    return _Guard(attempt, environment.sent())


def enter(sent: bytes) -> None:
    """Begin a child: bind the SDKs here, and let its calls belong to its parent's attempt."""
    from luigi_spendguard import proxy

    guard: _Guard = pickle.loads(sent)  # noqa: S301  # its parent's, by the pipe that it is all made of
    programs.belong_elsewhere()
    environment.given(guard.hidden)
    attempts.descend()
    proxy.bind()
    if guard.attempt is None:
        return
    _block.enter_context(proxy.attempt_running(guard.attempt))
    interrupt.obedient()
    multiprocessing.util.Finalize(None, _leave, args=(guard.attempt,), exitpriority=10)


def _leave(attempt: attempts.Attempt) -> None:
    """End a child's calls, and say what could not be said of them yet. (Its exit handlers are not run.)"""
    _block.close()
    attempt.client.flush(FLUSH_S)
