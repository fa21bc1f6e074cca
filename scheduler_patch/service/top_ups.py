"""What a top-up is needed for, and what it frees: by the gate's own verdicts, before it is made and after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from luigi_spendguard.money import plain_usd
from luigi_spendguard.protocol.commands import rounded, top_up
from scheduler_patch.dispatch import Verdict
from scheduler_patch.dispatch.model import RunState, TaskState
from scheduler_patch.dispatch.reasons import Reasons
from scheduler_patch.dispatch.trial import Target, Trial, unblocked
from scheduler_patch.scheduler.slices import in_slices
from scheduler_patch.scheduler.standing import CLEAR, Standing, standing_of
from scheduler_patch.service import LedgerService
from scheduler_patch.service.reasons import gather


@dataclass(frozen=True)
class Freed:
    """What becomes of blocked tasks that are due: how many there is money for beside each other, and how many
    are still blocked, each looked at by itself, as lists count them.
    """

    paid: int = 0
    blocked: int = 0


@dataclass(frozen=True)
class Weighed:
    """A top-up of a run, or of a budget inside it, weighed against what is blocked; in micro-dollars.

    Attributes:
        amount: by how much the budget is raised.
        needed, available, missing: what the run's tasks that are still to pay need of that budget, what there
            is for them, and what is to be added so that it suffices: before the top-up.
        standing: what of the run was blocked before.
        freed: what it does to the blocked tasks that are due.
        thaws: whether it lets a frozen run go on.
        others: the commands that clear what it does not.

    """

    run_id: str
    target: Target
    amount: int
    needed: int
    available: int
    missing: int
    standing: Standing
    freed: Freed
    thaws: bool
    others: tuple[str, ...] = ()

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
            "other_commands": [one.strip("`") for one in self.others],
            "blocked": len(self.standing.due),
            "behind": self.standing.behind,
            "frees": self.freed.paid,
            "still_blocked": self.freed.blocked,
            "thaws": self.thaws,
        }


async def weigh(service: LedgerService, run_id: str, target: Target, amount: int | None) -> Weighed:
    """Weigh a top-up that is not made; None: of what is missing."""
    run = service.state.runs.get(run_id)
    standing = await standing_of(service.scheduler, run_id)
    if run is None or not run.opened:
        return Weighed(run_id, target, amount or 0, 0, 0, 0, CLEAR, Freed(), False)
    reasons = await gather(service, standing)
    short = reasons.short(run, (target.scope, target.part))
    by = rounded(short.missing) if amount is None else amount
    thaws = run.state == "frozen" and target.scope == "run" and by > 0
    freed = await _freed(service, run, target, by, standing)
    amounts = (short.needed, short.available, short.missing)
    return Weighed(run_id, target, by, *amounts, standing, freed, thaws, _others(reasons, run, target))


def _others(reasons: Reasons, run: RunState, target: Target) -> tuple[str, ...]:
    """Return the commands that clear what a top-up does not: those of other budgets, and approvals."""
    commands: dict[str, None] = {}
    for why in (*reasons.of_run(run), *reasons.to_come(run)):
        is_mine = (why.scope, why.part) == (target.scope, target.part)
        needs_more = why.code is Verdict.FORECAST and len(why.commands) == 1
        if why.scope and (needs_more or not is_mine):
            commands[why.commands[0]] = None
    return tuple(commands)


async def outcome(service: LedgerService, before: Weighed) -> dict[str, Any]:
    """Return what a top-up that was made has freed of what was blocked before, as the API shows it."""
    run: RunState | None = service.state.runs.get(before.run_id)
    if run is None or not run.opened:
        return before.to_json()
    freed = await _freed(service, run, before.target, 0, before.standing)
    return replace(before, freed=freed).to_json()


async def _freed(
    service: LedgerService, run: RunState, target: Target, amount: int, standing: Standing
) -> Freed:
    """Return what becomes of blocked tasks; those that are not blocked spend first."""
    gate = service.scheduler.gate
    together, single = Trial(gate, run, target, amount), Trial(gate, run, target, amount)
    tasks: dict[str, TaskState] = {}
    paid: dict[str, TaskState] = {}
    free: dict[str, TaskState] = {}
    async for task_id in in_slices([*standing.others, *standing.verdicts]):
        task = service.state.tasks.get(task_id)
        if task is None:
            continue
        is_due, admitted = task_id in standing.due, together.admits(task)
        if task_id not in standing.others:
            tasks[task_id] = task
        if is_due and admitted:
            paid[task_id] = task
        if is_due and single.frees(task):
            free[task_id] = task
    return Freed(unblocked(paid, tasks), len(standing.due) - unblocked(free, tasks))
