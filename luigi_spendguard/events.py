"""Luigi events of this package, for `@luigi.Task.event_handler(...)`; handlers get (task, message)."""

from __future__ import annotations

#: A vendor task may not run now. Triggered for the task: where it was denied, or else at the worker's end.
TASK_BLOCKED = "spendguard.task_blocked"
#: A run has no room for what is asked of it. Triggered for its root task, once for each worker.
CAP_REACHED = "spendguard.cap_reached"
