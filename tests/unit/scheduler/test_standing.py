"""A list of runs looks at all tasks for each who asks where there are few, seldom where there are many."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_patch.scheduler import BudgetScheduler
from scheduler_patch.scheduler.standing import Lately
from tests.support.gates import fed


class Clock:
    """Time that goes on when something is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def filled(tasks: int) -> BudgetScheduler:
    scheduler = BudgetScheduler()
    fed(scheduler.gate, remaining=0)
    for number in range(tasks):
        scheduler.add_task(
            worker="w", task_id=f"T{number}", family="F", spendguard={"run_id": "r1", "max_cost_usd": "1"}
        )
    return scheduler


@pytest.mark.parametrize(("tasks", "again"), [(20, 0), (1200, 1200)])
def test_what_was_found_is_told_again_for_a_time_where_there_are_many_tasks(tasks: int, again: int) -> None:
    async def look() -> list[int]:
        scheduler, clock = filled(tasks), Clock()
        lately, found = Lately(clock), list[int]()
        for change in (lambda: None, lambda: fed(scheduler.gate, cap=10**9, remaining=10**9, seen=1)):
            change()
            found.append(sum(len(one.due) for one in (await lately.standings(scheduler)).values()))
        clock.now += 5
        found.append(sum(len(one.due) for one in (await lately.standings(scheduler)).values()))
        return found

    assert asyncio.run(look()) == [tasks, again, 0]
