"""Why tasks are blocked, in words: for the summary, Luigi's page, a run, the command line and the log."""

from __future__ import annotations

from dataclasses import dataclass

from luigi_spendguard.counted import counted
from luigi_spendguard.money import format_usd, plain_usd
from luigi_spendguard.protocol import command
from luigi_spendguard.protocol.commands import CENT, top_up
from scheduler_patch.dispatch import Excess, Gate, Verdict
from scheduler_patch.dispatch.budgets import BudgetState
from scheduler_patch.dispatch.model import Growth, RunState, TaskState, grown
from scheduler_patch.dispatch.needs import Need

#: Tasks that are named in a sentence.
_NAMED = 3
_OPEN = "submit its root again with a worker that has the plugin"
#: Of a suspect duplicate: when it is to be approved, and what to do else.
_IF_ANOTHER = "if it is another payment"
_IF_THE_SAME = "if it is the same one, corrected, take it out of the pipeline before that"


def of_forecast(gate: Gate, run: RunState) -> str:
    """Return why a run waits for an approval of its forecast."""
    text = f"the forecast of {run.forecast} exceeds the cap of {format_usd(run.own_budget.cap)}"
    if gate.excess(run) is Excess.GROWTH:
        text = f"the forecast of {run.forecast} is far above the last run's {format_usd(run.last or 0)}"
    if run.approved is not None:
        text += f"; it has grown since {_approved(run)} was approved"
        if growth := growth_of(gate, run):
            text += f": {'; '.join(map(_growth, growth))}"
    return text


def charges_too(other: str) -> str:
    """Return what becomes of a suspect duplicate when the other task completes, and what to do about it."""
    what = f"once {other} has completed, this one charges as well, unless both name one payment_key"
    return f"{what}: {_IF_THE_SAME}"


def growth_of(gate: Gate, run: RunState) -> list[Growth]:
    """Return what of a run's forecast has grown since it was approved, by family; empty: not known."""
    return [] if run.approved_parts is None else grown(gate.state.parts(run), run.approved_parts)


def _approved(run: RunState) -> str:
    text = format_usd(run.approved or 0)
    return text + (
        f" and {counted(run.approved_unknown, 'task')} of unknown cost" if run.approved_unknown else ""
    )


def _growth(one: Growth) -> str:
    text = f"{one.family} by {format_usd(max(0, one.cost))} in {_count(one.number)}"
    if one.unknown > 0:
        text += f", {one.unknown} of unknown cost"
    named = ", ".join(one.tasks[:_NAMED])
    more = f" and {one.number - _NAMED} more" if one.number > _NAMED else ""
    return text + (f" ({named}{more})" if named else "")


def _count(tasks: int) -> str:
    return "1 task" if tasks == 1 else f"{tasks} tasks"


def them(tasks: int) -> str:
    """Return what tasks are called that were named before."""
    return "it" if tasks == 1 else "them"


