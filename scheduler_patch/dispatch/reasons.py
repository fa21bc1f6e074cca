"""Why tasks are blocked, all of it at once, with amounts and the commands that clear it.

For people: in the execution summary, Luigi's page and `fetch_error`, on a run and at the command line. What
keeps a task from running the gate says (`Gate.obstacles`); here it is added up, and put into words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from luigi_spendguard.money import format_usd, plain_usd
from luigi_spendguard.protocol import command
from luigi_spendguard.protocol.commands import CENT, approve_forecast, rounded, top_up
from scheduler_patch.dispatch import Excess, Gate, Verdict
from scheduler_patch.dispatch.budgets import BudgetState
from scheduler_patch.dispatch.model import Growth, RunState, TaskState, grown

#: Said of tasks of which nobody has said which run they belong to.
UNKNOWN_RUN = "unknown"
#: Tasks that are named in a sentence.
_NAMED = 3
_OPEN = "submit its root again with a worker that has the plugin"
#: Verdicts that are those of one task alone: what is said of it names it.
_SINGLE = (Verdict.APPROVAL, Verdict.DUPLICATE, Verdict.TASK)
#: Of a suspect duplicate: when it is to be approved, and what to do else.
IF_ANOTHER = "if it is another payment"
IF_THE_SAME = "if it is the same one, corrected, take it out of the pipeline before that"
#: Verdicts that the gate's obstacles do not have.
_BESIDE = (Verdict.BATCH, Verdict.WITHIN, Verdict.REFUSED)


@dataclass(frozen=True)
class Reason:
    """Why tasks of a run are blocked: `code` for programs, `text` and `advice` for people.

    Attributes:
        scope, part: the budget that cannot pay, "" where it is none.
        needed, available, missing: what the tasks may cost that need it, what there is for them, and what is
            to be added so that it suffices, in micro-dollars; None: it is no matter of an amount.
        commands: what clears it, each by itself.

    """

    run_id: str
    code: Verdict
    text: str
    advice: str
    scope: str = ""
    part: str = ""
    needed: int | None = None
    available: int | None = None
    missing: int | None = None
    commands: tuple[str, ...] = ()


def reason_of(gate: Gate, task_id: str, verdict: Verdict, worker: str | None = None) -> Reason | None:
    """Return why a task on which that is the verdict is blocked (at a worker), None when it is not."""
    if not verdict.is_blocked:
        return None
    reasons = Reasons(gate, worker)
    reasons.add(task_id, verdict)
    return reasons.of_tasks()[0][0]


#: A verdict, with the budget it is about, or the task.
_Key = tuple[Verdict, str, str]


@dataclass
class _Need:
    """What blocked tasks need of a budget, in micro-dollars, and how many of them do not say it at all."""

    budget: BudgetState
    amount: int = 0
    unsaid: int = 0
    #: How many do not say it, and count for what others of their family have cost.
    likely: int = 0
    #: Of what has no room in the day's budget, for what a run may spend beyond it.
    beyond: int = 0
    room: int = 0


@dataclass
class _Why:
    """One reason, and the tasks that have it."""

    task: TaskState
    budget: BudgetState | None
    tasks: int = 0


@dataclass
class _OfRun:
    """What holds the tasks of one run."""

    run: RunState
    why: dict[_Key, _Why] = field(default_factory=dict)
    needs: dict[tuple[str, str], _Need] = field(default_factory=dict)
    #: The tasks that have the same reasons.
    groups: dict[tuple[_Key, ...], list[str]] = field(default_factory=dict)


class Reasons:
    """Adds up what keeps blocked tasks from running (at a worker), task by task."""

    def __init__(self, gate: Gate, worker: str | None = None) -> None:
        self._gate, self._worker = gate, worker
        self._runs: dict[str, _OfRun] = {}

    def add(self, task_id: str, verdict: Verdict) -> None:
        """Take in a task on which that is the verdict; one that is not blocked changes nothing."""
        if not verdict.is_blocked:
            return
        gate, task = self._gate, self._gate.state.tasks[task_id]
        run = gate.state.run(gate.paying_run(task_id, self._worker)) or gate.state.nobody
        of_run = self._runs.setdefault(run.run_id, _OfRun(run))
        found = [(verdict, None)] if verdict in _BESIDE else list[tuple[Verdict, BudgetState | None]]()
        found += [(one, budget) for one, budget in gate.obstacles(run, task) if one.is_blocked]
        codes = {one for one, _ in found}
        keys = []
        for code, budget in found:
            if code is Verdict.CAP and Verdict.FROZEN in codes:
                continue  # The top-up that thaws it is the same one.
            scope, part = ("", "") if budget is None else budget.held_as
            key = (code, task_id if code in _SINGLE else scope, part)
            keys.append(key)
            of_run.why.setdefault(key, _Why(task, budget)).tasks += 1
        if not codes & {Verdict.REVOKED, Verdict.KEY}:
            self._need(of_run, task)
        of_run.groups.setdefault(tuple(keys), []).append(task_id)

    def _need(self, of_run: _OfRun, task: TaskState) -> None:
        for budget, need in self._gate.needs(of_run.run, task):
            own = budget if budget.scope != "beyond_day" else self._gate.state.day or budget
            sums = of_run.needs.setdefault(budget.held_as, _Need(own, room=own.room))
            likely = need
            if task.need is None and need <= 1:
                likely = self._gate.state.cost_so_far(task.family) or need
                sums.unsaid += likely <= 1
                sums.likely += likely > 1
            sums.amount += likely
            if likely <= sums.room:
                sums.room -= likely
            else:
                sums.beyond += likely

    def add_behind(self, task_id: str) -> None:
        """Take in what a task will need that is blocked, too, and waits for something else."""
        gate, task = self._gate, self._gate.state.tasks[task_id]
        run = gate.state.run(gate.paying_run(task_id, self._worker)) or gate.state.nobody
        self._need(self._runs.setdefault(run.run_id, _OfRun(run)), task)

    def of_tasks(self) -> list[tuple[Reason, list[str]]]:
        """Return why tasks are blocked: those with the same reasons together, all their reasons in one."""
        return [
            (self._together(of_run, keys, len(tasks)), tasks)
            for of_run in self._runs.values()
            for keys, tasks in of_run.groups.items()
        ]

    def _together(self, of_run: _OfRun, keys: tuple[_Key, ...], tasks: int) -> Reason:
        first, *others = [self._reason(of_run, key, tasks) for key in keys]
        if not others:
            return first
        beside = "".join(f"; besides, {one.text}: {one.advice}" for one in others)
        commands = dict.fromkeys(each for one in (first, *others) for each in one.commands)
        return Reason(
            first.run_id,
            first.code,
            first.text,
            first.advice + beside,
            first.scope,
            first.part,
            first.needed,
            first.available,
            first.missing,
            tuple(commands),
        )

    def of_run(self, run: RunState) -> list[tuple[Reason, int]]:
        """Return each reason that holds a run now, and how many of its tasks have it.

        A run that is frozen or revoked is so without any.
        """
        of_run = self._runs.get(run.run_id, _OfRun(run))
        found = [(self._reason(of_run, key, why.tasks), why.tasks) for key, why in of_run.why.items()]
        for state, code in (("frozen", Verdict.FROZEN), ("revoked", Verdict.REVOKED)):
            if run.state == state and all(reason.code is not code for reason, _ in found):
                of_run.why[code, "", ""] = _Why(TaskState("", ""), None)
                found.insert(0, (self._reason(of_run, (code, "", ""), 0), 0))
        return found

    def short(self, run: RunState, scope: str, part: str) -> tuple[int, int, int]:
        """Return what the blocked tasks of a run need of a budget, what there is, and what is missing."""
        of_run = self._runs.get(run.run_id, _OfRun(run))
        return _short(run, of_run.needs.get((scope, part)), _budget(self._gate, run, scope, part))

    def _reason(self, of_run: _OfRun, key: _Key, tasks: int) -> Reason:
        why, run, code = of_run.why[key], of_run.run, key[0]
        run_id, words = run.run_id or UNKNOWN_RUN, _Words(self._gate, run, why.task, tasks)
        scope, part = ("", "") if why.budget is None else why.budget.held_as
        if code in (Verdict.FROZEN, Verdict.WITHIN):
            scope = "run"
        if code is Verdict.FORECAST and run.opened and run.scheduled:
            return _of_forecast(self._gate, run, tasks)
        if not scope:
            text, advice, *commands = words.of(code)
            return Reason(run_id, code, text, advice, commands=tuple(commands))
        need = of_run.needs.get((scope, part))
        budget = _budget(self._gate, run, scope, part) or run.own_budget
        needed, available, missing = _short(run, need, budget)
        raised = top_up(run_id, rounded(max(missing, 1)), scope, part)
        text, advice = words.of_budget(code, budget, raised, need)
        return Reason(run_id, code, text, advice, scope, part, needed, available, missing, (raised,))


def _budget(gate: Gate, run: RunState, scope: str, part: str) -> BudgetState | None:
    return gate.state.day if scope == "day" else run.budgets.get((scope, part))


def _short(run: RunState, need: _Need | None, budget: BudgetState | None) -> tuple[int, int, int]:
    """Return what is needed of a budget, what there is, and what is missing; a deficit is missing, too."""
    needed = need.amount if need is not None else 0
    room = budget.room if budget is not None else 0
    if budget is not None and budget.scope == "day":
        beyond = run.budgets.get(("beyond_day", ""))
        extra = beyond.room if beyond is not None and beyond.window == budget.window else 0
        over = need.beyond if need is not None else 0
        return needed, max(0, room) + max(0, extra), max(0, over - extra)
    return needed, max(0, room), max(0, needed - room)


def _of_forecast(gate: Gate, run: RunState, tasks: int) -> Reason:
    """Return why a run waits for an approval of its forecast, and what would let it pass."""
    forecast, cap, them = run.forecast, run.own_budget.cap, _them(tasks)
    assert forecast is not None, "a run that is held has a forecast"
    text = f"held: the forecast of {forecast} exceeds the cap of {format_usd(cap)}"
    if gate.excess(run) is Excess.GROWTH:
        text = f"held: the forecast of {forecast} is far above the last run's {format_usd(run.last or 0)}"
    if run.approved is not None:
        text += f"; it has grown since {_approved(run)} was approved"
        if growth := growth_of(gate, run):
            text += f": {'; '.join(map(_growth, growth))}"
    approve = approve_forecast(run.run_id, forecast.known, forecast.unknown)
    missing = rounded(max(0, forecast.known - cap))
    raised = run.copy()
    raised.own_budget.raise_by(missing)
    commands: tuple[str, ...] = (approve,)
    advice = f"{approve} frees {them}, within that cap"
    if missing and not gate.is_held(raised):
        cover = top_up(run.run_id, missing)
        commands, advice = (cover, approve), f"{cover} covers it; {approve} lets it pass within that cap"
    return Reason(
        run.run_id, Verdict.FORECAST, text, advice, "run", "", forecast.known, cap, missing, commands
    )


def charges_too(other: str) -> str:
    """Return what becomes of a suspect duplicate when the other task completes."""
    return f"once {other} has completed, this one charges as well, unless both name one payment_key"


def growth_of(gate: Gate, run: RunState) -> list[Growth]:
    """Return what of a run's forecast has grown since it was approved, by family; empty: not known."""
    return [] if run.approved_parts is None else grown(gate.state.parts(run), run.approved_parts)


