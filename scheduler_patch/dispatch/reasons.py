"""Why a task is blocked, for people: in the execution summary, Luigi's page and `fetch_error`."""

from __future__ import annotations

from dataclasses import dataclass

from luigi_spendguard.money import format_usd, plain_usd
from luigi_spendguard.protocol import command
from scheduler_patch.dispatch.gate import Gate
from scheduler_patch.dispatch.model import Entry, Pot, RunFigures

#: Said of tasks of which nobody has said which run they belong to.
UNKNOWN_RUN = "unknown"
_OPEN = "submit its root again with a worker that has the plugin"


@dataclass(frozen=True)
class Reason:
    """Why tasks of a run are blocked: `code` for programs, `text` and `advice` for people."""

    run_id: str
    code: str
    text: str
    advice: str


def reason_of(gate: Gate, task_id: str, worker: str | None = None) -> Reason | None:
    """Return why a task is blocked (at a worker), None when it is not."""
    if not gate.is_blocked(task_id, worker):
        return None
    entry, code = gate.entries[task_id], gate.verdict(task_id, worker)
    run = gate.run(gate.paying_run(task_id, worker)) or gate.nobody
    text, advice = _said(gate, run, entry, code)
    return Reason(run.run_id or UNKNOWN_RUN, code, text, advice)


def _said(gate: Gate, run: RunFigures, entry: Entry, code: str) -> tuple[str, str]:
    run_id, top_up = run.run_id, f"{command('top-up', run.run_id, 'USD')} frees them"
    if code == "batch":
        return (
            "a batch that was attempted comes back with all its members, and not all of them are due",
            "submit the others again",
        )
    if code == "within":
        return (
            "what remains is set aside for the task within which its worker runs",
            f"let that task's max_cost_usd leave room for it; {top_up}",
        )
    if code == "refused":
        return "its last attempt was blocked, and nothing has changed since", f"its calls say why; {top_up}"
    if code == "revoked":
        return "the run is revoked", "for good"
    if code == "key":
        return "its vault key is revoked", "for good in this run"
    if code == "frozen":
        return (
            "the run is frozen: the vendor billed more than was reserved",
            f"look at its calls; then {top_up}",
        )
    if code == "forecast" and not run.opened:
        return "held: its run is not open, so that its forecast is not known to fit", _OPEN
    if code == "forecast" and not run.scheduled:
        return "held: its root was not scheduled completely", "submit it again"
    if code == "forecast":
        return _forecast(gate, run), f"{command('approve', run_id)} frees them"
    if code == "approval":
        limit = format_usd(gate.rules.single or 0)
        return (
            f"a single task may cost {limit} without an approval, this one may cost "
            f"{format_usd(entry.cost or 0)}",
            _approve(run_id, entry, entry.cost or 0),
        )
    if code == "task":
        asked = format_usd(entry.hold.asked) if entry.hold is not None else "more"
        if entry.cost is None:
            return (
                f"it asked for {asked}, more than a single task may spend without an approval",
                _approve(run_id, entry, entry.hold.asked if entry.hold is not None else 0),
            )
        return f"it asked for {asked}, more than its max_cost_usd has left", "raise its max_cost_usd"
    pot = gate.lacking(run, entry) or run.pots["run", ""]
    if code == "day":
        return f"daily {_spent(pot)}", "tomorrow, or with another daily_cap_usd"
    if code in ("family", "vendor"):
        where = "[spendguard_family_caps]" if code == "family" else f"[spendguard_{pot.part}] run_cap_usd"
        return f"{pot.part}'s {_spent(pot)}", f"raise it in {where}"
    return _spent(pot), top_up


def _approve(run_id: str, entry: Entry, cost: int) -> str:
    return f"{command('approve', run_id, '--task', entry.task_id, '--cost', plain_usd(cost))} frees it"


def _spent(pot: Pot) -> str:
    text = f"cap of {format_usd(pot.cap)} reached, {format_usd(pot.spent)} spent"
    if pot.reserved:
        text += f", {format_usd(pot.reserved)} reserved"
    if pot.remaining:
        text += f", {format_usd(pot.remaining)} remaining is not enough"
    return text


def _forecast(gate: Gate, run: RunFigures) -> str:
    if gate.excess(run) == "growth":
        return f"held: the forecast of {run.forecast} is far above the last run's {format_usd(run.last or 0)}"
    return f"held: the forecast of {run.forecast} exceeds the cap of {format_usd(run.pots['run', ''].cap)}"
