"""Why a run's tasks are blocked, gathered while Luigi's RPCs have their turn."""

from __future__ import annotations

from scheduler_patch.dispatch.reasons import Reasons
from scheduler_patch.scheduler.slices import in_slices
from scheduler_patch.scheduler.standing import Standing
from scheduler_patch.service import LedgerService


async def gather(service: LedgerService, standing: Standing) -> Reasons:
    """Return why tasks of a run are blocked, with all that its tasks may still take from its budgets."""
    await service.learn_costs()
    reasons, tasks = Reasons(service.scheduler.gate), service.state.tasks
    async for task_id, verdict in in_slices([*standing.verdicts.items(), *standing.others.items()]):
        if task_id in tasks:
            reasons.add(task_id, verdict, later=task_id in standing.later)
    return reasons