def _approved(run: RunState) -> str:
    text = format_usd(run.approved or 0)
    return text + (f" and {run.approved_unknown} tasks of unknown cost" if run.approved_unknown else "")


def _growth(one: Growth) -> str:
    text = f"{one.family} by {format_usd(max(0, one.cost))} in {_count(one.number)}"
    if one.unknown > 0:
        text += f", {one.unknown} of unknown cost"
    named = ", ".join(one.tasks[:_NAMED])
    more = f" and {one.number - _NAMED} more" if one.number > _NAMED else ""
    return text + (f" ({named}{more})" if named else "")


def _count(tasks: int) -> str:
    return "1 task" if tasks == 1 else f"{tasks} tasks"


def _them(tasks: int) -> str:
    return "it" if tasks == 1 else "them"


@dataclass(frozen=True)
class _Words:
    """Says why: of `task`, which stands for all `tasks` that have the same reason."""

    gate: Gate
    run: RunState
    task: TaskState
    tasks: int

    def of(self, code: Verdict) -> tuple[str, ...]:
        """Return text, advice and commands of a reason that no budget is short for."""
        run_id = self.run.run_id
        if code is Verdict.BATCH:
            return (
                "a batch that was attempted comes back with all its members, and not all of them are due",
                "submit the others again",
            )
        if code is Verdict.REFUSED:
            calls, again = command("calls", "--run", run_id), top_up(run_id, CENT)
            advice = f"{calls} says why; after {again}, or more, {_them(self.tasks)} may try again"
            return "its last attempt was blocked, and nothing has changed since", advice, calls, again
        if code is Verdict.REVOKED:
            return "the run is revoked", "for good"
        if code is Verdict.KEY:
            return "its vault key is revoked", "for good in this run"
        if code is Verdict.FORECAST and not self.run.opened:
            return "held: its run is not open, so that its forecast is not known to fit", _OPEN
        if code is Verdict.FORECAST:
            return "held: its root was not scheduled completely", "submit it again"
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
            return f"{text}; {charges_too(hold.beside)}", f"{frees} {IF_ANOTHER}; {IF_THE_SAME}", approve
        asked = format_usd(hold.asked) if hold is not None else "more"
        if task.cost is None:
            return self._approvable(
                f"it asked for {asked}, more than a single task may spend without an approval",
                hold.asked if hold is not None else 0,
            )
        return f"it asked for {asked}, more than its max_cost_usd has left", "raise its max_cost_usd"

    def _approvable(self, text: str, cost: int, *more: str) -> tuple[str, ...]:
        task = ("--task", self.task.task_id, "--cost", plain_usd(cost))
        approve = command("approve", self.run.run_id, *task, *more)
        return text, f"{approve} frees it", approve

    def of_budget(
        self, code: Verdict, budget: BudgetState, raised: str, need: _Need | None
    ) -> tuple[str, str]:
        """Return text and advice of a reason that `raised`, a top-up, clears."""
        them = _them(self.tasks)
        frees = f"{raised} frees {them}"
        if need is not None and need.unsaid:
            unsaid = f" as far as they say what they cost ({need.unsaid} do not)"
            frees += unsaid if self.tasks > 1 else " to try"
        elif need is not None and need.likely:
            frees += f", if {'it costs' if self.tasks == 1 else 'they cost'} what others have"
        if code is Verdict.WITHIN:
            return (
                "what remains is set aside for the task within which its worker runs",
                f"let that task's max_cost_usd leave room for it; {frees}",
            )
        if code is Verdict.FROZEN:
            over = format_usd(self.run.own_budget.overrun)
            thaws = (
                frees.replace(" frees ", " thaws it and frees ", 1) if self.tasks else f"{raised} thaws it"
            )
            return (
                f"the run is frozen: the vendor billed more than was reserved, {over} in all",
                f"look at its calls ({command('calls', '--run', self.run.run_id)}); then {thaws}",
            )
        if code is Verdict.DAY:
            return (
                f"daily {spent_text(budget)}",
                f"tomorrow; or with another daily_cap_usd; or {frees}, of this run, today",
            )
        if code in (Verdict.FAMILY, Verdict.VENDOR):
            where = (
                "[spendguard_family_caps]"
                if code is Verdict.FAMILY
                else f"[spendguard_{budget.part}] run_cap_usd"
            )
            return f"{budget.part}'s {spent_text(budget)}", f"{frees}, in this run; it is set in {where}"
        return spent_text(budget), frees


