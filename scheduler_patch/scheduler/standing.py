"""What money keeps from running, of every run: the tasks that are due, and those that wait behind them.

That is what is counted everywhere: a task is blocked when it, looked at by itself, may not run now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luigi.task_status import PENDING

from scheduler_patch.dispatch import Verdict
from scheduler_patch.scheduler.slices import in_slices


@dataclass
class Standing:
    """What money keeps from running, of one run.

    Attributes:
        due: vendor tasks that would run now, each with why it does not.
        later: vendor tasks that are blocked as well, and wait for something else that they require.
        plain: how many other tasks wait for one of these, directly or not.
        others: vendor tasks that are not blocked, and have not begun: they may spend before those.

    """

    due: dict[str, Verdict] = field(default_factory=dict)
    later: dict[str, Verdict] = field(default_factory=dict)
    plain: int = 0
    others: dict[str, Verdict] = field(default_factory=dict)

    @property
    def behind(self) -> int:
        """How many tasks wait behind those that are due."""
        return len(self.later) + self.plain

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on each vendor task, those that are due first."""
        return {**self.due, **self.later}


#: With so many vendor tasks a list of runs is told again what was found, for so many times as long as it took
#: to find it, in all so many seconds: however often pages ask, a fifth of tornado's thread goes into it.
_MANY, _REST, _LONGEST_S = 1000, 4, 5.0


class Lately:
    """How each run stands, for lists that are asked for again and again.

    Where there are few tasks it is looked at for each; where there are many thousands, those that ask at once
    are told the same, and so are those that ask shortly after.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[str, Standing] = {}
        self._until = -1.0
        self._turn = asyncio.Lock()

    async def standings(self, scheduler: Any) -> dict[str, Standing]:
        """Return what `standings` does, as it was seconds ago at the most."""
        async with self._turn:
            if self._clock() >= self._until:
                begun = self._clock()
                self._found = await standings(scheduler)
                if len(scheduler.gate.state.tasks) >= _MANY:
                    self._until = self._clock() + min(_LONGEST_S, _REST * (self._clock() - begun))
            return self._found


#: A run of which nothing is blocked.
CLEAR = Standing()


async def standings(scheduler: Any) -> dict[str, Standing]:
    """Return how each run stands of which something is blocked: one look at all pending tasks.

    There may be many thousands: Luigi's RPCs have their turn meanwhile.
    """
    found = await _look(scheduler)
    return {run_id: one for run_id, one in found.items() if one.due or one.later}


async def standing_of(scheduler: Any, run_id: str) -> Standing:
    """Return how a run stands, whether something of it is blocked or not."""
    return (await _look(scheduler)).get(run_id, CLEAR)


async def _look(scheduler: Any) -> dict[str, Standing]:
    gate, found = scheduler.gate, dict[str, Standing]()
    if not gate.state.tasks:
        return found
    run_of: dict[str, str] = {}
    above: dict[str, list[str]] = {}
    async for task in in_slices(list(scheduler._state.get_active_tasks_by_status(PENDING))):
        if task.status != PENDING:
            continue
        for dep in task.deps:
            above.setdefault(dep, []).append(task.id)
        verdict = gate.verdict(task.id)
        known = gate.state.tasks.get(task.id)
        run = gate.state.run(gate.paying_run(task.id)) if known is not None else None
        if run is None:
            continue
        standing = found.setdefault(run.run_id, Standing())
        if verdict.is_blocked:
            run_of[task.id] = run.run_id
            (standing.due if scheduler.is_ready(task) else standing.later)[task.id] = verdict
        elif known is not None and not known.counted_in:
            standing.others[task.id] = verdict
    await _follow(run_of, above, found)
    return found


async def _follow(
    run_of: dict[str, str], above: Mapping[str, list[str]], found: Mapping[str, Standing]
) -> None:
    """Count what waits for blocked tasks, each task once: for the run through which it is reached first."""
    queue = list(run_of)
    async for task_id in in_slices(queue):
        for parent in above.get(task_id, ()):
            if parent not in run_of:
                run_of[parent] = run_of[task_id]
                found[run_of[parent]].plain += 1
                queue.append(parent)
