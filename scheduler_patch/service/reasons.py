"""Why a run's tasks are blocked, gathered while Luigi's RPCs have their turn."""

from __future__ import annotations

import asyncio

from scheduler_patch.dispatch.reasons import Reasons
from scheduler_patch.scheduler.standing import Standing
from scheduler_patch.service import LedgerService

#: Tasks that are looked at in one go: about a millisecond.
SLICE = 200


async def gather(service: LedgerService, standing: Standing) -> Reasons:
    """Return why tasks of a run are blocked, with all that its tasks may still take from its budgets."""
    await service.learn_costs()
    reasons, tasks = Reasons(service.scheduler.gate), service.state.tasks
    for number, (task_id, verdict) in enumerate([*standing.verdicts.items(), *standing.others.items()]):
        if number % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        if task_id in tasks:
            reasons.add(task_id, verdict, later=task_id in standing.later)
    return reasons
