"""`Charge`, by a worker that looks at its children twice before it reads what they have said.

As where another child's result is in Luigi's queue ahead of that of a dead one.
"""

from __future__ import annotations

from typing import Any

from luigi_spendguard.worker import GuardedWorker
from tests.support.pipelines import Charge

__all__ = ["Charge"]

_purge_children = GuardedWorker._purge_children


def _twice(worker: Any) -> Any:
    _purge_children(worker)
    return _purge_children(worker)


GuardedWorker._purge_children = _twice