def spent_text(budget: BudgetState) -> str:
    """Return that a budget's cap is reached, and by what."""
    text = f"cap of {format_usd(budget.cap)} reached, {format_usd(budget.spent)} spent"
    if budget.reserved:
        text += f", {format_usd(budget.reserved)} reserved"
    if budget.remaining:
        text += f", {format_usd(budget.remaining)} remaining is not enough"
    return text


@dataclass(frozen=True)
class Target:
    """The budget that a top-up raises: `run`, `family` or `vendor` with its name, or `day`."""

    scope: str = "run"
    part: str = ""


class Trial:
    """The gate as it would be after a top-up of a run, and after the dispatch of what that lets through.

    It decides by the gate's own code, on budgets of its own: nothing of the real ones changes.
    """

    def __init__(self, gate: Gate, run: RunState, target: Target, amount: int) -> None:
        state = gate.state
        self._run = run.copy()
        self._gate = Gate()
        self._gate.state = trial = state.apart()
        trial.runs = {**state.runs, run.run_id: self._run}
        if amount and target.scope == "run":
            self._run.own_budget.raise_by(amount)
            if self._run.state == "frozen":
                self._run.state = "active"
        elif amount:
            scope, part = ("beyond_day", "") if target.scope == "day" else (target.scope, target.part)
            budget = self._run.budget(scope, part)
            if scope == "beyond_day" and budget.window != trial.today.window:
                self._run.budgets[scope, part] = budget = BudgetState(scope, part)
                budget.window = trial.today.window
            elif not budget.cap and (cap := state.rules.cap(scope, part)) is not None:
                budget.refill(cap)
            budget.raise_by(amount)

    def admits(self, task: TaskState) -> bool:
        """Return whether a task could be dispatched beside those that were admitted before."""
        if task.counted_in:
            return True  # It has been dispatched meanwhile.
        if self._gate.obstacle(self._run, task) is not None:
            return False
        for budget, need in self._gate.needs(self._run, task):
            budget.counted += need
        return True


def unblocked(freed: Mapping[str, TaskState], tasks: Mapping[str, TaskState]) -> int:
    """Return how many tasks are freed; of a batch that comes back together all, or none."""
    return sum(
        all(mate in freed or mate not in tasks for mate in task.batch) if task.batch else True
        for task in freed.values()
    )
