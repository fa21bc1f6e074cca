"""Why tasks are blocked, all of it at once, with amounts and the commands that clear it.

For people: in the execution summary, Luigi's page and `fetch_error`, on a run and at the command line. What
keeps a task from running the gate says (`Gate.obstacles`), what all of them need `needs.py` adds up: a budget
that each fits into may be too small for them together. `words.py` has the texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from luigi_spendguard.protocol.commands import CENT, approve_forecast, rounded, top_up
from scheduler_patch.dispatch import LACKING, Gate, Verdict
from scheduler_patch.dispatch.model import RunState, TaskState
from scheduler_patch.dispatch.needs import ASKING, BudgetKey, Needs, Shortfall
from scheduler_patch.dispatch.words import Words, of_forecast, them

#: Said of tasks of which nobody has said which run they belong to.
UNKNOWN_RUN = "unknown"
#: Verdicts that are those of one task alone: what is said of it names it.
_SINGLE = (Verdict.APPROVAL, Verdict.DUPLICATE, Verdict.TASK)
#: Verdicts that the gate's obstacles do not have.
_BESIDE = (Verdict.BATCH, Verdict.WITHIN, Verdict.REFUSED)
_OWN: BudgetKey = ("run", "")


@dataclass(frozen=True)
class Reason:
    """Why tasks of a run are blocked: `code` for programs, `text` and `advice` for people.

    Attributes:
        scope, part: the budget that cannot pay, "" where it is none.
        needed, available, missing: what the run's tasks that are still to pay need of it, blocked or not,
            what there is for them, and what is to be added so that it suffices, in micro-dollars; None: it
            is no matter of an amount.
        commands: what clears it, each by itself.
        due, behind: how many blocked tasks have it that would run now, and later.

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
    due: int = 0
    behind: int = 0


@dataclass(frozen=True)
class Group:
    """Tasks that have the same reasons: `reason` is all of them in one, the first by its code."""

    reason: Reason
    reasons: tuple[Reason, ...]
    tasks: list[str]


def reason_of(gate: Gate, task_id: str, verdict: Verdict, worker: str | None = None) -> Reason | None:
    """Return why a task on which that is the verdict is blocked (at a worker), None when it is not."""
    if not verdict.is_blocked:
        return None
    reasons = Reasons(gate, worker)
    reasons.add(task_id, verdict)
    return reasons.of_tasks()[0].reason


#: A verdict, with the budget it is about, or the task.
_Key = tuple[Verdict, str, str]


@dataclass
class _Why:
    """One reason: a task that stands for all that have it, and how many those are."""

    task: TaskState
    budget: BudgetKey | None = None
    due: int = 0
    behind: int = 0


@dataclass
class _OfRun:
    """What holds the tasks of one run."""

    run: RunState
    needs: Needs
    why: dict[_Key, _Why] = field(default_factory=dict)
    #: The tasks that have the same obstacles and need the same budgets.
    groups: dict[tuple[tuple[_Key, ...], tuple[BudgetKey, ...]], list[str]] = field(default_factory=dict)


