"""What of a run is blocked or held, and why, as luigid's gate knows it: for people and scripts.

A run may have many thousand tasks: Luigi's RPCs have their turn while they are looked through.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

from luigi.task_status import PENDING

from luigi_spendguard.money import plain_usd
from scheduler_patch.entries import Entry
from scheduler_patch.gate import READY, WAIT
from scheduler_patch.office import Office
from scheduler_patch.reasons import Reason

#: The most tasks that are listed one by one, and the most of one reason.
LISTED, LISTED_OF_REASON = 1000, 100
#: Reasons that only an approval ends.
_HELD = ("forecast", "approval")
#: Tasks that are looked at in one go: about a millisecond.
_SLICE = 200


async def _blocked(office: Office, run_id: str) -> AsyncIterator[tuple[Entry, str]]:
    """Yield a run's tasks that would run if it were not for money, each with its reason's code."""
    gate = office.gate
    run = gate.runs.get(run_id)
    await asyncio.sleep(0)  # Of many small runs, too, each is a slice.
    for number, task_id in enumerate(list(run.tasks) if run is not None else ()):
        if number % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        entry, task = gate.entries.get(task_id), office.scheduler._state.get_task(task_id)
        if entry is None or task is None or task.status != PENDING:
            continue
        code = gate.verdict(task_id)
        if code in (READY, WAIT):
            continue
        if len(entry.runs) == 1 or gate.run(gate.paying_run(task_id)) is run:
            yield entry, code


def _status(state: str, blocked: Mapping[str, int]) -> str:
    if state != "active" or not blocked:
        return state
    return "held" if any(code in blocked for code in _HELD) else "blocked"


async def _counts(office: Office, run_id: str) -> dict[str, int]:
    return dict(Counter([code async for _, code in _blocked(office, run_id)]))


async def statuses(office: Office) -> dict[str, str]:
    """Return which active runs are `blocked` or `held`."""
    found = {}
    for run_id, run in list(office.gate.runs.items()):
        if run.opened and run.state == "active":
            status = _status("active", await _counts(office, run_id))
            if status != "active":
                found[run_id] = status
    return found


async def of_row(office: Office, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what lists of runs show beside what the ledger knows: how many tasks are blocked, by reason."""
    counts = await _counts(office, row["run_id"])
    return {"blocked_tasks": counts, "status": _status(row["state"], counts)}


async def of_run(office: Office, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the API shows of a single run beside what the ledger knows."""
    codes: Counter[str] = Counter()
    single: list[Entry] = []
    groups: dict[Reason, list[str]] = {}
    async for entry, code in _blocked(office, row["run_id"]):
        codes[code] += 1
        if code == "approval":
            single.append(entry)
        if (why := office.scheduler.why(entry.task_id)) is not None:
            groups.setdefault(why, []).append(entry.task_id)
    return {
        "blocked_tasks": dict(codes),
        "status": _status(row["state"], codes),
        "blocked": [
            {"tasks": len(tasks), "code": why.code, "text": why.text, "advice": why.advice,
             "task_ids": tasks[:LISTED_OF_REASON]}
            for why, tasks in groups.items()
        ],
        "awaiting_approval": [
            {"task_id": entry.task_id, "cost_usd": plain_usd(entry.cost or 0)} for entry in single[:LISTED]
        ],
    }  # fmt: skip
