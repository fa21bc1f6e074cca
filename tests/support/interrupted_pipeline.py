"""`List`, by a worker that is interrupted while it waits for money, and just asks luigid for work."""

from __future__ import annotations

from typing import Any

import luigi.worker

from tests.support.shapes import List

__all__ = ["List"]

_get_work = luigi.worker.Worker._get_work


def _interrupted(worker: Any) -> Any:
    if worker._guard.staying.is_waiting:
        raise KeyboardInterrupt
    return _get_work(worker)


luigi.worker.Worker._get_work = _interrupted
