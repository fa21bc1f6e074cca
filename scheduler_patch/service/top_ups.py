"""What a top-up is needed for, and what it frees: by the gate's own verdicts, before it is made and after."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from luigi_spendguard.money import plain_usd
from luigi_spendguard.protocol.commands import CENT, rounded, top_up
from scheduler_patch.dispatch.model import RunState, TaskState
from scheduler_patch.dispatch.reasons import Reasons, Target, Trial, unblocked
from scheduler_patch.scheduler.standing import CLEAR, Standing, standings
from scheduler_patch.service import LedgerService

#: Tasks that are looked at in one go: about a millisecond.
_SLICE = 200


@dataclass(frozen=True)
class Weighed:
    """A top-up of a run, or of a budget inside it, weighed against what is blocked; in micro-dollars.

    Attributes:
        amount: by how much the budget is raised.
        needed, available, missing: what blocked tasks may cost that take from that budget, what there is for
            them, and what is to be added so that it suffices: before the top-up.
        standing: what of the run was blocked before.
        frees: how many of the blocked tasks that are due may run after it.
        thaws: whether it lets a frozen run go on.

    """

    run_id: str
    target: Target
    amount: int
    needed: int
    available: int
    missing: int
    standing: Standing
    frees: int
    thaws: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        rest = max(0, self.missing - self.amount)
        more = top_up(self.run_id, rounded(rest), self.target.scope, self.target.part).strip("`")
        return {
            "scope": self.target.scope,
            "part": self.target.part,
            "usd": plain_usd(self.amount),
            "needed_usd": plain_usd(self.needed),
            "available_usd": plain_usd(self.available),
            "missing_usd": plain_usd(self.missing),
            "rest_usd": plain_usd(rest),
            "rest_command": more if rest else None,
            "blocked": len(self.standing.due),
            "behind": self.standing.behind,
            "frees": self.frees,
            "thaws": self.thaws,
        }


async def weigh(service: LedgerService, run_id: str, target: Target, amount: int | None) -> Weighed:
    """Weigh a top-up that is not made; None: of what is missing."""
    run = service.state.runs.get(run_id)
    standing = (await standings(service.scheduler)).get(run_id, CLEAR)
    if run is None or not run.opened:
        return Weighed(run_id, target, amount or 0, 0, 0, 0, CLEAR, 0, False)
    await service.learn_costs()
    reasons = Reasons(service.scheduler.gate)
    for number, (task_id, verdict) in enumerate(standing.verdicts.items()):
        if number % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        if task_id in service.state.tasks:
            reasons.add(task_id, verdict)
    needed, available, missing = reasons.short(run, target.scope, target.part)
    if target.scope == "run":
        if service.scheduler.gate.is_held(run) and run.forecast is not None:
            missing = max(missing, run.forecast.known - run.own_budget.cap)
        if run.state == "frozen":
            missing = max(missing, CENT)
    by = rounded(missing) if amount is None else amount
    trial = Trial(service.scheduler.gate, run, target, by)
    thaws = run.state == "frozen" and target.scope == "run" and by > 0
    frees = await _freed(service, trial, standing)
    return Weighed(run_id, target, by, needed, available, missing, standing, frees, thaws)


async def outcome(service: LedgerService, before: Weighed) -> dict[str, Any]:
    """Return what a top-up that was made has freed of what was blocked before, as the API shows it."""
    run: RunState | None = service.state.runs.get(before.run_id)
    shown = before.to_json()
    if run is not None and run.opened:
        trial = Trial(service.scheduler.gate, run, before.target, 0)
        shown["frees"] = await _freed(service, trial, before.standing)
    return shown


async def _freed(service: LedgerService, trial: Trial, standing: Standing) -> int:
    tasks: dict[str, TaskState] = {}
    freed: dict[str, TaskState] = {}
    for number, task_id in enumerate(standing.verdicts):
        if number % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        task = service.state.tasks.get(task_id)
        if task is None:
            continue
        tasks[task_id] = task
        if trial.admits(task) and task_id in standing.due:
            freed[task_id] = task
    return unblocked(freed, tasks)