class Reasons:
    """Adds up what keeps blocked tasks from running (at a worker), task by task."""

    def __init__(self, gate: Gate, worker: str | None = None) -> None:
        self._gate, self._worker = gate, worker
        self._runs: dict[str, _OfRun] = {}

    def add(self, task_id: str, verdict: Verdict, *, later: bool = False) -> None:
        """Take in a task on which that is the verdict; `later`: something else has to run before.

        Of one that is not blocked it is what it needs: it may take that from those that are.
        """
        task, of_run = self._gate.state.tasks[task_id], self._of(task_id)
        if not verdict.is_blocked:
            of_run.needs.add(task)
            return
        due, behind = (0, 1) if later else (1, 0)
        found = list(self._found(of_run.run, task, verdict))
        budgets = () if any(one.is_final for one, _ in found) else of_run.needs.add(task, due, behind)
        keys = []
        for code, budget in found:
            scope, part = budget or ("", "")
            key = (code, task_id if code in _SINGLE else scope, part)
            keys.append(key)
            why = of_run.why.setdefault(key, _Why(task, budget))
            why.due, why.behind = why.due + due, why.behind + behind
        of_run.groups.setdefault((tuple(keys), budgets), []).append(task_id)

    def _found(
        self, run: RunState, task: TaskState, verdict: Verdict
    ) -> Iterator[tuple[Verdict, BudgetKey | None]]:
        if verdict in _BESIDE:
            yield verdict, None
        codes = set()
        for code, budget in self._gate.obstacles(run, task):
            codes.add(code)
            if code.is_blocked:
                yield code, None if budget is None else budget.held_as
        if codes and not codes & {*_SINGLE, Verdict.KEY, Verdict.REVOKED} and _asks_too_much(task):
            yield Verdict.TASK, None  # The next attempt will ask that much of its own budget, too.

    @property
    def runs(self) -> set[str]:
        """The runs of the tasks that were taken in."""
        return set(self._runs)

    def count(self, task_id: str) -> None:
        """Take in what a task needs that is not among those that are asked about."""
        self._of(task_id).needs.add(self._gate.state.tasks[task_id])

    def _of(self, task_id: str) -> _OfRun:
        gate = self._gate
        run = gate.state.run(gate.paying_run(task_id, self._worker)) or gate.state.nobody
        return self._run(run)

    def _run(self, run: RunState) -> _OfRun:
        return self._runs.setdefault(run.run_id, _OfRun(run, Needs(self._gate, run)))

    def of_tasks(self) -> list[Group]:
        """Return why tasks are blocked: those with the same reasons together."""
        found = []
        for of_run in self._runs.values():
            short = {key: code for code, key in self._too_small(of_run)}
            groups: dict[tuple[_Key, ...], list[str]] = {}
            for (keys, budgets), tasks in of_run.groups.items():
                more = [(short[key], *key) for key in budgets if key in short]
                groups.setdefault(self._told(of_run, [*keys, *more]), []).extend(tasks)
            found += [self._group(of_run, keys, tasks) for keys, tasks in groups.items()]
        return found

    def _group(self, of_run: _OfRun, keys: tuple[_Key, ...], tasks: list[str]) -> Group:
        each = tuple(self._reason(of_run, key, len(tasks), len(keys) == 1) for key in keys)
        first, *others = each
        beside = "".join(f"; besides, {one.text}: {one.advice}" for one in others)
        commands = dict.fromkeys(command for one in each for command in one.commands)
        together = replace(first, advice=first.advice + beside, commands=tuple(commands))
        return Group(together, each, tasks)

    def of_run(self, run: RunState) -> list[Reason]:
        """Return each reason that holds a run now; one that is frozen or revoked is so without any task."""
        of_run = self._run(run)
        keys = list(of_run.why)
        for state, code in (("frozen", Verdict.FROZEN), ("revoked", Verdict.REVOKED)):
            if run.state == state and (code, "", "") not in of_run.why:
                keys.insert(0, (code, "", ""))
        keys += [(code, *key) for code, key in self._too_small(of_run) if self._blocks(of_run, key)]
        told = self._told(of_run, keys)
        return [self._reason(of_run, key, None, len(told) == 1) for key in told]

    def to_come(self, run: RunState) -> list[Reason]:
        """Return which budgets are too small for what is still to come of a run, and block nothing yet."""
        of_run = self._run(run)
        return [
            self._reason(of_run, (code, *key), 0, alone=True)
            for code, key in self._too_small(of_run)
            if not self._blocks(of_run, key)
        ]

    def short(self, run: RunState, budget: BudgetKey) -> Shortfall:
        """Return what the tasks of a run need of a budget, what there is, and what is missing."""
        return self._run(run).needs.short(budget)

    def expected(self, run: RunState) -> int:
        """Return what a run comes to as it looks now, in micro-dollars."""
        return self._run(run).needs.expected()

    def _too_small(self, of_run: _OfRun) -> Iterator[tuple[Verdict, BudgetKey]]:
        """Yield the budgets that do not hold all that is to come: each task may fit into them by itself."""
        run = of_run.run
        if self._gate.state.rules.shadow or run.state == "revoked" or not run.opened:
            return
        for key, _ in of_run.needs:
            if of_run.needs.short(key).missing:
                yield LACKING[key[0]], key

    @staticmethod
    def _blocks(of_run: _OfRun, key: BudgetKey) -> bool:
        need = of_run.needs.of(key)
        return need is not None and bool(need.due or need.behind)

    def _told(self, of_run: _OfRun, keys: list[_Key]) -> tuple[_Key, ...]:
        """Return which of some reasons are told: each once, and the run's cap not where another covers it."""
        codes = {code for code, _, _ in keys}
        covered = Verdict.FROZEN in codes or (Verdict.FORECAST in codes and self._cover(of_run) > 0)
        return tuple(dict.fromkeys(key for key in keys if not (covered and key[0] is Verdict.CAP)))

    def _cover(self, of_run: _OfRun) -> int:
        """Return by how much a run's cap is to be raised so that its forecast passes; 0: that helps not."""
        run = of_run.run
        if not (run.opened and run.scheduled and self._gate.is_held(run)):
            return 0
        missing, raised = rounded(of_run.needs.short(_OWN).missing), run.copy()
        raised.own_budget.raise_by(missing)
        return 0 if self._gate.is_held(raised) else missing

    def _reason(self, of_run: _OfRun, key: _Key, tasks: int | None, alone: bool) -> Reason:
        """Return a reason as it is told of so many tasks; None: of all that have it."""
        code, run = key[0], of_run.run
        why = of_run.why.get(key) or _Why(TaskState("", ""), None if not key[1] else (key[1], key[2]))
        need = of_run.needs.of(why.budget) if why.budget is not None else None
        due, behind = (why.due, why.behind) if need is None else (need.due, need.behind)
        number = due + behind if tasks is None else tasks
        words = Words(self._gate, run, why.task, number, alone)
        if code is Verdict.FORECAST and run.opened and run.scheduled:
            return self._of_forecast(of_run, words, due, behind)
        run_id = run.run_id or UNKNOWN_RUN
        own = _OWN if code is Verdict.FROZEN else why.budget
        if own is None:
            text, advice, *commands = words.of(code)
            return Reason(run_id, code, text, advice, commands=tuple(commands), due=due, behind=behind)
        budget = of_run.needs.budget(own) or run.own_budget
        short = of_run.needs.short(own)
        raised = top_up(run_id, rounded(short.missing), *own)
        text, advice = words.of_budget(code, budget, raised, of_run.needs.of(own))
        amounts = (short.needed, short.available, short.missing)
        if code is Verdict.FROZEN and short.missing <= CENT:
            return Reason(run_id, code, text, advice, *own, commands=(raised,), due=due, behind=behind)
        return Reason(run_id, code, text, advice, *own, *amounts, (raised,), due, behind)

    def _of_forecast(self, of_run: _OfRun, words: Words, due: int, behind: int) -> Reason:
        """Return why a run waits for an approval of its forecast, and what would let it pass."""
        gate, run, cover = self._gate, of_run.run, self._cover(of_run)
        assert run.forecast is not None, "a run that is held has a forecast"
        passes = approve_forecast(run.run_id, run.forecast.known, run.forecast.unknown)
        cap, tasks = run.own_budget.cap, them(words.tasks)
        advice = f"{passes} {f'frees {tasks}' if words.alone else 'lets it pass'}, within that cap"
        found = Reason(
            run.run_id, Verdict.FORECAST, of_forecast(gate, run), "", *_OWN, due=due, behind=behind
        )
        if not cover:
            return replace(found, advice=advice, commands=(passes,))
        raised = top_up(run.run_id, cover)
        return replace(
            found,
            advice=f"{raised} covers it; {passes} lets it pass within that cap",
            needed=cap + cover,
            available=cap,
            missing=cover,
            commands=(raised, passes),
        )


def _asks_too_much(task: TaskState) -> bool:
    """Return whether a task that does not say its cost was denied more than it may spend by itself."""
    hold = task.hold if task.cost is None else None
    return hold is not None and task.left is not None and hold.scope in ASKING and hold.asked > task.left
