"""What of a run is blocked or held, and why, as luigid's gate knows it: for people and scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from luigi.task_status import PENDING

from luigi_spendguard.money import plain_usd
from scheduler_patch.gate import READY, WAIT
from scheduler_patch.office import Office
from scheduler_patch.reasons import Reason

#: The most tasks that are listed one by one.
LISTED = 1000


def _blocked(office: Office, run_id: str) -> Iterator[tuple[str, str]]:
    """Yield a run's tasks that would run if it were not for money, each with its reason's code."""
    gate = office.gate
    run = gate.runs.get(run_id)
    for task_id in run.tasks if run is not None else ():
        entry, task = gate.entries.get(task_id), office.scheduler._state.get_task(task_id)
        if entry is None or task is None or task.status != PENDING:
            continue
        code = gate.verdict(task_id)
        if code in (READY, WAIT):
            continue
        if len(entry.runs) == 1 or gate.run(gate.paying_run(task_id)) is run:
            yield task_id, code


def counts(office: Office, run_id: str) -> dict[str, int]:
    """Return how many tasks of a run are blocked, by reason; empty when luigid knows of none."""
    return dict(Counter(code for _, code in _blocked(office, run_id)))


def of_run(office: Office, run_id: str) -> dict[str, Any]:
    """Return what the API shows of a run beside what the ledger knows."""
    blocked = list(_blocked(office, run_id))
    single = [office.gate.entries[task_id] for task_id, code in blocked if code == "approval"]
    groups: Counter[Reason] = Counter()
    for task_id, _ in blocked:
        why = office.scheduler.why(task_id)
        if why is not None:
            groups[why] += 1
    return {
        "blocked_tasks": dict(Counter(code for _, code in blocked)),
        "blocked": [
            {"tasks": tasks, "code": why.code, "text": why.text, "advice": why.advice}
            for why, tasks in groups.items()
        ],
        "awaiting_approval": [
            {"task_id": entry.task_id, "cost_usd": plain_usd(entry.cost or 0)} for entry in single[:LISTED]
        ],
    }