@dataclass(frozen=True)
class Words:
    """Says why: of `task`, which stands for all `tasks` that have the same reason.

    `alone`: they have no other, so that what clears it frees them.
    """

    gate: Gate
    run: RunState
    task: TaskState
    tasks: int
    alone: bool = True

    def of(self, code: Verdict) -> tuple[str, ...]:
        """Return text, advice and commands of a reason that no budget is short for."""
        run_id = self.run.run_id
        if code is Verdict.BATCH:
            return (
                "a batch that was attempted comes back with all its members, and not all of them are due",
                "submit the others again",
            )
        if code is Verdict.WITHIN:
            return (
                "what remains is set aside for the task within which its worker runs",
                "let that task's max_cost_usd leave room for it",
            )
        if code is Verdict.REFUSED:
            calls, again = command("calls", "--run", run_id), top_up(run_id, CENT)
            advice = f"{calls} says why; after {again}, or more, {them(self.tasks)} may try again"
            return "its last attempt was blocked, and nothing has changed since", advice, calls, again
        if code is Verdict.REVOKED:
            return "the run is revoked", "for good"
        if code is Verdict.KEY:
            return "its vault key is revoked", "for good in this run"
        if code is Verdict.FORECAST and not self.run.opened:
            return "its run is not open, so that its forecast is not known to fit", _OPEN
        if code is Verdict.FORECAST:
            return "its root was not scheduled completely", "submit it again"
        return self._of_task(code)

    def _of_task(self, code: Verdict) -> tuple[str, ...]:
        task, hold = self.task, self.task.hold
        if code is Verdict.APPROVAL:
            limit = format_usd(self.gate.state.rules.single or 0)
            return self._approvable(
                f"a single task may cost {limit} without an approval, this one may cost "
                f"{format_usd(task.cost or 0)}",
                task.cost or 0,
            )
        if code is Verdict.DUPLICATE and hold is not None:
            text, frees, approve = self._approvable(
                f"it asks for {format_usd(hold.asked)}, and call {hold.part} of {hold.beside} may have made "
                "the same payment",
                hold.asked,
                "--duplicate-of",
                hold.part,
            )
            return f"{text}; {charges_too(hold.beside)}", f"{frees} {_IF_ANOTHER}", approve
        asked = format_usd(hold.asked) if hold is not None else "more"
        if task.cost is None:
            own = max(self.gate.state.rules.single or 0, self.run.approvals.get(task.task_id, 0))
            spent = 0 if task.left is None else max(0, own - task.left)
            return self._approvable(
                f"it asked for {asked}, more than a single task may spend without an approval",
                spent + (hold.asked if hold is not None else 0),
            )
        return f"it asked for {asked}, more than its max_cost_usd has left", "raise its max_cost_usd"

    def _approvable(self, text: str, cost: int, *more: str) -> tuple[str, ...]:
        task = ("--task", self.task.task_id, "--cost", plain_usd(cost))
        approve = command("approve", self.run.run_id, *task, *more)
        return (
            text,
            f"{approve} {'frees' if self.alone else 'lets'} it{'' if self.alone else ' pass'}",
            approve,
        )

    def of_budget(
        self, code: Verdict, budget: BudgetState, raised: str, need: Need | None
    ) -> tuple[str, str]:
        """Return text and advice of a reason that `raised`, a top-up, clears."""
        frees = self._frees(raised, need)
        if code is Verdict.FROZEN:
            over = format_usd(self.run.own_budget.overrun)
            is_alone = " frees " in frees
            thaws = frees.replace(" frees ", " thaws it and frees ", 1) if is_alone else f"{raised} thaws it"
            return (
                f"the run is frozen: the vendor billed more than was reserved, {over} in all",
                f"look at its calls ({command('calls', '--run', self.run.run_id)}); then {thaws}",
            )
        text = spent_text(budget) if self._is_reached(budget, need) else _too_small(budget)
        if code is Verdict.DAY:
            return (
                f"daily {text}",
                f"tomorrow; or with another daily_cap_usd; or {frees}, of this run, today",
            )
        if code in (Verdict.FAMILY, Verdict.VENDOR):
            where = (
                "[spendguard_family_caps]"
                if code is Verdict.FAMILY
                else f"[spendguard_{budget.part}] run_cap_usd"
            )
            return f"{budget.part}'s {text}", f"{frees}, in this run; it is set in {where}"
        return text, frees

    def _frees(self, raised: str, need: Need | None) -> str:
        if not self.alone or not self.tasks:
            return f"{raised} clears that"
        frees = f"{raised} frees {them(self.tasks)}"
        if need is not None and need.unsaid:
            unsaid = f" as far as they say what they cost ({need.unsaid} do not)"
            frees += unsaid if self.tasks > 1 else " to try"
        elif need is not None and need.likely:
            frees += f", if {'it costs' if self.tasks == 1 else 'they cost'} what others have"
        return frees

    def _is_reached(self, budget: BudgetState, need: Need | None) -> bool:
        """Return whether some task has no room by itself, not only all of them together."""
        return need is None or max(need.amounts, default=0) > budget.attainable


def spent_text(budget: BudgetState) -> str:
    """Return that a budget's cap is reached, and by what."""
    text = f"cap of {format_usd(budget.cap)} reached, {format_usd(budget.spent)} spent"
    if budget.reserved:
        text += f", {format_usd(budget.reserved)} reserved"
    if budget.remaining:
        text += f", {format_usd(budget.remaining)} remaining is not enough"
    return text


def _too_small(budget: BudgetState) -> str:
    """Return that a budget does not hold all that is to come, though each task by itself."""
    return (
        f"cap of {format_usd(budget.cap)} is too small for all that is to come, {format_usd(budget.spent)} "
        f"spent, {format_usd(max(0, budget.room))} free"
    )
