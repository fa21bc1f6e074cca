"""Why a task is blocked, for people: in the execution summary, Luigi's page and `fetch_error`."""

from __future__ import annotations

from dataclasses import dataclass

from luigi_spendguard.money import format_usd, plain_usd
from luigi_spendguard.protocol import command
from scheduler_patch.dispatch import Excess, Gate, Verdict
from scheduler_patch.dispatch.model import BudgetState, RunState, TaskState

#: Said of tasks of which nobody has said which run they belong to.
UNKNOWN_RUN = "unknown"
_OPEN = "submit its root again with a worker that has the plugin"


@dataclass(frozen=True)
class Reason:
    """Why tasks of a run are blocked: `code` for programs, `text` and `advice` for people."""

    run_id: str
    code: Verdict
    text: str
    advice: str


def reason_of(gate: Gate, task_id: str, verdict: Verdict, worker: str | None = None) -> Reason | None:
    """Return why a task on which that is the verdict is blocked (at a worker), None when it is not."""
    if not verdict.is_blocked:
        return None
    run = gate.state.run(gate.paying_run(task_id, worker)) or gate.state.nobody
    text, advice = _explained(gate, run, gate.state.tasks[task_id], verdict)
    return Reason(run.run_id or UNKNOWN_RUN, verdict, text, advice)


def _explained(gate: Gate, run: RunState, task: TaskState, code: Verdict) -> tuple[str, str]:
    run_id, top_up = run.run_id, f"{command('top-up', run.run_id, 'USD')} frees them"
    if code is Verdict.BATCH:
        return (
            "a batch that was attempted comes back with all its members, and not all of them are due",
            "submit the others again",
        )
    if code is Verdict.WITHIN:
        return (
            "what remains is set aside for the task within which its worker runs",
            f"let that task's max_cost_usd leave room for it; {top_up}",
        )
    if code is Verdict.REFUSED:
        return "its last attempt was blocked, and nothing has changed since", f"its calls say why; {top_up}"
    if code is Verdict.REVOKED:
        return "the run is revoked", "for good"
    if code is Verdict.KEY:
        return "its vault key is revoked", "for good in this run"
    if code is Verdict.FROZEN:
        return (
            "the run is frozen: the vendor billed more than was reserved",
            f"look at its calls; then {top_up}",
        )
    if code is Verdict.FORECAST and not run.opened:
        return "held: its run is not open, so that its forecast is not known to fit", _OPEN
    if code is Verdict.FORECAST and not run.scheduled:
        return "held: its root was not scheduled completely", "submit it again"
    if code is Verdict.FORECAST:
        return _forecast(gate, run), f"{command('approve', run_id)} frees them"
    if code is Verdict.APPROVAL:
        limit = format_usd(gate.state.rules.single or 0)
        return (
            f"a single task may cost {limit} without an approval, this one may cost "
            f"{format_usd(task.cost or 0)}",
            _approve(run_id, task, task.cost or 0),
        )
    if code is Verdict.DUPLICATE and task.hold is not None:
        hold = task.hold
        return (
            f"it asks for {format_usd(hold.asked)}, and call {hold.part} of {hold.beside} may have made the "
            "same payment",
            _approve(run_id, task, hold.asked, "--duplicate-of", hold.part),
        )
    if code is Verdict.TASK:
        asked = format_usd(task.hold.asked) if task.hold is not None else "more"
        if task.cost is None:
            return (
                f"it asked for {asked}, more than a single task may spend without an approval",
                _approve(run_id, task, task.hold.asked if task.hold is not None else 0),
            )
        return f"it asked for {asked}, more than its max_cost_usd has left", "raise its max_cost_usd"
    budget = gate.lacking(run, task) or run.own_budget
    if code is Verdict.DAY:
        return f"daily {spent_text(budget)}", "tomorrow, or with another daily_cap_usd"
    if code in (Verdict.FAMILY, Verdict.VENDOR):
        where = (
            "[spendguard_family_caps]"
            if code is Verdict.FAMILY
            else f"[spendguard_{budget.part}] run_cap_usd"
        )
        return f"{budget.part}'s {spent_text(budget)}", f"raise it in {where}"
    return spent_text(budget), top_up


def _approve(run_id: str, task: TaskState, cost: int, *more: str) -> str:
    return f"{command('approve', run_id, '--task', task.task_id, '--cost', plain_usd(cost), *more)} frees it"


def spent_text(budget: BudgetState) -> str:
    """Return that a budget's cap is reached, and by what."""
    text = f"cap of {format_usd(budget.cap)} reached, {format_usd(budget.spent)} spent"
    if budget.reserved:
        text += f", {format_usd(budget.reserved)} reserved"
    if budget.remaining:
        text += f", {format_usd(budget.remaining)} remaining is not enough"
    return text


def _forecast(gate: Gate, run: RunState) -> str:
    if gate.excess(run) is Excess.GROWTH:
        return f"held: the forecast of {run.forecast} is far above the last run's {format_usd(run.last or 0)}"
    return f"held: the forecast of {run.forecast} exceeds the cap of {format_usd(run.budgets['run', ''].cap)}"
