"""What of a run is blocked or held, and why, as luigid's gate knows it: for people and scripts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from luigi.task_status import PENDING

from luigi_spendguard.money import plain_usd
from scheduler_patch.office import Office
from scheduler_patch.reasons import Reason

#: The most tasks that are listed one by one.
LISTED = 1000


def _blocked(office: Office, run_id: str) -> dict[str, Reason]:
    """Return a run's tasks that would run if it were not for money, and why they do not."""
    run = office.gate.runs.get(run_id)
    found = {}
    for task_id in run.tasks if run is not None else ():
        task = office.scheduler._state.get_task(task_id)
        why = office.scheduler.why(task_id) if task is not None and task.status == PENDING else None
        if why is not None and why.run_id == run_id:
            found[task_id] = why
    return found


def counts(office: Office, run_id: str) -> dict[str, int]:
    """Return how many tasks of a run are blocked, by reason; empty when luigid knows of none."""
    return dict(Counter(why.code for why in _blocked(office, run_id).values()))


def of_run(office: Office, run_id: str) -> dict[str, Any]:
    """Return what the API shows of a run beside what the ledger knows."""
    blocked = _blocked(office, run_id)
    single = [office.gate.entries[task_id] for task_id, why in blocked.items() if why.code == "approval"]
    groups: dict[Reason, int] = Counter(blocked.values())
    return {
        "blocked_tasks": dict(Counter(why.code for why in blocked.values())),
        "blocked": [
            {"tasks": tasks, "code": why.code, "text": why.text, "advice": why.advice}
            for why, tasks in groups.items()
        ],
        "awaiting_approval": [
            {"task_id": entry.task_id, "cost_usd": plain_usd(entry.cost or 0)} for entry in single[:LISTED]
        ],
    }
